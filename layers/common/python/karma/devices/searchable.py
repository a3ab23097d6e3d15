"""Rows of search for active devices, with the status that their newest facts and presence give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from karma.core.happenings import Image, ItemChange, number_in, text_in
from karma.core.ids import DeviceId, UserId, made_ms
from karma.core.search_rows import RowChange, SearchKey, SearchText, SearchType
from karma.core.searchables import SearchSource, json_in, kind_of
from karma.devices.images import device_of

_DEVICE: Final = SearchType(
    name="device",
    words=("devices", "设备"),
    permission="device:read",
    statuses={
        "online": ("在线", "connected"),
        "offline": ("离线", "disconnected"),
        "error": ("故障",),
        "updating": ("更新中",),
    },
)
_SILENT_MS: Final = 5_000
"""A message after less silence than this does not make a device known to be online that was not before."""


class DeviceSource:
    """Devices, each found by its owner."""

    types: Sequence[SearchType] = (_DEVICE,)

    def rows(self, change: ItemChange) -> Iterable[RowChange]:
        """Return the row of the device that an item belongs to, read anew unless the device is gone."""
        kind, image = kind_of(change), change.new or change.old
        if kind not in {"device", "device_presence", "device_latest"}:
            return []
        if kind == "device_latest" and not _may_change_status(change):
            return []
        if kind == "device" and text_in(change.new, "state") == "provisioning":
            return []
        found = device_of(image)
        return [] if found is None else [_row(*found)]


def source() -> SearchSource:
    """Return what is found of devices."""
    return DeviceSource()


def _may_change_status(change: ItemChange) -> bool:
    """Tell whether a message of a device may have changed its status: what it says, or that it speaks again."""
    old, new = _facts(change.old), _facts(change.new)
    return (
        _seen_ms(change.new, new) - _seen_ms(change.old, old) >= _SILENT_MS
        or old.get("condition") != new.get("condition")
        or old.get("ready_ms") != new.get("ready_ms")
    )


def _seen_ms(image: Image | None, facts: dict[str, Any]) -> int:
    return max(number_in(image, "seen_ms"), int(facts.get("last_seen_ms", 0)))


def _facts(image: Image | None) -> dict[str, Any]:
    return json_in(image, "facts") or {}


def _row(user_id: UserId, device_id: DeviceId) -> RowChange:
    from karma.core.clock import epoch_ms, parse_iso  # local: few changes are of a device
    from karma.devices.repository.devices import DeviceRepository

    key = SearchKey(user_id, _DEVICE.name, device_id, made_ms(device_id))
    current = DeviceRepository().current(user_id, device_id, consistent=True)
    if current is None:
        return RowChange(key, None)
    device = current.device
    place = (str(value) for value in (device.location or {}).values() if isinstance(value, str))
    text = SearchText(
        name=device.name,
        code=f"{device.serial_number} {device.mac}",
        tags=device.tags,
        text=" ".join([device.model, *place]),
        status=current.status,
        updated_ms=epoch_ms(parse_iso(device.updated_at)),
    )
    return RowChange(key, text)
