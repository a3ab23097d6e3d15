"""What devices send, read without pydantic: at 20,000 samples a second a core every microsecond counts.

telemetry  {"boot", "seq", "samples": [{"ts": ms, "m": {metric: number}}]}   <= 128 KB, spanning <= 1 h
heartbeat  {"boot", "seq", "ts", "ip"?, "firmware_version"?}
event      {"boot", "seq", "ts", "kind", "data"?}     kind `status`, data {"status": "ok"|"error"|"updating"}
ready      {"boot", "ts"}
response   {"id", "status", "result"?, "error"?, "ts"}
presence   AWS IoT lifecycle event: https://docs.aws.amazon.com/iot/latest/developerguide/life-cycle-events.html

Unknown fields are ignored: devices of a later firmware may send more.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from karma.core import freeform
from karma.core.ids import CommandId, is_id
from karma.devices.domain import ANSWERS, MAX_FUTURE_S, RAW_RETENTION_S, CommandStatus, PresenceEvent, Reading

MAX_PAYLOAD_BYTES: Final = 128 * 1024
MAX_SPAN_MS: Final = 3_600_000
MAX_SAMPLES: Final = 3_000
MAX_METRICS_A_SAMPLE: Final = 64
MAX_ANSWER_BYTES: Final = 32 * 1024
MAX_TS_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""
MAX_SEQ: Final = 9_999_999_999
MAX_MAGNITUDE: Final = 1e300

_BOOT = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_FIRMWARE = re.compile(r"[\x20-\x7e]{1,50}")
_KIND = re.compile(r"[a-z][a-z0-9_.]{0,63}")
_CONDITIONS = {"ok": "", "error": "error", "updating": "updating"}

# Fleets use few names: each is matched once a process. Bounded, so that a hostile device cannot fill the memory.
_known_metrics: set[str] = set()
_MAX_KNOWN_METRICS = 4096


class Unreadable(Exception):
    """The payload is not what its topic says; `reason` is a fixed word for metrics and dead letters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Batch:
    """A batch of samples, sorted by time."""

    boot: str
    seq: int
    min_ts: int
    max_ts: int
    count: int
    samples_json: bytes
    """`[[ts, {metric: value}], ...]`."""
    digest: str
    newest: Mapping[str, Reading]
    """The newest value of each metric."""


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life."""

    ip: str | None
    firmware_version: str | None


@dataclass(frozen=True)
class Event:
    """Something that the device wants known."""

    kind: str
    condition: str | None
    """`error`, `updating`, "" for ok; None when the event says nothing of it."""


@dataclass(frozen=True)
class Answer:
    """What a device says of a command."""

    command_id: CommandId
    status: CommandStatus
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True)
class Lifecycle:
    """A connection or disconnection, and whose certificate it was."""

    certificate_id: str
    event: PresenceEvent


def read_telemetry(payload: bytes, *, received_ms: int) -> Batch:
    """Read a batch of samples.

    Raises:
        Unreadable: TOO_LARGE, NOT_JSON, TOO_DEEP, WRONG_SHAPE, WRONG_VALUE, SPAN, TOO_OLD, FUTURE.
    """
    body = _object(payload)
    boot, seq = _boot(body), _integer(body, "seq", MAX_SEQ)
    raw = body.get("samples")
    if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_SAMPLES:
        raise Unreadable("WRONG_SHAPE")
    samples: list[tuple[int, dict[str, float]]] = []
    for sample in raw:
        if not isinstance(sample, dict):
            raise Unreadable("WRONG_SHAPE")
        values = sample.get("m")
        ts = sample.get("ts")
        if type(ts) is not int or not 0 <= ts <= MAX_TS_MS:
            raise Unreadable("WRONG_VALUE")
        if not isinstance(values, dict) or not 1 <= len(values) <= MAX_METRICS_A_SAMPLE:
            raise Unreadable("WRONG_SHAPE")
        for name, value in values.items():
            if name not in _known_metrics:
                _learn_metric(name)
            # bool is an int to Python, not to a meter.
            if (type(value) is not float and type(value) is not int) or not -MAX_MAGNITUDE <= value <= MAX_MAGNITUDE:
                raise Unreadable("WRONG_VALUE")
        samples.append((ts, values))
    samples.sort(key=lambda pair: pair[0])
    min_ts, max_ts = samples[0][0], samples[-1][0]
    if max_ts - min_ts > MAX_SPAN_MS:
        raise Unreadable("SPAN")
    if min_ts < received_ms - RAW_RETENTION_S * 1000:
        raise Unreadable("TOO_OLD")
    if max_ts > received_ms + MAX_FUTURE_S * 1000:
        raise Unreadable("FUTURE")
    newest: dict[str, Reading] = {}
    for ts, values in reversed(samples):
        for name, value in values.items():
            old = newest.get(name)
            if old is None or (old.ts == ts and old.value < value):
                newest[name] = Reading(value, ts)
    encoded = orjson.dumps(samples)
    return Batch(boot, seq, min_ts, max_ts, len(samples), encoded, hashlib.sha256(encoded).hexdigest(), newest)


def read_heartbeat(payload: bytes) -> Heartbeat:
    """Read a heartbeat.

    Raises:
        Unreadable: as above.
    """
    body = _object(payload)
    _boot(body)
    _integer(body, "seq", MAX_SEQ)
    _integer(body, "ts", MAX_TS_MS)
    ip, firmware = body.get("ip"), body.get("firmware_version")
    if ip is not None:
        try:
            ip = str(ipaddress.ip_address(ip if isinstance(ip, str) else ""))
        except ValueError:
            raise Unreadable("WRONG_VALUE") from None
    if firmware is not None and (not isinstance(firmware, str) or not _FIRMWARE.fullmatch(firmware)):
        raise Unreadable("WRONG_VALUE")
    return Heartbeat(ip, firmware)


def read_event(payload: bytes) -> Event:
    """Read an event.

    Raises:
        Unreadable: as above.
    """
    body = _object(payload)
    _boot(body)
    _integer(body, "ts", MAX_TS_MS)
    kind, data = body.get("kind"), body.get("data")
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise Unreadable("WRONG_VALUE")
    if data is not None and not isinstance(data, dict):
        raise Unreadable("WRONG_SHAPE")
    if freeform.is_deeper(data):
        raise Unreadable("TOO_DEEP")
    condition = None
    if kind == "status":
        said = (data or {}).get("status")
        if not isinstance(said, str) or said not in _CONDITIONS:
            raise Unreadable("WRONG_VALUE")
        condition = _CONDITIONS[said]
    return Event(kind, condition)


def read_ready(payload: bytes) -> None:
    """Check that a device's `ready` is one.

    Raises:
        Unreadable: as above.
    """
    body = _object(payload)
    _boot(body)
    _integer(body, "ts", MAX_TS_MS)


def read_response(payload: bytes) -> Answer:
    """Read a device's answer to a command.

    Raises:
        Unreadable: as above.
    """
    body = _object(payload)
    if len(payload) > MAX_ANSWER_BYTES:
        raise Unreadable("TOO_LARGE")
    command_id, status = body.get("id"), body.get("status")
    if not isinstance(command_id, str) or not is_id(command_id):
        raise Unreadable("WRONG_VALUE")
    if not isinstance(status, str) or status not in _ANSWER_NAMES:
        raise Unreadable("WRONG_VALUE")
    _integer(body, "ts", MAX_TS_MS)
    result, error = body.get("result"), body.get("error")
    if result is not None and not isinstance(result, dict):
        raise Unreadable("WRONG_SHAPE")
    if error is not None and not isinstance(error, dict):
        raise Unreadable("WRONG_SHAPE")
    if freeform.is_deeper(result) or freeform.is_deeper(error):
        raise Unreadable("TOO_DEEP")
    return Answer(CommandId(command_id), CommandStatus(status), result, error)


def read_presence(payload: bytes) -> Lifecycle | None:
    """Read a lifecycle event; None for the kinds that say nothing of presence (`connect_failed`, subscriptions).

    Raises:
        Unreadable: as above.
    """
    body = _object(payload)
    kind = body.get("eventType")
    if kind not in ("connected", "disconnected"):
        return None
    certificate_id, session = body.get("principalIdentifier"), body.get("sessionIdentifier")
    if not isinstance(certificate_id, str) or not isinstance(session, str) or len(session) > 128:
        raise Unreadable("WRONG_SHAPE")
    event = PresenceEvent(
        ts=_integer(body, "timestamp", MAX_TS_MS),
        version=_integer(body, "versionNumber", 2**53),
        connected=kind == "connected",
        session=session,
    )
    return Lifecycle(certificate_id, event)


_ANSWER_NAMES = frozenset(str(status) for status in ANSWERS)


def _object(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Unreadable("TOO_LARGE")
    try:
        body = freeform.loads(payload, levels=None)
    except freeform.NotJson:
        raise Unreadable("NOT_JSON") from None
    except freeform.TooDeep:
        raise Unreadable("TOO_DEEP") from None
    if not isinstance(body, dict):
        raise Unreadable("WRONG_SHAPE")
    return body


def _boot(body: dict[str, Any]) -> str:
    boot = body.get("boot")
    if not isinstance(boot, str) or not _BOOT.fullmatch(boot):
        raise Unreadable("WRONG_VALUE")
    return boot


def _integer(body: dict[str, Any], name: str, limit: int) -> int:
    value = body.get(name)
    if type(value) is not int or not 0 <= value <= limit:
        raise Unreadable("WRONG_VALUE")
    return value


def _learn_metric(name: str) -> None:
    if not _METRIC.fullmatch(name):
        raise Unreadable("WRONG_VALUE")
    if len(_known_metrics) < _MAX_KNOWN_METRICS:
        _known_metrics.add(name)
