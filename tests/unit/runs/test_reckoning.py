"""However a run ends, and whoever writes that: it counts what its calls have used, and nothing that was reserved more.

Where its process was lost, nobody knows what became of its last call, which may count as dear as it may have been.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import pytest

from karma.billing.allowances import Metric
from karma.models.domain import Usage
from karma.models.ports import ModelEvent, ModelRequest, TextDelta, ToolArguments, TurnEnded
from karma.models.prices import cost, estimate, stopped_usage
from karma.runs.domain import LEASE, MAX_PAUSE, RunHasEnded, RunStatus
from karma.runs.plan import RunLimits
from karma.runs.sweeps import end_expired_pauses
from karma.runs.watchdog import BEGIN_WITHIN, GIVE_UP_AFTER, Inspector
from karma.runs.wishes import Wish
from tests.fakes.runs import caller
from tests.support.lost_runs import KEY, THREAD, Life, Teller, World, begin, cancel, go_on, live, pause, resume
from tests.support.paused_runs import Stuck, current, used, while_it_waits
from tests.support.run_world import asked, user

A_MOMENT = timedelta(milliseconds=1)

READ = Usage(input_tokens=70_000, cached_input_tokens=60_000, cache_write_input_tokens=5_000)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)


class Metered(Teller):
    """Notes what its calls have used, as its provider would charge it."""

    def __init__(self, life: Life, charged: list[tuple[ModelRequest, Usage]]) -> None:
        super().__init__(life)
        self._charged = charged

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        chars = 0
        self._charged.append((request, stopped_usage(request, 0)))
        async for batch in super().stream(request):
            for event in batch:
                if isinstance(event, TurnEnded):
                    self._charged[-1] = request, event.usage
                elif isinstance(event, TextDelta | ToolArguments):
                    chars += len(event.text if isinstance(event, TextDelta) else event.delta)
                    self._charged[-1] = request, stopped_usage(request, chars)
            yield batch


class MeteredStuck(Stuck):
    """Says something, and then nothing, and notes what that has used; what it has read it may report at once."""

    def __init__(self, world: MeteredWorld) -> None:
        super().__init__()
        self._charged, self._reports = world.charged, world.reports

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        if self._reports:
            request.meter.usage, request.meter.by = READ, request.target
        request.meter.thought = 11
        known = READ if self._reports else Usage()
        self._charged.append((request, stopped_usage(request, len("well ") + 11, known)))
        async for batch in super().stream(request):
            yield batch


class MeteredWorld(World):
    """A world whose models note what they are paid for."""

    def __init__(self, *, reports: bool = False) -> None:
        super().__init__()
        self.reports = reports
        self.charged: list[tuple[ModelRequest, Usage]] = []

    def teller(self, life: Life) -> Teller:
        return Metered(life, self.charged)

    @property
    def cost(self) -> int:
        """Return the cost of all its calls."""
        return sum(cost(usage, request.target, self.clock.now()) for request, usage in self.charged)


# How it comes about that no process executes a run


def stored(world: MeteredWorld) -> None:
    live(lambda: world.background(Life(None)).begin(caller(), asked(user("go", "u1"), run="r1")))


def stored_and_paused(world: MeteredWorld) -> None:
    stored(world)
    world.clock.pass_by(A_MOMENT)
    assert pause(world).status is RunStatus.PAUSED


def stored_paused_and_resumed(world: MeteredWorld) -> None:
    stored_and_paused(world)
    assert resume(world).status is RunStatus.RUNNING
    world.clock.pass_by(A_MOMENT)


def paused(world: MeteredWorld) -> None:
    while_it_waits(world, lambda: pause(world), model=MeteredStuck(world))
    assert current(world).status is RunStatus.PAUSED
    world.clock.pass_by(A_MOMENT)


def paused_and_resumed(world: MeteredWorld) -> None:
    paused(world)
    assert resume(world).status is RunStatus.RUNNING
    world.clock.pass_by(A_MOMENT)


def paused_twice(world: MeteredWorld) -> None:
    paused_and_resumed(world)
    assert pause(world).status is RunStatus.PAUSED
    world.clock.pass_by(A_MOMENT)


def handed_over(world: MeteredWorld) -> None:
    model, deadline = MeteredStuck(world), world.clock.now() + timedelta(seconds=0.1)
    begin(world, Life(None), model=model, limits=RunLimits(reserve_s=0), deadline=deadline)
    world.clock.pass_by(A_MOMENT)


LEFT = [stored, stored_and_paused, stored_paused_and_resumed, paused, paused_and_resumed, paused_twice, handed_over]


# Who ends it


def by_its_owner(world: MeteredWorld) -> None:
    cancel(world)


def by_a_stop_of_its_agent(world: MeteredWorld) -> None:
    agent_id = current(world).agent_id
    assert agent_id is not None
    world.control(Life(None)).stop_agent(KEY.user_id, agent_id)


def by_who_takes_it_over(world: MeteredWorld) -> None:
    if current(world).status is RunStatus.PAUSED:
        resume(world)
    world.store.wish(KEY, Wish.CANCEL, at=world.clock.now())
    go_on(world, Life(None))


def by_the_watchdog(world: MeteredWorld) -> None:
    if current(world).status is RunStatus.PAUSED:
        resume(world)
    world.clock.pass_by(LEASE + max(GIVE_UP_AFTER, BEGIN_WITHIN))
    assert Inspector(world.store, world.executions, world.clock).look(KEY) is None


def by_who_moves_on(world: MeteredWorld) -> None:
    world.clock.pass_by(LEASE + timedelta(seconds=1))
    assert Inspector(world.store, world.executions, world.clock).is_over(KEY, is_cancelled=True)


def by_the_sweep(world: MeteredWorld) -> None:
    if current(world).status is not RunStatus.PAUSED:
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        pause(world)
    world.clock.pass_by(MAX_PAUSE + timedelta(seconds=1))
    assert end_expired_pauses(world.store, world.clock) == 1


def by_its_own_end(world: MeteredWorld) -> None:
    if current(world).status is RunStatus.PAUSED:
        resume(world)
    go_on(world, Life(None))


ENDS = [
    by_its_owner,
    by_a_stop_of_its_agent,
    by_who_takes_it_over,
    by_the_watchdog,
    by_who_moves_on,
    by_the_sweep,
    by_its_own_end,
]


def has_ended(world: MeteredWorld) -> bool:
    return world.log[-1].terminal


def counts(world: MeteredWorld) -> set[int | None]:
    """Return what the month, the agent's day, the thread and the run say of it: the same, where all is well."""
    run = current(world)
    today = world.store.usage.read_day(KEY.user_id, run.created_at)
    month = world.store.usage.taken[KEY.user_id, Metric.MODEL_SPEND, f"{run.created_at:%Y-%m}"]
    return {
        month,
        today.by_agent.get(run.agent_id or "", 0),
        world.store.thread(THREAD).spending.cost_micros,
        run.cost_micros,
    }


