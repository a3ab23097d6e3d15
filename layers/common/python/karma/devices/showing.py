"""Payloads that dead letters show to who owns a device since a transfer (docs/adr/0071): none that may be of before.

A payload is shown where each of its members is one that the reader knows, none stands twice, and all of it is dated
since then. What the reader passes over, a day's summary or a list of former values, may be of any time:

telemetry  each sample has a `ts` of since then, and metrics that are no objects or lists
heartbeat, ready    `ts`, and members that are no objects or lists
event      as these; `data` has a `status` at the most: other kinds have free-form `data`, which nothing dates
response   the command is the owner's own (karma.devices.ingest knows), so `result` and `error` are theirs
ask        never: it has no time

Otherwise the payload is withheld, and the places of what was refused are told without names that the device chose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from karma.devices import leniency
from karma.devices.payloads import Refused
from karma.devices.topics import read_topic


class ShownMessage(NamedTuple):
    """Payload and refused parts of a message, as its device's owner may read them."""

    payload: bytes
    refused: Sequence[Refused]
    is_withheld: bool = False


_PLACE: Final = re.compile(r"([a-z_]+)((?:\[[0-9]+\])?)((?:\.(?:ts|m|status))?)")
_MEMBERS: Final[Mapping[str, frozenset[str]]] = {
    "telemetry": frozenset({"boot", "seq", "samples"}),
    "heartbeat": frozenset({"boot", "seq", "ts", "ip", "firmware_version"}),
    "event": frozenset({"boot", "seq", "ts", "kind", "data"}),
    "ready": frozenset({"boot", "ts"}),
    "response": frozenset({"id", "status", "result", "error", "ts"}),
}
_KNOWN: Final = frozenset({"id", *(name for names in _MEMBERS.values() for name in names)})


def shown_to_owner(
    payload: bytes, refused: Sequence[Refused], *, topic: str, since_ms: int, is_own_answer: bool = False
) -> ShownMessage:
    """Return what is shown of a message to who owns its device since a moment in milliseconds.

    Args:
        payload: as the device sent it.
        refused: its refused parts.
        topic: on which it came.
        since_ms: 0: the device is its first owner's, who is shown everything.
        is_own_answer: it answers a command of this owner.
    """
    if since_ms == 0 or _is_of_since(payload, topic, since_ms, is_own_answer=is_own_answer):
        return ShownMessage(payload, refused)
    return ShownMessage(b"", [Refused(_plain(each.field), each.reason) for each in refused], is_withheld=True)


def _plain(place: str) -> str:
    """Return the beginning of a place that the service itself has named."""
    found = _PLACE.match(place)
    return found[0] if found is not None and found[1] in _KNOWN else ""


def _is_of_since(payload: bytes, topic: str, since_ms: int, *, is_own_answer: bool) -> bool:
    source = read_topic(topic)
    judge = _JUDGES.get(source.kind) if source is not None else None
    if source is None or judge is None:
        return False
    try:
        body = leniency.loads(payload, is_repeat_refused=True)
    except leniency.UnreadablePayload:
        return False
    if not isinstance(body, dict) or not body.keys() <= _MEMBERS[source.kind]:
        return False
    return judge(body, since_ms) and (is_own_answer or source.kind != "response")


def _is_since(value: Mapping[str, Any], since_ms: int) -> bool:
    return type(value.get("ts")) is int and value["ts"] >= since_ms


def _are_plain(values: Mapping[str, Any], *others: str) -> bool:
    return not any(isinstance(value, dict | list) for name, value in values.items() if name not in others)


def _is_telemetry_of_since(body: Mapping[str, Any], since_ms: int) -> bool:
    samples = body.get("samples")
    return (
        _are_plain(body, "samples")
        and isinstance(samples, list)
        and bool(samples)
        and all(
            isinstance(each, dict)
            and each.keys() <= {"ts", "m"}
            and _is_since(each, since_ms)
            and isinstance(each.get("m", {}), dict)
            and _are_plain(each.get("m", {}))
            for each in samples
        )
    )


def _is_word_of_since(body: Mapping[str, Any], since_ms: int) -> bool:
    data = body.get("data")
    is_known = data is None or (isinstance(data, dict) and data.keys() <= {"status"} and _are_plain(data))
    return _are_plain(body, "data") and _is_since(body, since_ms) and is_known


def _is_answer_of_since(body: Mapping[str, Any], since_ms: int) -> bool:
    return "ts" not in body or _is_since(body, since_ms)


_JUDGES: Final[Mapping[str, Callable[[Mapping[str, Any], int], bool]]] = {
    "telemetry": _is_telemetry_of_since,
    "heartbeat": _is_word_of_since,
    "event": _is_word_of_since,
    "ready": _is_word_of_since,
    "response": _is_answer_of_since,
}
