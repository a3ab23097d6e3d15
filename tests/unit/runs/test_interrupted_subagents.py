"""Approvals within subagents, answers and deaths in any order: as test_interrupted_runs.py, two levels deep."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from karma.runs.domain import RunStatus
from karma.tools.domain import ApprovalPolicy, ApprovalRule
from tests.support.agui import verify
from tests.support.lost_runs import THREAD, Life
from tests.support.subagents import Delegating
from tests.unit.runs.test_interrupted_runs import Approving, Person

RUNS = int(os.environ.get("KILLS") or 24)
RULE = ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.word == 'd' || args.word == 's'")
"""The calls of subagents have to be approved, those of the run's own agent need not be."""


class ApprovingFamily(Delegating, Approving):
    """A world in which subagents' calls have to be approved."""

    rule = RULE
    free = ("0", "1")


@pytest.mark.parametrize("nth", range(RUNS))
def test_wherever_processes_die_a_subagent_s_approved_calls_are_made_once(nth: int, seed: int) -> None:
    dice = random.Random(seed)
    expected = ApprovingFamily()
    alone = Person(expected, random.Random(seed), 0)
    alone.finish()
    assert len(alone.runs) > 1, "nothing was asked"
    world = ApprovingFamily()
    person = Person(world, dice, dice.randint(1, 6))

    last = person.finish()

    assert set(world.effects.values()) <= {1}
    assert world.unapproved == []
    for run in person.runs:
        log = world.store.segments(run.key, after=0, limit=10**6)
        assert [each.n for each in log] == list(range(1, len(log) + 1))
        assert [each.terminal for each in log] == [False] * (len(log) - 1) + [True]
    if all(run.status is not RunStatus.FAILED for run in person.runs):
        assert last.status is RunStatus.FINISHED
        assert Counter(name for name, _ in world.effects) == Counter(name for name, _ in expected.effects)
        assert sorted(world.told()) == sorted(expected.told()), "another conversation"
        assert world.store.thread(THREAD).interrupts == ()


def test_the_first_run_s_stream_is_what_clients_accept() -> None:
    world = ApprovingFamily()
    Person(world, random.Random(1), 0).finish()
    assert world.tools(Life(None))
    verify(world.shown(), asked=[call for _, call in world.effects])
