"""Plans and their prices, by the date from which they hold.

A change of price or limit is a new `Catalog` with its own `effective_from`; the old ones stay, because Stripe keeps
selling an old price to whoever bought it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from karma.core.records import Record

Interval = Literal["day", "week", "month", "year"]
"""Period of a price."""


class PlanName(StrEnum):
    """The closed set of plans, smallest first."""

    FREE = "free"
    PRO = "pro"
    TEAM = "team"
    ENTERPRISE = "enterprise"


class PlanLimits(Record, kw_only=True):
    """Limits of a plan; None: unlimited."""

    devices: int | None
    seats: int | None
    storage_gb: int | None
    runs_per_month: int | None
    model_spend_minor_per_month: int | None
    """Cost of model calls, in cents."""
    schedules: int | None
    """Schedules that are active at a time."""
    schedule_interval_s: int
    """Shortest time between two fires of a schedule, in seconds."""
    alarm_rules: int | None
    """Rules of alarms."""
    raw_telemetry_days: int
    """Days for which raw telemetry is kept: 30 in the database, what is longer in archives."""
    bulk_devices: int
    """Devices to which one bulk command goes."""
    export_rows: int
    """Rows of one export of telemetry."""


class PlanPrice(Record, kw_only=True):
    """Price of a plan."""

    lookup_key: str
    """Stripe's `price.lookup_key`, ours to choose, the same in test and live mode."""
    amount_minor: int
    currency: str
    interval: Interval


class Plan(Record, kw_only=True):
    """A plan as it is offered."""

    name: PlanName
    title: str
    limits: PlanLimits
    prices: tuple[PlanPrice, ...] = ()
    """Empty: not for sale by card (free, or by contract)."""


class Catalog(Record, kw_only=True):
    """All plans that hold from one moment on."""

    effective_from: datetime
    plans: tuple[Plan, ...]


CATALOGS: tuple[Catalog, ...] = (
    Catalog(
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
        plans=(
            Plan(
                name=PlanName.FREE,
                title="Free",
                limits=PlanLimits(
                    devices=3,
                    seats=1,
                    storage_gb=1,
                    runs_per_month=200,
                    model_spend_minor_per_month=200,
                    schedules=5,
                    schedule_interval_s=3_600,
                    alarm_rules=5,
                    raw_telemetry_days=30,
                    bulk_devices=10,
                    export_rows=1_000_000,
                ),
            ),
            Plan(
                name=PlanName.PRO,
                title="Pro",
                limits=PlanLimits(
                    devices=50,
                    seats=3,
                    storage_gb=50,
                    runs_per_month=5_000,
                    model_spend_minor_per_month=2_000,
                    schedules=50,
                    schedule_interval_s=300,
                    alarm_rules=20,
                    raw_telemetry_days=365,
                    bulk_devices=50,
                    export_rows=20_000_000,
                ),
                prices=(
                    PlanPrice(lookup_key="karma_pro_month", amount_minor=2_900, currency="usd", interval="month"),
                    PlanPrice(lookup_key="karma_pro_year", amount_minor=29_000, currency="usd", interval="year"),
                ),
            ),
            Plan(
                name=PlanName.TEAM,
                title="Team",
                limits=PlanLimits(
                    devices=500,
                    seats=25,
                    storage_gb=500,
                    runs_per_month=50_000,
                    model_spend_minor_per_month=20_000,
                    schedules=100,
                    schedule_interval_s=60,
                    alarm_rules=50,
                    raw_telemetry_days=730,
                    bulk_devices=500,
                    export_rows=100_000_000,
                ),
                prices=(
                    PlanPrice(lookup_key="karma_team_month", amount_minor=9_900, currency="usd", interval="month"),
                    PlanPrice(lookup_key="karma_team_year", amount_minor=99_000, currency="usd", interval="year"),
                ),
            ),
            Plan(
                name=PlanName.ENTERPRISE,
                title="Enterprise",
                limits=PlanLimits(
                    devices=None,
                    seats=None,
                    storage_gb=None,
                    runs_per_month=None,
                    model_spend_minor_per_month=None,
                    schedules=None,
                    schedule_interval_s=60,
                    alarm_rules=None,
                    raw_telemetry_days=1_825,
                    bulk_devices=1_000,
                    export_rows=500_000_000,
                ),
            ),
        ),
    ),
)


ARCHIVED_FROM_DAYS = 31
"""Least number of days for which raw telemetry is archived; what is shorter the database does alone."""


def archived_days(plan: Plan) -> int:
    """Return the days for which a plan keeps raw telemetry in archives; 0: it has none."""
    return plan.limits.raw_telemetry_days if plan.limits.raw_telemetry_days >= ARCHIVED_FROM_DAYS else 0


def all_archived_days() -> tuple[int, ...]:
    """Return the numbers of days for which any plan, of any time, keeps archives; ascending."""
    plans = (plan for catalog in CATALOGS for plan in catalog.plans)
    return tuple(sorted({archived_days(plan) for plan in plans} - {0}))


def catalog_at(moment: datetime) -> Catalog:
    """Return the catalog in force at a moment; before the first one, the first."""
    in_force = [catalog for catalog in CATALOGS if catalog.effective_from <= moment]
    return in_force[-1] if in_force else CATALOGS[0]


def plan_at(name: PlanName, moment: datetime) -> Plan:
    """Return a plan as it is offered at a moment."""
    return next(plan for plan in catalog_at(moment).plans if plan.name is name)


METADATA_KEY = "karma_plan"
"""Key in the metadata of a price, or of its product; its value names the plan that is sold, as `PlanName` spells it, or
is `NOT_OURS`.
"""
NOT_OURS = "none"
"""Value of `METADATA_KEY` for a price that sells something else than our plans, whatever its lookup key is."""


class PriceHints(Record, kw_only=True):
    """Parts of a price (on Stripe's older interface: a plan) that say what it sells; display names do not."""

    price_id: str = ""
    product_id: str = ""
    lookup_key: str = ""
    metadata_plan: str = ""
    """Value of `karma_plan` in the metadata of the price, else of its product; "": neither has it."""


def plan_named_by(hints: PriceHints) -> PlanName | None:
    """Return the plan that a price sells: its metadata decide, then a lookup key of any catalog.

    Both are matched exactly. None: the price sells no plan of ours, and gives nothing.
    """
    if hints.metadata_plan in SOLD:
        return PlanName(hints.metadata_plan)
    if hints.metadata_plan == NOT_OURS:
        return None
    for catalog in reversed(CATALOGS):
        for plan in catalog.plans:
            if any(price.lookup_key == hints.lookup_key for price in plan.prices):
                return plan.name
    return None


def decision_of(hints: PriceHints) -> str:
    """Return a price's decision: a plan's name, `NOT_OURS`, or "" when it says nothing known to us."""
    named = plan_named_by(hints)
    if named is not None:
        return named.value
    return NOT_OURS if hints.metadata_plan == NOT_OURS else ""


def rank(name: PlanName) -> int:
    """Return the position of a plan by size; the table of plans is written in that order."""
    return list(PlanName).index(name)


SOLD = frozenset({name.value for name in PlanName} - {PlanName.FREE.value})
"""Names of plans that `METADATA_KEY` may have."""
