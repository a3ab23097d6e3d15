"""Going back names the calls that may have changed something, each once, and none that was not made."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress
from itertools import count

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.conversations.domain import CallEffect, Message, Thread, ToolCall
from karma.conversations.history import awaited_calls
from karma.core.errors import AppError
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import LEASE, RunStatus
from karma.runs.effects import Acting, Effect, EffectStatus, effects_of
from karma.runs.modifications import Modifications
from karma.runs.points import RunPoint, write_point_id
from karma.runs.rollback import effects_behind
from karma.runs.watchdog import GIVE_UP_AFTER, Inspector
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller
from tests.support.effects import verify_effects
from tests.support.forks import forks
from tests.support.lost_runs import THREAD, Life
from tests.support.run_world import asked, user
from tests.support.talks import USER, Plan, Talk

HISTORIES = int(os.environ.get("HISTORIES", "25"))
TREES = 200
ROLLBACK = MultitaskStrategy.ROLLBACK.value
ACTS = Acting(frozenset({"act"}), frozenset())
STATUSES: dict[tuple[CallEffect, bool], EffectStatus | None] = {
    ("told", False): "succeeded",
    ("told", True): "failed",
    ("done", True): "succeeded",
    ("unknown", True): "unknown",
    ("none", True): None,
}
BY_STRENGTH: list[EffectStatus | None] = ["succeeded", "unknown", "failed", None]


class Tree:
    """A thread whose branches count the ids of calls anew, and what became of each call."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.messages: list[Message] = []
        self.forks: dict[int, int] = {}
        self.told: dict[tuple[str, str], list[tuple[int, EffectStatus | None]]] = {}
        for at in range(dice.randint(2, 14)):
            after = at - 1 if dice.random() < 0.7 else dice.randint(-1, at - 1)
            if after != at - 1:
                self.forks[at] = after
            self.messages.append(self._message(at, after))

    @property
    def thread(self) -> Thread:
        return Thread(key=THREAD, messages=tuple(self.messages), next_message=len(self.messages), forks=self.forks)

    def path(self, at: int) -> list[int]:
        found: list[int] = []
        while at >= 0:
            found.append(at)
            at = self.forks.get(at, at - 1)
        return found

    def _message(self, at: int, after: int) -> Message:
        names = self.dice.sample(["c1", "c2", "c3"], self.dice.randint(1, 2))
        if self.dice.random() < 0.4:
            calls = tuple(ToolCall(each, self.dice.choice(["act", "look"]), "{}") for each in names)
            return Message(id=f"m{at}", role="assistant", tool_calls=calls)
        effect, failed = self.dice.choice(list(STATUSES))
        made = [(self.messages[each], call) for each in self.path(after) for call in self.messages[each].tool_calls]
        answer, call = next(((said, call) for said, call in made if call.id == names[0]), (None, None))
        if answer is not None and call is not None and call.name == "act":
            self.told.setdefault((answer.id, call.id), []).append((at, STATUSES[effect, failed]))
        return Message(id=f"m{at}", role="tool", tool_call_id=names[0], failed=failed, effect=effect)


