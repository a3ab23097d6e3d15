"""Counting of active devices from the table's stream."""

from __future__ import annotations

from collections.abc import Sequence

from karma.core.dynamo.counters import fold
from karma.core.happenings import Image
from karma.core.ids import UserId
from karma.core.streams import InOrder, StreamRecord
from karma.devices.domain import DeviceState
from karma.devices.repository.items import (
    DEVICE_PREFIX,
    DeviceCounter,
    devices_counter_key,
)
from karma.identity.transactional import require_account

_OWNER_PREFIX = "USER#"


def is_active(image: Image | None) -> bool:
    """Tell whether an image of an item is that of an active device's row."""
    return (
        image is not None and image.get("type") == {"S": "device"} and image.get("state") == {"S": DeviceState.ACTIVE}
    )


class DeviceCounting(InOrder):
    """Adds changes of rows to their owner's counter, in the order of the stream."""

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Count changes, and return how many counted: a repeat does not, nor does a change of something else.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer; the changes must be delivered again.
        """
        return sum(self._counted(each) for each in records)

    def _counted(self, record: StreamRecord) -> bool:
        if not (record.key.pk.startswith(_OWNER_PREFIX) and record.key.sk.startswith(DEVICE_PREFIX)):
            return False
        difference = int(is_active(record.change.new)) - int(is_active(record.change.old))
        if difference == 0:
            return False
        owner = UserId(record.key.pk.removeprefix(_OWNER_PREFIX))
        return fold(
            DeviceCounter(*devices_counter_key(owner)),
            change=difference,
            sequence_number=record.sequence_number,
            require_parent=lambda tx: require_account(tx, owner),
        )
