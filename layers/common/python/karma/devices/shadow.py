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
    """State of a change: it is asked for, then applied or refused.

    One stays asked for where the request died in between: the settings tell whether it took effect.
    """

    ASKED = "asked"
    APPLIED = "applied"
    REFUSED = "refused"


class SettingsChange(Record, kw_only=True):
    """A change of the desired settings of a device, by somebody."""

    id: str
    """UUIDv7: the order of changes."""
    device_id: DeviceId
    changed_by: UserId
    patch: Json
    """The merge patch that was asked for."""
    at: datetime
    state: ChangeState = ChangeState.ASKED
    settings_version: int | None = None
    """Version of the settings that it made; None: none, or it is not known."""


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
        """Return it without what is older than a device's row: whole seconds, as the broker counts."""
        least = int(moment.timestamp())
        return replace(
            self,
            desired=_kept(self.desired, self.desired_stamps, least),
            reported=_kept(self.reported, self.reported_stamps, least),
        )


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


def removing(before: Json, kept: Json, patch: Json) -> dict[str, Any]:
    """Return a patch with which the broker, too, removes what is in `before` and not in `kept`."""
    out: dict[str, Any] = dict(patch)
    for name, value in before.items():
        wanted, stays = patch.get(name), kept.get(name)
        if isinstance(value, Mapping) and (isinstance(stays, Mapping) or isinstance(wanted, Mapping)):
            if name in patch and not isinstance(wanted, Mapping):
                continue  # replaced or removed as a whole
            inner = removing(value, stays if isinstance(stays, Mapping) else {}, wanted or {})
            if inner:
                out[name] = inner
        elif name not in kept and name not in patch:
            out[name] = None
    return out


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


def _kept(values: Json, stamps: object, least: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    known = stamps if isinstance(stamps, Mapping) else {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            inner = _kept(value, known.get(name), least)
            if inner:
                kept[name] = inner
        elif _newest(known.get(name)) >= least:
            kept[name] = value
    return kept


def _newest(stamp: object) -> int:
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
        elif name not in reported or wanted != said or isinstance(wanted, bool) is not isinstance(said, bool):
            delta[name] = wanted
    return delta
