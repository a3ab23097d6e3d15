from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from starlette.responses import Response

from api.access import RequestSource, permit
from api.deps import billing
from api.openapi import answers
from api.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position
from api.presenters import ok
from api.routing import Router
from karma.billing.allowances import Usage
from karma.billing.domain import EventState, InboxEvent, Pause, Subscription, read_hint
from karma.billing.plans import Limits, Plan, plan_at
from karma.billing.ports import CustomerLink
from karma.billing.schemas import (
    CurrentSubscriptionData,
    CustomerLinkData,
    DismissEvent,
    EventData,
    InboxData,
    LinkCustomer,
    PlanListData,
    ReplayData,
    UsageData,
)
from karma.core.clock import iso
from karma.core.ids import UserId
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


@router.get("/usage", responses=answers(UsageData))
async def get_usage(caller: Annotated[Caller, permit("billing:read")]) -> Response:
    """Show how much of each limit of their plan the caller has taken, this month or at all."""
    found = billing.usage().read(billing.allowances().of(caller.user_id))
    return ok({"usage": [usage_view(each) for each in found]})


@router.get("/billing/inbox", responses=answers(InboxData, errors=(400,)))
async def list_inbox(
    caller: Annotated[Caller, permit("billing:admin")],
    status: EventState = EventState.UNHANDLED,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Response:
    """List Stripe's events of one status.

    `unhandled` ones wait to be handled, by the time of their next attempt; `unlinked` ones wait until an administrator
    links their customer, and `unnamed` ones until what their customer pays for is named (the note says which price, and
    how), by customer. `handled`, `ignored` and `dismissed` ones are closed, the newest first, and kept
    for 60 days.
    """
    scope = f"billing-inbox:{status}:{caller.user_id}"
    page = billing.inbox().page(status, limit=limit, start=position(cursor, scope, of=str) or None)
    return ok(
        {
            "events": [event_view(event) for event in page.events],
            "limit": limit,
            "next_cursor": next_cursor(page.last, scope),
        }
    )


@router.get("/billing/inbox/{event_id}", responses=answers(EventData, errors=(404,)))
async def get_inbox_event(event_id: str, caller: Annotated[Caller, permit("billing:admin")]) -> Response:  # noqa: ARG001
    """Show one of Stripe's events with the ids it names, whatever became of it."""
    return ok({"event": event_view(billing.inbox().event(event_id))})


@router.post("/billing/inbox/{event_id}/dismiss", responses=answers(EventData, errors=(404, 409)))
async def dismiss_event(
    event_id: str, body: DismissEvent, caller: Annotated[Caller, permit("billing:admin")], source: RequestSource
) -> Response:
    """Close an event that is unhandled, unlinked or unnamed, with a reason; a repeat changes nothing."""
    event = billing.inbox().dismiss(event_id, reason=body.reason, actor_id=caller.user_id, source=source)
    return ok({"event": event_view(event)})


@router.post(
    "/billing/inbox/{event_id}/replay", status_code=202, responses=answers(ReplayData, status=202, errors=(404,))
)
async def replay_event(event_id: str, caller: Annotated[Caller, permit("billing:admin")]) -> Response:  # noqa: ARG001
    """Handle a stored event again, whatever became of it before; repeating this is harmless."""
    billing.inbox().replay(event_id)
    return ok({"event_id": event_id, "queued": True}, 202)


@router.get("/billing/customers/{customer_id}/link", responses=answers(CustomerLinkData, errors=(404,)))
async def get_customer_link(customer_id: str, caller: Annotated[Caller, permit("billing:admin")]) -> Response:  # noqa: ARG001
    """Show which account a customer of Stripe pays for."""
    return ok({"link": link_view(billing.customers().link_of(customer_id))})


@router.put("/billing/customers/{customer_id}/link", responses=answers(CustomerLinkData, errors=(404, 409)))
async def link_customer(
    customer_id: str, body: LinkCustomer, caller: Annotated[Caller, permit("billing:admin")], source: RequestSource
) -> Response:
    """Say which account a customer of Stripe pays for; a repeat changes nothing.

    What the customer pays for leaves the account in `from_user_id` at once; Stripe is then asked, and events that
    waited for the link are handled.
    """
    link = billing.customers().relink(
        customer_id,
        UserId(body.user_id),
        from_user_id=body.from_user_id,
        actor_id=caller.user_id,
        source=source,
    )
    return ok({"link": link_view(link)})


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
        "cancel_at": _moment(row.cancel_at),
        "trial_end": _moment(row.trial_end),
        "grace_until": _moment(row.grace_until),
        "pause_collection": pause_view(row.pause),
        "stripe_subscription_id": row.stripe_subscription_id,
        "stripe_customer_id": row.stripe_customer_id,
        "limits": limits_view(plan_at(entitled, at).limits),
    }


def usage_view(usage: Usage) -> dict[str, Any]:
    """Render what is taken of a limit; null is unlimited, or not counted by month."""
    return {
        "metric": usage.metric,
        "used": usage.used,
        "allowed": usage.allowed,
        "resets_at": _moment(usage.resets_at),
    }


def event_view(event: InboxEvent) -> dict[str, Any]:
    """Render a stored event with the ids it names; its body stays inside."""
    hint = read_hint(event)
    return {
        "id": event.id,
        "type": event.type,
        "status": event.state,
        "object_id": hint.object_id or None,
        "customer_id": hint.customer_id or None,
        "subscription_id": hint.subscription_id or None,
        "account": hint.account or None,
        "livemode": hint.livemode,
        "received_at": iso(event.received_at),
        "handled_at": _moment(event.handled_at),
        "expires_at": _moment(event.expires_at),
        "note": event.note,
        "attempts": event.attempts,
        "last_error": event.last_error,
    }


def link_view(link: CustomerLink) -> dict[str, Any]:
    """Render a link."""
    return {"customer_id": link.customer_id, "user_id": link.user_id, "livemode": link.livemode}


def pause_view(pause: Pause | None) -> dict[str, Any] | None:
    """Render a paused collection."""
    return None if pause is None else {"behavior": pause.behavior, "resumes_at": _moment(pause.resumes_at)}


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)
