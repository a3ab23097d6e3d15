"""The limit that an account sets for its day: what changes it, and what the day's count begins with."""

from __future__ import annotations

from datetime import timedelta

import pytest

from karma.audit.domain import NOWHERE, AuditEntry
from karma.billing.allowances import Metric, day_of
from karma.billing.daily_budgets import DailyBudgets
from karma.billing.ports import DailyBudget
from karma.core.errors import StaleVersion
from karma.core.ids import UserId
from karma.identity.transactional import AccountGone
from tests.fakes.billing import MemoryDailyBudgets
from tests.fakes.runs import SetClock
from tests.support.plans import allowance

pytestmark = pytest.mark.req("R-C-05")
ADA = UserId("ada")


class World:
    def __init__(self, store: MemoryDailyBudgets | None = None) -> None:
        self.clock = SetClock()
        self.store = store or MemoryDailyBudgets()
        self.service = DailyBudgets(budgets=self.store, days=self.store.usage, clock=self.clock)

    def set(self, micros: int | None, version: int | None = None) -> DailyBudget:
        return self.service.change(ADA, micros, version=version, source=NOWHERE)

    def spend(self, amount: int) -> None:
        """Take an amount as a direct call does, with the limit that is set."""
        limit = self.service.get(ADA).max_cost_micros
        now = self.clock.now()
        self.store.usage.reserve([allowance(ADA, at=now, a_day=limit).reserve(Metric.MODEL_SPEND, amount)])

    @property
    def counted(self) -> int | None:
        return self.store.usage.account_days.get((ADA, day_of(self.clock.now())))


def test_what_was_never_set_limits_nothing_and_counts_nothing() -> None:
    world = World()
    world.spend(7)
    assert (world.service.get(ADA), world.counted) == (DailyBudget(), None)


def test_one_that_is_set_at_noon_knows_the_morning() -> None:
    world = World()
    world.spend(700)
    assert world.set(1_000)[:2] == (1_000, 1)
    assert world.counted == 700
    world.spend(200)
    assert world.counted == 900
    assert [(each.event.value, each.details) for each in world.store.audit] == [
        ("billing.budget_changed", {"max_cost_micros": "1000"})
    ]


def test_one_that_is_raised_or_lowered_goes_on_counting() -> None:
    world = World()
    world.set(1_000)
    world.spend(900)
    for version, micros in ((2, 2_000), (3, 100)):
        assert world.set(micros)[:2] == (micros, version)
        assert world.counted == 900


def test_one_that_is_taken_off_and_set_again_counts_what_was_spent_in_between() -> None:
    world = World()
    world.set(1_000)
    world.spend(100)
    assert world.set(None)[:2] == (None, 2)
    world.spend(5_000)
    assert world.counted == 100
    world.set(1_000)
    assert world.counted == 5_100


def test_a_day_begins_with_nothing() -> None:
    world = World()
    world.spend(700)
    world.set(1_000)
    world.clock.pass_by(timedelta(days=1))
    assert world.counted is None
    world.spend(10)
    assert world.counted == 10


def test_a_repeat_changes_nothing() -> None:
    world = World()
    assert world.set(None) == DailyBudget()
    first = world.set(1_000)
    world.spend(10)
    assert world.set(1_000) == first
    assert (world.counted, len(world.store.audit)) == (10, 1)


def test_a_change_of_another_version_is_refused() -> None:
    world = World()
    world.set(1_000, version=0)
    for version in (0, 2):
        with pytest.raises(StaleVersion):
            world.set(2_000, version=version)
    assert world.set(2_000, version=1).version == 2


class Beaten(MemoryDailyBudgets):
    """Others change the limit right before each change, so often."""

    times = 0

    def save(self, *args: object, **named: object) -> bool:
        if self.times:
            self.times -= 1
            seen = self.get(ADA)
            self.kept[ADA] = DailyBudget(5, seen.version + 1, "")
        return super().save(*args, **named)  # type: ignore[arg-type]  # as they came


@pytest.mark.parametrize(("times", "version", "is_set"), [(2, None, True), (3, None, False), (1, 0, False)])
def test_a_change_that_others_come_before_is_tried_again_unless_it_names_a_version(
    times: int, version: int | None, is_set: bool
) -> None:
    store = Beaten()
    store.times = times
    world = World(store)
    if is_set:
        assert world.set(1_000, version).max_cost_micros == 1_000
    else:
        with pytest.raises(StaleVersion):
            world.set(1_000, version)
    entries: list[AuditEntry] = store.audit
    assert len(entries) == is_set


def test_an_account_that_is_deleted_sets_none() -> None:
    world = World()
    world.store.gone.add(ADA)
    with pytest.raises(AccountGone):
        world.set(1_000)
    assert world.counted is None
