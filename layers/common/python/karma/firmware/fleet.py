"""The devices of an account, as rollouts need them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from karma.core.ids import DeviceId, UserId
from karma.devices.domain import CurrentDevice
from karma.firmware.rollouts import RolloutCandidate

if TYPE_CHECKING:
    from karma.devices.repository.deleted_devices import DeletedDeviceRepository
    from karma.devices.repository.devices import DeviceRepository

_PAGE: Final = 100


class DeviceFleet:
    """Reads devices, eventually consistent but for those that are gone."""

    def __init__(self, devices: DeviceRepository, deleted: DeletedDeviceRepository) -> None:
        self._devices = devices
        self._deleted = deleted

    def active(self, user_id: UserId, ids: Sequence[DeviceId]) -> frozenset[DeviceId]:
        """See advance.ActiveDevices; one batch read a 33 of them."""
        return frozenset(each.device.id for each in self._devices.among(user_id, ids))

    def gone(self, user_id: UserId) -> frozenset[DeviceId]:
        """See advance.ActiveDevices; one strongly consistent Query, of what a sweep has not removed yet."""
        return frozenset(each.device_id for each in self._deleted.gone(user_id))

    def named(self, user_id: UserId, ids: Sequence[DeviceId]) -> list[RolloutCandidate]:
        """See rollouts.Candidates; one batch read a 33 of them."""
        return [_candidate(each) for each in self._devices.among(user_id, ids)]

    def tagged(self, user_id: UserId, tag: str | None, *, at_most: int) -> list[RolloutCandidate]:
        """See rollouts.Candidates; one Query a hundred devices of the account."""
        found: list[RolloutCandidate] = []
        after: DeviceId | None = None
        while len(found) < at_most:
            page = self._devices.by_age(user_id, newest_first=True, limit=_PAGE, after=after)
            found += [_candidate(each) for each in page.devices if tag is None or tag in each.device.tags]
            if not page.more:
                break
            after = page.devices[-1].device.id
        return found[:at_most]


def _candidate(current: CurrentDevice) -> RolloutCandidate:
    device, latest = current.device, current.latest
    return RolloutCandidate(
        device_id=device.id,
        serial=device.serial_number,
        model=device.model.value,
        firmware_version=latest.firmware_version or device.firmware_version,
    )
