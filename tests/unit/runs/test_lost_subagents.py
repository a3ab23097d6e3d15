"""A run with subagents whose processes die goes on in others, and ends as it would have without a death.

As test_take_over.py: each process is killed at some call of its store, its model or a tool, of its own or of its
subagents, before or after the call had its effect. KILLS=300 plays as many; SEED plays one again.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Any

import orjson
import pytest

from karma.billing.allowances import Metric
from karma.runs.domain import LEASE, Run, RunStatus
from karma.runs.events import open_after, tagged, text_start, tool_start
from karma.runs.joining import join
from karma.runs.replay import read
from tests.fakes.runs import KeptFrames
from tests.support.agui import verify
from tests.support.lost_runs import KEY, THREAD, Life, begin, cancel, go_on, pause, resume, screen
from tests.support.plans import allowance
from tests.support.subagents import Delegating

RUNS = int(os.environ.get("KILLS") or 15)
MAX_KILLS = 5


def without_a_death() -> Delegating:
    world = Delegating()
    begin(world, Life(None), KeptFrames())
    return world


def cost_of(world: Delegating) -> int:
    run = world.store.run(KEY)
    assert run is not None
    assert run.cost_micros is not None
    return run.cost_micros


def used_by(world: Delegating) -> int:
    """Return what the account's month has."""
    (used,) = [
        each.used
        for each in world.store.usage.read(allowance(KEY.user_id, at=world.clock.now()))
        if each.metric is Metric.MODEL_SPEND
    ]
    return used


@pytest.mark.parametrize("nth", range(RUNS))
def test_wherever_its_processes_die_a_run_with_subagents_ends_as_without_a_death(nth: int, seed: int) -> None:
    dice = random.Random(seed)
    asks = dice.random() < 0.3
    expected, world = without_a_death(), Delegating(asks=asks)
    steps = 3 * len(expected.log) + 60
    begin(world, Life(dice.randint(1, steps), after=dice.random() < 0.5), KeptFrames())
    for _ in range(dice.randint(0, MAX_KILLS - 1)):
        go_on(world, Life(dice.randint(1, steps), after=dice.random() < 0.5))
    for _ in range(2):  # the second is a late repeat
        go_on(world, Life(None))

    run = world.store.run(KEY)
    if run is None:
        assert world.effects == Counter()
        return
    log = world.log
    assert [segment.n for segment in log] == list(range(1, len(log) + 1))
    assert [segment.terminal for segment in log] == [False] * (len(log) - 1) + [True]
    check_clients(world, dice)
    # The conversation has nothing of what subagents said.
    thread = world.store.thread(THREAD)
    assert not [each for each in thread.messages if "digger says" in str(each.content) and each.role == "assistant"]
    assert set(world.effects.values()) <= {1}
    if run.status is RunStatus.INTERRUPTED:
        (question,) = world.shown()[-1]["outcome"]["interrupts"]
        assert (question["reason"], question["metadata"]["toolName"]) == ("karma:unknown_outcome", "ask")
        assert orjson.loads(question["metadata"]["arguments"]).keys() == {"word"}
        assert question["subagentRunId"] in {each.get("subagentRunId") for each in world.shown()}
        return
    assert run.status is (RunStatus.FAILED if run.error_code == "OWNER_LOST" else RunStatus.FINISHED)
    if run.status is RunStatus.FINISHED and not asks:
        assert world.told() == expected.told()
        assert tools_of(expected) == tools_of(world)
        check_money(world, run, expected)


