from __future__ import annotations

from api.services import process
from api.services.health import probes
from karma.core.answers import AgioHealthData, ComponentHealthData, DetailedHealthData, HealthData, finding_view
from karma.core.clock import iso
from karma.core.health import APP, VERSION, Status, overall
from karma.http.openapi import answers
from karma.http.presenters import BareAnswer, bare
from karma.http.routing import Router

router = Router("health")
agio = Router("health", prefix="/api")


@router.get("/health", limit="public", responses=answers(also=(503,)))
async def health() -> BareAnswer[HealthData]:
    """Tell whether the API and the services that it depends on answer; 503 if not. Not wrapped."""
    findings = {name: probes().check(name) for name in ("database", "redis")}
    state = overall(findings)
    services = {name: finding_view(finding) for name, finding in findings.items()}
    return bare({"status": state, "app": APP, "version": VERSION, "services": services}, _status(state))


@router.get("/health/detailed", limit="public", responses=answers(also=(503,)))
async def detailed() -> BareAnswer[DetailedHealthData]:
    """Show every component."""
    findings = probes().check_all()
    state = overall(findings)
    body: DetailedHealthData = {
        "status": state,
        "app": APP,
        "version": VERSION,
        "stage": process.settings().stage,
        "timestamp": iso(process.clock().now()),
        "components": {name: finding_view(finding) for name, finding in findings.items()},
    }
    return bare(body, _status(state))


@router.get("/health/{component}", limit="public", responses=answers(also=(503,), errors=(404,)))
async def component_health(component: str) -> BareAnswer[ComponentHealthData]:
    """Show one of `database cache storage messaging llm queue redis`."""
    finding = probes().check(component)
    return bare({"component": component, **finding_view(finding)}, _status(finding.status))


@agio.get("/health", limit="public", responses=answers(also=(503,)))
async def agio_health() -> BareAnswer[AgioHealthData]:
    """Answer the Agio API's health check."""
    findings = {name: probes().check(name) for name in ("database", "cache", "llm")}
    state = overall(findings)
    body: AgioHealthData = {
        "status": state,
        "version": VERSION,
        "timestamp": iso(process.clock().now()),
        "components": {name: finding.status for name, finding in findings.items()},
    }
    return bare(body, _status(state))


def _status(state: Status) -> int:
    return 503 if state is Status.UNHEALTHY else 200
