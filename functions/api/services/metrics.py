"""Services of figures."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock

if TYPE_CHECKING:
    from karma.metrics.service import MetricService


@cache
def service() -> MetricService:
    """Return the reader of figures."""
    from karma.metrics.repository import MetricRepository
    from karma.metrics.service import MetricService

    return MetricService(MetricRepository(), clock())