@pytest.mark.fault("F-38b")
@pytest.mark.parametrize("nth", range(max(4, RUNS // 3)))
def test_a_lost_run_that_is_paused_shows_what_each_of_its_agents_has_used(nth: int, seed: int) -> None:
    dice, world = random.Random(seed), Delegating()
    begin(world, Life(dice.randint(30, 3 * len(without_a_death().log)), after=dice.random() < 0.5), KeptFrames())
    run = world.store.run(KEY)
    if run is None or run.finished_at is not None:
        return
    world.clock.pass_by(LEASE * 2)
    told = []
    for _ in range(2):
        run = pause(world)
        assert run.status is RunStatus.PAUSED
        told.append((run.turns, run.usages, run.cost_micros, run.delegated))
        resume(world)
        world.clock.pass_by(LEASE)
    pause(world)
    run = cancel(world)
    assert told == [(run.turns, run.usages, run.cost_micros, run.delegated)] * 2
    assert used_by(world) == cost_of(world)
    days = {agent: spent for (_, _, agent), spent in world.store.usage.days.items()}
    spent = {str(each["agent_id"]): each["cost_micros"] for each in run.delegated}
    assert {agent: days.get(agent, 0) for agent in spent} == spent


def test_what_is_left_open_ends_as_the_subagent_s_whose_it_is() -> None:
    called = tool_start(tool_call_id="c1", name="look", parent_message_id="m2")
    begun = [text_start("m1"), tagged(text_start("m2"), "sub_1"), tagged(called, "sub_1")]
    ends = [orjson.loads(event.data) for event in open_after(event.data for event in begun).closing()]
    assert {each.get("messageId") or each["toolCallId"]: each.get("subagentRunId") for each in ends} == {
        "m1": None,
        "m2": "sub_1",
        "c1": "sub_1",
    }


def tools_of(world: Delegating) -> Counter[str]:
    return Counter(name for name, _ in world.effects.elements())


def answers_in_the_log(world: Delegating) -> Counter[str]:
    """Count the answers of each subagent's model of which the log has anything, also of one that was asked again."""
    said: dict[str, str] = {}
    for each in world.shown():
        if each["type"] == "TEXT_MESSAGE_CONTENT" and "subagentRunId" in each:
            said[each["messageId"]] = said.get(each["messageId"], "") + each["delta"]
    return Counter(words.split(" ", 1)[0] for words in said.values())


def check_clients(world: Delegating, dice: random.Random) -> None:
    """Check that what clients are sent is valid, and that who comes back, or joins, ends with the same screen."""
    verify(world.shown())
    check_ends(world.shown())
    whole = screen(world.shown())
    for _ in range(5):
        cut = dice.randint(0, len(world.log))
        before = [
            orjson.loads(data) for each in read(world.store, KEY, after=0, limit=cut, link=list) for data in each.events
        ]
        assert screen([*before, *world.shown(after=cut)]) == whole
    joined = join(world.store, KEY, link=list)
    assert joined is not None
    assert sorted(each["id"] for each in screen(list(map(orjson.loads, joined.events)))) == sorted(
        each["id"] for each in whole
    )


def check_ends(shown: list[dict[str, Any]]) -> None:
    """Check that what a subagent has begun ends as its own, also where its process was stopped or lost."""
    begun: dict[str, object] = {}
    for each in shown:
        kind, _, part = each["type"].rpartition("_")
        ref = f"{kind} {each.get('messageId') or each.get('toolCallId')}"
        if part == "START":
            begun[ref] = each.get("subagentRunId")
        elif part == "END":
            assert each.get("subagentRunId") == begun[ref], each


def check_money(world: Delegating, run: Run, expected: Delegating) -> None:
    """Check that what is counted is what the run cost, for each agent too, and no less than it would have cost."""
    assert used_by(world) == cost_of(world) >= cost_of(expected)
    by_name = {{1: "scout", 2: "digger"}[int(str(each["calls"]))]: each for each in run.delegated}
    # An answer that broke off was asked for, and so it is a turn where the log has some of it.
    assert {name: each["turns"] for name, each in by_name.items()} == answers_in_the_log(world)
    # What each agent's day has is what its calls have cost.
    days = {agent: spent for (_, _, agent), spent in world.store.usage.days.items()}
    assert {each["agent_id"]: each["cost_micros"] for each in run.delegated}.items() <= days.items()
