"""Usage of plans: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from karma.billing import transactional as usage
from karma.billing.allowances import Adjustment, Metric, Reservation, given_back
from karma.billing.plans import PlanName, plan_at
from karma.billing.repository.usage import UsageRepository
from karma.core.clock import monotonic
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import QuotaExceeded, StorageThrottled
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from tests.fakes.usage import MemoryUsage
from tests.support.plans import NOW, allowance, limited
from tests.support.stores import Store

pytestmark = pytest.mark.fault("F-19a")
FREE = plan_at(PlanName.FREE, NOW).limits
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


class Stores(NamedTuple):
    repository: MemoryUsage | UsageRepository
    reserve: Callable[[Iterable[Reservation]], None]
    adjust: Callable[[Iterable[Adjustment]], None]
    take_seat: Callable[[Reservation, UserId], None]

    def used(self, user_id: UserId, metric: Metric = Metric.DEVICES, at: datetime = NOW) -> int:
        return next(each.used for each in self.repository.read(allowance(user_id, at=at)) if each.metric is metric)


@pytest.fixture
def stores(store: Store) -> Stores:
    if store.in_memory:
        memory = MemoryUsage()
        return Stores(memory, memory.reserve, memory.adjust, memory.take_seat)

    def reserve(reservations: Iterable[Reservation]) -> None:
        tx = Transaction()
        usage.reserve_usage(tx, reservations)
        tx.commit()

    def adjust(adjustments: Iterable[Adjustment]) -> None:
        tx = Transaction()
        usage.adjust_usage(tx, adjustments)
        tx.commit()

    def take_seat(reservation: Reservation, member_id: UserId) -> None:
        tx = Transaction()
        usage.take_seat(tx, reservation, member_id, on_fail=StorageThrottled("others were quicker"))
        tx.commit()

    return Stores(UsageRepository(), reserve, adjust, take_seat)


@pytest.fixture
def ada() -> UserId:
    return UserId(new_id())


def test_the_last_unit_is_taken_once_and_the_refusal_names_the_limit(stores: Stores, ada: UserId) -> None:
    for _ in range(3):
        stores.reserve([limited(ada)])
    with pytest.raises(QuotaExceeded) as refused:
        stores.reserve([limited(ada)])
    assert refused.value.details == {
        "limit": "devices",
        "plan": "free",
        "allowed": 3,
        "requested": 1,
        "resets_at": None,
    }
    assert "3 devices" in refused.value.message
    assert stores.used(ada) == 3


def test_an_amount_that_is_given_back_can_be_taken_again(stores: Stores, ada: UserId) -> None:
    stores.reserve([limited(ada, amount=3)])
    stores.adjust([given_back(ada, Metric.DEVICES)])
    stores.reserve([limited(ada)])
    assert stores.used(ada) == 3


def test_a_person_takes_one_seat_however_many_projects_they_are_in(stores: Stores, ada: UserId) -> None:
    eve, ida = UserId(new_id()), UserId(new_id())
    assert not stores.repository.has_seat(ada, eve)
    for _ in range(2):
        stores.take_seat(limited(ada, Metric.SEATS), eve)
    assert (stores.repository.has_seat(ada, eve), stores.used(ada, Metric.SEATS)) == (True, 1)
    with pytest.raises(QuotaExceeded):
        stores.take_seat(limited(ada, Metric.SEATS), ida)
    assert not stores.repository.has_seat(ada, ida)


def test_several_metrics_are_taken_all_or_none(stores: Stores, ada: UserId) -> None:
    stores.reserve([limited(ada, Metric.RUNS, 199), limited(ada, Metric.MODEL_SPEND, 5)])
    with pytest.raises(QuotaExceeded) as refused:
        stores.reserve([limited(ada, Metric.MODEL_SPEND, 5), limited(ada, Metric.RUNS, 2)])
    assert refused.value.details["limit"] == "runs_per_month"  # type: ignore[index,call-overload]
    assert stores.used(ada, Metric.MODEL_SPEND) == 5


def test_an_extension_is_refused_beyond_the_limit(stores: Stores, ada: UserId) -> None:
    stores.reserve([limited(ada, Metric.MODEL_SPEND, 1_999_999)])
    with pytest.raises(QuotaExceeded, match=r"2\.00 USD"):
        stores.reserve([limited(ada, Metric.MODEL_SPEND, 2)])
    stores.reserve([limited(ada, Metric.MODEL_SPEND, 1)])
    assert stores.used(ada, Metric.MODEL_SPEND) == 2_000_000


def test_a_month_is_counted_for_itself(stores: Stores, ada: UserId) -> None:
    stores.reserve([limited(ada, Metric.RUNS, 200)])
    december = allowance(ada, PlanName.FREE, at=DECEMBER)
    stores.reserve([december.reserve(Metric.RUNS, 200)])
    stores.adjust([limited(ada, Metric.RUNS).adjusted(-150)])
    assert (stores.used(ada, Metric.RUNS), stores.used(ada, Metric.RUNS, DECEMBER)) == (50, 200)


def test_a_plan_without_limits_counts_and_never_refuses(stores: Stores, ada: UserId) -> None:
    stores.reserve([allowance(ada).reserve(Metric.STORAGE, 10**15)])
    assert stores.used(ada, Metric.STORAGE) == 10**15


def test_a_deleted_account_leaves_nothing(stores: Stores, ada: UserId) -> None:
    stores.reserve([limited(ada), limited(ada, Metric.RUNS)])
    assert stores.repository.purge(
        PurgeAttempt(user_id=ada, requested_at=NOW, ends_at=monotonic() + 60, settled=True), at=DECEMBER
    )
    assert (stores.used(ada), stores.used(ada, Metric.RUNS)) == (0, 0)


@pytest.mark.fault("F-19b")
def test_what_a_deleted_account_took_this_month_goes_on_in_another(stores: Stores, ada: UserId) -> None:
    stores.reserve([limited(ada), limited(ada, Metric.RUNS, 7), limited(ada, Metric.MODEL_SPEND, 5)])
    for purged in (False, True):
        if purged:
            assert stores.repository.purge(
                PurgeAttempt(user_id=ada, requested_at=NOW, ends_at=monotonic() + 60, settled=True), at=NOW
            )
        again, later = UserId(new_id()), UserId(new_id())
        stores.repository.carry(ada, again, at=NOW)
        stores.repository.carry(ada, later, at=DECEMBER)
        assert (stores.used(again), stores.used(again, Metric.RUNS), stores.used(again, Metric.MODEL_SPEND)) == (
            0,
            7,
            5,
        )
        assert stores.used(later, Metric.RUNS, DECEMBER) == 0


def test_random_histories_never_pass_the_limit_and_balance(stores: Stores, ada: UserId) -> None:
    rng = random.Random(7)
    held: list[int] = []
    for _ in range(40):
        if held and rng.random() < 0.4:
            stores.adjust([given_back(ada, Metric.DEVICES, held.pop())])
        amount = rng.randint(1, 3)
        try:
            stores.reserve([limited(ada, amount=amount)])
        except QuotaExceeded:
            assert sum(held) + amount > (FREE.devices or 0)
        else:
            held.append(amount)
        assert stores.used(ada) == sum(held) <= (FREE.devices or 0)


def test_of_many_at_once_as_many_pass_as_there_is_room(stores: Stores, ada: UserId) -> None:
    def one(_: int) -> bool:
        try:
            stores.reserve([limited(ada)])
        except (QuotaExceeded, StorageThrottled):
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(one, range(8)))
    assert passed == stores.used(ada) == 3
