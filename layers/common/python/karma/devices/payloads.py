"""Payloads of devices, read without pydantic: at 20,000 samples a second a core every microsecond counts.

telemetry  {"boot", "seq", "samples": [{"ts": ms, "m": {metric: number}}]}   <= 128 KB, read in samples.py
heartbeat  {"boot", "seq", "ts", "ip"?, "firmware_version"?}
event      {"boot", "seq", "ts", "kind", "data"?}     kind `status`, data {"status": "ok"|"error"|"updating"}
ready      {"boot", "ts"}
response   {"id", "status", "result"?, "error"?, "ts"?}     a value that is no object is kept as {"value": …}, a text in
`error`
                                                            as {"message": text}
presence   AWS IoT lifecycle event: https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html

The members without `?` take effect whatever the others hold: one of those that cannot be kept is left out and named in
`refused`. Unknown fields are ignored: devices of a later firmware may send more. JSON as C, Go or
Python write it where they have no number, `nan` or `-inf`, is read too (karma.devices.leniency).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from karma.core import freeform
from karma.core.ids import CommandId, is_id
from karma.core.records import Record
from karma.devices import leniency
from karma.devices.domain import ANSWERS, CommandStatus, PresenceEvent

MAX_PAYLOAD_BYTES: Final = 128 * 1024
MAX_ANSWER_BYTES: Final = 32 * 1024
"""Largest `result` and `error` together, in bytes of JSON."""
_BEGINS_CHARS: Final = 1_000
MAX_TS_MS: Final = 253_402_300_799_999
"""Last millisecond of the year 9999, since 1970."""
MAX_SEQ: Final = 9_999_999_999

_BOOT = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_FIRMWARE = re.compile(r"[\x20-\x7e]{1,50}")
_KIND = re.compile(r"[a-z][a-z0-9_.]{0,63}")
_CONDITIONS = {"ok": "", "error": "error", "updating": "updating"}


class Refused(NamedTuple):
    """A part of a message that was refused."""

    field: str
    """Place of the part, such as `samples[3].m["temp_c"]`; "": the whole message."""
    reason: str


class Unreadable(Exception):
    """No part of the payload can be used; `reason` is a fixed word for metrics and dead letters, `field` the place."""

    def __init__(self, reason: str, field: str = "", refused: Sequence[Refused] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field
        self.refused = tuple(refused) or (Refused(field, reason),)


class Heartbeat(Record):
    """A heartbeat."""

    ts: int
    """Time in milliseconds, as the device says."""
    ip: str | None
    """IP address; None: the heartbeat has none that can be kept. The same holds for the next field."""
    firmware_version: str | None
    refused: tuple[Refused, ...] = ()


class DeviceEvent(Record):
    """An event that a device reports."""

    ts: int
    """Time in milliseconds, as the device says."""
    kind: str
    condition: str | None
    """`error`, `updating`, "" for ok; None: the event does not change it."""
    refused: tuple[Refused, ...] = ()


class CommandAnswer(Record):
    """Answer of a device to a command."""

    command_id: CommandId
    status: CommandStatus
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None
    refused: tuple[Refused, ...] = ()


class Lifecycle(Record):
    """A connection or disconnection, with the certificate of the client."""

    certificate_id: str
    event: PresenceEvent


def read_heartbeat(payload: bytes) -> Heartbeat:
    """Read a heartbeat.

    Raises:
        Unreadable: a required member is missing or wrong.
    """
    body, mended = read_mended(payload, "ip", "firmware_version")
    read_boot(body)
    read_integer(body, "seq", MAX_SEQ)
    ts = read_integer(body, "ts", MAX_TS_MS)
    said = {"ip": _address(body.get("ip")), "firmware_version": _firmware(body.get("firmware_version"))}
    wrong = [name for name, known in said.items() if known is None and body.get(name) is not None]
    refused = dict.fromkeys((*mended, *(Refused(name, "WRONG_VALUE") for name in wrong)))
    return Heartbeat(ts, said["ip"], said["firmware_version"], tuple(refused))


def _address(said: object) -> str | None:
    # A zone, `fe80::1%eth0`, means something on the device only, and may be any text of any length.
    if not isinstance(said, str) or "%" in said:
        return None
    try:
        return str(ipaddress.ip_address(said))
    except ValueError:
        return None


def _firmware(said: object) -> str | None:
    return said if isinstance(said, str) and _FIRMWARE.fullmatch(said) else None


def read_event(payload: bytes) -> DeviceEvent:
    """Read an event.

    Raises:
        Unreadable: a required member is missing or wrong.
    """
    body, refused = read_mended(payload, "data")
    read_boot(body)
    ts = read_integer(body, "ts", MAX_TS_MS)
    kind, data = body.get("kind"), body.get("data")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise Unreadable("WRONG_VALUE", "kind")
    condition = None
    if kind == "status":
        said = data.get("status") if isinstance(data, dict) else None
        if not isinstance(said, str) or said not in _CONDITIONS:
            raise Unreadable("WRONG_VALUE", "data.status")
        condition = _CONDITIONS[said]
    if data is not None and not isinstance(data, dict):
        refused += (Refused("data", "WRONG_SHAPE"),)
    elif freeform.is_deeper(data):
        refused += (Refused("data", "TOO_DEEP"),)
    return DeviceEvent(ts, kind, condition, refused)


def read_ready(payload: bytes) -> None:
    """Check that a device's `ready` is one.

    Raises:
        Unreadable: a required member is missing or wrong.
    """
    body = read_object(payload)
    read_boot(body)
    read_integer(body, "ts", MAX_TS_MS)


def read_response(payload: bytes) -> CommandAnswer:
    """Read a device's answer to a command; its status counts even if `result` or `error` cannot be kept.

    Raises:
        Unreadable: id or status is missing or wrong.
    """
    body, mended = read_mended(payload, "result", "error")
    command_id, status = body.get("id"), body.get("status")
    if not isinstance(command_id, str) or not is_id(command_id):
        raise Unreadable("WRONG_VALUE", "id")
    if not isinstance(status, str) or status not in _ANSWER_NAMES:
        raise Unreadable("WRONG_VALUE", "status")
    refused = list(mended)
    if body.get("ts") is not None:
        try:
            read_integer(body, "ts", MAX_TS_MS)
        except Unreadable as exc:
            refused += exc.refused
    result, error = body.get("result"), body.get("error")
    said = {
        "result": result if isinstance(result, dict | None) else {"value": result},
        "error": error if isinstance(error, dict | None) else {"message" if isinstance(error, str) else "value": error},
    }
    for name, value in said.items():
        if freeform.is_deeper(value):
            said[name] = {"not_kept": "TOO_DEEP"}
            refused.append(Refused(name, "TOO_DEEP"))
    if len(payload) > MAX_ANSWER_BYTES:
        refused += _shorten(said)
    return CommandAnswer(CommandId(command_id), CommandStatus(status), said["result"], said["error"], tuple(refused))


def _shorten(said: dict[str, dict[str, Any] | None]) -> list[Refused]:
    """Replace members by their beginning, the larger one's first, until both may be kept."""
    texts = {name: orjson.dumps(value) for name, value in said.items() if value is not None}
    refused: list[Refused] = []
    for name in sorted(texts, key=lambda name: len(texts[name]), reverse=True):
        if sum(map(len, texts.values())) > MAX_ANSWER_BYTES:
            text = texts.pop(name)
            said[name] = {"not_kept": "TOO_LARGE", "size": len(text), "begins": text.decode()[:_BEGINS_CHARS]}
            refused.append(Refused(name, "TOO_LARGE"))
    return refused


