"""The step of the live channel in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import PurgeStep
from karma.realtime.repository import RealtimeRepository


def purge() -> PurgeStep:
    """Return the step that deletes an account's tickets, connections and subscriptions."""
    return RealtimeRepository()
