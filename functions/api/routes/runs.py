from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.services import agents, configuration
from karma.agents.domain import MAX_NAME_CHARS
from karma.core.ids import AgentId, RunId
from karma.http.access import permit
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, Offset, next_cursor, position
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.runs.answers import (
    AgioRunControl,
    AgioRunPage,
    CapabilitiesData,
    RunControlData,
    RunData,
    RunEventsData,
    RunListData,
    RunStateData,
    StoppedAgentData,
    agio_control,
    agio_run_view,
    events_view,
    run_view,
)
from karma.runs.domain import RunHasEnded, RunStatus
from karma.runs.schemas import CancelRunBody

router = Router("runs")
agio = Router("runs", prefix="/api")

Reader = Annotated[Caller, permit("run:read")]
Controller = Annotated[Caller, permit("run:control")]
AgentRef = Annotated[str | None, Query(min_length=1, max_length=MAX_NAME_CHARS)]

_MAX_AFTER = 10**8 - 1
_MAX_NAMED = 1_000
"""Runs that an answer names at the most: 1 MB of them."""
_AGIO_WAIT_S = 3.0
"""Seconds for which Agio's routes, which know no run that is still being stopped, wait for that."""


@router.get("/agent/capabilities", responses=answers())
async def agent_capabilities(caller: Annotated[Caller, permit("agent:read")]) -> Answer[CapabilitiesData]:
    """Show the capabilities of the agent behind `POST /api/agent`, in AG-UI's shape."""
    from karma.runs.capabilities import capabilities  # local: it loads the tools' declarations

    return ok(capabilities(caller, without=configuration.current().disabled_tools()))


