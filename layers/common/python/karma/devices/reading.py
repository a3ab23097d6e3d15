"""Reading devices, as their owners and agents do: one, a page of them, or those that words name."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from karma.core.errors import InvalidRequest, NotFound
from karma.core.ids import DeviceId, UserId, is_id
from karma.core.records import Record
from karma.devices.domain import (
    SERIAL,
    CurrentDevice,
    Device,
    DeviceModel,
    DeviceStatus,
    Latest,
)
from karma.devices.repository.devices import DeviceRepository

MAX_OFFSET_ROWS = 1_000
"""Largest number of an owner's rows that pages by number, filters and sorting in memory read."""
MAX_TEXT_CHARS = 200
"""Characters of the text that a list is filtered by."""


class DeviceQuery(Record, kw_only=True):
    """Filters, order and page of a list. `after` is the `next_position` of the page before; it excludes `offset`."""

    limit: int = 20
    offset: int = 0
    after: Mapping[str, object] | None = None
    sort: str = "created_at"
    descending: bool = True
    status: DeviceStatus | None = None
    model: DeviceModel | None = None
    tag: str | None = None
    """A tag of the devices, spelled as theirs."""
    text: str = ""
    """Words that stand somewhere in name, serial number, MAC, model, tags or place, in any order and case."""

    @property
    def words(self) -> tuple[str, ...]:
        """Return the words of `text`, without case and with one spelling of each character."""
        return tuple(_folded(self.text).split())

    @property
    def filtered(self) -> bool:
        """Tell whether rows are dropped after reading."""
        return self.status is not None or self.model is not None or self.tag is not None or bool(self.words)

    @property
    def in_order(self) -> bool:
        """Tell whether an index has the order that is asked for."""
        return self.sort in ("created_at", "name") and not self.filtered

    def position_of(self, current: CurrentDevice) -> Mapping[str, object]:
        """Return the position behind a device, from which the next page's `after` goes on."""
        if self.in_order:
            return {"id": current.device.id, "name": current.device.name}
        return self.key_position_of(current)

    def key_position_of(self, current: CurrentDevice) -> Mapping[str, object]:
        """Return the position behind a device in a list that is sorted in memory."""
        return {"id": current.device.id, "key": _sort_key(self.sort)(current)[0]}


class DevicePage(Record, kw_only=True):
    """A page of devices."""

    devices: tuple[CurrentDevice, ...]
    total: int
    total_capped: bool = False
    next_position: Mapping[str, object] | None = None


