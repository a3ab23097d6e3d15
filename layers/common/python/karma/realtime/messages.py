"""The messages of the WebSocket: requests of clients, and their answers.

| request | answer |
| --- | --- |
| {"action": "ping"} | {"type": "pong", "missed"} |
| {"action": "subscribe", "channel": "device:<id>", "held": {...}} | {"type": "ack", ...}: wire.py |
| {"action": "unsubscribe", "channel": ...} | {"type": "ack", "action", "channel"} |
| anything else | {"type": "error", "code", "message"} |

An `id` (up to 64 characters) that a request carries comes back in its answer.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, assert_never

from karma.core import freeform
from karma.core.errors import AppError, InvalidRequest
from karma.core.records import Record
from karma.realtime import wire
from karma.realtime.domain import MOST_HELD, NOTHING_HELD, Head, Held
from karma.realtime.service import ConnectionService

MAX_MESSAGE_CHARS = 24_576
_MAX_ID_CHARS = 64
_MAX_CHANNEL_CHARS = 128


class Action(StrEnum):
    """Kind of a request."""

    PING = "ping"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"


class SocketRequest(Record, kw_only=True):
    """A request as parsed."""

    action: Action
    channel: str
    held: Held
    id: str | None


def parse(text: str) -> SocketRequest:
    """Parse a message.

    Raises:
        InvalidRequest: INVALID_JSON: the message is not JSON; INVALID_MESSAGE: it is no request.
    """
    if len(text) > MAX_MESSAGE_CHARS:
        raise _invalid(f"a message has at most {MAX_MESSAGE_CHARS} characters")
    try:
        found: Any = freeform.loads(text)
    except freeform.OutOfBounds as exc:
        raise _invalid(str(exc) if isinstance(exc, freeform.TooLarge) else exc.told) from None
    except freeform.NotJson:
        raise InvalidRequest("The message is not valid JSON", code="INVALID_JSON") from None
    if not isinstance(found, dict):
        raise _invalid("a message is an object")
    action, channel, request_id = found.get("action"), found.get("channel"), found.get("id")
    if not isinstance(action, str) or action not in set(Action):
        raise _invalid(f"action is one of {', '.join(Action)}")
    if request_id is not None and not (isinstance(request_id, str) and len(request_id) <= _MAX_ID_CHARS):
        raise _invalid(f"id is a string of at most {_MAX_ID_CHARS} characters")
    expected = _FIELDS[Action(action)]
    if set(found) - expected:
        raise _invalid(f"{action} knows only {', '.join(sorted(expected))}")
    if action != Action.PING and not (isinstance(channel, str) and len(channel) <= _MAX_CHANNEL_CHARS):
        raise _invalid("channel is a string such as device:<id>")
    return SocketRequest(action=Action(action), channel=channel or "", held=read_held(found.get("held")), id=request_id)


_FIELDS: Final = {
    Action.PING: {"action", "id"},
    Action.SUBSCRIBE: {"action", "id", "channel", "held"},
    Action.UNSUBSCRIBE: {"action", "id", "channel"},
}


def read_held(found: Any) -> Held:
    """Read what a client holds of a channel: `{"objects": {name: version}, "head": {"epoch", "seq"}}`.

    Raises:
        InvalidRequest: INVALID_MESSAGE: it is something else.
    """
    if found is None:
        return NOTHING_HELD
    if not isinstance(found, dict) or set(found) - {"objects", "head"}:
        raise _invalid("held is an object of objects and head")
    objects, head = found.get("objects", {}), found.get("head")
    if not isinstance(objects, dict) or len(objects) > MOST_HELD or not all(map(_is_whole, objects.values())):
        raise _invalid(f"held.objects are at most {MOST_HELD} whole numbers by name")
    if head is None:
        return Held(objects=objects)
    if not isinstance(head, dict) or not isinstance(head.get("epoch"), str) or not _is_whole(head.get("seq")):
        raise _invalid("held.head has an epoch and a seq")
    return Held(objects=objects, head=Head(epoch=head["epoch"], seq=head["seq"]))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53


def answer(service: ConnectionService, connection_id: str, request: SocketRequest) -> dict[str, object]:
    """Carry out a request and return its answer.

    Raises:
        AppError: the ConnectionService refused the request.
    """
    match request.action:
        case Action.PING:
            return _with_id({"type": "pong", "missed": service.missed(connection_id)}, request)
        case Action.SUBSCRIBE:
            found = service.subscribe(connection_id, request.channel, request.held)
            return _with_id(wire.acknowledgement(found, request.held), request)
        case Action.UNSUBSCRIBE:
            name = service.unsubscribe(connection_id, request.channel)
            return _with_id({"type": "ack", "action": "unsubscribe", "channel": name}, request)
        case _:
            assert_never(request.action)


def error_message(error: AppError, request: SocketRequest | None) -> dict[str, object]:
    """Make the answer for an error; `retryable` tells whether the same message may succeed later."""
    body: dict[str, object] = {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
    }
    return _with_id(body, request)


def _with_id(body: dict[str, object], request: SocketRequest | None) -> dict[str, object]:
    if request is not None and request.id is not None:
        body["id"] = request.id
    return body


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(f"Not a message of ours: {message}", code="INVALID_MESSAGE")
