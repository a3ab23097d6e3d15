"""Answers of the routes of checkpoints: each shape, and beside it the function that renders it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

from karma.agents.answers import SubagentView, subagent_view
from karma.core.clock import iso
from karma.runs.answers import EffectView, effect_views
from karma.runs.checkpoints import FoundPoint
from karma.runs.domain import CheckpointKind, RunStatus
from karma.runs.points import RunPoint, write_point_id
from karma.runs.setup import RunSetup

if TYPE_CHECKING:
    from karma.runs.forking import Forked  # which loads what runs need
    from karma.runs.restoring import Restored


class CheckpointView(TypedDict):
    """A point of a run. What older releases did not note is null."""

    id: str
    step_num: int
    """Answers of the model until then, as its steps are numbered; one that broke off is none."""
    kind: CheckpointKind | None
    description: str | None
    tags: list[str]
    created_at: str | None
    message_count: int | None
    """Messages of the conversation until then, results of tools and earlier runs included."""
    total_tokens: int | None
    """Tokens of the run's calls until then."""


def checkpoint_view(point: RunPoint) -> CheckpointView:
    """Shape a point for lists."""
    return {
        "id": write_point_id(point.id),
        "step_num": point.steps,
        "kind": point.kind,
        "description": point.description,
        "tags": list(point.tags),
        "created_at": iso(point.at) if point.at else None,
        "message_count": point.messages,
        "total_tokens": point.total_tokens,
    }


class CheckpointListData(TypedDict):
    """`GET /runs/{id}/checkpoints`, in the order of the run."""

    run_id: str
    checkpoints: list[CheckpointView]
    limit: int
    next_cursor: str | None


class AgioCheckpoints(TypedDict):
    """`GET /api/runs/{id}/checkpoints` as the Agio API answers it."""

    run_id: str
    total: int
    checkpoints: list[CheckpointView]


class CheckpointMetrics(TypedDict):
    """Figures of a run until a point of it."""

    total_steps: int
    total_tokens: int | None
    cost_micros: int | None


class CheckpointAgent(TypedDict):
    """The configuration with which a run executes; it stays what it was when the run began."""

    agent_id: str | None
    agent_version: int | None
    model: str
    system_prompt: str | None
    """Null, as the fields behind it, in runs of releases that did not store it."""
    tools: list[str] | None
    """Tools of the server."""
    frontend_tools: list[str] | None
    """Tools of the client."""
    subagents: list[SubagentView] | None
    """Agents that its model may call like tools."""
    max_steps: int | None
    max_tokens: int | None
    """Tokens of one answer of the model at the most."""


class CheckpointDetail(CheckpointView):
    """One point of a run, with the conversation up to it, or the last part of that."""

    run_id: str
    thread_id: str
    status: RunStatus
    """The run's status at that point."""
    messages: list[Mapping[str, object]]
    """AG-UI messages in the order in which they were said, the last of those before the cursor."""
    next_cursor: str | None
    """Leads to the messages before these."""
    state: object
    """The state that the run shared with its client's application at that point: any JSON value."""
    metrics: CheckpointMetrics
    agent_config: CheckpointAgent


class CheckpointData(TypedDict):
    """`POST /runs/{id}/checkpoints`."""

    checkpoint: CheckpointView


class CheckpointDetailData(TypedDict):
    """`GET /checkpoints/{id}`."""

    checkpoint: CheckpointDetail


def checkpoint_detail(
    found: FoundPoint, messages: list[Mapping[str, object]], *, next_cursor: str | None
) -> CheckpointDetail:
    """Shape one point of a run; `messages` are those that this page shows."""
    run, point = found.run, found.point
    return {
        **checkpoint_view(point),
        "message_count": len(found.messages),
        "run_id": run.key.run_id,
        "thread_id": run.thread_id,
        "status": point.status,
        "messages": messages,
        "next_cursor": next_cursor,
        "state": found.state,
        "metrics": {
            "total_steps": point.steps,
            "total_tokens": point.total_tokens,
            "cost_micros": point.cost_micros,
        },
        "agent_config": _agent(found, found.setup),
    }


class RestoredData(TypedDict):
    """`POST /checkpoints/{id}/restore`."""

    new_run_id: str | None
    """Null where the thread itself was restored."""
    thread_id: str
    message: str
    effects: list[EffectView]
    """Calls after the point, in all branches behind it, of the server's tools that may change something: not undone."""


def restored_view(restored: Restored) -> RestoredData:
    """Shape what came of going back to a point."""
    return {
        "new_run_id": restored.run.key.run_id if restored.run else None,
        "thread_id": restored.thread.thread_id,
        "message": "Restored successfully",
        "effects": effect_views(restored.effects),
    }


class ForkedData(TypedDict):
    """`POST /checkpoints/{id}/fork`."""

    new_run_id: str
    thread_id: str
    """The new run's thread, which is its own."""
    checkpoint_id: str
    """The new run's first checkpoint: the point at which it goes on."""
    message: str


def forked_view(forked: Forked) -> ForkedData:
    """Shape a fork."""
    return {
        "new_run_id": forked.run.key.run_id,
        "thread_id": forked.run.thread_id,
        "checkpoint_id": write_point_id(forked.point),
        "message": "Forked successfully",
    }


def _agent(found: FoundPoint, setup: RunSetup | None) -> CheckpointAgent:
    run = found.run
    return {
        "agent_id": run.agent_id,
        "agent_version": run.agent_version,
        "model": run.model,
        "system_prompt": setup.system[0] if setup and setup.system else None,
        "tools": list(setup.tools) if setup else None,
        "frontend_tools": [tool.name for tool in setup.frontend_tools] if setup else None,
        "subagents": [subagent_view(each) for each in setup.subagents] if setup else None,
        "max_steps": setup.max_turns if setup else None,
        "max_tokens": setup.max_tokens if setup else None,
    }
