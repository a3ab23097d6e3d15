"""Answers of the run routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, NotRequired, TypedDict, cast

import orjson

from karma.core.addresses import shown_address
from karma.core.clock import epoch_ms, iso
from karma.models.budgets import BudgetName, NamedBudget, Spent, budget_shown
from karma.models.ports import StopReason
from karma.runs.domain import Run, RunStatus, Segment
from karma.runs.interrupts import AnswerStatus, Interrupt

if TYPE_CHECKING:
    from karma.runs.effects import Effect
    from karma.runs.rollback import RolledBack


class RunUsage(TypedDict):
    """Tokens of a run, in AG-UI's accounting."""

    provider: str
    model: str
    inputTokens: NotRequired[int]
    outputTokens: NotRequired[int]
    totalTokens: NotRequired[int]
    cachedInputTokens: NotRequired[int]
    cacheWriteInputTokens: NotRequired[int]
    reasoningTokens: NotRequired[int]


class RunBudgetView(TypedDict):
    """A budget of a run, and what was used of it."""

    budget: BudgetName
    """`run`: its request's; `thread`: what its thread's owner allows all of its runs together; `agent`: what its agent
    allows each run; `agent_per_day`: what it allows an account a day, and `account_per_day`:
    what that allows itself, in which other runs count, too; `plan`: what the
    account's plan allows a month."""
    max_tokens: int | None
    """Tokens of input and output together, at the most; null: as many as one likes."""
    max_cost_micros: int | None
    """Cost at the most, in micro-dollars; null: as much as one likes."""
    spent_tokens: int | None
    """Tokens used of it, by earlier runs that this one continues, too; its own count when it is paused or has ended.
    Null for budgets of a day and `plan`, in which runs count that this one does not know: see `GET /usage/today`,
    `GET /usage`.
    """
    spent_cost_micros: int | None
    """Cost counted to it, likewise; in a question also of those two, what running runs may still spend included, as in
    `GET /runs/{id}` of `agent_per_day`: that of the day in which the run began."""
    required_tokens: NotRequired[int | None]
    """In a question, the least that `max_tokens` has to be for the run to go on; null: it is not limited."""
    required_cost_micros: NotRequired[int | None]
    """In a question, the same of `max_cost_micros`."""
    resets_at: NotRequired[str]
    """In a question about a day, the moment at which its count begins anew."""


class DelegatedView(TypedDict):
    """Use by calls of one agent that a run's agent, or one of its subagents, has called."""

    agent_id: str
    calls: int
    turns: int
    """Calls of its model."""
    tokens: int
    """As budgets count them: an answer that broke off, or was cancelled, with all that it may have had."""
    cost_micros: int
    """Of these; parts of the run's `cost_micros`."""
    input_tokens: NotRequired[int]
    """Their parts, as in the run's `usage`; missing in runs from before these were kept."""
    output_tokens: NotRequired[int]
    cached_input_tokens: NotRequired[int]


class RunView(TypedDict):
    """One run."""

    id: str
    thread_id: str
    parent_run_id: str | None
    schedule_id: str | None
    """Schedule that began it; null: none did."""
    webhook: str | None
    """Address that is told its end, without its query, where a token may be; null: none but the account's webhooks."""
    status: RunStatus
    agent_id: str | None
    """Id of the agent that the run executes. Null in runs from before there were agents."""
    agent_version: int | None
    model: str
    input_query: str | None
    """Beginning of the message that it answers, up to 200 characters; its thread has the whole.

    Null where there are no words, and in runs from before they were kept.
    """
    response_content: str | None
    """Beginning of its last words, once it has ended; null as `input_query`."""
    error_code: str | None
    """Code of the RUN_ERROR with which it failed; null in runs that did not, also in cancelled ones."""
    cancel_reason: str | None
    """Reason for which it was cancelled, where one was given."""
    stop_reason: StopReason | None
    """Reason why its model ended its last answer, also one that only called tools; null until it has ended, where no
    answer came to its end, and in runs from before this was kept."""
    turns: int
    usage: RunUsage | None
    """Tokens of all its calls together."""
    usage_by_model: list[RunUsage]
    """Tokens by the model that answered: the run's own, or a fall-back of it."""
    cost_micros: int | None
    """Cost of its model calls, counted in the plan, in micro-dollars. Null until the run ended, and when it is not
    known:
    then the whole reservation stays counted.
    """
    delegated: list[DelegatedView]
    """Use by agents that were called in it, as parts of the whole. Empty until it has ended."""
    budgets: list[RunBudgetView]
    """Limits of its calls of models; without any, the plan's. Its agent's are of its start, or of its resumption."""
    pending_tool_call_ids: list[str]
    paused_at: str | None
    """Moment since which it is paused; it is cancelled seven days later."""
    created_at: str
    finished_at: str | None
    duration_ms: int | None


