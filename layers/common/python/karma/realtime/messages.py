"""The messages of the WebSocket: requests of clients, and their answers.

| request | answer |
| --- | --- |
| {"action": "ping"} | {"type": "pong"} |
| {"action": "subscribe", "channel": "device:<id>"} | {"type": "ack", "action", "channel"} |
| {"action": "unsubscribe", "channel": ...} | {"type": "ack", "action", "channel"} |
| anything else | {"type": "error", "code", "message"} |

An `id` (up to 64 characters) that a request carries comes back in its answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never

from karma.core import freeform
from karma.core.errors import AppError, InvalidRequest
from karma.realtime.service import ConnectionService

MAX_MESSAGE_CHARS = 4096
_MAX_ID_CHARS = 64
_MAX_CHANNEL_CHARS = 128


class Action(StrEnum):
    """Kind of a request."""

    PING = "ping"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"


@dataclass(frozen=True, kw_only=True)
class SocketRequest:
    """A request as parsed."""

    action: Action
    channel: str
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
    except freeform.TooDeep:
        raise _invalid(freeform.TOO_DEEP) from None
    except freeform.NotJson:
        raise InvalidRequest("The message is not valid JSON", code="INVALID_JSON") from None
    if not isinstance(found, dict):
        raise _invalid("a message is an object")
    action, channel, request_id = found.get("action"), found.get("channel"), found.get("id")
    if not isinstance(action, str) or action not in set(Action):
        raise _invalid(f"action is one of {', '.join(Action)}")
    if request_id is not None and not (isinstance(request_id, str) and len(request_id) <= _MAX_ID_CHARS):
        raise _invalid(f"id is a string of at most {_MAX_ID_CHARS} characters")
    expected = {"action", "id"} if action == Action.PING else {"action", "id", "channel"}
    if set(found) - expected:
        raise _invalid(f"{action} knows only {', '.join(sorted(expected))}")
    if action != Action.PING and not (isinstance(channel, str) and len(channel) <= _MAX_CHANNEL_CHARS):
        raise _invalid("channel is a string such as device:<id>")
    return SocketRequest(action=Action(action), channel=channel or "", id=request_id)


def answer(service: ConnectionService, connection_id: str, request: SocketRequest) -> dict[str, object]:
    """Carry out a request and return its answer.

    Raises:
        AppError: the ConnectionService refused the request.
    """
    match request.action:
        case Action.PING:
            service.require_open(connection_id)
            return _with_id({"type": "pong"}, request)
        case Action.SUBSCRIBE:
            channel = service.subscribe(connection_id, request.channel)
        case Action.UNSUBSCRIBE:
            channel = service.unsubscribe(connection_id, request.channel)
        case _:
            assert_never(request.action)
    return _with_id({"type": "ack", "action": request.action.value, "channel": channel.name}, request)


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
