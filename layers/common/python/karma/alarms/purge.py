"""The step of alarms in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.alarms.repository.rules import AlarmRuleRepository
from karma.core.purge import PurgeStep


def purge() -> PurgeStep:
    """Return the step that deletes an account's rules, and the records of the requests that created them."""
    return AlarmRuleRepository()
