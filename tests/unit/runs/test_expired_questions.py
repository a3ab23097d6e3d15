"""Questions that nobody answers in time: what their rule says is done once, wherever processes die over it."""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.core.errors import AppError, ValidationFailed
from karma.core.ids import RunId
from karma.identity.domain import Caller
from karma.runs.domain import ACTIVE, LEASE, RunKey, RunStatus
from karma.runs.expiry import ASKED_AGAIN_AFTER, Expiry, is_expiry, read_expiry, request_expiries
from karma.runs.interrupts import AnswerStatus, InterruptExpired
from karma.runs.wishes import Wish
from karma.tools.domain import ApprovalPolicy, ApprovalRule, OnExpiry
from karma.tools.toolbox import Tool
from tests.fakes.agents import catalogue
from tests.fakes.runs import KeptFrames, caller
from tests.support.lost_runs import KEY, THREAD, TOOLS, Handle, Life, World, begin, live
from tests.support.run_world import asked, spec, user

RUNS = int(os.environ.get("KILLS") or 15)
WAIT_S = 60
USER = caller().user_id


def of_today(given: Caller) -> Caller | None:
    return given


class Waiting(World):
    """A world whose calls wait for a minute to be approved, those of the model's second turn excepted."""

    def __init__(self, on_expiry: OnExpiry) -> None:
        super().__init__()
        self.rule = ApprovalRule(
            policy=ApprovalPolicy.WHEN, when="args.word != '1'", expires_in_s=WAIT_S, on_expiry=on_expiry
        )
        self.caller_by_now: Callable[[Caller], Caller | None] = of_today

    def tools(self, life: Life) -> list[Tool]:
        return [replace(tool, approval=self.rule) for tool in super().tools(life)]

    def expire(self, life: Life) -> list[bool]:
        """Deal with each question whose time is over, as one process does; return what each message did."""
        deals = Expiry(
            store=Handle(self.store, life),
            runs=self.background(life),
            caller_by_now=self.caller_by_now,
            clock=self.clock,
        )
        done: list[bool] = []

        async def work() -> None:
            for key, n, _ in self.store.expiring(self.clock.now(), limit=9).questions:
                done.append(await deals.expire(key, n))

        live(work)
        return done

    def go_on(self, life: Life | None = None) -> None:
        """Let another process go on with the runs that are active."""
        self.clock.pass_by(LEASE * 2)
        for key in [key for key, run in self.store.runs_by_key.items() if run.status in ACTIVE]:
            live(lambda: self.executor(life or Life(None)).go_on(key))  # noqa: B023  run at once

    @property
    def results(self) -> list[str]:
        thread = self.store.thread(THREAD)
        return [str(thread.messages[at].content) for at in thread.path_to(thread.latest) if at >= 0
                and thread.messages[at].role == "tool"]  # fmt: skip

    @property
    def questions(self) -> list[Any]:
        return list(self.store.interrupts_by_id.values())


def waiting(on_expiry: OnExpiry) -> Waiting:
    world = Waiting(on_expiry)
    begin(world, Life(None), KeptFrames())
    assert [each.on_expiry for each in world.questions] == [on_expiry] * 2
    return world


def over(world: Waiting) -> None:
    world.clock.pass_by(timedelta(seconds=WAIT_S + 1))


def test_before_its_time_nothing_becomes_of_a_question() -> None:
    world = waiting(OnExpiry.REFUSE)
    world.clock.pass_by(timedelta(seconds=WAIT_S - 1))
    assert world.expire(Life(None)) == []


def test_refused_by_its_rule_the_model_is_told_and_goes_on_by_itself() -> None:
    world = waiting(OnExpiry.REFUSE)
    over(world)

    assert world.expire(Life(None)) == [True, False]
    (second,) = [run for run in world.store.runs_by_key.values() if run.key != KEY]
    assert (second.parent_run_id, second.status) == ("r1", RunStatus.RUNNING)
    assert world.executions.requested == [second.key]
    world.go_on()

    assert world.results[:2] == [each for each in world.results[:2] if "Nobody approved this call until" in each]
    assert world.results[2] == '{"done":"look"}'
    assert {name for name, _ in world.effects} == {"look"}
    # What the model calls then waits in its turn, and is refused in its turn.
    assert world.store.runs_by_key[second.key].status is RunStatus.INTERRUPTED
    over(world)
    world.expire(Life(None))
    world.go_on()
    assert [run.status for run in world.store.runs_by_key.values()] == [
        RunStatus.INTERRUPTED,
        RunStatus.INTERRUPTED,
        RunStatus.FINISHED,
    ]
    assert world.store.thread(THREAD).interrupts == ()