def run_view(run: Run) -> RunView:
    """Shape a run for `GET /runs`."""
    return {
        "id": run.key.run_id,
        "thread_id": run.thread_id,
        "parent_run_id": run.parent_run_id or None,
        "schedule_id": run.schedule_id or None,
        "webhook": shown_address(run.webhook) if run.webhook else None,
        "status": run.status,
        "agent_id": run.agent_id,
        "agent_version": run.agent_version,
        "model": run.model,
        "input_query": run.input_query,
        "response_content": run.response,
        "error_code": run.error_code or None,
        "cancel_reason": run.cancel_reason or None,
        "stop_reason": StopReason(run.stop_reason) if run.stop_reason else None,
        "turns": run.turns,
        "usage": _usage(run),
        "usage_by_model": [cast("RunUsage", usage) for usage in run.usages],
        "cost_micros": run.cost_micros,
        "delegated": [cast("DelegatedView", each) for each in run.delegated],
        # One that limits nothing only carries what was spent before, for an answer that sets it.
        "budgets": [_budget_view(each, run.spent_known) for each in run.budgets if each.budget.is_set],
        "pending_tool_call_ids": list(run.pending_tool_call_ids),
        "paused_at": iso(run.paused_at) if run.paused_at else None,
        "created_at": iso(run.created_at),
        "finished_at": iso(run.finished_at) if run.finished_at else None,
        "duration_ms": epoch_ms(run.finished_at) - epoch_ms(run.created_at) if run.finished_at else None,
    }


def _budget_view(named: NamedBudget, spent: Spent | None = None, least: Spent | None = None) -> RunBudgetView:
    return cast("RunBudgetView", budget_shown(named, spent, least))


class InterruptView(TypedDict):
    """A question with which a run ended; a later run of its thread answers it by `resume`."""

    id: str
    reason: str
    """`tool_call`: a call has to be approved; `karma:unknown_outcome`: nobody knows whether a call took effect;
    `budget_exceeded`: a budget does not cover the next call of the model; `input_required`: a tool that was called asks
    for something before it goes on.
    """
    message: str
    tool_call_id: str | None
    """Null, as the tool's name, where it is not about a call of a tool."""
    tool_name: str | None
    arguments: str | None
    """JSON of the arguments with which the call is made, at most 16,000 characters of it."""
    arguments_cut: bool
    """They are longer, and `arguments` is their beginning."""
    subagent_run_id: str | None
    """The subagent that waits for the answer; null: the run's own agent does."""
    budget: RunBudgetView | None
    """The budget that stopped the run, with what was used by then; null: none did."""
    response_schema: Mapping[str, object]
    """JSON Schema of the answer's payload."""
    expires_at: str
    status: Literal["open", "expired", "resolved", "cancelled"]
    answered_by: str | None
    """Id of the run that began with the answer, or that broke off beside the question, so that its call was not made
    (`cancelled`); null while there is none, also where nobody answered in time."""
    answered_at: str | None


