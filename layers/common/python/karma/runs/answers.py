"""Answers of the run routes: each shape, and beside it the function that renders it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NotRequired, TypedDict, cast

import orjson

from karma.core.clock import epoch_ms, iso
from karma.runs.domain import Run, RunStatus, Segment


class RunUsage(TypedDict):
    """Tokens of a run, in AG-UI's accounting."""

    provider: str
    model: str
    inputTokens: NotRequired[int]
    outputTokens: NotRequired[int]
    totalTokens: NotRequired[int]
    cachedInputTokens: NotRequired[int]
    cacheWriteInputTokens: NotRequired[int]


class RunView(TypedDict):
    """One run."""

    id: str
    thread_id: str
    parent_run_id: str | None
    status: RunStatus
    agent_id: str | None
    """Id of the agent that the run executes. Null in runs from before there were agents."""
    agent_version: int | None
    model: str
    error_code: str | None
    """Code of the RUN_ERROR with which it failed; null in runs that did not, also in cancelled ones."""
    cancel_reason: str | None
    """Reason for which it was cancelled, where one was given."""
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
        "status": run.status,
        "agent_id": run.agent_id,
        "agent_version": run.agent_version,
        "model": run.model,
        "error_code": run.error_code or None,
        "cancel_reason": run.cancel_reason or None,
        "turns": run.turns,
        "usage": _usage(run),
        "usage_by_model": [cast("RunUsage", usage) for usage in run.usages],
        "cost_micros": run.cost_micros,
        "pending_tool_call_ids": list(run.pending_tool_call_ids),
        "paused_at": iso(run.paused_at) if run.paused_at else None,
        "created_at": iso(run.created_at),
        "finished_at": iso(run.finished_at) if run.finished_at else None,
        "duration_ms": epoch_ms(run.finished_at) - epoch_ms(run.created_at) if run.finished_at else None,
    }


class RunData(TypedDict):
    """`GET /runs/{id}`."""

    run: RunView
    messages: list[Mapping[str, object]] | None
    """With `?messages=true`, the conversation of the run's branch as AG-UI messages; null when not asked for, not known
    yet, or larger than 4 MB.
    """


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
    ended: bool
    """Whether all of them have ended; false (status 202) while processes stop theirs."""


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


AgioStatus = Literal["running", "paused", "completed", "cancelled", "failed"]


class AgioRun(TypedDict):
    """A run as Agio lists it."""

    id: str
    agent_id: str | None
    user_id: str
    status: AgioStatus
    input_query: str | None
    response_content: str | None
    metrics: AgioRunMetrics
    created_at: str


_AGIO_STATUS: Final[Mapping[RunStatus, AgioStatus]] = {
    RunStatus.RUNNING: "running",
    RunStatus.PAUSED: "paused",
    RunStatus.FINISHED: "completed",
    RunStatus.CANCELLED: "cancelled",
    RunStatus.FAILED: "failed",
}


def agio_control(run: Run, *, done: str) -> AgioRunControl:
    """Shape a run that was controlled; `done` is the message once that has taken effect."""
    return {"run_id": run.key.run_id, "message": done, "status": _AGIO_STATUS[run.status]}


def agio_run_view(run: Run) -> AgioRun:
    """Shape a run for Agio's list.

    Its texts are in its log (`/api/v1/runs/{id}/events`): those are null.
    """
    usage = _usage(run)
    lasted = run.finished_at - run.created_at if run.finished_at else None
    return {
        "id": run.key.run_id,
        "agent_id": run.agent_id,
        "user_id": run.key.user_id,
        "status": _AGIO_STATUS[run.status],
        "input_query": None,
        "response_content": None,
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


def _as_written(segment: Segment) -> list[dict[str, object]]:
    return cast("list[dict[str, object]]", [orjson.Fragment(data) for data in segment.events])


def events_view(segments: Sequence[Segment], *, after: int) -> RunEventsData:
    """Shape a page of a run's log for `GET /runs/{id}/events`; events are JSON already and are not parsed again."""
    return {
        "segments": [{"n": segment.n, "events": _as_written(segment)} for segment in segments],
        "next_after": segments[-1].n if segments else after,
        "finished": bool(segments) and segments[-1].terminal,
    }


class CapabilitiesData(TypedDict):
    """Abilities of the agent, in the shape of AG-UI's AgentCapabilities."""

    identity: dict[str, object]
    transport: dict[str, object]
    tools: dict[str, object]
    state: dict[str, object]
    multimodal: dict[str, object]
    execution: dict[str, object]
