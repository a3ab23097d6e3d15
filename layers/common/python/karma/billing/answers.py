"""Answers of the billing routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypedDict

from karma.billing.allowances import Metric, MetricUsage, SpentToday
from karma.billing.domain import EventState, InboxEvent, Pause, Subscription, SubscriptionStatus, read_hint
from karma.billing.plans import Interval, Plan, PlanLimits, PlanName, plan_at
from karma.billing.ports import CustomerLink, DailyBudget
from karma.core.clock import iso


class LimitsView(TypedDict):
    """Limits of a plan; null is unlimited."""

    devices: int | None
    seats: int | None
    storage_gb: int | None
    runs_per_month: int | None
    model_spend_minor_per_month: int | None
    schedules: int | None
    """Schedules that are active at a time."""
    schedule_interval_s: int
    alarm_rules: int | None
    raw_telemetry_days: int
    """Shortest time between two fires of a schedule."""
    bulk_devices: int
    """Devices to which one bulk command goes."""
    export_rows: int
    """Rows of one export of telemetry."""


def limits_view(limits: PlanLimits) -> LimitsView:
    """Render limits; null is unlimited."""
    return {
        "devices": limits.devices,
        "seats": limits.seats,
        "storage_gb": limits.storage_gb,
        "runs_per_month": limits.runs_per_month,
        "model_spend_minor_per_month": limits.model_spend_minor_per_month,
        "schedules": limits.schedules,
        "schedule_interval_s": limits.schedule_interval_s,
        "alarm_rules": limits.alarm_rules,
        "raw_telemetry_days": limits.raw_telemetry_days,
        "bulk_devices": limits.bulk_devices,
        "export_rows": limits.export_rows,
    }


class PriceView(TypedDict):
    """A price of a plan."""

    lookup_key: str
    amount_minor: int
    currency: str
    interval: Interval


class PlanView(TypedDict):
    """A plan as it is offered."""

    name: PlanName
    title: str
    limits: LimitsView
    prices: list[PriceView]


def plan_view(plan: Plan) -> PlanView:
    """Render a plan."""
    prices: list[PriceView] = [
        {
            "lookup_key": price.lookup_key,
            "amount_minor": price.amount_minor,
            "currency": price.currency,
            "interval": price.interval,
        }
        for price in plan.prices
    ]
    return {"name": plan.name, "title": plan.title, "limits": limits_view(plan.limits), "prices": prices}


class PlanListData(TypedDict):
    """Every plan that is offered now."""

    plans: list[PlanView]
    total: int


class PauseView(TypedDict):
    """Pause of the collection of payments at Stripe."""

    behavior: str
    """Treatment of the invoices: keep_as_draft, mark_uncollectible; void, which gives no access meanwhile."""
    resumes_at: str | None


def pause_view(pause: Pause | None) -> PauseView | None:
    """Render a pause of the collection; None: there is none."""
    return None if pause is None else {"behavior": pause.behavior, "resumes_at": _moment(pause.resumes_at)}


class BoughtView(TypedDict):
    """A subscription as it was bought."""

    plan: PlanName
    status: SubscriptionStatus
    current_period_start: str
    current_period_end: str
    cancel_at_period_end: bool
    """True: the cancellation that was asked for takes effect at the end of the period."""
    cancel_at: str | None
    """Moment at which the subscription ends, however the cancellation was asked for; null: it renews."""
    trial_end: str | None
    grace_until: str | None
    """After a failed payment: moment until which access lasts while Stripe tries again; null: none failed."""
    pause_collection: PauseView | None
    stripe_subscription_id: str | None
    stripe_customer_id: str | None


def bought_view(row: Subscription) -> BoughtView:
    """Render one subscription, apart from the user's others."""
    return {
        "plan": row.plan,
        "status": row.status,
        "current_period_start": iso(row.current_period_start),
        "current_period_end": iso(row.current_period_end),
        "cancel_at_period_end": row.cancel_at_period_end,
        "cancel_at": _moment(row.cancel_at),
        "trial_end": _moment(row.trial_end),
        "grace_until": _moment(row.grace_until),
        "pause_collection": pause_view(row.pause),
        "stripe_subscription_id": row.stripe_subscription_id,
        "stripe_customer_id": row.stripe_customer_id,
    }


class SubscriptionView(BoughtView):
    """A user's subscription; of several the one that gives most."""

    user_id: str
    entitled_plan: PlanName
    """The plan whose limits hold now: the largest that gives access, free when none does."""
    limits: LimitsView


def subscription_view(row: Subscription, *, at: datetime) -> SubscriptionView:
    """Render a subscription and the limits that hold now."""
    entitled = row.entitled_plan(at)
    limits = limits_view(plan_at(entitled, at).limits)
    return {**bought_view(row), "user_id": row.user_id, "entitled_plan": entitled, "limits": limits}


