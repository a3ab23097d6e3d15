"""The step of schedules in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import PurgeStep
from karma.schedules.repository import ScheduleRepository


def purge() -> PurgeStep:
    """Return the step that deletes an account's schedules, and the records of the requests that created them."""
    return ScheduleRepository()