@pytest.mark.fault("F-29za")
def test_a_result_belongs_to_the_nearest_answer_above_and_the_strongest_of_several_holds(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(TREES):
        tree = Tree(dice)
        point = dice.randint(-1, len(tree.messages) - 1)
        behind = {at for at in range(len(tree.messages)) if point in [*tree.path(at)[1:], -1]}
        found = effects_of(tree.thread, behind, ACTS)
        wanted = {}
        for key, told in tree.told.items():
            statuses = [status for at, status in told if at in behind]
            strongest = min(statuses, key=BY_STRENGTH.index, default=None)
            if strongest is not None:
                wanted[key] = strongest
        assert {(each.message_id, each.tool_call_id): each.status for each in found} == wanted
        assert len(found) == len(wanted)


class Party:
    """A user who approves, refuses, goes on and goes back, with processes that die."""

    def __init__(self, seed: int, *, dies: bool) -> None:
        self.dice = random.Random(seed)
        self.talk = Talk(plan=self._plan)
        self.talk.permission = "device:control"
        self.dies = dies
        self.gone_back_to: set[str] = set()
        """Calls that were open where a thread went back to: who says more there does not know what was asked."""
        self.looked = self.rolled_back = 0

    def _plan(self) -> Plan:
        if self.dice.random() < 0.4:
            return ()
        kinds = [("again", "1"), ("look", "2"), ("ask", "3"), ("again", "ask"), ("look", "ask")]
        return [self.dice.choice(kinds) for _ in range(self.dice.randint(1, 3))]

    def _life(self) -> Life:
        if not self.dies or self.dice.random() < 0.6:
            return Life(None)
        return Life(self.dice.randint(1, 30), after=self.dice.random() < 0.5)

    def play(self) -> None:
        talk, dice = self.talk, self.dice
        talk.say("begin")
        for _ in range(dice.randint(3, 8)):
            talk.execute(self._life)
            talk.clock.pass_by(LEASE * 2)
            with suppress(AppError):
                self._happens()
            if dice.random() < 0.15:
                talk.settle()
            self.look_back()
        talk.rest(dice)
        self.look_back()
        verify_effects(talk.store.thread(THREAD).messages)

    def _happens(self) -> None:
        talk, dice = self.talk, self.dice
        match dice.choice(["say", "rollback", "approve", "refuse", "restore", "restore as run", "give up"]):
            case "say":
                talk.say("more", dice.choice([MultitaskStrategy.INTERRUPT, None]))
            case "rollback":
                self._roll_back()
            case "approve" if questions := talk.open():
                talk.approve(questions)
            case "refuse" if questions := talk.open():
                answers = [{"interruptId": each.id, "status": "cancelled"} for each in questions]
                talk.request(strategy=None, resume=answers)
            case "restore" if points := self.points():
                point = dice.choice(points)
                forks(talk).in_place.restore(caller(), write_point_id(point.id), Modifications())
                at = talk.store.thread(THREAD).conversation(point.position).messages
                self.gone_back_to |= {call.id for call in awaited_calls(at)}
            case "restore as run" if points := self.points():
                forks(talk).restore_as_run(caller(), write_point_id(dice.choice(points).id), Modifications(), key=None)
            case "give up":
                talk.clock.pass_by(LEASE + GIVE_UP_AFTER)
                for run in talk.active():
                    Inspector(talk.store, talk.executions, talk.clock).look(run.key)
            case _:
                pass

    def _roll_back(self) -> None:
        talk = self.talk
        before = talk.store.thread(THREAD)
        talk.names += 1
        request = asked(
            user("instead"),
            run=f"r{talk.names}",
            forwardedProps={"multitask_strategy": MultitaskStrategy.ROLLBACK.value},
        )
        rolled_back = asyncio.run(talk.background(Life(None)).begin(caller(), request)).rolled_back
        if rolled_back is None:
            return
        self.rolled_back += 1
        thread, named = talk.store.thread(THREAD), {each.tool_call_id: each.status for each in rolled_back.effects}
        begun = range(rolled_back.run.begins_at, before.next_message)
        for call in (call for at in begun for call in thread.messages[at].tool_calls):
            is_asked = '"ask"' in call.arguments
            assert not is_asked or call.id in talk.approved or call.id not in named, "it was not made"
            assert call.id not in talk.made or named[call.id] in {"succeeded", "unknown"}
        assert {call_id for call_id, status in named.items() if status == "succeeded"} <= talk.made.keys()

    def points(self) -> list[RunPoint]:
        service = CheckpointService(self.talk.store, MemoryCheckpoints(self.talk.store), self.talk.clock)
        return [each for run in self.talk.store.runs_by_key for each in service.page(USER, run.run_id, limit=100)]

    def look_back(self) -> None:
        """Compare what each way back would name with what was made."""
        talk = self.talk
        service = CheckpointService(talk.store, MemoryCheckpoints(talk.store), talk.clock)
        for point in self.points() if talk.store.thread(THREAD).active_run_id is None else ():
            found = service.find(USER, write_point_id(point.id))
            self._verify(point.position, effects_behind(talk.store, found, found.thread, talk.tools(Life(None))))

    def _verify(self, point: int, named: tuple[Effect, ...]) -> None:
        talk = self.talk
        thread = talk.store.thread(THREAD)
        self.looked += 1
        behind = {at for at in range(point + 1, thread.next_message) if point in thread.path_to(at)}
        asked = {call.id: call for at in behind for call in thread.messages[at].tool_calls}
        said = max((at for at in thread.path_to(point) if thread.messages[at].role == "assistant"), default=-1)
        told = [thread.messages[at] for at in behind if thread.messages[at].role == "tool"]
        statuses = {each.tool_call_id: each.status for each in named}
        assert len(statuses) == len(named), "calls of this world have ids of their own"
        assert all(each.message_id == self._answer(each.tool_call_id).id for each in named)
        for call_id, status in statuses.items():
            assert call_id in asked or self._answer(call_id) is thread.messages[said] or call_id in self._results(told)
            is_asked = '"ask"' in next(c for m in thread.messages for c in m.tool_calls if c.id == call_id).arguments
            # A message behind a run that nobody could go on with does not read how far that came (ADR 0047).
            is_told = any(each.tool_call_id == call_id and each.effect == "unknown" for each in thread.messages)
            is_made = call_id in talk.approved | self.gone_back_to
            assert not is_asked or is_made or (self.dies and status == "unknown" and is_told), "it was not made"
            assert (status != "succeeded") or call_id in talk.made
            is_open_again = call_id in self.gone_back_to and status == "unknown"
            assert self.dies or call_id in talk.made or is_open_again
        # What was open at the point may have been made in another branch alone, and refused in this one.
        for call_id in {*asked, *self._results([each for each in told if not each.failed])} & talk.made.keys():
            assert statuses.get(call_id) in {"succeeded", "unknown"}, (call_id, statuses)
            is_told = any(each.tool_call_id == call_id and not each.failed for each in told)
            assert statuses[call_id] == ("succeeded" if is_told else "unknown")

    def _answer(self, call_id: str) -> Message:
        messages = self.talk.store.thread(THREAD).messages
        return next(each for each in messages if any(call.id == call_id for call in each.tool_calls))

    def _results(self, told: list[Message]) -> set[str]:
        return {each.tool_call_id for each in told}


@pytest.mark.fault("F-29za")
@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
@pytest.mark.parametrize("nth", range(HISTORIES))
def test_calls_that_were_made_are_named_and_no_others(nth: int, seed: int, *, dies: bool) -> None:
    """They are all where no process dies; else one may be named of which nobody knows."""
    Party(seed, dies=dies).play()


@pytest.mark.fault("F-29za")
def test_a_call_of_a_later_turn_is_named_where_its_process_was_lost() -> None:
    """Nobody has given it a result, since the conversation went back; what waits to be approved is not."""
    met = set[tuple[bool, str]]()
    for cut in count(1):
        talk = Talk([("look", "1")], [("again", "1"), ("look", "ask")])
        talk.permission = "device:control"
        first = talk.say("move it")
        talk.execute(lambda: Life(cut, after=True))  # noqa: B023  at once
        if talk.status(first) is RunStatus.INTERRUPTED:
            break
        talk.clock.pass_by(LEASE + GIVE_UP_AFTER)
        Inspector(talk.store, talk.executions, talk.clock).look(first.key)
        service = CheckpointService(talk.store, MemoryCheckpoints(talk.store), talk.clock)
        points = service.page(USER, first.key.run_id, limit=9)
        if talk.status(first) is not RunStatus.FAILED or len(points) < 3:
            continue
        named = forks(talk).in_place.restore(caller(), write_point_id(points[1].id), Modifications()).effects
        told = {str(each.content) for each in talk.store.thread(THREAD).messages if each.tool_call_id == "c2"}
        assert [(each.tool_call_id, each.status) for each in named] == [("c2", "succeeded" if told else "unknown")]
        met.add(("c2" in talk.made, named[0].status))
    assert met >= {(False, "unknown"), (True, "unknown"), (True, "succeeded")}


@pytest.mark.fault("F-39b")
@pytest.mark.parametrize("answer", ["refused", "cancelled"])
def test_a_refused_call_is_asked_about_anew_though_the_run_of_its_refusal_was_lost(answer: str) -> None:
    """Whoever goes on after that is told that nobody knows its outcome; that is no approval."""
    said = {"status": "cancelled"} if answer == "cancelled" else {"status": "resolved", "payload": {"approved": False}}
    were_lost = 0
    for cut in range(1, 30):
        talk = Talk([("again", "ask")], [], [])
        talk.permission = "device:control"
        first = talk.say("move it")
        talk.execute()
        (question,) = talk.open()
        lost = talk.request(strategy=None, resume=[{"interruptId": question.id, **said}])
        talk.execute(lambda: Life(cut, after=True))  # noqa: B023  at once
        talk.clock.pass_by(LEASE + GIVE_UP_AFTER)
        Inspector(talk.store, talk.executions, talk.clock).look(lost.key)
        if talk.status(lost) is not RunStatus.FAILED:
            continue
        were_lost += 1
        talk.say("instead", MultitaskStrategy.ROLLBACK)
        talk.execute()
        service = CheckpointService(talk.store, MemoryCheckpoints(talk.store), talk.clock)
        point = write_point_id(service.page(USER, first.key.run_id, limit=9)[0].id)
        again = forks(talk).restore_as_run(caller(), point, Modifications(), key=None).run
        assert again is not None
        talk.execute()
        assert talk.status(again) is RunStatus.INTERRUPTED
        assert [each.call.id for each in talk.open() if each.call is not None] == [question.asked.id]
        assert talk.made == {}
    assert were_lost
