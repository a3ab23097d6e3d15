"""Shapes of answers that belong to no context or to several: the application itself, its health, acceptance."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from karma.core.health import Finding, Status


class AcceptedData(TypedDict):
    """Answer to a request that is carried out later; `accepted` is false when there was nothing to do."""

    accepted: bool


class AboutData(TypedDict):
    """The application, and where it is described."""

    app: str
    version: str
    docs: str
    openapi: str


class FindingView(TypedDict):
    """A component's state."""

    status: Status
    replaced: NotRequired[str]
    """The service that is used in place of the component; left out when it is the component itself."""
    note: NotRequired[str]
    latency_ms: NotRequired[float]


def finding_view(finding: Finding) -> FindingView:
    """Shape a component's state."""
    found: FindingView = {"status": finding.status}
    if finding.replaced:
        found["replaced"] = finding.replaced
    if finding.note:
        found["note"] = finding.note
    if finding.latency_ms is not None:
        found["latency_ms"] = finding.latency_ms
    return found


class HealthData(TypedDict):
    """The application, and the components that each of its requests needs."""

    status: Status
    app: str
    version: str
    services: dict[str, FindingView]


class DetailedHealthData(TypedDict):
    """The application and all its components."""

    status: Status
    app: str
    version: str
    stage: str
    timestamp: str
    components: dict[str, FindingView]


class ComponentHealthData(FindingView):
    """One component."""

    component: str


class AgioHealthData(TypedDict):
    """The application and its components, as the Agio API shows them."""

    status: Status
    version: str
    timestamp: str
    components: dict[str, Status]
