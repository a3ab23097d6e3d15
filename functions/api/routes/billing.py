from __future__ import annotations

from typing import Annotated

from api.services import billing, schedules
from karma.billing.answers import (
    CurrentSubscriptionData,
    CustomerLinkData,
    DailyBudgetData,
    EventData,
    InboxData,
    PlanListData,
    ReplayData,
    TodayData,
    UsageData,
    bought_view,
    daily_budget_view,
    event_view,
    link_view,
    plan_view,
    schedules_view,
    subscription_view,
    today_view,
    usage_view,
)
from karma.billing.domain import EventState
from karma.billing.ports import DailyBudget
from karma.billing.schemas import DailyBudgetBody, DismissEvent, LinkCustomer
from karma.core.ids import UserId
from karma.http.access import RequestSource, permit
from karma.http.locking import IfMatch, etag, expected_version
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller

router = Router("billing")


@router.get("/plans", limit="public", responses=answers())
async def list_plans() -> Answer[PlanListData]:
    """List the plans on offer now, smallest first. Public."""
    plans = [plan_view(plan) for plan in billing.subscriptions().catalog().plans]
    return ok({"plans": plans, "total": len(plans)})


@router.get("/subscriptions/current", responses=answers())
async def current_subscription(caller: Annotated[Caller, permit("billing:read")]) -> Answer[CurrentSubscriptionData]:
    """Show the caller's subscriptions, of several first the best; the free plan when nothing was ever bought."""
    service = billing.subscriptions()
    row = service.current(caller.user_id)
    others = [bought_view(each) for each in row.others]
    return ok({"subscription": subscription_view(row, at=service.now()), "others": others})


@router.get("/usage", responses=answers())
async def get_usage(caller: Annotated[Caller, permit("billing:read")]) -> Answer[UsageData]:
    """Show how much of each limit of their plan the caller has taken, this month or at all."""
    allowance = billing.allowances().of(caller.user_id)
    found = [usage_view(each) for each in billing.usage().read(allowance)]
    active = schedules.service().active(caller.user_id)
    return ok({"usage": [*found, schedules_view(active, allowance.plan.limits)]})


@router.get("/usage/today", responses=answers())
async def get_usage_of_today(caller: Annotated[Caller, permit("billing:read")]) -> Answer[TodayData]:
    """Show the model spend of the caller's account today (UTC), and the share of each agent."""
    spent = billing.usage().read_day(caller.user_id, billing.allowances().now())
    return ok({"today": today_view(spent)})


@router.get("/usage/budget", responses=answers(etag=True))
async def get_daily_budget(caller: Annotated[Caller, permit("billing:read")]) -> Answer[DailyBudgetData]:
    """Show what the caller's account allows its calls of models to cost a day; the ETag is its version."""
    return _daily_budget(billing.daily_budgets().get(caller.user_id))


@router.put("/usage/budget", responses=answers(etag=True, errors=(409,)))
async def set_daily_budget(
    body: DailyBudgetBody,
    caller: Annotated[Caller, permit("billing:write")],
    source: RequestSource,
    if_match: IfMatch = None,
) -> Answer[DailyBudgetData]:
    """Set that limit, or take it off with null; with `version` or If-Match only if nobody has changed it since.

    It holds for each call that is reserved from now on, of runs, of direct calls and of titles.
    """
    version = expected_version(if_match, body.version)
    changed = billing.daily_budgets().change(caller.user_id, body.max_cost_micros, version=version, source=source)
    return _daily_budget(changed)


def _daily_budget(budget: DailyBudget) -> Answer[DailyBudgetData]:
    return ok({"budget": daily_budget_view(budget)}, headers=etag(budget.version))


@router.get("/billing/inbox", responses=answers(errors=(400,)))
async def list_inbox(
    caller: Annotated[Caller, permit("billing:admin")],
    status: EventState = EventState.UNHANDLED,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[InboxData]:
    """List Stripe's events of one status.

    `unhandled` ones wait to be handled, by the time of their next attempt; `unlinked` ones wait until an administrator
    links their customer, and `unnamed` ones until what their customer pays for is named (the note says which price, and
    how), by customer. `handled`, `ignored` and `dismissed` ones are closed, the newest first, and kept
    for 60 days.
    """
    scope = scope_of("billing-inbox", status, caller.user_id)
    page = billing.inbox().page(status, limit=limit, start=position(cursor, scope, of=str) or None)
    return ok(
        {
            "events": [event_view(event) for event in page.events],
            "limit": limit,
            "next_cursor": next_cursor(page.last, scope),
        }
    )


@router.get("/billing/inbox/{event_id}", responses=answers(errors=(404,)))
async def get_inbox_event(event_id: str, caller: Annotated[Caller, permit("billing:admin")]) -> Answer[EventData]:  # noqa: ARG001
    """Show one of Stripe's events with the ids it names, whatever became of it."""
    return ok({"event": event_view(billing.inbox().event(event_id))})


@router.post("/billing/inbox/{event_id}/dismiss", responses=answers(errors=(404, 409)))
async def dismiss_event(
    event_id: str, body: DismissEvent, caller: Annotated[Caller, permit("billing:admin")], source: RequestSource
) -> Answer[EventData]:
    """Close an event that is unhandled, unlinked or unnamed, with a reason; a repeat changes nothing."""
    event = billing.inbox().dismiss(event_id, reason=body.reason, actor_id=caller.user_id, source=source)
    return ok({"event": event_view(event)})


@router.post("/billing/inbox/{event_id}/replay", status_code=202, responses=answers(status=202, errors=(404,)))
async def replay_event(event_id: str, caller: Annotated[Caller, permit("billing:admin")]) -> Answer[ReplayData]:  # noqa: ARG001
    """Handle a stored event again, whatever became of it before; repeating this is harmless."""
    billing.inbox().replay(event_id)
    return ok({"event_id": event_id, "queued": True}, 202)


@router.get("/billing/customers/{customer_id}/link", responses=answers(errors=(404,)))
async def get_customer_link(
    customer_id: str,
    caller: Annotated[Caller, permit("billing:admin")],  # noqa: ARG001
) -> Answer[CustomerLinkData]:
    """Show which account a customer of Stripe pays for."""
    return ok({"link": link_view(billing.customers().link_of(customer_id))})


@router.put("/billing/customers/{customer_id}/link", responses=answers(errors=(404, 409)))
async def link_customer(
    customer_id: str, body: LinkCustomer, caller: Annotated[Caller, permit("billing:admin")], source: RequestSource
) -> Answer[CustomerLinkData]:
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
