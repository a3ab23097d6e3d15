"""Amounts that runs take of their owner's plan, at their start and end, all or nothing, on every store of runs."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from karma.billing.allowances import BYTES_A_GB, Metric, Reservation
from karma.billing.plans import PlanName
from karma.billing.repository.usage import UsageRepository
from karma.conversations.domain import ThreadChanged, ThreadKey
from karma.core.errors import QuotaExceeded, StorageThrottled
from karma.core.ids import ThreadId, new_id
from karma.runs.domain import OwnershipLost, Run, RunEnd, RunExists, RunStatus
from karma.runs.ports import Runs
from tests.contract.stores.test_runs import NOW, OTHER, USER, run, segment, stored_runs
from tests.fakes.runs import MemoryRuns
from tests.fakes.usage import MemoryUsage
from tests.support.plans import allowance, limited, take
from tests.support.stores import Store

pytestmark = pytest.mark.fault("F-19a")
RUNS, SPEND = 200, 2_000_000
"""Limits of the free plan a month: runs, and micro-dollars."""


@dataclass
class Stores:
    runs: Runs
    usage: MemoryUsage | UsageRepository

    @property
    def used(self) -> tuple[int, int]:
        found = {each.metric: each.used for each in self.usage.read(allowance(USER, PlanName.FREE, at=NOW))}
        return found[Metric.RUNS], found[Metric.MODEL_SPEND]

    def take(self, reservation: Reservation) -> None:
        if isinstance(self.usage, MemoryUsage):
            self.usage.reserve([reservation])
        else:
            take(reservation)

    def start(self, of: Run, reservations: Sequence[Reservation]) -> None:
        thread = self.runs.thread(ThreadKey(USER, of.thread_id))
        self.runs.start(of, thread=thread, segment=segment(of=of), messages=(), reservations=reservations)

    def finish(self, of: Run, *, spent: int | None, reserved: Reservation, writer: str = "w1") -> None:
        correction = None if spent is None else reserved.adjusted(spent - reserved.amount)
        how = RunEnd(status=RunStatus.FINISHED, at=NOW + timedelta(seconds=5), cost_micros=spent, correction=correction)
        last = segment(2, of=of, writer=writer, terminal=True)
        self.runs.finish(last, how, thread=ThreadKey(USER, of.thread_id))


@pytest.fixture
def stores(store: Store) -> Stores:
    if store.in_memory:
        memory = MemoryUsage()
        return Stores(MemoryRuns(usage=memory), memory)
    return Stores(stored_runs(store.database), UsageRepository())


def new_run() -> Run:
    return replace(run(new_id()), thread_id=ThreadId(new_id()))


def reserved(spend: int = 1) -> tuple[Reservation, Reservation]:
    return limited(USER, Metric.RUNS), limited(USER, Metric.MODEL_SPEND, spend)


@pytest.mark.parametrize("full", [Metric.RUNS, Metric.MODEL_SPEND])
def test_of_two_starts_at_once_one_gets_the_last_run_and_the_last_micro_dollars(stores: Stores, full: Metric) -> None:
    stores.take(limited(USER, full, {Metric.RUNS: RUNS, Metric.MODEL_SPEND: SPEND}[full] - 1))
    before = stores.used

    def start(of: Run) -> Run | str:
        while True:
            try:
                stores.start(of, reserved())
            except StorageThrottled:
                continue
            except QuotaExceeded as refused:
                return str(refused.details["limit"])  # type: ignore[index,call-overload]
            return of

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(start, [new_run(), new_run()]))
    (passed,) = [each for each in outcomes if isinstance(each, Run)]
    assert [each for each in outcomes if each is not passed] == [full.value]
    assert stores.used == (before[0] + 1, before[1] + 1)
    assert stores.runs.count(USER) == 1
    assert stores.runs.run(passed.key) is not None


def test_a_refused_start_leaves_nothing_and_its_thread_free(stores: Stores) -> None:
    stores.take(limited(USER, Metric.RUNS, RUNS))
    refused = new_run()
    with pytest.raises(QuotaExceeded):
        stores.start(refused, reserved())
    assert stores.runs.run(refused.key) is None
    assert stores.runs.thread(ThreadKey(USER, refused.thread_id)).version == 0
    assert stores.used == (RUNS, 0)


def test_a_start_that_is_repeated_meets_its_run_and_not_the_plan_that_it_filled(stores: Stores) -> None:
    first = new_run()
    stores.start(first, reserved(SPEND))
    with pytest.raises(RunExists):
        stores.start(first, reserved(SPEND))
    assert stores.used == (1, SPEND)


def test_the_cost_is_read_back(stores: Stores) -> None:
    mine, takes = new_run(), reserved(50)
    stores.start(mine, takes)
    stores.finish(mine, spent=7, reserved=takes[1])
    found = stores.runs.run(mine.key)
    assert found is not None
    assert found.cost_micros == 7
    assert stores.used == (1, 7)


def test_random_histories_balance(stores: Stores) -> None:
    rng = random.Random(7)
    running: dict[Run, Reservation] = {}
    count = spent = 0
    for _ in range(16):
        if running and rng.random() < 0.5:
            mine = rng.choice(list(running))
            takes = running.pop(mine)
            # What nobody knows the usage of keeps what it reserved.
            known = rng.choice([None, 0, rng.randint(1, 2 * takes.amount)])
            for _ in range(rng.randint(1, 2)):
                stores.finish(mine, spent=known, reserved=takes)
            with pytest.raises(OwnershipLost):
                stores.finish(mine, spent=0, reserved=takes, writer="w2")
            spent += 0 if known is None else known - takes.amount
        else:
            mine, takes = new_run(), limited(USER, Metric.MODEL_SPEND, rng.randint(1, SPEND // 3))
            with suppress(QuotaExceeded):
                stores.start(mine, (limited(USER, Metric.RUNS), takes))
                running[mine] = takes
                count, spent = count + 1, spent + takes.amount
            with suppress(QuotaExceeded, RunExists):
                stores.start(mine, (limited(USER, Metric.RUNS), takes))
                pytest.fail("a refused start passed when it was repeated, or a run began twice")
        assert stores.used == (count, spent)


@pytest.mark.fault("F-25g")
def test_attachments_are_noted_once_for_an_account_and_not_by_a_refused_start(stores: Stores) -> None:
    def start(of: Run, sizes: dict[str, int], *reservations: Reservation) -> None:
        thread = stores.runs.thread(ThreadKey(USER, of.thread_id))
        first = segment(of=of)
        stores.runs.start(
            of, thread=thread, segment=first, messages=(), attachments=sizes, reservations=[*reservations, *reserved()]
        )

    stores.take(limited(USER, Metric.STORAGE, BYTES_A_GB - 3))
    with pytest.raises(QuotaExceeded):
        start(new_run(), {"a": 4}, limited(USER, Metric.STORAGE, 4))
    assert sorted(stores.runs.unkept(USER, ["a", "b"])) == ["a", "b"]
    start(new_run(), {"a": 1, "b": 2}, limited(USER, Metric.STORAGE, 3))
    assert stores.runs.unkept(USER, ["a", "b", "c"]) == ["c"]
    assert stores.runs.unkept(OTHER, ["a"]) == ["a"]
    with pytest.raises(ThreadChanged):
        start(new_run(), {"b": 2, "c": 1}, limited(USER, Metric.STORAGE, 3))
    assert stores.runs.unkept(USER, ["c"]) == ["c"]
    found = {each.metric: each.used for each in stores.usage.read(allowance(USER, PlanName.FREE, at=NOW))}
    assert found[Metric.STORAGE] == BYTES_A_GB


def test_a_direct_call_takes_what_it_may_cost_and_gives_back_what_it_did_not(stores: Stores) -> None:
    _, before = stores.used
    bound = limited(USER, Metric.MODEL_SPEND, 1_000)

    stores.runs.take(bound)
    assert stores.used[1] == before + 1_000
    stores.runs.settle(bound.adjusted(-999))
    stores.runs.settle(bound.adjusted(0))

    assert stores.used[1] == before + 1


def test_a_take_that_is_repeated_with_its_token_counts_once(stores: Stores) -> None:
    _, before = stores.used
    bound, token = limited(USER, Metric.MODEL_SPEND, SPEND - before), new_id()

    for _ in range(2):
        stores.runs.take(bound, token=token)

    assert stores.used[1] == SPEND, "nothing is refused for want of what it took itself"
    with pytest.raises(QuotaExceeded):
        stores.runs.take(bound, token=new_id())


def test_of_two_direct_calls_for_the_last_of_a_plan_one_is_refused(stores: Stores) -> None:
    _, before = stores.used
    half = limited(USER, Metric.MODEL_SPEND, (SPEND - before) // 2 + 1)

    with ThreadPoolExecutor(2) as pool:
        outcomes = [pool.submit(stores.runs.take, half) for _ in range(2)]
        failures = [outcome.exception() for outcome in outcomes]

    assert [type(each) for each in failures if each] == [QuotaExceeded]
    assert stores.used[1] == before + half.amount
