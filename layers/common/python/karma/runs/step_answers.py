"""Answers of Agio's routes of one run, its steps and events, and beside each shape the function that renders it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypedDict

from karma.core.clock import iso
from karma.runs.answers import AgioRunMetrics, AgioStatus, agio_run_view
from karma.runs.domain import Run

if TYPE_CHECKING:
    from karma.runs.chat_log import ChatLogPage, LoggedChatEvent
    from karma.runs.steps import RunStep


class AgioRunTotals(AgioRunMetrics):
    """Figures of a run in Agio's detail."""

    total_steps: int
    """Calls of its model that are stored."""


class AgioStepMetrics(TypedDict):
    """Figures of one call of a model; null where nobody noted them."""

    total_tokens: int | None
    cost_micros: int | None


class AgioStep(TypedDict):
    """One call of a run's model."""

    step_num: int
    type: Literal["llm_call"]
    messages: list[Mapping[str, object]]
    """AG-UI messages that the model was told since the step before: the user's, or results of tools."""
    model_response: Mapping[str, object]
    """The AG-UI message that it answered, with the calls that it made."""
    metrics: AgioStepMetrics


class AgioRunDetail(TypedDict):
    """`GET /api/runs/{id}`."""

    id: str
    agent_id: str | None
    user_id: str
    session_id: str
    """Id of its thread."""
    status: AgioStatus
    input_query: str | None
    response_content: str | None
    metrics: AgioRunTotals
    created_at: str
    updated_at: str
    """Its end, else the moment since which it is paused, else its start."""
    steps: list[AgioStep]
    """Those from `offset` on, as many as fit; `total_steps` tells how many there are."""


def agio_step_view(step: RunStep) -> AgioStep:
    """Shape a step."""
    from karma.runs.events import CURRENT  # local: both load what runs need
    from karma.runs.opening import shown

    return {
        "step_num": step.number,
        "type": "llm_call",
        "messages": [shown(message, CURRENT) for message in step.told],
        "model_response": shown(step.response, CURRENT),
        "metrics": {"total_tokens": step.total_tokens, "cost_micros": step.cost_micros},
    }


def agio_run_detail(run: Run, steps: list[AgioStep], *, total_steps: int) -> AgioRunDetail:
    """Shape a run for Agio, with the steps of this page."""
    listed = agio_run_view(run)
    return {
        "id": listed["id"],
        "agent_id": listed["agent_id"],
        "user_id": listed["user_id"],
        "session_id": run.thread_id,
        "status": listed["status"],
        "input_query": listed["input_query"],
        "response_content": listed["response_content"],
        "metrics": {**listed["metrics"], "total_steps": total_steps},
        "created_at": listed["created_at"],
        "updated_at": iso(run.finished_at or run.paused_at or run.created_at),
        "steps": steps,
    }


class AgioEvent(TypedDict):
    """One event of a run, as Agio's chat streams it."""

    type: str
    """`run_started`, `step_started`, `content_delta`, `tool_call_started`, `tool_call_completed`, `run_completed` or
    `error`."""
    timestamp: str
    """The moment it was stored."""
    data: Mapping[str, object]


class AgioRunEvents(TypedDict):
    """`GET /api/runs/{id}/events`."""

    run_id: str
    total: int
    """Events that are stored so far, of those that were read."""
    total_capped: bool
    """True: the log is longer than pages by number read."""
    events: list[AgioEvent]
    """Those from `offset` on, as many as fit."""


def agio_event_view(logged: LoggedChatEvent) -> AgioEvent:
    """Shape one event."""
    return {"type": logged.event.name, "timestamp": iso(logged.at), "data": logged.event.data}


def agio_run_events(run: Run, page: ChatLogPage, events: list[AgioEvent]) -> AgioRunEvents:
    """Shape a page of a run's events; `events` are those of it that fit into an answer."""
    return {"run_id": run.key.run_id, "total": page.total, "total_capped": not page.is_whole, "events": events}
