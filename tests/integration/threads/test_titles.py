"""Titles that a model proposes: it is asked once, within the owner's plan, and never replaces what somebody wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from karma.billing.allowances import Allowances, Metric, Terms
from karma.billing.plans import PlanName, plan_at
from karma.billing.repository.usage import UsageRepository
from karma.conversations.domain import History, Message, ThreadChange, ThreadKey, TitleSource
from karma.conversations.repository import ThreadRepository
from karma.conversations.title_repository import TitleRepository
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import StorageUnavailable
from karma.core.ids import RunId, ThreadId
from karma.models.domain import ModelErrorCode, Target, Usage
from karma.models.ports import ModelFailed, StopReason
from karma.models.prices import cost
from karma.runs.domain import Run, RunEnd, RunKey, RunStatus, Segment
from karma.runs.repository import RunRepository
from karma.threads.deletion import ThreadRemover
from karma.threads.titles import MAX_SHOWN_CHARS, MAX_TITLE_TOKENS, TitleProposals, title_of
from tests.fakes.runs import ScriptedModel, SetClock, Step, ended, text
from tests.support.accounts import open_account
from tests.support.plans import limited, take
from tests.support.stack import Stack

TARGET = Target(model="claude-haiku-5-5")


class Scene:
    """A thread with one question and one answer, and the service that proposes its title."""

    def __init__(
        self, *turns: Sequence[Step], plan: PlanName = PlanName.ENTERPRISE, answer: str = "Two: Lamp and Fan."
    ) -> None:
        self.user_id = open_account()
        self.key = ThreadKey(self.user_id, ThreadId("t1"))
        self.clock = SetClock()
        self.runs, self.threads = RunRepository(), ThreadRepository()
        self.model = ScriptedModel(*turns)
        self.plan = plan
        self.allowances = Allowances(
            terms_of=lambda _: Terms(plan=plan_at(self.plan, self.clock.now())), clock=self.clock
        )
        self.titles = TitleProposals(
            threads=self.threads,
            titles=TitleRepository(),
            target_of=lambda key: TARGET if self.runs.run(key) else None,
            model=self.model,
            allowances=self.allowances,
            clock=self.clock,
        )
        at = self.clock.now()
        run = Run(
            key=RunKey(self.user_id, RunId("r1")),
            thread_id=self.key.thread_id,
            status=RunStatus.RUNNING,
            model=TARGET.model,
            created_at=at,
        )

        def segment(n: int, *, terminal: bool = False) -> Segment:
            until = at + timedelta(seconds=30)
            return Segment(key=run.key, n=n, writer="w", epoch=1, lease_until=until, events=(b"{}",), terminal=terminal)

        asked = Message(id="m1", role="user", content="Which are online? " + "x" * 5_000)
        self.runs.start(run, thread=self.runs.thread(self.key), segment=segment(1), messages=(asked,))
        said = (Message(id="a1", role="assistant", content=answer),) if answer else ()
        how = RunEnd(status=RunStatus.FINISHED, at=at, last_message=len(said))
        self.runs.finish(segment(2, terminal=True), how, thread=self.key, history=History(self.key, 1, said))

    def propose(self) -> bool:
        return asyncio.run(self.titles.propose(self.key))

    @property
    def title(self) -> tuple[str, TitleSource]:
        head = self.threads.get(self.key)
        assert head is not None
        return head.title, head.title_from

    @property
    def spent(self) -> int:
        used = UsageRepository().read(self.allowances.of(self.user_id))
        return next(each.used for each in used if each.metric is Metric.MODEL_SPEND)


@pytest.fixture(autouse=True)
def tables(stack: Stack) -> None:
    del stack


TITLE = [*text('"Devices ', 'that are online".'), *ended(usage=Usage(700, 9))]


def test_a_model_is_asked_once_and_what_it_cost_is_counted() -> None:
    scene = Scene(TITLE)
    assert scene.propose()
    assert not scene.propose()
    assert scene.title == ("Devices that are online", TitleSource.MODEL)
    (request,) = scene.model.requests
    assert (request.target, request.max_tokens, request.tools) == (TARGET, MAX_TITLE_TOKENS, ())
    (message,) = request.messages
    assert len(str(message.content)) < 2 * MAX_SHOWN_CHARS + 100
    assert scene.spent == cost(Usage(700, 9), TARGET, scene.clock.now()) > 0


def test_two_at_once_ask_once() -> None:
    scene = Scene(TITLE, TITLE)

    async def both() -> list[bool]:
        return await asyncio.gather(*(scene.titles.propose(scene.key) for _ in range(2)))

    assert sorted(asyncio.run(both())) == [False, True]
    assert len(scene.model.requests) == 1


def test_a_title_that_its_owner_gives_meanwhile_stays_and_the_call_is_counted() -> None:
    def rename() -> None:
        scene.threads.change(scene.key, ThreadChange(title="Mine"), version=None, at=scene.clock.now())

    scene = Scene([rename, *TITLE])
    assert not scene.propose()
    assert scene.title == ("Mine", TitleSource.USER)
    assert scene.spent == cost(Usage(700, 9), TARGET, scene.clock.now())
    assert not scene.propose()


def test_a_thread_that_is_deleted_meanwhile_gets_none() -> None:
    from karma.conversations.deletion_repository import ThreadDeletionRepository

    class Nowhere:
        def send(self, body: str, *, delay_s: int = 0) -> None:
            pass

    def delete() -> None:
        ThreadRemover(
            threads=scene.threads,
            deletions=ThreadDeletionRepository(),
            wishes=scene.runs,
            queue=Nowhere(),
            clock=scene.clock,
        ).delete(scene.key)

    scene = Scene([delete, *TITLE])
    assert not scene.propose()
    assert scene.threads.get(scene.key) is None
    assert not scene.propose()


@pytest.mark.parametrize(
    ("turn", "spent"),
    [
        ([ModelFailed(ModelErrorCode.MODEL_OVERLOADED)], 0),
        ([*text("Half a "), ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=Usage(700))], None),
        *(
            ([*text("I cannot"), *ended(stop, usage=Usage(700, 1))], cost(Usage(700, 1), TARGET, SetClock().now()))
            for stop in (StopReason.MAX_TOKENS, StopReason.REFUSED, StopReason.CONTEXT_FULL)
        ),
        ([*text(" \n\n"), *ended(usage=Usage(700, 1))], cost(Usage(700, 1), TARGET, SetClock().now())),
    ],
)
def test_a_model_that_gives_none_is_not_asked_again(turn: Any, spent: int | None) -> None:
    scene = Scene(turn)
    assert not scene.propose()
    assert not scene.propose()
    assert scene.title[1] is TitleSource.WORDS
    assert scene.title[0].startswith("Which are online?")
    assert scene.spent > 0 if spent is None else scene.spent == spent


def test_a_process_that_dies_while_it_asks_leaves_the_first_words_and_what_it_reserved() -> None:
    class Died(BaseException):
        pass

    def die() -> None:
        raise Died

    scene = Scene([die])
    with pytest.raises(Died):
        scene.propose()
    assert not scene.propose()
    assert scene.title[1] is TitleSource.WORDS
    assert scene.spent > 0


@pytest.mark.parametrize("lost", [1, 2])
def test_a_write_whose_answer_is_lost_is_known_to_have_happened(lost: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(TITLE)
    sent: list[None] = []
    send = Transaction._send

    def without_answer(self: Transaction) -> None:
        send(self)
        sent.append(None)
        if len(sent) == lost:
            raise StorageUnavailable("lost")

    monkeypatch.setattr(Transaction, "_send", without_answer)
    assert scene.propose()
    assert len(sent) == 3
    assert not scene.propose()
    assert len(scene.model.requests) == 1
    assert scene.title == ("Devices that are online", TitleSource.MODEL)
    assert scene.spent == cost(Usage(700, 9), TARGET, scene.clock.now())


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_process_that_dies_at_a_write_asks_no_second_time(
    nth: int, is_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    scene = Scene(TITLE, TITLE)
    sent: list[None] = []
    send = Transaction._send

    def dies(self: Transaction) -> None:
        sent.append(None)
        if len(sent) == nth and not is_written:
            raise Died
        send(self)
        if len(sent) == nth:
            raise Died

    monkeypatch.setattr(Transaction, "_send", dies)
    with pytest.raises(Died):
        scene.propose()
    is_asked_again = (nth, is_written) == (1, False)
    assert scene.propose() is is_asked_again
    assert len(scene.model.requests) == (0 if (nth, is_written) == (1, True) else 1)
    counted = cost(Usage(700, 9), TARGET, scene.clock.now())
    assert scene.spent == counted if is_asked_again or (nth, is_written) == (2, True) else scene.spent > counted


def test_a_plan_with_nothing_left_asks_nobody_until_it_has_more() -> None:
    scene = Scene(TITLE, plan=PlanName.FREE)
    take(limited(scene.user_id, Metric.MODEL_SPEND, 2_000_000))  # all of it
    assert not scene.propose()
    assert (scene.model.requests, scene.spent) == ([], 2_000_000)
    scene.plan = PlanName.ENTERPRISE
    assert scene.propose()


def test_a_question_without_an_answer_gets_none() -> None:
    scene = Scene(answer="")
    assert not scene.propose()
    assert scene.model.requests == []


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Devices in the greenhouse", "Devices in the greenhouse"),
        ("**Lamps**\nand more", "Lamps"),
        ("“温度传感器”。", "温度传感器"),
        ("\n # Lamps\t of\x00 mine.", "Lamps of mine"),
        ("x" * 300, "x" * 80),
        ("x" * 79 + "\U0001f468\u200d\U0001f469\u200d\U0001f467 family", "x" * 79),
        ("word " * 40, "word " * 15 + "word"),
        ("\u200b", ""),
        ("", ""),
    ],
)
def test_a_title_is_one_line_without_what_models_put_around_it(answer: str, title: str) -> None:
    assert title_of(answer) == title
