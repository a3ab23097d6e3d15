from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from api.services import agents, metrics
from karma.core.schemas import Moment
from karma.http.access import permit
from karma.http.openapi import answers
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.metrics.answers import (
    AgentMetricsData,
    SystemMetricsData,
    agent_metrics_view,
    exposition,
    system_metrics_view,
)
from karma.metrics.domain import Granularity

router = Router("metrics")
agio = Router("metrics", prefix="/api")

Reader = Annotated[Caller, permit("metrics:read")]
Operator = Annotated[Caller, permit("metrics:admin")]

_SHOWN = 'karma_runs_active 3\nkarma_runs_total{outcome="completed"} 950\n'
"""An example of it, in part."""
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


@agio.get("/metrics/agents/{agent_id}", operation_id="agio_agent_metrics", responses=answers(errors=(404,)))
@router.get("/metrics/agents/{agent_id}", responses=answers(errors=(404,)))
async def agent_metrics(
    agent_id: str,
    caller: Reader,
    start_time: Moment | None = None,
    end_time: Moment | None = None,
    granularity: Granularity = Granularity.DAY,
) -> Answer[AgentMetricsData]:
    """Show figures of an agent's runs that ended from `start_time` to `end_time`, in whole periods (UTC).

    They are of the caller's runs; an administrator's answer has those of all accounts. `agent_id` is an id or a name.
    Without times: the last 24 hours, 7 days or 4 weeks. At most 7 days by the hour, 31 by the day and 91 by the week,
    of the last 400. A run counts some seconds after its end.
    """
    service = metrics.service()
    span = service.span(start_time, end_time, granularity)
    agent = agents.catalogue().find(agent_id)
    report = service.of_agent(agent.id, span, user_id=None if caller.may("metrics:admin") else caller.user_id)
    return ok(agent_metrics_view(report))


@agio.get("/metrics/system", operation_id="agio_system_metrics", responses=answers())
@router.get("/metrics/system", responses=answers())
async def system_metrics(caller: Operator) -> Answer[SystemMetricsData]:  # noqa: ARG001  the permission alone
    """Show figures of all accounts' runs, and the number of agents."""
    service = metrics.service()
    found = agents.catalogue().list(limit=1)
    return ok(system_metrics_view(service.totals(), service.today(), agents=found.total))


@router.get(
    "/metrics/prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": _SHOWN}}}},
)
async def prometheus_metrics(caller: Operator) -> Response:  # noqa: ARG001  the permission alone
    """Show figures of all accounts' runs in Prometheus' text format; costs one read."""
    return Response(exposition(metrics.service().totals()), media_type=_EXPOSITION)
