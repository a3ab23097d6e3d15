"""Going back to a call whose process was lost with it tells of it, and does not make it again."""

from __future__ import annotations

from itertools import count

import pytest

from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import LEASE, RunStatus
from karma.runs.interrupts import Reason
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller
from tests.support.forks import execute, forks
from tests.support.lost_runs import Life
from tests.support.talks import USER, Talk


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
