"""Health of the components that a function needs, by cheap probes, whose results are cached for five seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from karma.core.clock import monotonic
from karma.core.errors import NotFound
from karma.core.observability import logger
from karma.core.records import Record

APP = "karma-cloud"
VERSION = "0.1.0"
_MAX_AGE_S = 5.0


class Status(StrEnum):
    """Result of a probe."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    NOT_CHECKED = "not_checked"
    """This function cannot reach the component; the health endpoint of another one tells."""


class Finding(Record, kw_only=True):
    """One component's state."""

    status: Status
    replaced: str = ""
    """Component of the Agio specification that this one is used instead of; "": none."""
    note: str = ""
    latency_ms: float | None = None


Probe = Callable[[], None]
"""Calls a component; raises when it does not answer."""


class HealthComponent(Record, kw_only=True):
    """A component whose health can be asked for. Without a probe it is listed as `not_checked`."""

    probe: Probe | None
    replaced: str = ""
    note: str = ""


class Health:
    """Runs probes and caches their results."""

    def __init__(self, components: Mapping[str, HealthComponent], *, now: Callable[[], float] = monotonic) -> None:
        self._components = components
        self._now = now
        self._kept: dict[Probe, tuple[float, Finding]] = {}

    def check(self, name: str) -> Finding:
        """Return the state of one component.

        Raises:
            NotFound: no component has this name.
        """
        component = self._components.get(name)
        if component is None:
            raise NotFound(f"Component {name} not found")
        if component.probe is None:
            return Finding(status=Status.NOT_CHECKED, replaced=component.replaced, note=component.note)
        found = self._run(component.probe)
        return Finding(
            status=found.status, latency_ms=found.latency_ms, replaced=component.replaced, note=component.note
        )

    def check_all(self) -> dict[str, Finding]:
        """Return the states of all components by name."""
        return {name: self.check(name) for name in self._components}

    def _run(self, probe: Probe) -> Finding:
        started = self._now()
        kept = self._kept.get(probe)
        if kept is not None and started - kept[0] < _MAX_AGE_S:
            return kept[1]
        try:
            probe()
            status = Status.HEALTHY
        except Exception:  # noqa: BLE001  whatever a probe raises is its answer; it must not fail the health check
            logger.warning("health.probe_failed", exc_info=True)
            status = Status.UNHEALTHY
        finished = self._now()
        finding = Finding(status=status, latency_ms=round((finished - started) * 1000, 1))
        self._kept[probe] = (finished, finding)
        return finding


def overall(findings: Mapping[str, Finding]) -> Status:
    """Return `healthy` unless a checked component is not."""
    return Status.UNHEALTHY if any(f.status is Status.UNHEALTHY for f in findings.values()) else Status.HEALTHY