def interrupt_view(interrupt: Interrupt, *, now: datetime) -> InterruptView:
    """Shape a question, as it is now."""
    answer, arguments = interrupt.answer, interrupt.arguments()
    status: Literal["open", "expired", "resolved", "cancelled"] = "expired" if interrupt.is_expired(now) else "open"
    if answer is not None:
        status = "resolved" if answer.status is AnswerStatus.RESOLVED else "cancelled"
    return {
        "id": interrupt.id,
        "reason": interrupt.reason.value,
        "message": interrupt.message,
        "tool_call_id": interrupt.call.id if interrupt.call else None,
        "tool_name": interrupt.call.name if interrupt.call else None,
        "arguments": arguments.text if arguments else None,
        "arguments_cut": arguments is not None and arguments.is_cut,
        "subagent_run_id": (interrupt.inside.subagent or None) if interrupt.inside else None,
        "budget": _budget_view(interrupt.stopped_by, least=interrupt.least) if interrupt.stopped_by else None,
        "response_schema": interrupt.response_schema,
        "expires_at": iso(interrupt.expires_at),
        "status": status,
        "answered_by": (answer.by or None) if answer else None,
        "answered_at": iso(answer.at) if answer else None,
    }


class RunData(TypedDict):
    """`GET /runs/{id}`."""

    run: RunView
    interrupts: list[InterruptView]
    """The questions with which it ended, with their answers; those of earlier runs, too, where it left them open."""
    messages: list[Mapping[str, object]] | None
    """With `?messages=true`, the conversation of the run's branch as AG-UI messages; null when not asked for, not known
    yet, or larger than 4 MB.
    """


class EffectView(TypedDict):
    """A call of a tool that may have changed something."""

    tool_call_id: str
    name: str
    status: Literal["succeeded", "unknown", "failed"]
    """`unknown`: nobody knows what became of it. A call that failed may have changed something all the same."""
    message_id: str
    """Id of the answer that made it: models may give calls of several answers one id."""


def effect_views(effects: Sequence[Effect]) -> list[EffectView]:
    """Shape calls that may have changed something."""
    return [{"tool_call_id": id_, "name": name, "status": is_, "message_id": at} for id_, name, is_, at in effects]


class RolledBackView(TypedDict):
    """A run in whose place another one has begun."""

    run_id: str
    effects: list[EffectView]
    """Calls that were made and cannot be taken back."""


class StartedRunData(TypedDict):
    """`POST /runs`."""

    run: RunView
    rolled_back: RolledBackView | None
    """The run that this one has rolled back; null also in the answer to a repeat."""
    ended: bool
    """Whether the run has ended; false (status 202) while it has not."""


def rolled_back_view(rolled_back: RolledBack | None) -> RolledBackView | None:
    """Shape a run that another one has rolled back."""
    if rolled_back is None:
        return None
    return {"run_id": rolled_back.run.key.run_id, "effects": effect_views(rolled_back.effects)}


class RunControlData(TypedDict):
    """`POST /runs/{id}/cancel`."""

    run: RunView
    ended: bool
    """Whether the run has ended; false (status 202) while the process that executes it is still stopping it."""


class RunStateData(TypedDict):
    """`POST /runs/{id}/pause` and `/resume`."""

    run: RunView
    """Still running (status 202) while the process that executes it finishes its tools before it is paused."""


class StoppedAgentData(TypedDict):
    """`POST /agents/{id}/stop`."""

    runs: list[RunView]
    """Runs that were cancelled, or are being stopped by the processes that execute them; the first 1,000."""
    total: int
    within: list[str]
    """Runs of other agents in which it was at work: that ends, and the runs go on. The first 1,000."""
    questions: list[str]
    """Open questions about its calls, which are cancelled; the first 1,000."""
    ended: bool
    """Whether all of that has ended; false (status 202) while processes stop theirs."""


class RunListData(TypedDict):
    """`GET /runs`, newest first."""

    runs: list[RunView]
    total: int
    total_capped: bool
    """`total` stopped counting at 1,000, as it does for an agent."""
    limit: int
    next_cursor: str | None


def _usage(run: Run) -> RunUsage | None:
    # Stored as karma.models.domain.Usage.wire shapes it, and checked there.
    return cast("RunUsage | None", run.usage)


