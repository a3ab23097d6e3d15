"""The step of figures in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import PurgeStep
from karma.metrics.repository import MetricRepository


def purge() -> PurgeStep:
    """Return the step that deletes an account's figures."""
    return MetricRepository()
