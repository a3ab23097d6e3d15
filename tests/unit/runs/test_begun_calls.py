"""Going back to a call whose process was lost with it tells of it, and does not make it again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import LEASE, Run, RunStatus
from karma.runs.interrupts import Reason
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from karma.runs.watchdog import GIVE_UP_AFTER, Inspector
from karma.tools.domain import ApprovalPolicy, ApprovalRule
from karma.tools.toolbox import Tool, ToolContext
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller
from tests.support.forks import execute, forks
from tests.support.lost_runs import Life, Nothing
from tests.support.talks import RULE, USER, Plan, Talk


@pytest.mark.fault("F-29z")
@pytest.mark.parametrize("how", ["restore_as_run", "fork"])
def test_a_call_that_nobody_knows_the_outcome_of_is_asked_about_again(how: str) -> None:
    met = set[bool]()
    for cut in count(1):
        talk = Talk([("ask", "1")])
        talk.permission = "device:control"
        first = talk.say("move it")
        talk.execute(lambda: Life(cut))  # noqa: B023  at once
        if talk.status(first) is RunStatus.FINISHED:
            break
        talk.clock.pass_by(LEASE * 2)
        talk.executions.requested.append(first.key)
        talk.execute()
        if talk.status(first) is not RunStatus.INTERRUPTED:
            continue
        met.add("c1" in talk.made)
        talk.made.clear()
        points = CheckpointService(talk.store, MemoryCheckpoints(talk.store), talk.clock)
        point = write_point_id(points.page(USER, first.key.run_id, limit=1)[0].id)
        answer = getattr(forks(talk), how)(caller(), point, Modifications(), key=None)
        if how == "restore_as_run":
            assert [(each.tool_call_id, each.status) for each in answer.effects] == [("c1", "unknown")]
        execute(talk, answer.run.key)
        new = talk.store.runs_by_key[answer.run.key]
        assert (new.status, talk.made) == (RunStatus.INTERRUPTED, {})
        (question,) = talk.store.interrupts(USER, new.interrupt_ids).values()
        assert (question.reason, question.made_by) == (Reason.UNKNOWN_OUTCOME, first.key.run_id)
    assert met == {False, True}


class Unsure(Talk):
    """A thread in which nobody knows what became of the first calls: they hang until they are stopped, or time out."""

    def __init__(self, *plans: Plan, ends: str) -> None:
        super().__init__(*plans)
        self.permission = "device:control"
        self.ends = ends
        self.to_fail = 1
        self.rule = RULE
        self.tries: list[tuple[str, str]] = []

    def tools(self, life: Life) -> list[Tool]:
        return [replace(tool, approval=self.rule) for tool in super().tools(life)]

    def _run(self, name: str, life: Life) -> Callable[[Any, ToolContext], Any]:
        async def run(arguments: Nothing, context: ToolContext) -> object:
            self.tries.append((name, context.run_id))
            if not self.to_fail:
                return {"done": name}
            self.to_fail -= 1
            if self.ends == "answers late":
                raise TimeoutError
            (active,) = self.active()
            await asyncio.to_thread(self.control(Life(None)).cancel, USER, active.key.run_id)
            await asyncio.Event().wait()
            return None

        return run


def first_point(talk: Talk, run: Run) -> str:
    points = CheckpointService(talk.store, MemoryCheckpoints(talk.store), talk.clock)
    return write_point_id(points.page(USER, run.key.run_id, limit=1)[0].id)


@pytest.mark.fault("F-29zb")
@pytest.mark.parametrize("ends", ["is stopped", "answers late"])
@pytest.mark.parametrize("name", ["ask", "look", "again"])
@pytest.mark.parametrize("how", ["restore_as_run", "fork"])
def test_a_call_whose_result_does_not_tell_its_outcome_is_not_made_anew(how: str, name: str, ends: str) -> None:
    """It is asked about, looked up, or made again for the run that made it, as its tool declares."""
    talk = Unsure([(name, "1")], ends=ends)
    first = talk.say("move it")
    talk.execute()
    assert talk.tries == [(name, first.key.run_id)]
    assert [each.effect for each in talk.branch() if each.role == "tool"] == ["unknown"]
    if name == "look":
        talk.done.add((name, "c1"))
    answer = getattr(forks(talk), how)(caller(), first_point(talk, first), Modifications(), key=None)
    if how == "restore_as_run":
        assert [(each.tool_call_id, each.status) for each in answer.effects] == [("c1", "unknown")]
    talk.execute()
    new = talk.store.runs_by_key[answer.run.key]
    if name == "ask":
        assert new.status is RunStatus.INTERRUPTED
        (question,) = talk.store.interrupts(USER, new.interrupt_ids).values()
        assert (question.reason, question.made_by) == (Reason.UNKNOWN_OUTCOME, first.key.run_id)
    assert talk.tries[1:] == ([(name, first.key.run_id)] if name == "again" else [])


@pytest.mark.fault("F-29zb")
def test_the_last_of_several_tries_counts_and_is_known_by_its_own_run() -> None:
    """One that was approved, went wrong, was given up, and is gone back to again."""
    talk = Unsure([("ask", "ask")], ends="is stopped")
    first = talk.say("move it")
    talk.execute()
    (question,) = talk.open()
    approved = talk.approve([question])
    talk.execute()
    assert (talk.status(approved), talk.tries) == (RunStatus.CANCELLED, [("ask", first.key.run_id)])
    point = first_point(talk, first)
    for _ in range(3):
        answer = forks(talk).restore_as_run(caller(), point, Modifications(), key=None)
        assert [(each.tool_call_id, each.status) for each in answer.effects] == [("c1", "unknown")]
        talk.execute()
        assert answer.run is not None
        (question,) = talk.store.interrupts(USER, talk.store.runs_by_key[answer.run.key].interrupt_ids).values()
        assert (question.reason, question.made_by) == (Reason.UNKNOWN_OUTCOME, first.key.run_id)
        talk.approve([question])  # gives it up: nobody knows
        talk.execute()
        point = first_point(talk, answer.run)
    assert len(talk.tries) == 1


@pytest.mark.fault("F-29zb")
def test_what_a_lost_process_has_begun_is_not_forgotten_where_it_was_refused_in_another_branch() -> None:
    met = 0
    for cut in count(1):
        talk = Unsure([("ask", "1")], ends="")
        talk.to_fail = 0
        first = talk.say("move it")
        talk.execute(lambda: Life(cut))  # noqa: B023  at once
        if talk.status(first) is RunStatus.FINISHED:
            break
        if not talk.tries or len(list(talk.store.checkpoints[first.key])) > 1:
            continue
        met += 1
        talk.clock.pass_by(LEASE + GIVE_UP_AFTER)
        Inspector(talk.store, talk.executions, talk.clock).look(first.key)
        assert talk.status(first) is RunStatus.FAILED
        point = first_point(talk, first)
        talk.rule = ApprovalRule(policy=ApprovalPolicy.ALWAYS)
        forks(talk).restore_as_run(caller(), point, Modifications(), key=None)
        talk.execute()
        (question,) = talk.open()
        talk.request(strategy=None, resume=[{"interruptId": question.id, "status": "cancelled"}])
        talk.execute()
        assert [each.effect for each in talk.branch() if each.role == "tool"] == ["none"]
        talk.rule = RULE
        answer = forks(talk).restore_as_run(caller(), point, Modifications(), key=None)
        assert [each.status for each in answer.effects] == ["unknown"]
        talk.execute()
        (question,) = talk.open()
        assert (question.reason, question.made_by) == (Reason.UNKNOWN_OUTCOME, first.key.run_id)
    assert met


@pytest.mark.fault("F-29zb")
def test_a_call_that_is_told_in_any_branch_is_made_as_its_user_was_told() -> None:
    talk = Unsure([("ask", "1")], ends="is stopped")
    first = talk.say("move it")
    talk.execute()
    point = first_point(talk, first)
    forks(talk).restore_as_run(caller(), point, Modifications(), key=None)
    talk.execute()
    (question,) = talk.open()
    talk.request(
        strategy=None, resume=[{"interruptId": question.id, "status": "resolved", "payload": {"outcome": "happened"}}]
    )
    talk.execute()
    answer = forks(talk).restore_as_run(caller(), point, Modifications(), key=None)
    assert [(each.tool_call_id, each.status) for each in answer.effects] == [("c1", "succeeded")]
    talk.execute()
    assert answer.run is not None
    assert talk.tries == [("ask", first.key.run_id), ("ask", answer.run.key.run_id)]
