"""A run that made calls of the run before it is rolled back: what they did is named, and their results stay."""

from __future__ import annotations

import asyncio

import pytest

from karma.agents.domain import MultitaskStrategy
from karma.runs.checkpoints import CheckpointService
from karma.runs.domain import ACTIVE, LEASE, Run
from karma.runs.effects import Effect
from karma.runs.modifications import Modifications
from karma.runs.points import write_point_id
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.fakes.runs import caller
from tests.support.forks import forks
from tests.support.lost_runs import THREAD, Life
from tests.support.run_world import asked, user
from tests.support.talks import USER, Talk

CUTS = range(1, 200)
"""Steps of a process at which it dies; the last ones are behind its end."""


class Acting(Talk):
    """A talk whose first turn makes a call, which has to be approved where that says "ask", and whose tools act."""

    def __init__(self, word: str) -> None:
        super().__init__([("again", word)], *[] if word == "ask" else [()], [("look", "1")])
        self.permission = "device:control"
        self.first = self.say("move it")
        self.execute()

    def answer(self, *, approved: bool) -> Run:
        if approved:
            return self.approve(self.open())
        entry = {"interruptId": self.open()[0].id, "status": "resolved", "payload": {"approved": False}}
        return self.request(strategy=None, resume=[entry])

    def restore(self) -> Run:
        """Let a run go on from the point at which the first call was open, which it makes."""
        points = CheckpointService(self.store, MemoryCheckpoints(self.store), self.clock)
        point = write_point_id(points.page(USER, self.first.key.run_id, limit=1)[0].id)
        begun = forks(self).restore_as_run(caller(), point, Modifications(), key=None).run
        assert begun is not None
        return begun

    def roll_back(self) -> tuple[Effect, ...]:
        """Begin a run in the place of the active one, and return the effects that are named."""
        props = {"multitask_strategy": MultitaskStrategy.ROLLBACK.value}
        request = asked(user("instead"), run="r99", forwardedProps=props)
        begun = asyncio.run(self.background(Life(None)).begin(caller(), request))
        assert begun.rolled_back is not None
        return begun.rolled_back.effects


@pytest.mark.fault("F-29y")
@pytest.mark.parametrize("how", ["approved", "refused", "restored"])
def test_wherever_it_ends_its_calls_are_named_and_their_results_stay(how: str) -> None:
    """Of the call that was open where it began a model is never told less than what is known."""
    met = set[str]()
    for cut in CUTS:
        talk = Acting("1" if how == "restored" else "ask")
        talk.made.clear()
        run = talk.restore() if how == "restored" else talk.answer(approved=how == "approved")
        talk.execute(lambda: Life(cut))  # noqa: B023  at once
        stored = talk.store.run(run.key)
        assert stored is not None
        if stored.status not in ACTIVE:
            break
        before = talk.store.thread(THREAD)
        known = [str(each.content) for each in before.messages[run.begins_at :] if each.tool_call_id == "c1"]
        talk.clock.pass_by(LEASE * 2)
        named = {each.tool_call_id: each.status for each in talk.roll_back()}
        told = [content for call, content in talk.results() if call == "c1"]
        assert len(told) == 1
        assert [each.content for each in talk.branch() if each.role == "user"] == ["move it", "instead"]
        if known:
            assert told == known
        if "c1" in talk.made:
            assert named["c1"] == ("succeeded" if known else "unknown")
        if "c2" in talk.made:
            assert "c2" in named
        met |= {f"{bool(known)} {'c1' in talk.made} {'c2' in talk.made}"}
    assert "True False False" in met if how == "refused" else {"True True False", "True True True"} <= met
