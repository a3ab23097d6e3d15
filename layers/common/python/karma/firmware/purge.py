"""The step of firmware in the deletion of an account: functions/background/deletion.py gives it what it reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from karma.core.dynamo.partitions import empty
from karma.core.purge import PurgeAttempt
from karma.firmware.items import FirmwareItem, owner_pk, rollout_pk

if TYPE_CHECKING:
    from karma.firmware.ports import FirmwareBytes, JobRemover
    from karma.firmware.repository.rollouts import RolloutRepository

_PAGE: Final = 20
_OBJECTS: Final = 500


class FirmwarePurge:
    """Removes an account's rollouts with their jobs, then its releases with their bytes."""

    name = "firmware"

    def __init__(self, *, rollouts: RolloutRepository, store: FirmwareBytes, jobs: JobRemover) -> None:
        self._rollouts = rollouts
        self._store = store
        self._jobs = jobs

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove all of it; True when it is done. None is made behind it: what creates checks for the account.

        Raises:
            Upstream: IoT, S3 or the database did not answer.
        """
        below = ""
        while page := self._rollouts.page(purge.user_id, below=below, limit=_PAGE):
            for rollout in page:
                for batch in self._rollouts.batches(rollout.id):
                    # A device has only the last of its rounds.
                    for round_ in range(1, rollout.round + 1):
                        if purge.over():
                            return False
                        self._jobs.remove(batch.job_id(round_))
                if not empty(FirmwareItem, rollout_pk(rollout.id), purge):
                    return False
            below = page[-1].id
        while self._store.remove_all(purge.user_id, limit=_OBJECTS) == _OBJECTS:
            if purge.over():
                return False
        return empty(FirmwareItem, owner_pk(purge.user_id), purge)
