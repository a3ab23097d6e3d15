"""Conversion of a user's row to and from its item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson

from karma.billing.domain import Pause, Subscription, SubscriptionStatus, Told, told_of
from karma.billing.naming import NOTHING, Paid
from karma.billing.plans import PlanName
from karma.billing.repository.items import SubscriptionItem
from karma.billing.repository.keys import LOOKS, look_sort_key, subscription_key
from karma.core.clock import iso, parse_iso
from karma.core.ids import UserId

_MOMENTS = ("current_period_start", "current_period_end", "cancel_at", "canceled_at", "trial_end", "grace_until",
            "stripe_created")  # fmt: skip
_TEXTS = ("stripe_status", "stripe_subscription_id", "stripe_customer_id", "price_id")


def item_of(
    user_id: UserId,
    subscription: Subscription | None,
    *,
    created_at: str,
    updated_at: str,
    look_at: datetime | None,
    paid: Paid = NOTHING,
    told: Told | None,
) -> SubscriptionItem:
    """Return the item of a row; it is in gsi1 unless `look_at` is None."""
    key = subscription_key(user_id)
    item = SubscriptionItem(key.pk, key.sk, user_id=user_id, created_at=created_at, updated_at=updated_at)
    if look_at is not None:
        item.gsi1pk, item.gsi1sk = LOOKS, look_sort_key(look_at, user_id)
    if told is not None:
        item.told_plan, item.told_status, item.told_renewing = told.plan.value, told.status.value, told.renewing
    if paid != NOTHING:
        since = iso(paid.unnamed_since) if paid.unnamed_since else None
        item.paid = orjson.dumps({"ids": paid.ids, "unnamed": paid.unnamed, "unnamed_since": since}).decode()
    if subscription is not None:
        for name, value in _attributes(subscription).items():
            setattr(item, name, value)
        if subscription.others:
            item.others = orjson.dumps([_attributes(each) for each in subscription.others]).decode()
    return item


def subscription_of(item: SubscriptionItem) -> Subscription | None:
    """Return the subscription of a row's item; None: nothing was bought."""
    if not item.plan:
        return None
    user_id = UserId(item.user_id)
    others = orjson.loads(item.others) if item.others else []
    return replace(
        _subscription(user_id, item.attribute_values), others=tuple(_subscription(user_id, each) for each in others)
    )


def paid_of(item: SubscriptionItem) -> Paid:
    """Return the prices that a row's user pays for."""
    if not item.paid:
        return NOTHING
    held = orjson.loads(item.paid)
    since = held["unnamed_since"]
    return Paid(
        ids=tuple(held["ids"]), unnamed=tuple(held["unnamed"]), unnamed_since=parse_iso(since) if since else None
    )


def told_in(item: SubscriptionItem) -> Told | None:
    """Return what a row's user was told last; None: nothing yet.

    Rows of earlier releases do not say it: for these it is what the row gave when it was last written, and nobody was
    told of more than one subscription.
    """
    subscription = subscription_of(item)
    if item.told_plan and item.told_status:
        told = Told(PlanName(item.told_plan), SubscriptionStatus(item.told_status))
        return told._replace(renewing=int(item.told_renewing or 0))
    if subscription is None:
        return None
    told = told_of(subscription, parse_iso(item.updated_at))
    return told._replace(renewing=min(told.renewing, 1))


def decisions_text(decisions: Mapping[str, str]) -> str | None:
    """Return a customer's decisions of prices as JSON, in their order; None: there is none."""
    return orjson.dumps(dict(decisions)).decode() if decisions else None


def _attributes(row: Subscription) -> dict[str, Any]:
    moments = {name: getattr(row, name) for name in _MOMENTS}
    found = {
        "plan": row.plan.value,
        "status": row.status.value,
        "cancel_at_period_end": row.cancel_at_period_end,
        "pause_behavior": row.pause.behavior if row.pause else None,
        "pause_resumes_at": iso(row.pause.resumes_at) if row.pause and row.pause.resumes_at else None,
        **{name: iso(moment) for name, moment in moments.items() if moment is not None},
        **{name: getattr(row, name) for name in _TEXTS},
    }
    return {name: value for name, value in found.items() if value is not None}


def _subscription(user_id: UserId, held: dict[str, Any]) -> Subscription:
    moments: dict[str, Any] = {name: parse_iso(held[name]) for name in _MOMENTS if held.get(name)}
    resumes_at = held.get("pause_resumes_at")
    pause = Pause(
        behavior=held["pause_behavior"], resumes_at=parse_iso(resumes_at) if resumes_at else None
    ) if held.get("pause_behavior") else None  # fmt: skip
    return Subscription(
        user_id=user_id,
        plan=PlanName(held["plan"]),
        status=SubscriptionStatus(held["status"]),
        cancel_at_period_end=bool(held.get("cancel_at_period_end")),
        pause=pause,
        **{name: held[name] for name in _TEXTS if held.get(name) is not None},
        **moments,
    )