def test_cancelled_by_its_rule_the_conversation_rests_until_its_user_goes_on() -> None:
    world = waiting(OnExpiry.CANCEL)
    over(world)

    assert world.expire(Life(None)) == [True, False]

    assert [(each.answer.status, each.answer.by) for each in world.questions] == [(AnswerStatus.CANCELLED, "")] * 2
    assert list(world.store.runs_by_key) == [KEY]
    assert world.store.expiring(world.clock.now(), limit=9).questions == []
    go(world, user("and now?", "u2"))
    assert ["Nobody approved this call until" in each for each in world.results[:2]] == [True, True]
    assert world.effects == Counter({key: 1 for key in world.effects if key[0] == "look"})


def go(world: Waiting, *messages: dict[str, Any], **more: Any) -> None:
    async def work() -> None:
        started = await world.service(Life(None)).start(caller(), asked(*messages, run="r2", **more))
        await started.execute(KeptFrames())

    live(work)


@pytest.mark.parametrize("on_expiry", OnExpiry)
def test_an_answer_that_comes_after_its_time_finds_what_became_of_it(on_expiry: OnExpiry) -> None:
    world = waiting(on_expiry)
    approval = {"interruptId": "r1/1", "status": "resolved", "payload": {"approved": True}}
    over(world)
    world.expire(Life(None))
    if on_expiry is OnExpiry.REFUSE:
        world.go_on()

    with pytest.raises(InterruptExpired, match="'r1/1' expired at"):
        go(world, resume=[approval])
    assert {name for name, _ in world.effects} <= {"look"}


def test_the_stock_client_cancels_what_has_lapsed_and_is_heard() -> None:
    world = waiting(OnExpiry.CANCEL)
    over(world)
    world.expire(Life(None))

    go(world, resume=[{"interruptId": f"r1/{n}", "status": "cancelled"} for n in (1, 2)])

    assert ["Nobody approved" in each for each in world.results] == [True, True, False]
    assert [each.answer.by for each in world.questions if each.key == KEY] == ["r2"] * 2


def test_a_question_of_a_thread_with_an_active_run_is_left_for_later() -> None:
    world = waiting(OnExpiry.REFUSE)
    over(world)
    thread = world.store.thread(THREAD)
    world.store.threads[THREAD] = replace(thread, active_run_id=RunId("other"))
    assert world.expire(Life(None)) == [False, False]
    assert all(each.answer is None for each in world.questions)


@pytest.mark.parametrize("step", range(1, 10))
def test_a_user_who_goes_on_meanwhile_is_not_stopped(step: int) -> None:
    world = Waiting(OnExpiry.REFUSE)
    world.thinks, world.given_agents = True, catalogue(tools=TOOLS)
    world.given_agents.create(spec(tools=TOOLS, multitask_strategy=MultitaskStrategy.INTERRUPT))
    begin(world, Life(None), KeptFrames())
    over(world)
    second = KEY._replace(run_id=RunId("r2"))
    refused: list[AppError] = []

    async def says_more() -> None:
        request = asked(user("and now?", "u2"), run="r2", forwardedProps={"multitask_strategy": "reject"})
        try:
            await world.service(Life(None)).start(caller(), request)
        except AppError as exc:
            refused.append(exc)  # the run of the expiry was first

    def meanwhile() -> None:
        other = threading.Thread(target=lambda: live(says_more))
        other.start()
        other.join(30)

    world.expire(Life(None, meets=meanwhile, meets_at=step))

    active = world.store.thread(THREAD).active_run_id
    assert (active == "r2") is not bool(refused)
    if not refused:
        assert world.store.runs_by_key[second].status is RunStatus.RUNNING
        assert set(world.store.wished.get(second, {})) <= {Wish.NEXT}  # as for any other request
        assert world.store.thread(THREAD).queue == ()


def no_account(_: Caller) -> None:
    return None


def unverified(given: Caller) -> Caller:
    return replace(given, email_verified=False)


