from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request

from api.services import agents, background, billing, configuration, waiting, webhooks
from api.services.process import clock
from karma.agents.domain import MAX_NAME_CHARS
from karma.core.errors import Forbidden
from karma.core.ids import AgentId, RunId, UserId
from karma.core.paging import shown
from karma.core.requests import IdempotencyKeyReused
from karma.http.access import permit
from karma.http.idempotency import idempotency_key
from karma.http.openapi import answers
from karma.http.pages import DEFAULT_SIZE, Cursor, Limit, Offset, next_cursor, position, scope_of
from karma.http.presenters import Answer, ok
from karma.http.routing import PREFIX, Router
from karma.identity.domain import Caller
from karma.models.budgets import BudgetName
from karma.runs.answers import (
    AgioRunControl,
    AgioRunPage,
    AgioStatus,
    CapabilitiesData,
    RunControlData,
    RunData,
    RunEventsData,
    RunListData,
    RunStateData,
    RunView,
    StartedRunData,
    StoppedAgentData,
    agio_control,
    agio_run_view,
    events_view,
    interrupt_view,
    rolled_back_view,
    run_view,
    statuses_of,
)
from karma.runs.domain import ACTIVE, Run, RunExists, RunHasEnded, RunStatus
from karma.runs.schemas import CancelRunBody, StartRunBody
from karma.runs.step_answers import (
    AgioRunDetail,
    AgioRunEvents,
    agio_event_view,
    agio_run_detail,
    agio_run_events,
    agio_step_view,
)

router = Router("runs")
agio = Router("runs", prefix="/api")

Reader = Annotated[Caller, permit("run:read")]
Starter = Annotated[Caller, permit("agent:run")]
Controller = Annotated[Caller, permit("run:control")]
UserRef = Annotated[str | None, Query(min_length=1, max_length=64, pattern="^[0-9A-Za-z-]+$")]
ScheduleRef = Annotated[str | None, Query(min_length=36, max_length=36, pattern="^[0-9a-f-]+$")]
AgentRef = Annotated[str | None, Query(min_length=1, max_length=MAX_NAME_CHARS)]

_MAX_AFTER = 10**8 - 1
_MAX_NAMED = 1_000
"""Runs that an answer names at the most: 1 MB of them."""
_AGIO_WAIT_S = 3.0
"""Seconds for which Agio's routes, which know no run that is still being stopped, wait for that."""


@router.get("/agent/capabilities", responses=answers(errors=(404,)))
async def agent_capabilities(
    caller: Annotated[Caller, permit("agent:read")], agent_id: AgentRef = None
) -> Answer[CapabilitiesData]:
    """Show the capabilities of the agent behind `POST /api/agent`, or of another by id or name, in AG-UI's shape."""
    from karma.runs.capabilities import capabilities  # local: it loads the tools' declarations

    agent = agents.catalogue().find(agent_id) if agent_id else None
    return ok(capabilities(caller, agent=agent, without=configuration.current().disabled_tools()))


@router.get("/runs", responses=answers(errors=(400,)))
async def list_runs(
    caller: Reader,
    agent_id: AgentRef = None,
    status: RunStatus | None = None,
    schedule_id: ScheduleRef = None,
    limit: Limit = DEFAULT_SIZE,
    cursor: Cursor | None = None,
) -> Answer[RunListData]:
    """List the caller's runs, newest first; with `agent_id`, an agent's id or name, only its.

    With `status` or `schedule_id`, each page looks at the next 1,000 runs: it may be short, even empty, while
    `next_cursor` goes on; and `total` counts those on the page, `total_capped` while there may be more.
    """
    from karma.runs.reading import MAX_OFFSET_ROWS

    reader, agent, user_id = agents.runs(), _agent(agent_id), caller.user_id
    is_filtered = status is not None or schedule_id is not None
    scope = scope_of("runs", user_id, agent, status, schedule_id)
    start = position(cursor, scope, of=str) or None
    statuses = {status} if status else ()
    page = reader.page(
        user_id, limit=limit, start=start, agent_id=agent, statuses=statuses, schedule_id=schedule_id or ""
    )
    whole = cursor is None and page.last is None
    total = len(page.runs) if whole or is_filtered else reader.count(user_id, agent_id=agent)
    data: RunListData = {
        "runs": [run_view(run) for run in page.runs],
        "total": total,
        "total_capped": not whole if is_filtered else agent is not None and total >= MAX_OFFSET_ROWS,
        "limit": limit,
        "next_cursor": next_cursor(page.last, scope),
    }
    return ok(data)


@router.post(
    "/runs",
    limit="run",
    idempotent=True,
    status_code=202,
    responses=answers(status=202, also=(200,), errors=(409,), location=True),
)
async def start_run(request: Request, body: StartRunBody, caller: Starter) -> Answer[StartedRunData]:
    """Begin a run that goes on without its client; `Location` and `GET /runs/{id}/events` tell what becomes of it.

    202 with the run as soon as it is stored; 200 once it has ended, for which the answer waits up to `wait_s` seconds.
    Its end is told to `webhook`, signed by the secret of the webhook `default`: 409 where the account has made none.
    It is admitted as a run of `POST /api/agent` is, and refused alike: 409 THREAD_BUSY while its thread has one.
    """
    from karma.runs.background import run_input

    key, runs = idempotency_key(request, caller), background.runs()
    asked = run_input(body, key, taken=runs.own_tools)
    if body.webhook is not None:
        webhooks.service().require_receiver(caller.user_id, body.webhook)
    # Before the run begins: a request that may not wait begins none.
    with waiting.held(caller.user_id, seconds=body.wait_s) as left_s:
        try:
            begun = await runs.begin(caller, asked)
        except RunExists as exc:
            raise IdempotencyKeyReused from exc
        run = agents.control().settled(begun.run, within_s=left_s())
    data: StartedRunData = {
        "run": run_view(run),
        "rolled_back": rolled_back_view(begun.rolled_back),
        "ended": run.status not in ACTIVE,
    }
    return ok(data, 200 if data["ended"] else 202, headers={"Location": f"{PREFIX}/runs/{run.key.run_id}"})


