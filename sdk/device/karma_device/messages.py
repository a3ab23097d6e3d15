"""Topics and JSON bodies of the device's side of the protocol.

dt/karma/<thing>/telemetry   out  batches (batching.py)
dt/karma/<thing>/heartbeat   out  {"boot", "seq", "ts", "ip"?, "firmware_version"?}
cmd/karma/<thing>/ready      out  {"boot", "ts"}, after each SUBACK
cmd/karma/<thing>/request    in   {"id", "device_id", "command", "params", "issued_at", "expires_at", "serial"}
cmd/karma/<thing>/response   out  {"id", "status", "result", "error": {"code", "message"} | null, "ts"}
file/karma/<thing>/{ask,answer}   files.py
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from karma_device.errors import DeviceError

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

MAX_RESULT_BYTES = 30 * 1024
"""Bytes of a command's result; the service accepts answers of up to 32 KB, this leaves room for the other fields."""


class RequestInvalid(DeviceError):
    """A command request cannot be read; there is nothing that could be answered."""


class CommandStatus(StrEnum):
    """Status of a command in a response."""

    ACKNOWLEDGED = "acknowledged"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REJECTED = "rejected"


@dataclass(frozen=True)
class Topics:
    """The topics of one device. `rule` sends telemetry by Basic Ingest, which skips the broker's messaging charge."""

    thing: str
    rule: str | None = None

    @property
    def telemetry(self) -> str:
        """Return the topic of telemetry batches."""
        prefix = f"$aws/rules/{self.rule}/" if self.rule else ""
        return f"{prefix}dt/karma/{self.thing}/telemetry"

    @property
    def heartbeat(self) -> str:
        """Return the topic of heartbeats."""
        return f"dt/karma/{self.thing}/heartbeat"

    @property
    def ready(self) -> str:
        """Return the topic of the message after each SUBACK; the service then sends pending commands."""
        return f"cmd/karma/{self.thing}/ready"

    @property
    def request(self) -> str:
        """Return the topic from which commands come."""
        return f"cmd/karma/{self.thing}/request"

    @property
    def response(self) -> str:
        """Return the only topic of answers."""
        return f"cmd/karma/{self.thing}/response"


@dataclass(frozen=True)
class Command:
    """One command as its handler sees it."""

    id: str
    name: str
    params: Mapping[str, Json]
    issued_at: int
    """Unix time in ms."""
    expires_at: int
    """Unix time in ms; a command is not started after it."""
    device_id: str = ""
    """Id of the device that it is for; "": the service is of before there was one."""


@dataclass(frozen=True)
class Answer:
    """The final status of a command, with its result or error."""

    status: CommandStatus
    result: dict[str, Json] | None = None
    error_code: str | None = None
    error_message: str | None = None

    @classmethod
    def refused(cls, status: CommandStatus, code: str, message: str) -> "Answer":
        """Make an answer that carries an error."""
        return cls(status=status, error_code=code, error_message=message)


def encode_json(value: Json) -> bytes:
    """Encode compactly.

    Raises:
        ValueError: NaN, an infinity or half of a surrogate pair.
        TypeError: Something that JSON does not have.
    """
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def encode_answer(command_id: str, answer: Answer, *, ts: int) -> bytes:
    """Encode the body of a response. `ts` is Unix time in ms."""
    error: Json = None
    if answer.error_code is not None:
        error = {"code": answer.error_code, "message": answer.error_message or ""}
    return encode_json(
        {"id": command_id, "status": str(answer.status), "result": answer.result, "error": error, "ts": ts}
    )


def parse_request(payload: bytes) -> Command:
    """Read a command request. Unknown fields are ignored, so that the service can add some.

    Raises:
        RequestInvalid: Not JSON, or a field is missing or of the wrong type.
    """
    try:
        body = json.loads(payload, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise RequestInvalid("the request is not JSON") from exc
    if not isinstance(body, dict):
        raise RequestInvalid("the request is not an object")
    params = body.get("params")
    if not isinstance(params, dict):
        raise RequestInvalid("params is not an object")
    try:
        encode_json(params)  # what cannot be written again could not be remembered
    except (ValueError, RecursionError) as exc:
        raise RequestInvalid("params cannot be written as JSON") from exc
    if not isinstance(body.get("serial"), bool):
        raise RequestInvalid("serial is not true or false")
    return Command(
        id=_text(body, "id", 128),
        name=_text(body, "command", 64),
        params=params,
        issued_at=_milliseconds(body, "issued_at"),
        expires_at=_milliseconds(body, "expires_at"),
        device_id=_text(body, "device_id", 128) if "device_id" in body else "",
    )


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"JSON has no {name}")


def _text(body: Mapping[str, object], field: str, limit: int) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not 0 < len(value) <= limit:
        raise RequestInvalid(f"{field} is not a string of 1 to {limit} characters")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise RequestInvalid(f"{field} holds half of a surrogate pair") from exc
    return value


def _milliseconds(body: Mapping[str, object], field: str) -> int:
    value = body.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**53:
        raise RequestInvalid(f"{field} is not Unix time in ms")
    return value