class DeviceReader:
    """Reads the devices of an owner."""

    def __init__(self, devices: DeviceRepository) -> None:
        self._devices = devices

    def get(self, user_id: UserId, device_id: str) -> CurrentDevice:
        """Return an active device, in one query.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
        """
        current = self._devices.current(user_id, DeviceId(device_id)) if is_id(device_id) else None
        if current is None:
            raise NotFound(f"Device {device_id} not found")
        return current

    def latest(self, user_id: UserId, device_id: str) -> Latest:
        """Return the newest facts of a device.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
        """
        return self.get(user_id, device_id).latest

    def find_by_ref(self, user_id: UserId, ref: str) -> CurrentDevice:
        """Return a device by id or by serial number.

        Raises:
            NotFound: the device does not exist, is deleted, or has another owner.
        """
        if is_id(ref):
            return self.get(user_id, ref)
        claim = self._devices.claim_of(ref) if SERIAL.fullmatch(ref) else None
        if claim is None or claim.user_id != user_id:
            raise NotFound(f"Device {ref} not found")
        current = self._devices.current(user_id, claim.device_id)
        if current is None:
            raise NotFound(f"Device {ref} not found")
        return current

    def list(self, user_id: UserId, query: DeviceQuery) -> DevicePage:
        """Return a page of the owner's devices.

        Unfiltered by creation: one query and, unless the first page holds all, one read of the counter. By name: one
        query and one batch read. Filters, other orders and offsets read the first 1,000 rows.

        Raises:
            InvalidRequest: the page, offset or order needs more than 1,000 rows.
        """
        if query.offset + query.limit > MAX_OFFSET_ROWS:
            raise InvalidRequest(
                f"Pages by number end at {MAX_OFFSET_ROWS} rows; go on with `cursor`", code="INVALID_PAGE"
            )
        if query.in_order:
            return self._page_in_order(user_id, query)
        return self._page_in_memory(user_id, query)

    def _page_in_order(self, user_id: UserId, query: DeviceQuery) -> DevicePage:
        wanted = query.offset + query.limit
        after = query.after or {}
        after_id = DeviceId(str(after["id"])) if "id" in after else None
        if query.sort == "name":
            start = (str(after.get("name", "")), after_id) if after_id is not None else None
            rows = self._devices.by_name(user_id, descending=query.descending, limit=wanted, after=start)
        else:
            rows = self._devices.by_age(user_id, newest_first=query.descending, limit=wanted, after=after_id)
        # A list that was seen whole needs no counter, and is not behind the stream.
        seen_whole = not rows.more and after_id is None
        total = len(rows.devices) if seen_whole else max(self._devices.count(user_id), len(rows.devices))
        shown = rows.devices[query.offset :]
        return DevicePage(
            devices=tuple(shown),
            total=total,
            next_position=query.position_of(shown[-1]) if rows.more and shown else None,
        )

    def _page_in_memory(self, user_id: UserId, query: DeviceQuery) -> DevicePage:
        rows = self._devices.by_age(user_id, newest_first=True, limit=MAX_OFFSET_ROWS)
        if rows.more and query.sort not in ("created_at", "name"):
            raise InvalidRequest(
                f"Owners of more than {MAX_OFFSET_ROWS} devices can sort by created_at or name", code="INVALID_SORT"
            )
        return page_of(rows.devices, query, is_cut=rows.more)

    def each_of(self, devices: Sequence[tuple[UserId, DeviceId]]) -> Sequence[CurrentDevice]:
        """Return those of several owners' devices that are active, in their order, by one batch read a 33."""
        return self._devices.each_of(devices)


def page_of(devices: Sequence[CurrentDevice], query: DeviceQuery, *, is_cut: bool = False) -> DevicePage:
    """Return a page of devices that were read; `is_cut`: there are more, that were not."""
    words = query.words
    matches = [each for each in devices if _matches(each, query) and _says(each.device, words)]
    matches.sort(key=_sort_key(query.sort), reverse=query.descending)
    total, key = len(matches), _sort_key(query.sort)
    if query.after is not None:
        passed = (query.after.get("key"), query.after.get("id"))
        matches = [each for each in matches if (key(each) < passed if query.descending else key(each) > passed)]
    shown = matches[query.offset : query.offset + query.limit]
    more = query.offset + query.limit < len(matches)
    return DevicePage(
        devices=tuple(shown),
        total=total,
        total_capped=is_cut,
        next_position=query.key_position_of(shown[-1]) if more and shown else None,
    )


def _matches(current: CurrentDevice, query: DeviceQuery) -> bool:
    if query.status is not None and current.status is not query.status:
        return False
    if query.tag is not None and query.tag not in current.device.tags:
        return False
    return query.model is None or current.device.model is query.model


def _says(device: Device, words: Sequence[str]) -> bool:
    if not words:
        return True
    place = (value for value in (device.location or {}).values() if isinstance(value, str))
    said = _folded("\n".join((device.name, device.serial_number, device.mac, device.model, *device.tags, *place)))
    return all(word in said for word in words)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _sort_key(field: str) -> Callable[[CurrentDevice], tuple[Any, str]]:
    def key(current: CurrentDevice) -> tuple[Any, str]:
        device = current.device
        value: Any = {
            "created_at": device.id,
            "name": device.name.casefold(),
            "updated_at": device.updated_at,
            "model": device.model,
            "status": current.status,
            "serial_number": device.serial_number,
            "last_heartbeat": current.latest.last_seen_ms,
        }[field]
        return value, device.id

    return key
