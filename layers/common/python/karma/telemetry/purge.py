"""The step of exports in the deletion of an account: functions/background/deletion.py gives it what it reaches.

What else telemetry keeps goes with the devices (removal.py).
"""

from __future__ import annotations

from typing import Final

from karma.core.dynamo.partitions import empty
from karma.core.purge import PurgeAttempt
from karma.telemetry.exports.items import ExportsItem, owner_pk
from karma.telemetry.exports.ports import ExportObjects

_OBJECTS: Final = 500


class ExportsPurge:
    """Removes an account's exports with their tables; links end with these."""

    name = "telemetry"

    def __init__(self, objects: ExportObjects) -> None:
        self._objects = objects

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove all of it; True when it is done.

        None is made behind it: what creates one checks for the account. A worker that still writes finds its item gone.

        Raises:
            Upstream: S3 or the database did not answer.
        """
        if not empty(ExportsItem, owner_pk(purge.user_id), purge):
            return False
        while self._objects.remove_all(purge.user_id, limit=_OBJECTS) == _OBJECTS:
            if purge.over():
                return False
        return True
