"""A run whose processes die goes on in others, and ends as it would have without a death.

Each process is killed at some call of its store, its model or a tool, before or after the call had its effect; from
then on none of its handles works any more, so that nothing of it can tidy up. The call is drawn from the
number of the run, which SEED plays again. KILLS=300 plays as many; without it a part of them is played.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from karma.billing.allowances import Metric
from karma.core.errors import StorageUnavailable
from karma.models.domain import ModelNotConfigured, Target
from karma.models.ports import (
    ModelEvent,
    ModelRequest,
    TextDelta,
)
from karma.runs.domain import ENGINE_SCHEMA, LEASE, MAX_TAKE_OVERS, RunEnd, RunStatus
from karma.runs.events import run_error
from karma.runs.execution import NoClient
from karma.runs.log import RunLog
from karma.runs.plan import RunLimits
from karma.runs.replay import read
from karma.runs.requests import RunInput
from karma.runs.watchdog import GIVE_UP_AFTER, Inspector
from karma.runs.wishes import Wish
from tests.fakes.runs import (
    KeptFrames,
    caller,
)
from tests.support.agui import verify
from tests.support.lost_runs import (
    KEY,
    THREAD,
    Life,
    Teller,
    World,
    begin,
    go_on,
    live,
    screen,
)
from tests.support.plans import allowance
from tests.support.run_world import asked, user

RUNS = int(os.environ.get("KILLS") or 15)

MAX_KILLS = 5


def without_a_death(**kind: bool) -> World:
    world = World(**kind)
    begin(world, Life(None), KeptFrames())
    return world


def steps_of(first: World) -> int:
    """Return a number of steps that a whole run has about."""
    return 3 * len(first.log) + 20


@pytest.mark.parametrize("nth", range(RUNS))
def test_wherever_its_processes_die_a_run_ends_as_without_a_death(nth: int, seed: int) -> None:
    dice = random.Random(seed)
    thinks, forgets, unique_ids = (dice.random() < 0.5 for _ in range(3))
    kind = {"thinks": thinks, "forgets": forgets, "unique_ids": unique_ids}
    expected, world = without_a_death(**kind), World(**kind)
    sink = KeptFrames()
    kills = dice.randint(1, MAX_KILLS)
    begin(world, Life(dice.randint(1, steps_of(expected)), after=dice.random() < 0.5), sink)
    for _ in range(kills - 1):
        go_on(world, Life(dice.randint(1, steps_of(expected)), after=dice.random() < 0.5))
    for _ in range(2):  # the second is a late repeat
        go_on(world, Life(None))

    run = world.store.run(KEY)
    if run is None:
        assert world.effects == Counter()
        return
    # The log: no gap, one end, and writers one after the other.
    log = world.log
    assert [segment.n for segment in log] == list(range(1, len(log) + 1))
    assert [segment.terminal for segment in log] == [False] * (len(log) - 1) + [True]
    assert [segment.epoch for segment in log] == sorted(segment.epoch for segment in log)
    assert len({(segment.epoch, segment.writer) for segment in log}) == log[-1].epoch
    whole = shown_to_everybody(world, dice)
    thread = world.store.thread(THREAD)
    kept = [message.id for message in thread.messages if message.role not in {"user", "summary"}]
    # One that was ended shows what it had begun to say, as every run that fails.
    begun = [each["id"] for each in whole][len(kept) :]
    assert [each["id"] for each in whole] == [*kept, *begun]
    assert len(begun) <= (run.status is RunStatus.FAILED)
    # Effects: none twice; `ask` was not made again, so that it may have none that is known of.
    assert set(world.effects.values()) <= {1}
    if run.status is RunStatus.INTERRUPTED:
        # The process that called `ask` was lost: somebody is asked what became of it, test_interrupted_runs goes on.
        (question,) = world.shown()[-1]["outcome"]["interrupts"]
        assert (question["reason"], question["metadata"]["toolName"]) == ("karma:unknown_outcome", "ask")
        assert orjson.loads(question["metadata"]["arguments"]).keys() == {"word"}
        return
    assert run.status is (RunStatus.FAILED if run.error_code == "OWNER_LOST" else RunStatus.FINISHED)
    if run.status is RunStatus.FINISHED:
        assert [without_ask(each) for each in world.told()] == [without_ask(each) for each in expected.told()]
        assert summaries_of(world) == summaries_of(expected) == int(forgets)
        wanted = Counter(name for name, _ in expected.effects.elements())
        wanted["ask"] = min(wanted["ask"], sum(name == "ask" for name, _ in world.effects))
        assert +wanted == Counter(name for name, _ in world.effects.elements())
        # Money: what is counted is what the run cost, and no less than what it would have cost.
        (used,) = [
            each.used
            for each in world.store.usage.read(allowance(KEY.user_id, at=world.clock.now()))
            if each.metric is Metric.MODEL_SPEND
        ]
        assert used == cost_of(world) >= cost_of(expected)


def shown_to_everybody(world: World, dice: random.Random) -> list[dict[str, Any]]:
    """Return what clients show at the end: all of it is what one accepts, and who comes back anywhere ends with it."""
    verify(world.shown())
    whole = screen(world.shown())
    for _ in range(5):
        cut = dice.randint(0, len(world.log))
        before = [
            orjson.loads(data) for each in read(world.store, KEY, after=0, limit=cut, link=list) for data in each.events
        ]
        assert screen([*before, *world.shown(after=cut)]) == whole
    return whole


def summaries_of(world: World) -> int:
    """Return how often the conversation was summarised: nobody is told of a summary that was not stored."""
    told = [event["name"] for event in world.shown() if event["type"] == "CUSTOM"]
    assert told.count("karma.compacted") == world.summaries()
    return world.summaries()


class Slow(Teller):
    """Takes ten minutes a turn."""

    def __init__(self, world: World) -> None:
        super().__init__(Life(None))
        self._world = world

    def _answer(self, turn: int) -> list[Sequence[ModelEvent]]:
        self._world.clock.pass_by(timedelta(minutes=10))
        return super()._answer(turn)


class Stuck(Teller):
    """Says something, and then nothing."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        yield [TextDelta("well ")]
        await asyncio.Event().wait()