def said_ms(payload: bytes) -> int:
    """Return the device's own time of an answer in milliseconds; 0: it has none that can be read."""
    try:
        return read_integer(read_object(payload), "ts", MAX_TS_MS)
    except Unreadable:
        return 0


def read_presence(payload: bytes) -> Lifecycle | None:
    """Read a lifecycle event; None for the kinds without a connection (`connect_failed`, subscriptions).

    Raises:
        Unreadable: a required member is missing or wrong.
    """
    body = read_object(payload)
    kind = body.get("eventType")
    if kind not in ("connected", "disconnected"):
        return None
    certificate_id, session = body.get("principalIdentifier"), body.get("sessionIdentifier")
    if not isinstance(certificate_id, str) or not isinstance(session, str) or len(session) > 128:
        raise Unreadable("WRONG_SHAPE")
    event = PresenceEvent(
        ts=read_integer(body, "timestamp", MAX_TS_MS),
        version=read_integer(body, "versionNumber", 2**53),
        connected=kind == "connected",
        session=session,
    )
    return Lifecycle(certificate_id, event)


_ANSWER_NAMES = frozenset(str(status) for status in ANSWERS)


def read_object(payload: bytes) -> dict[str, Any]:
    """Return the JSON object of a payload, with the values that `leniency` reads.

    Raises:
        Unreadable: the payload is no JSON object.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Unreadable("TOO_LARGE")
    try:
        body = freeform.loads(payload, levels=None, is_exact=False)
    except (freeform.NotJson, freeform.TooDeep) as exc:
        try:
            body = leniency.loads(payload)
        except leniency.UnreadablePayload:
            if isinstance(exc, freeform.TooDeep):
                raise Unreadable("TOO_DEEP", exc.member) from None
            raise Unreadable("NOT_JSON") from None
    if not isinstance(body, dict):
        raise Unreadable("WRONG_SHAPE")
    return body


def read_mended(payload: bytes, *members: str) -> tuple[dict[str, Any], tuple[Refused, ...]]:
    """Return the JSON object of a payload, and the values of these members that were mended.

    Raises:
        Unreadable: the payload is no JSON object.
    """
    body = read_object(payload)
    refused: list[Refused] = []
    for member in members:
        # What is deeper is left to the reader of the member, which does not keep it.
        if member in body and not freeform.is_deeper(body[member]):
            body[member], wrong = leniency.mend(body[member])
            refused += [Refused(f"{member}{place}", "WRONG_VALUE") for place in wrong]
    return body, tuple(refused)


def read_boot(body: dict[str, Any]) -> str:
    """Return the boot id of a message."""
    boot = body.get("boot")
    if not isinstance(boot, str) or not _BOOT.fullmatch(boot):
        raise Unreadable("WRONG_VALUE", "boot")
    return boot


def read_integer(body: dict[str, Any], name: str, limit: int) -> int:
    """Return a field that is a whole number from 0 to a limit."""
    value = body.get(name)
    if type(value) is not int or not 0 <= value <= limit:
        raise Unreadable("WRONG_VALUE", name)
    return value


def is_dated_before(given: object, since_ms: int) -> bool:
    """Tell whether a sample says itself that it is of before a time in milliseconds; 0: none is."""
    ts = given.get("ts") if isinstance(given, dict) else None
    return since_ms > 0 and type(ts) is int and ts < since_ms
