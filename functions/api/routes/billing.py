from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from starlette.responses import Response

from api.access import permit
from api.deps import billing
from api.openapi import answers
from api.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position
from api.presenters import ok
from api.routing import Router
from karma.billing.domain import InboxEvent, Subscription
from karma.billing.plans import Limits, Plan, plan_at
from karma.billing.schemas import CurrentSubscriptionData, InboxData, PlanListData, ReplayData
from karma.core.clock import iso
from karma.identity.domain import Caller

router = Router("billing")


@router.get("/plans", limit="public", responses=answers(PlanListData))
async def list_plans() -> Response:
    """List the plans on offer now, smallest first. Public."""
    plans = [plan_view(plan) for plan in billing.subscriptions().catalog().plans]
    return ok({"plans": plans, "total": len(plans)})


@router.get("/subscriptions/current", responses=answers(CurrentSubscriptionData))
async def current_subscription(caller: Annotated[Caller, permit("billing:read")]) -> Response:
    """Show the caller's subscription; the free plan when nothing was ever bought."""
    service = billing.subscriptions()
    return ok({"subscription": subscription_view(service.current(caller.user_id), at=service.now())})


@router.get("/billing/inbox", responses=answers(InboxData, errors=(400,)))
async def list_inbox(
    caller: Annotated[Caller, permit("billing:admin")],
    status: Literal["unhandled", "unlinked"] = "unhandled",
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Response:
    """List Stripe's events that wait to be handled, or that were closed because no user is known for them."""
    scope = f"billing-inbox:{status}:{caller.user_id}"
    page = billing.inbox().page(
        unlinked=status == "unlinked", limit=limit, start=position(cursor, scope, of=str) or None
    )
    return ok(
        {
            "events": [event_view(event) for event in page.events],
            "limit": limit,
            "next_cursor": next_cursor(page.last, scope),
        }
    )


@router.post(
    "/billing/inbox/{event_id}/replay", status_code=202, responses=answers(ReplayData, status=202, errors=(404,))
)
async def replay_event(event_id: str, caller: Annotated[Caller, permit("billing:admin")]) -> Response:  # noqa: ARG001
    """Handle a stored event again, whatever became of it before; repeating this is harmless."""
    billing.inbox().replay(event_id)
    return ok({"event_id": event_id, "queued": True}, 202)


def plan_view(plan: Plan) -> dict[str, Any]:
    """Render a plan."""
    prices = [
        {
            "lookup_key": price.lookup_key,
            "amount_minor": price.amount_minor,
            "currency": price.currency,
            "interval": price.interval,
        }
        for price in plan.prices
    ]
    return {"name": plan.name, "title": plan.title, "limits": limits_view(plan.limits), "prices": prices}


def limits_view(limits: Limits) -> dict[str, int | None]:
    """Render limits; null is unlimited."""
    return {
        "devices": limits.devices,
        "seats": limits.seats,
        "storage_gb": limits.storage_gb,
        "runs_per_month": limits.runs_per_month,
        "model_spend_minor_per_month": limits.model_spend_minor_per_month,
    }


def subscription_view(row: Subscription, *, at: datetime) -> dict[str, Any]:
    """Render a subscription and the limits that hold now."""
    entitled = row.entitled_plan(at)
    return {
        "user_id": row.user_id,
        "plan": row.plan,
        "status": row.status,
        "entitled_plan": entitled,
        "current_period_start": iso(row.current_period_start),
        "current_period_end": iso(row.current_period_end),
        "cancel_at_period_end": row.cancel_at_period_end,
        "cancel_at": iso(row.cancel_at) if row.cancel_at else None,
        "trial_end": iso(row.trial_end) if row.trial_end else None,
        "stripe_subscription_id": row.stripe_subscription_id,
        "stripe_customer_id": row.stripe_customer_id,
        "limits": limits_view(plan_at(entitled, at).limits),
    }


def event_view(event: InboxEvent) -> dict[str, Any]:
    """Render a stored event; its body stays inside."""
    return {
        "id": event.id,
        "type": event.type,
        "received_at": iso(event.received_at),
        "handled_at": iso(event.handled_at) if event.handled_at else None,
        "note": event.note,
        "attempts": event.attempts,
        "last_error": event.last_error,
    }