class TestAProcessThatIsStopped:
    def test_hands_its_run_over_to_the_next_and_that_to_the_next(self) -> None:
        world, limit = World(), timedelta(minutes=8)

        begin(world, Life(None), model=Slow(world), deadline=world.clock.now() + limit)
        writers = 1
        while not world.log[-1].terminal:
            assert world.executions.requested == [KEY] * writers
            writers += 1
            world.clock.pass_by(timedelta(milliseconds=1))
            live(lambda: world.executor(Life(None), model=Slow(world)).go_on(KEY, deadline=world.clock.now() + limit))

        assert (writers, world.log[-1].epoch) == (4, 4)
        assert world.told() == without_a_death().told()
        assert set(world.effects.values()) == {1}
        verify(world.shown())
        run = world.store.run(KEY)
        assert run is not None
        assert (run.status, run.turns) == (RunStatus.FINISHED, 4)

    def test_hands_over_in_the_middle_of_an_answer_which_is_withdrawn(self) -> None:
        world, limits = World(), RunLimits(reserve_s=0)
        deadline = world.clock.now() + timedelta(seconds=0.1)

        frames = begin(world, Life(None), model=Stuck(Life(None)), limits=limits, deadline=deadline)
        assert [event["type"] for event in frames.events][-3:-1] == ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT"]
        assert frames.events[-1]["name"] == "karma.answer_stopped"
        assert not world.log[-1].terminal
        world.clock.pass_by(timedelta(milliseconds=1))
        live(lambda: world.executor(Life(None)).go_on(KEY))

        assert [segment.shows for segment in world.log if segment.shows is not None] == [0]
        assert world.told() == without_a_death().told()
        verify(world.shown())
        assert "well " not in str(screen(world.shown()))
        assert cost_of(world) > cost_of(without_a_death()), "what the lost answer cost is not counted"

    def test_leaves_a_run_to_the_watchdog_when_it_cannot_hand_it_over(self) -> None:
        world, limits = World(), RunLimits(reserve_s=0)
        deadline = world.clock.now() + timedelta(seconds=0.1)

        def fail(name: str) -> Exception | None:
            return StorageUnavailable("") if name == "append" else None

        world.store.fail = fail
        begin(world, Life(None), model=Stuck(Life(None)), limits=limits, deadline=deadline)
        assert world.executions.requested == []
        world.store.fail = lambda _: None
        go_on(world, Life(None))

        assert world.told() == without_a_death().told()