@agio.get("/runs", responses=answers(errors=(400,)))
async def list_runs_by_number(
    caller: Reader,
    agent_id: AgentRef = None,
    user_id: UserRef = None,
    status: AgioStatus | None = None,
    limit: Limit = DEFAULT_SIZE,
    offset: Offset = 0,
) -> Answer[AgioRunPage]:
    """List the caller's runs as the Agio API does, newest first; `agent_id` is an agent's id or name.

    `status` filters the newest 1,000 runs. Administrators list those of another account by `user_id`, without what was
    said in them.
    """
    reader, agent, owner = agents.runs(), _agent(agent_id), _owner(user_id, caller)
    found, total = reader.numbered(owner, offset=offset, limit=limit, agent_id=agent, statuses=statuses_of(status))
    items = [agio_run_view(run, is_own=owner == caller.user_id) for run in found]
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
    data: RunData = {
        "run": _with_agent_day(run),
        "interrupts": [interrupt_view(each, now=clock().now()) for each in reader.interrupts(run)],
        "messages": reader.messages(run) if messages else None,
    }
    return ok(data)


def _with_agent_day(run: Run) -> RunView:
    """Shape a run, with what its account has spent with its agent on its day where that is limited: one Query more."""
    view = run_view(run)
    for each in view["budgets"]:
        if each["budget"] == BudgetName.AGENT_DAY and run.agent_id is not None:
            spent = billing.usage().read_day(run.key.user_id, run.created_at)
            each["spent_cost_micros"] = spent.by_agent.get(run.agent_id)
    return view


@agio.get("/runs/{run_id}", operation_id="agio_get_run", responses=answers(errors=(404,)))
async def get_run_with_steps(
    run_id: str, caller: Reader, limit: Limit = DEFAULT_SIZE, offset: Offset = 0
) -> Answer[AgioRunDetail]:
    """Show one run as the Agio API does, with `limit` steps from `offset` on, or as many of them as fit into 4 MB."""
    run = agents.runs().get(caller.user_id, RunId(run_id))
    found = agents.steps().steps(run)
    _, steps = shown(found[offset : offset + limit], agio_step_view)
    return ok(agio_run_detail(run, steps, total_steps=len(found)))


@agio.get("/runs/{run_id}/events", operation_id="agio_run_events", responses=answers(errors=(400, 404)))
async def list_run_events(
    run_id: str, caller: Reader, limit: Annotated[int, Query(ge=1, le=1000)] = 100, offset: Offset = 0
) -> Answer[AgioRunEvents]:
    """Show a run's events by number, as the Agio API does: those that its chat streams, without waiting for more.

    Text that was stored together is one `content_delta`. The first 8 MB of a log are read: `total_capped` when it is
    longer, and 400 INVALID_PAGE for pages behind them.
    """
    run = agents.runs().get(caller.user_id, RunId(run_id))
    page = agents.chat_log().page(run, offset=offset, limit=limit)
    _, found = shown(page.events, agio_event_view)
    return ok(agio_run_events(run, page, found))


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
    with waiting.held(caller.user_id, seconds=_AGIO_WAIT_S) as left_s:
        run = control.cancel(caller.user_id, RunId(run_id))
        run = control.settled(run, within_s=left_s())
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
    with waiting.held(caller.user_id, seconds=_AGIO_WAIT_S) as left_s:
        run = control.settled(control.pause(caller.user_id, RunId(run_id)), within_s=left_s())
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
    """Cancel all of the caller's runs of an agent, paused ones too, its work within runs of others, and its questions.

    Each process hears of it within a second. `agent_id` is an id or a name. Later runs are not refused: an
    administrator disables an agent by its configuration.
    """
    ref = _agent(agent_id) or AgentId(agent_id)
    runs, within, questions = agents.control().stop_agent(caller.user_id, ref, reason=body.reason if body else "")
    if not runs and not within and not questions:
        agents.catalogue().find(agent_id)
    ended = not within and all(run.status is RunStatus.CANCELLED for run in runs)
    data: StoppedAgentData = {
        "runs": [run_view(run) for run in runs[:_MAX_NAMED]],
        "total": len(runs),
        "within": [run.key.run_id for run in within[:_MAX_NAMED]],
        "questions": list(questions[:_MAX_NAMED]),
        "ended": ended,
    }
    return ok(data, 200 if ended else 202)


def _owner(ref: str | None, caller: Caller) -> UserId:
    """Return the account whose runs are asked for.

    Raises:
        Forbidden: they are another account's, and the caller is no administrator.
    """
    if ref is None or ref == caller.user_id:
        return caller.user_id
    if not caller.may("user:admin"):
        raise Forbidden("Only administrators may list another account's runs")
    return UserId(ref)


def _agent(ref: str | None) -> AgentId | None:
    if ref is None:
        return None
    # A name that nobody has stands for an agent without runs.
    return agents.catalogue().id_of(ref) or AgentId(ref)
