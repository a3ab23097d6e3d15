"""JSON Patch (RFC 6902): applies patches, and makes those that lead from one value to another.

Values are JSON as `orjson.loads` returns it, and are never changed: what is returned shares with what was given.

A copy of a few bytes may double a value, so a hundred of them make one that no process holds. Parts are shared until
somebody walks or writes the value, which then costs as much as if they were not. So a patch that others wrote is
applied within `Bounds`, which hold behind each of its operations, and not only behind the last: no operation more than
doubles what has been bounded before. Patches of `difference` copy nothing; `follow` applies those, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_POINTER: Final = re.compile(r"(?:/(?:[^/~]|~[01])*)*")
OPERATIONS: Final = ("add", "remove", "replace", "move", "copy", "test")

_OF_DIFFERENCES: Final = frozenset({"add", "remove", "replace"})
_AROUND: Final = 4
"""Bytes around a member: a comma, a colon and the quotes of its name."""
_WRITTEN: Final = 4
"""Times the size of the largest value that one patch writes, with what it overwrites and removes again."""
_ESCAPED_BYTES: Final = 6
"""Bytes that a character of a name takes at the most, as `\\u0000`."""

Patch = Sequence[Mapping[str, Any]]


class Bounds(NamedTuple):
    """The largest that a value becomes on the way through a patch."""

    size: int
    """Bytes of JSON."""
    levels: int


class PatchFailed(ValueError):
    """The patch is none, or cannot be applied to the value; the message names its operation and says why."""


def apply(value: Any, patch: Patch, bounds: Bounds) -> Any:
    """Return a value with a patch applied, all of it. The work is bounded as well: see `_WRITTEN`.

    Raises:
        PatchFailed: an operation is not one of RFC 6902, names a place that is not there, its test fails, or the
            value is larger or deeper than `bounds` behind it; the value that was given counts as well.
    """
    growth = _Growth(value, bounds)
    for n, operation in enumerate(patch):
        try:
            value, new = _applied(value, operation)
            if new is not None:
                growth.take(value, new)
        except PatchFailed as exc:
            raise PatchFailed(f"operation {n}: {exc}") from None
    return value


def follow(value: Any, patch: Patch) -> Any:
    """Return a value with a patch of `difference` applied, which adds no more than the patch itself contains.

    Raises:
        PatchFailed: the patch is not one that `difference` makes of this value.
    """
    for operation in patch:
        if operation.get("op") not in _OF_DIFFERENCES:
            raise PatchFailed(f"{operation.get('op')!r} is in no difference")
        value, _ = _applied(value, operation)
    return value


def difference(old: Any, new: Any) -> list[dict[str, Any]]:
    """Return a patch that makes `new` of `old`: of `add`, `remove` and `replace`, without parts that are the same.

    A list is taken to have changed between what its beginnings and its ends have in common.
    """
    patch: list[dict[str, Any]] = []
    _compare(old, new, "", patch)
    return patch


def is_same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same JSON; `1` and `1.0` are, `1` and `true` are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def spelled(value: Any) -> bytes:
    """Return a text that two values have in common just when `is_same` says that they are the same: to look them up."""
    return orjson.dumps(_whole(value), option=orjson.OPT_SORT_KEYS)


def _whole(value: Any) -> Any:
    """Return a value whose numbers are whole ones where they are the same as those."""
    if isinstance(value, dict):
        return {name: _whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return list(map(_whole, value))
    if isinstance(value, float) and -(2.0**63) <= value < 2.0**64 and value.is_integer():
        return int(value)
    return value


def steps_of(pointer: str) -> list[str]:
    """Return the names and indexes of which a JSON Pointer (RFC 6901) consists.

    Raises:
        PatchFailed: the text is no pointer.
    """
    if not _POINTER.fullmatch(pointer):
        raise PatchFailed(f"{pointer[:64]!r} is not a JSON Pointer")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def _compare(old: Any, new: Any, at: str, patch: list[dict[str, Any]]) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        patch += [{"op": "remove", "path": f"{at}/{_escaped(name)}"} for name in old if name not in new]
        for name, value in new.items():
            place = f"{at}/{_escaped(name)}"
            if name in old:
                _compare(old[name], value, place, patch)
            else:
                patch.append({"op": "add", "path": place, "value": value})
    elif isinstance(old, list) and isinstance(new, list):
        _compare_lists(old, new, at, patch)
    elif not is_same(old, new):
        patch.append({"op": "replace", "path": at, "value": new})


def _compare_lists(old: list[Any], new: list[Any], at: str, patch: list[dict[str, Any]]) -> None:
    shorter = min(len(old), len(new))
    first = next((n for n in range(shorter) if not is_same(old[n], new[n])), shorter)
    last = next((n for n in range(shorter - first) if not is_same(old[-1 - n], new[-1 - n])), shorter - first)
    in_both = shorter - first - last
    for n in range(first, first + in_both):
        _compare(old[n], new[n], f"{at}/{n}", patch)
    at_end = first + in_both
    patch += [{"op": "remove", "path": f"{at}/{at_end}"}] * (len(old) - len(new))
    added = new[at_end : len(new) - last] if len(new) > len(old) else []
    patch += [{"op": "add", "path": f"{at}/{at_end + n}", "value": value} for n, value in enumerate(added)]


class _New(NamedTuple):
    """A value that an operation has put somewhere."""

    steps: list[str]
    value: Any


class _Growth:
    """Bounds what a value becomes; its size is counted, and measured only where the count is beyond the bounds."""

    def __init__(self, value: Any, bounds: Bounds) -> None:
        self._bounds = bounds
        self._written = 0
        self._require_levels(value, bounds.levels)
        self._size = self._measured(value)

    def take(self, value: Any, new: _New) -> None:
        """Count what is new in a value.

        Raises:
            PatchFailed: the value is beyond its bounds, or too much was written on the way to it.
        """
        written = len(orjson.dumps(new.value))
        self._written += written
        if self._written > _WRITTEN * self._bounds.size:
            raise PatchFailed(f"the patch would write more than {_WRITTEN * self._bounds.size} bytes of JSON")
        self._require_levels(new.value, max(self._bounds.levels - len(new.steps), 0))
        name = _ESCAPED_BYTES * len(new.steps[-1]) if new.steps else 0
        self._size += written + name + _AROUND
        if self._size > self._bounds.size:
            self._size = self._measured(value)

    def _measured(self, value: Any) -> int:
        size = len(orjson.dumps(value))
        if size > self._bounds.size:
            raise PatchFailed(f"the value would be larger than {self._bounds.size} bytes of JSON")
        return size

    def _require_levels(self, value: Any, levels: int) -> None:
        from karma.core.freeform import is_deeper  # who only compares values applies no patches

        if is_deeper(value, levels):
            raise PatchFailed(f"the value would be nested deeper than {self._bounds.levels} levels")


def _applied(value: Any, operation: Mapping[str, Any]) -> tuple[Any, _New | None]:
    kind, path = operation.get("op"), operation.get("path")
    if kind not in OPERATIONS:
        raise PatchFailed(f"op must be one of {', '.join(OPERATIONS)}")
    if not isinstance(path, str):
        raise PatchFailed("path must be a JSON Pointer")
    if kind in {"add", "replace", "test"} and "value" not in operation:
        raise PatchFailed(f"{kind} needs a value")
    steps = steps_of(path)
    if kind == "test":
        if not is_same(_at(value, steps), operation["value"]):
            raise PatchFailed(f"{path[:64]!r} has another value")
        return value, None
    if kind in {"move", "copy"}:
        return _taken(value, steps, operation, moves=kind == "move")
    new = None if kind == "remove" else _New(steps, operation["value"])
    return _changed(value, steps, kind, operation.get("value")), new


def _taken(value: Any, steps: list[str], operation: Mapping[str, Any], *, moves: bool) -> tuple[Any, _New]:
    origin = operation.get("from")
    if not isinstance(origin, str):
        raise PatchFailed("from must be a JSON Pointer")
    way = steps_of(origin)
    found = _at(value, way)
    if moves:
        if steps[: len(way)] == way and len(steps) > len(way):
            raise PatchFailed("a value cannot be moved into itself")
        value = _changed(value, way, "remove", None) if way else None
    return _changed(value, steps, "add", found), _New(steps, found)


def _at(value: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        value = value[_place(value, step)]
    return value


def _place(value: Any, step: str, *, is_new: bool = False) -> Any:
    """Return the key or index of a step in a value, which is there; with `is_new` it may be added there."""
    if isinstance(value, dict):
        if is_new or step in value:
            return step
    elif isinstance(value, list):
        if is_new and step == "-":
            return len(value)
        if _INDEX.fullmatch(step) and int(step) < len(value) + is_new:
            return int(step)
    raise PatchFailed(f"there is no {step[:64]!r} at the path")


def _changed(value: Any, steps: Sequence[str], kind: str, new: Any) -> Any:
    if not steps:
        if kind == "remove":
            raise PatchFailed("the whole value cannot be removed")
        return new
    place = _place(value, steps[0], is_new=kind == "add" and len(steps) == 1)
    if len(steps) > 1:
        new = _changed(value[place], steps[1:], kind, new)
        kind = "replace"
    if isinstance(value, dict):
        if kind == "remove":
            return {name: each for name, each in value.items() if name != place}
        return {**value, place: new}
    if kind == "remove":
        return [*value[:place], *value[place + 1 :]]
    return [*value[:place], new, *value[place + (kind == "replace") :]]
