"""Settings of a device: what its owner wants of it, what it says that it has, and how they differ. Pure; no I/O.

desired    what the owner, or who may control the device, has asked for
reported   what the device says that it uses
delta      what is desired and not reported, which the broker tells the device

Both stand in the device's named shadow at AWS IoT, which is their only truth. A shadow belongs to the thing, and things
outlive their owners: so each value counts from the second in which the device's row was made. What is older is a former
owner's, is shown to nobody, and is removed by the next change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import orjson

from karma.core.errors import ValidationFailed
from karma.core.ids import DeviceId, UserId
from karma.core.records import Record

MAX_DESIRED_BYTES: Final = 4 * 1024
"""Largest desired settings in bytes of JSON: half of a shadow, so that what the device reports has room beside them."""
MAX_LEVELS: Final = 5
"""Levels of objects and lists that AWS takes within a shadow's desired state."""
MAX_VALUES: Final = 200
MAX_NAME_CHARS: Final = 64
CHANGE_RETENTION_S: Final = 90 * 24 * 3600
_FIELD: Final = "desired"

Json = Mapping[str, Any]


class ChangeState(StrEnum):
    """State of a change: it is asked for, then applied or refused; what the device reports is reported.

    One stays asked for where the request died in between: the settings tell whether it took effect.
    """

    ASKED = "asked"
    APPLIED = "applied"
    REFUSED = "refused"
    REPORTED = "reported"


class SettingsChange(Record, kw_only=True):
    """A change of the desired settings of a device by somebody, or of the reported ones by the device."""

    id: str
    """UUIDv7: the order of changes."""
    device_id: DeviceId
    changed_by: UserId | None
    """The user who asked for it; None: the device reports it."""
    patch: Json
    """The merge patch that was asked for, or that the report is."""
    at: datetime
    state: ChangeState = ChangeState.ASKED
    settings_version: int | None = None
    """Version of the settings that it made; None: none, or it is not known."""
    is_cut: bool = False
    """The report is larger than what is kept of one: `patch` is empty."""


class Shadow(Record, kw_only=True):
    """Settings as the broker has them; `version` 0: it has none."""

    version: int = 0
    desired: Json = field(default_factory=dict)
    reported: Json = field(default_factory=dict)
    desired_stamps: Json = field(default_factory=dict)
    """The shape of `desired` with `{"timestamp": seconds}` for each value; a list has one an element."""
    reported_stamps: Json = field(default_factory=dict)

    @property
    def delta(self) -> Json:
        """Return what is desired and not reported, or reported otherwise."""
        return _delta(self.desired, self.reported)

    @property
    def desired_at(self) -> dict[str, int]:
        """Return the time in seconds at which each desired setting was last asked for."""
        return {name: _newest(self.desired_stamps.get(name)) for name in self.desired}

    @property
    def reported_at(self) -> dict[str, int]:
        """Return the time in seconds at which each setting was last reported."""
        return {name: _newest(self.reported_stamps.get(name)) for name in self.reported}

    def since(self, moment: datetime) -> Shadow:
        """Return it without what is older than a device's row, in whole seconds, as the broker counts.

        Left out are also objects without a value, and, where something is older, lists without one: they have no time.
        """
        least = int(moment.timestamp())
        halves = (self.desired, self.desired_stamps), (self.reported, self.reported_stamps)
        is_mixed = any(at < least for values, stamps in halves for at in _times(values, stamps))
        untimed = 0 if is_mixed else least
        desired, reported = (_kept(*half, least, untimed) for half in halves)
        return replace(self, desired=desired, reported=reported)


def merged(settings: Json, patch: Json) -> dict[str, Any]:
    """Return settings after a merge patch (RFC 7396): null removes, objects are merged, all else is replaced."""
    after = dict(settings)
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        elif isinstance(value, Mapping):
            before = after.get(name)
            after[name] = merged(before if isinstance(before, Mapping) else {}, value)
        else:
            after[name] = value
    return after