class AgioRunMetrics(TypedDict):
    """Figures of a run in Agio's list."""

    total_tokens: int | None
    duration: float | None
    """Seconds."""


AgioStatus = Literal["running", "paused", "completed", "interrupted", "cancelled", "failed"]


class AgioRun(TypedDict):
    """A run as Agio lists it."""

    id: str
    agent_id: str | None
    user_id: str
    status: AgioStatus
    input_query: str | None
    """Beginning of the message that it answers, up to 200 characters."""
    response_content: str | None
    """Beginning of its last words, once it has ended."""
    metrics: AgioRunMetrics
    created_at: str


_AGIO_STATUS: Final[Mapping[RunStatus, AgioStatus]] = {
    RunStatus.QUEUED: "running",
    RunStatus.RUNNING: "running",
    RunStatus.PAUSED: "paused",
    RunStatus.FINISHED: "completed",
    RunStatus.INTERRUPTED: "interrupted",
    RunStatus.CANCELLED: "cancelled",
    RunStatus.FAILED: "failed",
}


def statuses_of(status: AgioStatus | None) -> Collection[RunStatus]:
    """Return the states of runs that Agio shows as one of its own; empty: any."""
    return frozenset(each for each, shown in _AGIO_STATUS.items() if shown == status)


def agio_control(run: Run, *, done: str) -> AgioRunControl:
    """Shape a run that was controlled; `done` is the message once that has taken effect."""
    return {"run_id": run.key.run_id, "message": done, "status": _AGIO_STATUS[run.status]}


def agio_run_view(run: Run, *, is_own: bool = True) -> AgioRun:
    """Shape a run for Agio's list; what was said in it is its owner's alone to see."""
    usage = _usage(run)
    lasted = run.finished_at - run.created_at if run.finished_at else None
    return {
        "id": run.key.run_id,
        "agent_id": run.agent_id,
        "user_id": run.key.user_id,
        "status": _AGIO_STATUS[run.status],
        "input_query": run.input_query if is_own else None,
        "response_content": run.response if is_own else None,
        "metrics": {
            "total_tokens": usage.get("totalTokens") if usage else None,
            "duration": lasted.total_seconds() if lasted is not None else None,
        },
        "created_at": iso(run.created_at),
    }


class AgioRunControl(TypedDict):
    """`POST /api/runs/{id}/cancel`, `/pause` and `/resume` as the Agio API answers them."""

    run_id: str
    message: str
    status: AgioStatus


class AgioRunPage(TypedDict):
    """`GET /api/runs`: Agio's paged model."""

    total: int
    items: list[AgioRun]
    limit: int
    offset: int
    has_more: bool


class LoggedSegment(TypedDict):
    """A committed piece of a run's log."""

    n: int
    """Position of the segment: `?after=n` returns those that follow it."""
    events: list[dict[str, object]]
    """AG-UI events."""


class RunEventsData(TypedDict):
    """`GET /runs/{id}/events`."""

    segments: list[LoggedSegment]
    next_after: int
    """Position after which to read on; more may come unless `finished`."""
    finished: bool


def logged_segment(segment: Segment) -> LoggedSegment:
    """Shape a piece of a log; its events are JSON already and are not parsed again."""
    return {
        "n": segment.n,
        "events": cast("list[dict[str, object]]", [orjson.Fragment(data) for data in segment.events]),
    }


def events_view(segments: Sequence[Segment], *, after: int) -> RunEventsData:
    """Shape a page of a run's log for `GET /runs/{id}/events`."""
    return {
        "segments": [logged_segment(segment) for segment in segments],
        "next_after": segments[-1].n if segments else after,
        "finished": bool(segments) and segments[-1].terminal,
    }


class CapabilitiesData(TypedDict):
    """Abilities of the agent, in the shape of AG-UI's AgentCapabilities."""

    identity: dict[str, object]
    transport: dict[str, object]
    tools: dict[str, object]
    state: dict[str, object]
    multiAgent: dict[str, object]
    humanInTheLoop: dict[str, object]
    multimodal: dict[str, object]
    execution: dict[str, object]