class TestALog:
    def test_that_has_ended_takes_nothing_more(self) -> None:
        world = World()
        begin(world, Life(12))
        tail = world.log[-1]

        async def end_and_go_on() -> None:
            log = RunLog(
                world.store,
                KeptFrames(),
                world.clock,
                key=KEY,
                thread=THREAD,
                head=tail.n,
                writer=tail.writer,
                epoch=tail.epoch,
            )
            how = RunEnd(status=RunStatus.FAILED, at=world.clock.now())
            await asyncio.gather(log.finish(run_error(message="", code="INTERNAL"), how), log.release(), log.commit())
            await log.settle()

        asyncio.run(end_and_go_on())
        assert [each.terminal for each in world.log].count(True) == 1
        assert world.log[-1].terminal


class TestARun:
    def test_that_is_alive_has_ended_or_never_began_is_left_alone(self) -> None:
        world = World()
        assert not asyncio.run(world.executor(Life(None)).go_on(KEY))
        begin(world, Life(12))
        before = world.log
        assert not asyncio.run(world.executor(Life(None)).go_on(KEY))  # its lease is valid
        assert world.log == before
        go_on(world, Life(None))
        ended = world.log
        go_on(world, Life(None))
        assert world.log == ended

    def test_that_two_processes_want_goes_on_in_one(self) -> None:
        world = World()
        begin(world, Life(12))
        world.clock.pass_by(LEASE + timedelta(seconds=1))

        async def both() -> list[bool]:
            wanted = [world.executor(Life(None)).go_on(KEY) for _ in range(5)]
            return await asyncio.gather(*wanted)

        assert sorted(asyncio.run(both())) == [False] * 4 + [True]
        assert world.told() == without_a_death().told()
        assert set(world.effects.values()) == {1}

    def test_that_its_client_has_moved_on_from_ends_before_a_tool_is_called(self) -> None:
        world = World()
        begin(world, Life(12))
        world.store.wish(KEY, Wish.MOVED_ON, at=world.clock.now())
        before = sum(world.effects.values())
        go_on(world, Life(None))
        run = world.store.run(KEY)
        assert run is not None
        assert (run.status, sum(world.effects.values())) == (RunStatus.CANCELLED, before)

    def test_that_another_client_waited_for_goes_on(self) -> None:
        world = World()
        begin(world, Life(12))
        world.store.wish(KEY, Wish.NEXT, at=world.clock.now())
        assert not NoClient().is_lost
        go_on(world, Life(None))
        assert world.told() == without_a_death().told()

    def test_that_results_were_sent_of_without_being_kept_shows_each_once(self) -> None:
        world = World()
        begin(world, Life(None))
        log = world.log
        at = next(n for n, each in enumerate(log) if b"TOOL_CALL_RESULT" in b"".join(each.events))
        cut = World()
        begin(cut, Life(12))
        kept = [each for each in cut.log if each.n <= at]
        sent = replace(log[at], key=KEY, n=kept[-1].n + 1, writer=kept[-1].writer)
        cut.store.logs[KEY] = {each.n: each for each in [*kept, sent]}
        go_on(cut, Life(None))
        assert cut.log[kept[-1].n + 1].shows is not None

    def test_waits_for_a_model_that_is_not_configured(self) -> None:
        world = World()
        begin(world, Life(12))
        before = world.log

        class Unconfigured(Teller):
            def prepare(self, target: Target) -> None:
                raise ModelNotConfigured("")

        world.clock.pass_by(LEASE + timedelta(seconds=1))
        with pytest.raises(ModelNotConfigured):
            asyncio.run(world.executor(Life(None), model=Unconfigured(Life(None))).go_on(KEY))
        assert world.log == before
        go_on(world, Life(None))
        assert world.told() == without_a_death().told()

    def test_that_ends_every_process_is_ended_itself(self) -> None:
        world = World()
        begin(world, Life(12))
        for _ in range(MAX_TAKE_OVERS + 2):
            go_on(world, Life(12))

        assert world.log[-1].terminal
        assert world.log[-1].epoch <= MAX_TAKE_OVERS + 2
        run = world.store.run(KEY)
        assert run is not None
        assert (run.status, run.error_code) == (RunStatus.FAILED, "OWNER_LOST")
        verify(world.shown())

    def test_that_is_older_than_a_day_is_ended(self) -> None:
        world = World()
        begin(world, Life(12))
        world.clock.pass_by(timedelta(days=1))
        go_on(world, Life(None))
        run = world.store.run(KEY)
        assert run is not None
        assert run.error_code == "OWNER_LOST"

    @pytest.mark.parametrize(
        ("schema", "setup", "status"),
        [
            (ENGINE_SCHEMA - 1, b"", RunStatus.FAILED),
            (ENGINE_SCHEMA - 1, None, RunStatus.FINISHED),
            (ENGINE_SCHEMA + 1, None, RunStatus.RUNNING),
        ],
        ids=["before there were setups", "of the release before", "of a newer release"],
    )
    def test_of_another_release_goes_on_if_this_one_can_read_it(
        self, schema: int, setup: bytes | None, status: RunStatus
    ) -> None:
        world = World()
        begin(world, Life(12))
        run = world.store.runs_by_key[KEY]
        world.store.runs_by_key[KEY] = replace(run, engine_schema=schema)
        if setup is not None:
            world.store.setups[KEY] = setup
        go_on(world, Life(None))
        assert world.store.runs_by_key[KEY].status is status

    def test_keeps_the_application_s_instructions_where_the_client_has_them(self) -> None:
        world = World()
        told = {"id": "s1", "role": "system", "content": "Be kind."}
        request = asked(user("before", "u0"), told, user("go", "u1"), run="r1")
        live(lambda: _execute(world, request, Life(14)))
        go_on(world, Life(None))
        (shown,) = [event["messages"] for event in world.shown() if event["type"] == "MESSAGES_SNAPSHOT"]
        assert [each["id"] for each in shown][:3] == ["u0", "s1", "u1"]


