"""An answer that is asked for anew and stopped on the way leaves its thread with the answer before it."""

from __future__ import annotations

import pytest

from karma.runs.domain import LEASE, RunStatus
from tests.support.lost_runs import Life
from tests.support.run_world import user
from tests.support.talks import USER, Talk


@pytest.mark.parametrize("cut", [0, 10, 12], ids=["before it begins", "early", "later"])
def test_the_answer_before_it_stands_and_what_is_said_next_is_said_behind_that(cut: int) -> None:
    talk = Talk()
    talk.request(user("one", "u1"), strategy=None)
    talk.execute()
    before = [each.id for each in talk.branch()]
    anew = talk.request(user("one", "u1"), strategy=None)
    if cut:
        talk.execute(lambda: Life(cut))
    talk.clock.pass_by(LEASE * 2)
    assert talk.status(anew) is RunStatus.RUNNING
    talk.control(Life(None)).cancel(USER, anew.key.run_id)
    assert talk.status(anew) is RunStatus.CANCELLED
    assert [each.id for each in talk.branch()] == before
    talk.request(user("two", "u2"), strategy=None)
    assert [each.id for each in talk.branch()] == [*before, "u2"]
