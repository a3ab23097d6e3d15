"""Usage of plans: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from karma.billing import transactional as usage
from karma.billing.allowances import (
    Adjustment,
    DayExceeded,
    DaySpend,
    Metric,
    Reservation,
    SpentToday,
    day_of,
    given_back,
)
from karma.billing.plans import PlanName, plan_at
from karma.billing.repository.keys import usage_key
from karma.billing.repository.usage import UsageItem, UsageRepository
from karma.core.clock import monotonic
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import QuotaExceeded, StorageThrottled
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from tests.fakes.usage import MemoryUsage
from tests.support.plans import NOW, allowance, limited, take
from tests.support.stores import Database, Store

pytestmark = pytest.mark.fault("F-19a")
FREE = plan_at(PlanName.FREE, NOW).limits
DECEMBER = datetime(2026, 12, 1, tzinfo=UTC)


class Stores(NamedTuple):
    repository: MemoryUsage | UsageRepository
    reserve: Callable[[Iterable[Reservation]], None]
    require: Callable[[Iterable[Reservation]], None]
    adjust: Callable[[Iterable[Adjustment]], None]
    take_seat: Callable[[Reservation, UserId], None]

    def used(self, user_id: UserId, metric: Metric = Metric.DEVICES, at: datetime = NOW) -> int:
        return next(each.used for each in self.repository.read(allowance(user_id, at=at)) if each.metric is metric)


@pytest.fixture
def stores(store: Store) -> Stores:
    if store.in_memory:
        memory = MemoryUsage()
        return Stores(memory, memory.reserve, memory.require, memory.adjust, memory.take_seat)

    def reserve(reservations: Iterable[Reservation]) -> None:
        tx = Transaction()
        usage.reserve_usage(tx, reservations)
        tx.commit()

    def require(reservations: Iterable[Reservation]) -> None:
        tx = Transaction()
        usage.require_usage(tx, reservations)
        tx.commit()

    def adjust(adjustments: Iterable[Adjustment]) -> None:
        tx = Transaction()
        usage.adjust_usage(tx, adjustments)
        tx.commit()

    def take_seat(reservation: Reservation, member_id: UserId) -> None:
        tx = Transaction()
        usage.take_seat(tx, reservation, member_id, on_fail=StorageThrottled("others were quicker"))
        tx.commit()

    return Stores(UsageRepository(), reserve, require, adjust, take_seat)


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


def test_room_that_is_asked_for_is_not_taken(stores: Stores, ada: UserId) -> None:
    day = DaySpend(day=day_of(NOW), agent_id="a", allowed=10)
    spend = replace(limited(ada, Metric.MODEL_SPEND, 6), days=(day,))
    runs = limited(ada, Metric.RUNS)
    stores.require([runs, spend])
    stores.require([replace(runs, allowed=None), spend])
    stores.reserve([spend])
    with pytest.raises(QuotaExceeded) as refused:
        stores.require([runs, spend])
    assert refused.value.code == "BUDGET_EXCEEDED"
    stores.require([runs, replace(spend, days=())])
    stores.reserve([limited(ada, Metric.RUNS, FREE.runs_per_month or 0)])
    with pytest.raises(QuotaExceeded) as refused:
        stores.require([runs, replace(spend, days=())])
    assert (refused.value.details or {})["limit"] == Metric.RUNS.value  # type: ignore[call-overload]
    assert stores.used(ada, Metric.MODEL_SPEND) == 6


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


def test_a_day_is_counted_with_the_month_for_the_account_and_for_each_agent(stores: Stores, ada: UserId) -> None:
    def of(agent: str, amount: int, allowed: int | None = None) -> Reservation:
        month = limited(ada, Metric.MODEL_SPEND, amount)
        return replace(month, days=(DaySpend(day=day_of(NOW), agent_id=agent, allowed=allowed),))

    stores.reserve([of("a", 70, 100)])
    stores.reserve([of("b", 5)])
    stores.reserve([of("", 7)])
    with pytest.raises(DayExceeded) as refused:
        stores.reserve([of("a", 31, 100)])
    assert (refused.value.code, stores.used(ada, Metric.MODEL_SPEND)) == ("BUDGET_EXCEEDED", 82)
    assert (refused.value.day.agent_id, refused.value.taken) == ("a", 70)
    with pytest.raises(DayExceeded) as refused:
        stores.reserve([of("c", 101, 100)])
    assert refused.value.taken == 0, "more than the whole day allows, of which nothing is counted yet"
    stores.adjust([of("a", 70).adjusted(-60)])
    stores.reserve([of("a", 90, 100)])
    expected = SpentToday(day="2026-11-21", total=112, by_agent={"a": 100, "b": 5})
    assert stores.repository.read_day(ada, NOW) == expected
    assert stores.repository.read_day(ada, NOW + timedelta(days=1)).total == 0
    assert stores.repository.read_day(UserId(new_id()), NOW).by_agent == {}


def test_a_day_tells_what_agents_have_spent_in_the_runs_of_others(stores: Stores, ada: UserId) -> None:
    month = limited(ada, Metric.MODEL_SPEND, 70)
    stores.reserve([replace(month, days=(DaySpend(day=day_of(NOW), agent_id="lead"),))])
    own = replace(month, amount=50, days=(DaySpend(day=day_of(NOW), agent_id="scout"),))
    theirs = replace(own, amount=20, of_days_alone=True)
    stores.reserve([own])
    stores.reserve([theirs])
    stores.adjust([theirs.adjusted(-5)])
    found = stores.repository.read_day(ada, NOW)
    assert (found.by_agent, found.delegated) == ({"lead": 70, "scout": 65}, {"scout": 15})
    assert found.total == 120


def test_an_accounts_day_is_counted_beside_those_of_agents_and_refuses_what_all_of_them_would_exceed(
    stores: Stores, ada: UserId
) -> None:
    def taking(amount: int, agent: str = "", *, limit: int = 100) -> Reservation:
        spend = allowance(ada, a_day=100).reserve(Metric.MODEL_SPEND, amount)
        days = (DaySpend(day=day_of(NOW), agent_id=agent), replace(spend.days[-1], allowed=limit))
        return replace(spend, days=days)

    with pytest.raises(DayExceeded) as refused:
        stores.reserve([taking(101)])
    assert refused.value.taken == 0
    stores.reserve([taking(40, "a")])
    stores.reserve([taking(50)])
    stores.require([taking(10, "b")])
    for ask in (stores.reserve, stores.require):
        with pytest.raises(DayExceeded) as refused:
            ask([taking(11, "b")])
        assert (refused.value.day.is_account, refused.value.taken) == (True, 90)
    assert stores.repository.read_day(ada, NOW).by_agent == {"a": 40}, "it takes none or all"
    stores.adjust([taking(40, "a").adjusted(-30)])
    stores.reserve([taking(40, "b")])
    with pytest.raises(DayExceeded):
        stores.reserve([taking(1)])
    stores.reserve([taking(1, limit=101)])
    assert stores.repository.read_day(ada, NOW) == SpentToday(
        day="2026-11-21", total=101, by_agent={"a": 10, "b": 40}
    ), "the account's count is no agent's, and is not added"


def test_of_many_at_once_no_more_pass_than_an_agents_day_has_room_for(stores: Stores, ada: UserId) -> None:
    takes = replace(limited(ada, Metric.MODEL_SPEND, 10), days=(DaySpend(day=day_of(NOW), agent_id="a", allowed=30),))

    def one(_: int) -> bool:
        try:
            stores.reserve([takes])
        except (QuotaExceeded, StorageThrottled):
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        passed = sum(pool.map(one, range(8)))
    assert passed <= 3
    assert stores.repository.read_day(ada, NOW).by_agent == {"a": 10 * passed}


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


class TestAMonthWhoseRunsAnItemOfTheirOwnCounted:
    """A release before kept them apart from the month's model spend."""

    @pytest.fixture(autouse=True)
    def counted(self, database: Database, ada: UserId) -> None:
        tx = Transaction()
        for metric, taken in ((Metric.RUNS, 195), (Metric.MODEL_SPEND, 5)):
            tx.upsert(UsageItem(*usage_key(ada, metric, "2026-11")), [UsageItem.value.add(taken)])
        tx.commit()

    @staticmethod
    def used(ada: UserId) -> tuple[int, int]:
        found = {each.metric: each.used for each in UsageRepository().read(allowance(ada))}
        return found[Metric.RUNS], found[Metric.MODEL_SPEND]

    def test_has_room_for_what_is_left(self, ada: UserId) -> None:
        assert self.used(ada) == (195, 5)
        take(limited(ada, Metric.MODEL_SPEND, 10))
        assert self.used(ada) == (195, 15)
        take(limited(ada, Metric.RUNS, 4))
        assert self.used(ada) == (199, 15)
        with pytest.raises(QuotaExceeded, match="200 runs a month"):
            take(limited(ada, Metric.RUNS, 2))
        again = UserId(new_id())
        UsageRepository().carry(ada, again, at=NOW)
        assert self.used(again) == (199, 15)

    def test_is_moved_once_by_many_at_once(self, ada: UserId) -> None:
        def begin(_: int) -> bool:
            for _ in range(20):
                try:
                    take(limited(ada, Metric.RUNS))
                except QuotaExceeded:
                    return False
                except StorageThrottled:
                    continue
                return True
            raise AssertionError

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(begin, range(8))) == 5
        assert self.used(ada) == (200, 5)

    def test_tells_what_lacks_room(self, ada: UserId) -> None:
        tx = Transaction()
        spend = limited(ada, Metric.MODEL_SPEND, 1_999_996)
        usage.reserve_usage(tx, [limited(ada, Metric.RUNS), spend])
        with pytest.raises(QuotaExceeded) as refused:
            tx.commit()
        assert refused.value.details == spend.refusal(taken=5).details
        assert self.used(ada) == (195, 5)


def test_model_spend_that_comes_first_in_a_month_does_not_hide_its_runs(stores: Stores, ada: UserId) -> None:
    stores.reserve([limited(ada, Metric.MODEL_SPEND, 5)])
    stores.reserve([limited(ada, Metric.RUNS, 200), limited(ada, Metric.MODEL_SPEND, 5)])
    with pytest.raises(QuotaExceeded, match="200 runs a month"):
        stores.require([limited(ada, Metric.RUNS), limited(ada, Metric.MODEL_SPEND, 1)])
    assert (stores.used(ada, Metric.RUNS), stores.used(ada, Metric.MODEL_SPEND)) == (200, 10)