@pytest.mark.parametrize("by_now", [no_account, unverified])
def test_where_no_run_may_begin_any_more_the_conversation_rests(by_now: Callable[[Caller], Caller | None]) -> None:
    world = waiting(OnExpiry.REFUSE)
    world.caller_by_now = by_now
    over(world)

    world.expire(Life(None))

    assert list(world.store.runs_by_key) == [KEY]
    assert all(each.has_lapsed for each in world.questions)


@pytest.mark.parametrize("nth", range(RUNS))
@pytest.mark.parametrize("on_expiry", OnExpiry)
def test_wherever_processes_die_over_it_it_happens_once(on_expiry: OnExpiry, nth: int, seed: int) -> None:
    dice = random.Random(seed)
    world = waiting(on_expiry)
    over(world)
    for _ in range(dice.randint(0, 3)):
        life = Life(dice.randint(1, 14), after=dice.random() < 0.5)
        if dice.random() < 0.5:
            # Another message about the same is dealt with in the middle of it.
            life.meets, life.meets_at = lambda: in_another_process(world), dice.randint(1, 10)
        world.expire(life)
    for _ in range(4):
        world.expire(Life(None))
        world.go_on()
        if on_expiry is OnExpiry.REFUSE:
            over(world)

    assert all(run.status not in ACTIVE for run in world.store.runs_by_key.values())
    assert {name for name, _ in world.effects} <= {"look"}
    if on_expiry is OnExpiry.CANCEL:
        assert list(world.store.runs_by_key) == [KEY]
        assert all(each.has_lapsed for each in world.questions)
        return
    answered = Counter(each.answer.by for each in world.questions)
    assert len(world.questions) == 4
    assert sorted(answered.values()) == [2, 2]
    assert len(world.store.runs_by_key) == 3
    assert sum("Nobody approved" in each for each in world.results) == 4


def in_another_process(world: Waiting) -> None:
    other = threading.Thread(target=lambda: world.expire(Life(None)))
    other.start()
    other.join(30)


class Sent:
    def __init__(self) -> None:
        self.bodies: list[str] = []

    def send(self, body: str, *, group: str) -> None:
        self.bodies.append(body)


def test_the_sweep_sends_one_message_about_the_questions_of_a_run_until_they_are_done() -> None:
    world, queue = waiting(OnExpiry.CANCEL), Sent()
    assert request_expiries(world.store, queue, world.clock) == 0
    over(world)
    assert request_expiries(world.store, queue, world.clock) == 1
    assert [read_expiry(body) for body in queue.bodies if is_expiry(body)] == [(KEY, 1)]
    world.clock.pass_by(2 * ASKED_AGAIN_AFTER)
    world.expire(Life(None))
    assert request_expiries(world.store, queue, world.clock) == 0


@pytest.mark.parametrize("on_expiry", OnExpiry)
def test_a_message_about_a_question_that_is_answered_deals_with_those_beside_it(on_expiry: OnExpiry) -> None:
    """The index may still list an answered question as the first of its run."""
    world = waiting(on_expiry)
    over(world)
    store = world.store
    assert store.lapse(store.interrupts_by_id["r1/1"], at=world.clock.now())
    deals = Expiry(store=store, runs=world.background(Life(None)), caller_by_now=of_today, clock=world.clock)
    done: list[bool] = []

    async def work() -> None:
        done.append(await deals.expire(KEY, 1))
        done.append(await deals.expire(KEY, 1))

    live(work)
    assert done == [True, False]
    assert all(each.answer is not None for each in world.questions if each.key == KEY)
    assert len(store.runs_by_key) == (2 if on_expiry is OnExpiry.REFUSE else 1)


@pytest.mark.parametrize("body", ['{"expired":[]}', '{"expired":["u","r","x"]}', '{"expired":1}', '"expired"'])
def test_a_message_that_is_none_is_refused(body: str) -> None:
    with pytest.raises(ValidationFailed):
        read_expiry(body)


def test_a_question_that_is_gone_is_nothing_to_do() -> None:
    world = waiting(OnExpiry.REFUSE)
    over(world)
    expected = RunKey(USER, RunId("r9"))
    deals = Expiry(store=world.store, runs=world.background(Life(None)), caller_by_now=of_today, clock=world.clock)
    done: list[bool] = []

    async def work() -> None:
        done.append(await deals.expire(expected, 1))

    live(work)
    assert done == [False]