def without_empty(settings: Json) -> dict[str, Any]:
    """Return settings without the objects that have no value: they say nothing, and brokers differ in keeping them."""
    kept = {name: without_empty(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
    return {name: value for name, value in kept.items() if value or not isinstance(value, Mapping)}


def same(one: object, other: object) -> bool:
    """Tell whether two values are the same as JSON: true is not 1, though 1 is 1.0."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and isinstance(one, bool) is isinstance(other, bool)


def patch_to(wanted: Json, *, stored: Json, seen: Json) -> dict[str, Any]:
    """Return the merge patch by which stored settings become the wanted ones.

    What is not in `seen`, the part of them that is not a former owner's, is said again: it gets a time of its own.
    """
    patch: dict[str, Any] = {}
    for name, value in wanted.items():
        before, shown = stored.get(name), seen.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = patch_to(value, stored=before, seen=shown if isinstance(shown, Mapping) else {})
            if inner:
                patch[name] = inner
        elif name not in seen or not same(shown, value):
            patch[name] = value
    for name, value in stored.items():
        if name not in wanted and (not isinstance(value, Mapping) or without_empty(value)):
            patch[name] = None
    return patch


def check_desired(settings: Json) -> None:
    """Check desired settings as a change would leave them.

    Raises:
        ValidationFailed: they are larger or deeper than a shadow holds, have too many values, a name that is none, or
            null in a list.
    """
    if len(orjson.dumps(settings)) > MAX_DESIRED_BYTES:
        raise _refused(f"all desired settings together have at most {MAX_DESIRED_BYTES} bytes as JSON")
    values = 0
    for level, name, value in _walk(settings, 1):
        if level > MAX_LEVELS:
            raise _refused(f"at most {MAX_LEVELS} levels")
        if name is not None and not (0 < len(name) <= MAX_NAME_CHARS and name.isprintable()):
            raise _refused(f"names have 1 to {MAX_NAME_CHARS} printable characters")
        if name is None and value is None:
            raise _refused("a list holds no null")
        values += 1
    if values > MAX_VALUES:
        raise _refused(f"at most {MAX_VALUES} values in all")


def _refused(message: str) -> ValidationFailed:
    return ValidationFailed.of(_FIELD, message)


def _walk(value: object, level: int) -> Iterator[tuple[int, str | None, object]]:
    if level > MAX_LEVELS + 1:
        return
    inner: list[tuple[str | None, object]] = []
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = [(None, each) for each in value]
    for name, each in inner:
        yield level, name, each
        yield from _walk(each, level + 1)


def _kept(values: Json, stamps: object, least: int, untimed: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    known = stamps if isinstance(stamps, Mapping) else {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = _kept(value, known.get(name), least, untimed)
            if inner:
                kept[name] = inner
        elif (_newest(known.get(name)) or untimed) >= least:
            kept[name] = value
    return kept


def _times(values: Json, stamps: object) -> Iterator[int]:
    known = stamps if isinstance(stamps, Mapping) else {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _times(value, known.get(name))
        elif at := _newest(known.get(name)):
            yield at


def _newest(stamp: object) -> int:
    """Return the newest time in the stamps of a value; 0: it has none, as a list without values."""
    if isinstance(stamp, Mapping):
        at = stamp.get("timestamp")
        # A setting may be named so itself: its stamp is an object.
        return at if isinstance(at, int) else max((_newest(each) for each in stamp.values()), default=0)
    if isinstance(stamp, list):
        return max((_newest(each) for each in stamp), default=0)
    return 0


def _delta(desired: Json, reported: Json) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    for name, wanted in desired.items():
        said = reported.get(name)
        if isinstance(wanted, Mapping) and isinstance(said, Mapping):
            inner = _delta(wanted, said)
            if inner:
                delta[name] = inner
        elif name not in reported or not same(wanted, said):
            delta[name] = wanted
    return delta
