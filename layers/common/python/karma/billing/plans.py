"""What a customer may buy, by the date from which it holds.

A change of price or limit is a new `Catalog` with its own `effective_from`; the old ones stay, because Stripe keeps
selling an old price to whoever bought it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class PlanName(StrEnum):
    """The closed set of plans, smallest first."""

    FREE = "free"
    PRO = "pro"
    TEAM = "team"
    ENTERPRISE = "enterprise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a plan allows; None is unlimited."""

    devices: int | None
    seats: int | None
    storage_gb: int | None
    runs_per_month: int | None
    model_spend_minor_per_month: int | None
    """Cost of model calls, in cents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a plan costs."""

    lookup_key: str
    """Stripe's `price.lookup_key`, ours to choose, the same in test and live mode."""
    amount_minor: int
    currency: str
    interval: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One plan as it is offered."""

    name: PlanName
    title: str
    limits: Limits
    prices: tuple[Price, ...] = ()
    """Empty: not for sale by card (free, or by contract)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All plans from one moment on."""

    effective_from: datetime
    plans: tuple[Plan, ...]


CATALOGS: tuple[Catalog, ...] = (
    Catalog(
        effective_from=datetime(2026, 1, 1, tzinfo=UTC),
        plans=(
            Plan(
                name=PlanName.FREE,
                title="Free",
                limits=Limits(devices=3, seats=1, storage_gb=1, runs_per_month=200, model_spend_minor_per_month=200),
            ),
            Plan(
                name=PlanName.PRO,
                title="Pro",
                limits=Limits(
                    devices=50, seats=3, storage_gb=50, runs_per_month=5_000, model_spend_minor_per_month=2_000
                ),
                prices=(
                    Price(lookup_key="karma_pro_month", amount_minor=2_900, currency="usd", interval="month"),
                    Price(lookup_key="karma_pro_year", amount_minor=29_000, currency="usd", interval="year"),
                ),
            ),
            Plan(
                name=PlanName.TEAM,
                title="Team",
                limits=Limits(
                    devices=500, seats=25, storage_gb=500, runs_per_month=50_000, model_spend_minor_per_month=20_000
                ),
                prices=(
                    Price(lookup_key="karma_team_month", amount_minor=9_900, currency="usd", interval="month"),
                    Price(lookup_key="karma_team_year", amount_minor=99_000, currency="usd", interval="year"),
                ),
            ),
            Plan(
                name=PlanName.ENTERPRISE,
                title="Enterprise",
                limits=Limits(
                    devices=None, seats=None, storage_gb=None, runs_per_month=None, model_spend_minor_per_month=None
                ),
            ),
        ),
    ),
)

_WORD = re.compile(r"[a-z0-9]+")
_PAID = (PlanName.ENTERPRISE, PlanName.TEAM, PlanName.PRO)


def catalog_at(moment: datetime) -> Catalog:
    """Return the catalog in force; before the first one, the first."""
    in_force = [catalog for catalog in CATALOGS if catalog.effective_from <= moment]
    return in_force[-1] if in_force else CATALOGS[0]


def plan_at(name: PlanName, moment: datetime) -> Plan:
    """Return a plan as it is offered at a moment."""
    return next(plan for plan in catalog_at(moment).plans if plan.name is name)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceHints:
    """What Stripe says about the price (or, on its older interface, the plan) of a subscription's item."""

    price_id: str = ""
    lookup_key: str = ""
    nickname: str = ""
    product_id: str = ""
    metadata_plan: str = ""
    """`plan` in the metadata of the price or of the subscription."""


def plan_named_by(hints: PriceHints) -> PlanName | None:
    """Find the plan that a price sells, or None when nothing about it names one.

    Metadata decides, then a lookup key that any catalog sold, then a plan's name as a word of the lookup key, the
    nickname, the price's or the product's id (`price_team_2026`, "Karma Pro").
    """
    explicit = hints.metadata_plan.strip().lower()
    if explicit in {name.value for name in PlanName}:
        return PlanName(explicit)
    for catalog in reversed(CATALOGS):
        for plan in catalog.plans:
            if any(price.lookup_key == hints.lookup_key for price in plan.prices):
                return plan.name
    for text in (hints.lookup_key, hints.nickname, hints.price_id, hints.product_id):
        words = set(_WORD.findall(text.lower()))
        for name in _PAID:
            if name.value in words:
                return name
    return None


SMALLEST_PAID = PlanName.PRO
"""Whoever pays for a price that we cannot name gets this until the catalog knows it: paying customers are not locked
out by our configuration's lag. The event's note and the metric `BillingUnknownPrice` tell the operators."""
