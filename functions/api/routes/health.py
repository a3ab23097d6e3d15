from __future__ import annotations

from starlette.responses import Response

from api.deps import process
from api.deps.health import probes
from api.openapi import answers
from api.presenters import bare
from api.routing import Router
from karma.core.clock import iso
from karma.core.health import APP, VERSION, Status, overall

router = Router("health")
agio = Router("health", prefix="/api")


@router.get("/health", limit="public", responses=answers(errors=(503,)))
async def health() -> Response:
    """Tell whether the API and what it rests on answer; 503 when not. Not wrapped."""
    findings = {name: probes().check(name) for name in ("database", "redis")}
    state = overall(findings)
    services = {name: finding.render() for name, finding in findings.items()}
    return bare({"status": state, "app": APP, "version": VERSION, "services": services}, _status(state))


@router.get("/health/detailed", limit="public", responses=answers(errors=(503,)))
async def detailed() -> Response:
    """Show every component."""
    findings = probes().check_all()
    state = overall(findings)
    body = {
        "status": state,
        "app": APP,
        "version": VERSION,
        "stage": process.settings().stage,
        "timestamp": iso(process.clock().now()),
        "components": {name: finding.render() for name, finding in findings.items()},
    }
    return bare(body, _status(state))


@router.get("/health/{component}", limit="public", responses=answers(errors=(404, 503)))
async def component_health(component: str) -> Response:
    """Show one of `database cache storage messaging llm queue redis`."""
    finding = probes().check(component)
    return bare({"component": component, **finding.render()}, _status(finding.status))


@agio.get("/health", limit="public", responses=answers(errors=(503,)))
async def agio_health() -> Response:
    """Answer the Agio API's health check."""
    findings = {name: probes().check(name) for name in ("database", "cache", "llm")}
    state = overall(findings)
    body = {
        "status": state,
        "version": VERSION,
        "timestamp": iso(process.clock().now()),
        "components": {name: finding.status for name, finding in findings.items()},
    }
    return bare(body, _status(state))


def _status(state: Status) -> int:
    return 503 if state is Status.UNHEALTHY else 200