@pytest.mark.parametrize("reports", [False, True], ids=["by estimate", "as reported"])
@pytest.mark.parametrize("end", ENDS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("left", LEFT, ids=lambda each: each.__name__)
def test_a_run_that_was_left_in_order_counts_what_its_calls_have_used(
    left: Callable[[MeteredWorld], None], end: Callable[[MeteredWorld], None], reports: bool
) -> None:
    world = MeteredWorld(reports=reports)
    left(world)
    end(world)
    assert has_ended(world)
    assert counts(world) == {world.cost}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("end", ENDS[:-1], ids=lambda each: each.__name__)
def test_a_run_whose_process_was_lost_counts_at_most_one_call_more(
    end: Callable[[MeteredWorld], None], after: bool
) -> None:
    for steps in range(3, 110, 7):
        world = MeteredWorld()
        begin(world, Life(steps, after=after))
        if world.store.run(KEY) is None or has_ended(world):
            continue
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        with suppress(RunHasEnded):
            end(world)
        assert has_ended(world)
        (counted,) = counts(world)
        assert counted is not None
        dearest = max((estimate(request, world.clock.now()) for request, _ in world.charged), default=None)
        most = current(world).reserved_micros if dearest is None else world.cost + dearest
        assert world.cost <= counted <= most, f"killed at step {steps}"


@pytest.mark.parametrize("asks_to_end", [cancel, pause], ids=["cancel", "pause"])
def test_a_run_that_is_stopped_in_the_middle_of_an_answer_counts_what_was_said(
    asks_to_end: Callable[[World], object],
) -> None:
    world = MeteredWorld()
    while_it_waits(world, lambda: asks_to_end(world), model=MeteredStuck(world))
    ((request, _),) = world.charged
    assert current(world).cost_micros == world.cost < estimate(request, world.clock.now()) // 20
    with suppress(RunHasEnded):
        cancel(world)
    assert counts(world) == {world.cost} == {used(world)}


def test_a_run_that_waits_for_its_turn_gives_all_back() -> None:
    world = MeteredWorld()
    stored(world)
    asked_behind = asked(user("and this", "u2"), run="r2", forwardedProps={"multitask_strategy": "enqueue"})
    live(lambda: world.background(Life(None)).begin(caller(), asked_behind))
    before = used(world)
    world.control(Life(None)).cancel(KEY.user_id, asked_behind.run_id)
    waited = world.store.runs_by_key[KEY._replace(run_id=asked_behind.run_id)]
    assert (waited.status, waited.cost_micros) == (RunStatus.CANCELLED, 0)
    assert used(world) == before - waited.reserved_micros


SHOWN = ("turns", "usages", "cost_micros", "delegated")


def shown(world: World) -> tuple[object, ...]:
    return tuple(getattr(current(world), name) for name in SHOWN)


@pytest.mark.fault("F-38b")
@pytest.mark.parametrize("left", LEFT, ids=lambda each: each.__name__)
def test_a_run_that_no_process_paused_shows_what_it_has_used(left: Callable[[MeteredWorld], None]) -> None:
    """However often it is resumed before a process takes it, and as its end shows it then."""
    world, told = MeteredWorld(), list[tuple[object, ...]]()
    left(world)
    for _ in range(3):
        assert pause(world).status is RunStatus.PAUSED
        told.append(shown(world))
        assert current(world).cost_micros == world.cost
        resume(world)
        assert shown(world) == (0, (), None, ()), "a process counts it"
        world.clock.pass_by(A_MOMENT)
    assert pause(world).turns == len(world.charged)
    cancel(world)
    assert {*map(repr, told), repr(shown(world))} == {repr(told[0])}
    assert counts(world) == {world.cost}


@pytest.mark.fault("F-38b")
@pytest.mark.parametrize("end", ENDS[:-1], ids=lambda each: each.__name__)
def test_a_pause_of_a_run_whose_process_was_lost_shows_what_its_end_will(end: Callable[[MeteredWorld], None]) -> None:
    tried = 0
    for steps in range(3, 110, 7):
        world = MeteredWorld()
        begin(world, Life(steps))
        if world.store.run(KEY) is None or has_ended(world):
            continue
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        assert pause(world).status is RunStatus.PAUSED
        told = shown(world)
        assert current(world).cost_micros is not None
        assert 0 <= len(world.charged) - current(world).turns <= 1, "a call of which nothing was stored is none"
        resume(world)
        world.clock.pass_by(A_MOMENT)
        pause(world)
        with suppress(RunHasEnded):
            end(world)
        assert has_ended(world)
        assert shown(world) == told, f"killed at step {steps}"
        assert counts(world) == {current(world).cost_micros}
        tried += 1
    assert tried