async def _execute(world: World, request: RunInput, life: Life) -> None:
    await (await world.service(life).start(caller(), request)).execute(KeptFrames())


class TestTheInspector:
    def test_asks_for_a_process_and_looks_again_until_one_went_on(self) -> None:
        world = World()
        begin(world, Life(12))
        inspector = Inspector(world.store, world.executions, world.clock)
        assert inspector.look(KEY) is not None
        assert world.executions.requested == []
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        assert inspector.look(KEY) is not None
        assert world.executions.requested == [KEY]
        go_on(world, Life(None))
        assert inspector.look(KEY) is None

    def test_ends_a_run_that_nobody_goes_on_with(self) -> None:
        world = World()
        begin(world, Life(12))
        world.clock.pass_by(LEASE + GIVE_UP_AFTER)
        assert Inspector(world.store, world.executions, world.clock).look(KEY) is None
        run = world.store.run(KEY)
        assert run is not None
        assert run.error_code == "OWNER_LOST"


def cost_of(world: World) -> int:
    run = world.store.run(KEY)
    assert run is not None
    assert run.cost_micros is not None
    return run.cost_micros


def without_ask(message: tuple[str, str, tuple[str, ...]]) -> tuple[str, str, tuple[str, ...]]:
    return (message[0], "", message[2]) if message[0] == "ask" else message