@router.get("/runs", responses=answers(errors=(400,)))
async def list_runs(
    caller: Reader,
    agent_id: AgentRef = None,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[RunListData]:
    """List the caller's runs, newest first; with `agent_id`, an agent's id or name, only its."""
    from karma.runs.reading import MAX_OFFSET_ROWS

    reader, agent, user_id = agents.runs(), _agent(agent_id), caller.user_id
    scope = f"runs:{user_id}:{agent}" if agent else f"runs:{user_id}"
    page = reader.page(user_id, limit=limit, start=position(cursor, scope, of=str) or None, agent_id=agent)
    whole = cursor is None and page.last is None
    total = len(page.runs) if whole else reader.count(user_id, agent_id=agent)
    data: RunListData = {
        "runs": [run_view(run) for run in page.runs],
        "total": total,
        "total_capped": agent is not None and total >= MAX_OFFSET_ROWS,
        "limit": limit,
        "next_cursor": next_cursor(page.last, scope),
    }
    return ok(data)


@agio.get("/runs", responses=answers(errors=(400,)))
async def list_runs_by_number(
    caller: Reader,
    agent_id: AgentRef = None,
    limit: Limit = DEFAULT_SIZE,
    offset: Offset = 0,
) -> Answer[AgioRunPage]:
    """List the caller's runs as the Agio API does, newest first; `agent_id` is an agent's id or name."""
    reader, agent = agents.runs(), _agent(agent_id)
    found = reader.numbered(caller.user_id, offset=offset, limit=limit, agent_id=agent)
    items = [agio_run_view(run) for run in found]
    total = reader.count(caller.user_id, agent_id=agent)
    page: AgioRunPage = {
        "total": total,
        "items": items,
        "limit": limit,
        "offset": offset,
        "has_more": offset + limit < total,
    }
    return ok(page)


@router.get("/runs/{run_id}", responses=answers(errors=(404,)))
async def get_run(run_id: str, caller: Reader, messages: bool = False) -> Answer[RunData]:
    """Show one run; with `messages` also the conversation of its branch, to its last answer."""
    reader = agents.runs()
    run = reader.get(caller.user_id, RunId(run_id))
    return ok({"run": run_view(run), "messages": reader.messages(run) if messages else None})


@router.get("/runs/{run_id}/events", responses=answers(errors=(404,)))
async def run_events(
    run_id: str,
    caller: Reader,
    after: Annotated[int, Query(ge=0, le=_MAX_AFTER)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Answer[RunEventsData]:
    """Read a run's log above segment `after`; the stream URL has the same path as server-sent events.

    At or after the end of a run that has ended: its terminal event once more, and `finished` is true.
    """
    reader = agents.runs()
    reader.get(caller.user_id, RunId(run_id))
    segments = reader.first_segments(caller.user_id, RunId(run_id), after=after, limit=limit)
    return ok(events_view(segments, after=after))


@router.post("/runs/{run_id}/cancel", responses=answers(also=(202,), errors=(404, 409)))
async def cancel_run(run_id: str, caller: Controller, body: CancelRunBody | None = None) -> Answer[RunControlData]:
    """Cancel a run: its model stops within a second, tools that are at work are given up.

    202 with `ended` false while the process that executes it is stopping it; its events end with `RUN_FINISHED` of
    outcome `cancelled`. 409 RUN_ENDED when it has ended otherwise.
    """
    reason = body.reason if body else ""
    run = agents.control().cancel(caller.user_id, RunId(run_id), reason=reason)
    ended = run.status is RunStatus.CANCELLED
    return ok({"run": run_view(run), "ended": ended}, 200 if ended else 202)


@agio.post("/runs/{run_id}/cancel", operation_id="agio_cancel_run", responses=answers(also=(202,), errors=(404, 409)))
async def cancel_run_and_wait(run_id: str, caller: Controller) -> Answer[AgioRunControl]:
    """Cancel a run as the Agio API does, and wait for its end for up to 3 s; 202 when it takes longer."""
    control = agents.control()
    run = control.cancel(caller.user_id, RunId(run_id))
    run = control.settled(run, within_s=_AGIO_WAIT_S)
    if run.status is RunStatus.RUNNING:
        return ok(agio_control(run, done="Run is being cancelled"), 202)
    if run.status is not RunStatus.CANCELLED:
        raise RunHasEnded(run)
    return ok(agio_control(run, done="Run cancelled successfully"))


@router.post("/runs/{run_id}/pause", responses=answers(also=(202,), errors=(404, 409)))
async def pause_run(run_id: str, caller: Controller) -> Answer[RunStateData]:
    """Pause a run: its model stops within a second, its tools finish; its thread stays its own.

    202 while the process that executes it is stopping it. Streams of it end behind `CUSTOM` `karma.run_paused`, without
    a terminal event. Half an answer is made anew when the run is resumed. After seven days it is cancelled. 409
    RUN_ENDED when it has ended.
    """
    run = agents.control().pause(caller.user_id, RunId(run_id))
    return ok({"run": run_view(run)}, 200 if run.status is RunStatus.PAUSED else 202)


@router.post("/runs/{run_id}/resume", responses=answers(errors=(404, 409)))
async def resume_run(run_id: str, caller: Controller) -> Answer[RunStateData]:
    """Resume a paused run: another process goes on with it; one that is being paused is not paused.

    Its events go on behind `CUSTOM` `karma.run_resumed`. 409 RUN_ENDED when it has ended.
    """
    return ok({"run": run_view(agents.control().resume(caller.user_id, RunId(run_id)))})


@agio.post("/runs/{run_id}/pause", operation_id="agio_pause_run", responses=answers(also=(202,), errors=(404, 409)))
async def pause_run_and_wait(run_id: str, caller: Controller) -> Answer[AgioRunControl]:
    """Pause a run as the Agio API does, and wait for that for up to 3 s; 202 when it takes longer."""
    control = agents.control()
    run = control.settled(control.pause(caller.user_id, RunId(run_id)), within_s=_AGIO_WAIT_S)
    if run.status is RunStatus.RUNNING:
        return ok(agio_control(run, done="Run is being paused"), 202)
    if run.status is not RunStatus.PAUSED:
        raise RunHasEnded(run)
    return ok(agio_control(run, done="Run paused successfully"))


@agio.post("/runs/{run_id}/resume", operation_id="agio_resume_run", responses=answers(errors=(404, 409)))
async def agio_resume_run(run_id: str, caller: Controller) -> Answer[AgioRunControl]:
    """Resume a paused run as the Agio API does."""
    run = agents.control().resume(caller.user_id, RunId(run_id))
    return ok(agio_control(run, done="Run resumed successfully"))


@router.post("/agents/{agent_id}/stop", responses=answers(also=(202,), errors=(404,)))
async def stop_agent(agent_id: str, caller: Controller, body: CancelRunBody | None = None) -> Answer[StoppedAgentData]:
    """Cancel all of the caller's runs of an agent, paused ones too; each process hears of it within a second.

    `agent_id` is an id or a name. Later runs are not refused: an administrator disables an agent by its configuration.
    """
    ref = _agent(agent_id) or AgentId(agent_id)
    runs = agents.control().cancel_all(caller.user_id, ref, reason=body.reason if body else "")
    if not runs:
        agents.catalogue().find(agent_id)
    ended = all(run.status is RunStatus.CANCELLED for run in runs)
    data: StoppedAgentData = {
        "runs": [run_view(run) for run in runs[:_MAX_NAMED]],
        "total": len(runs),
        "ended": ended,
    }
    return ok(data, 200 if ended else 202)


def _agent(ref: str | None) -> AgentId | None:
    if ref is None:
        return None
    # A name that nobody has stands for an agent without runs.
    return agents.catalogue().id_of(ref) or AgentId(ref)