class CurrentSubscriptionData(TypedDict):
    """The caller's subscription."""

    subscription: SubscriptionView
    others: list[BoughtView]
    """The caller's other subscriptions that have not ended, the best first; each may cost money."""


class UsageView(TypedDict):
    """Amount that is taken of one limit of the plan."""

    metric: Metric | Literal["schedules"]
    """Metric; its unit is bytes for `storage`, micro-dollars for `model_spend_per_month`, else a number."""
    used: int
    """Amount taken, including what is reserved."""
    allowed: int | None
    """Null is unlimited."""
    resets_at: str | None
    """Moment at which the count begins anew; null: it is not counted by month."""


def usage_view(usage: MetricUsage) -> UsageView:
    """Render the amount taken of a limit."""
    return {
        "metric": usage.metric,
        "used": usage.used,
        "allowed": usage.allowed,
        "resets_at": _moment(usage.resets_at),
    }


def schedules_view(active: int, limits: PlanLimits) -> UsageView:
    """Render the schedules that are active now, which are counted where they are stored."""
    return {"metric": "schedules", "used": active, "allowed": limits.schedules, "resets_at": None}


class AgentSpendView(TypedDict):
    """Model spend with an agent."""

    agent_id: str
    cost_micros: int
    """Of its runs, the subagents in them included, and of its own calls as a subagent in others' runs."""
    delegated_cost_micros: int
    """The latter, which the agents of those runs have in their share, too."""


class TodayView(TypedDict):
    """Model spend of a day, in micro-dollars; what running runs may still spend is included."""

    day: str
    """Calendar day (UTC); a run counts in the day in which it began."""
    cost_micros: int
    agents: list[AgentSpendView]
    """The share of each agent, the largest first; direct calls and titles are no agent's. Shares overlap: without
    `delegated_cost_micros` they add up to what the runs cost.
    """


def today_view(spent: SpentToday) -> TodayView:
    """Render the model spend of a day."""
    shares = sorted(spent.by_agent.items(), key=lambda share: -share[1])
    return {
        "day": spent.day,
        "cost_micros": spent.total,
        "agents": [
            {
                "agent_id": agent_id,
                "cost_micros": micros,
                "delegated_cost_micros": spent.delegated.get(agent_id, 0),
            }
            for agent_id, micros in shares
        ],
    }


class UsageData(TypedDict):
    """Amounts that the caller has taken of their plan."""

    usage: list[UsageView]


class TodayData(TypedDict):
    """Model spend of the caller's account today."""

    today: TodayView


class DailyBudgetView(TypedDict):
    """Limit that the account has set for its day."""

    max_cost_micros: int | None
    """Micro-dollars a day (UTC); null: none is set."""
    version: int
    """0: none was ever set."""


def daily_budget_view(budget: DailyBudget) -> DailyBudgetView:
    """Render the limit of an account's day."""
    return {"max_cost_micros": budget.max_cost_micros, "version": budget.version}


class DailyBudgetData(TypedDict):
    """Limit of the account's day."""

    budget: DailyBudgetView


class InboxEventView(TypedDict):
    """A stored Stripe event, without its body."""

    id: str
    type: str
    status: EventState
    object_id: str | None
    customer_id: str | None
    subscription_id: str | None
    account: str | None
    """Connected account that the event happened in; null: our own."""
    livemode: bool
    received_at: str
    handled_at: str | None
    """Moment at which the event was closed, in any state; null: it waits."""
    expires_at: str | None
    """Moment at which it is deleted; null: not while it waits."""
    note: str
    """Note with which it was closed, for administrators."""
    attempts: int
    last_error: str
    """Code of the last failed attempt."""


def event_view(event: InboxEvent) -> InboxEventView:
    """Render a stored event with the ids that it names, without its body."""
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


class InboxData(TypedDict):
    """Stored events of one status."""

    events: list[InboxEventView]
    limit: int
    next_cursor: str | None


class EventData(TypedDict):
    """One stored event."""

    event: InboxEventView


class CustomerLinkView(TypedDict):
    """Link of a customer of Stripe to the account that it pays for."""

    customer_id: str
    user_id: str | None
    """Account that the customer pays for; null: the account was deleted."""
    livemode: bool | None
    """True: live mode; null: Stripe has not shown the customer yet."""


def link_view(link: CustomerLink) -> CustomerLinkView:
    """Render a link."""
    return {"customer_id": link.customer_id, "user_id": link.user_id, "livemode": link.livemode}


class CustomerLinkData(TypedDict):
    """A link."""

    link: CustomerLinkView


class ReplayData(TypedDict):
    """Result of a replay."""

    event_id: str
    queued: bool


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else iso(moment)
