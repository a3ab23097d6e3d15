"""What the run routes answer, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from karma.core.schemas import Data
from karma.runs.domain import RunStatus


class RunUsage(Data):
    """Tokens of a run, in AG-UI's accounting."""

    provider: str
    model: str
    inputTokens: int | None = None  # noqa: N815  AG-UI's name
    outputTokens: int | None = None  # noqa: N815
    totalTokens: int | None = None  # noqa: N815
    cachedInputTokens: int | None = None  # noqa: N815
    cacheWriteInputTokens: int | None = None  # noqa: N815


class RunView(Data):
    """One run."""

    id: str
    thread_id: str
    parent_run_id: str | None
    status: RunStatus
    agent_id: str | None
    """Null in runs from before there were agents."""
    agent_version: int | None
    model: str
    error_code: str | None
    turns: int
    usage: RunUsage | None
    cost_micros: int | None
    """What its model calls count for in the plan, in micro-dollars. Null until the run ended, and where it is not
    known: then what was reserved for it stays counted."""
    pending_tool_call_ids: list[str]
    created_at: str
    finished_at: str | None
    duration_ms: int | None


class RunData(Data):
    """`GET /runs/{id}`."""

    run: RunView
    messages: list[dict[str, object]] | None
    """With `?messages=true` the conversation of the run's branch, as AG-UI messages; null where it is not asked for,
    not known yet, or larger than 4 MB."""


class RunListData(Data):
    """`GET /runs`, newest first."""

    runs: list[RunView]
    total: int
    total_capped: bool
    """Whether `total` stopped counting at 1,000, as it does for an agent."""
    limit: int
    next_cursor: str | None


class AgioRunMetrics(Data):
    """Figures of a run in Agio's list."""

    total_tokens: int | None
    duration: float | None
    """Seconds."""


class AgioRun(Data):
    """A run as Agio lists it."""

    id: str
    agent_id: str | None
    user_id: str
    status: Literal["running", "completed", "cancelled", "failed"]
    input_query: str | None
    response_content: str | None
    metrics: AgioRunMetrics
    created_at: str


class AgioRunPage(Data):
    """`GET /api/runs`: Agio's paged model."""

    total: int
    items: list[AgioRun]
    limit: int
    offset: int
    has_more: bool


class LoggedSegment(Data):
    """A committed piece of a run's log."""

    n: int
    """Position: `?after=n` gives what follows it."""
    events: list[dict[str, object]]
    """AG-UI events."""


class RunEventsData(Data):
    """`GET /runs/{id}/events`."""

    segments: list[LoggedSegment]
    next_after: int
    """Where to read on; more may come unless `finished`."""
    finished: bool


class CapabilitiesData(Data):
    """AG-UI's AgentCapabilities."""

    identity: dict[str, object]
    transport: dict[str, object]
    tools: dict[str, object]
    state: dict[str, object]
    multimodal: dict[str, object]
    execution: dict[str, object]
