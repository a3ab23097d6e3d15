"""Entry of the WebSocket's function: routes `$connect`, `$disconnect`, `$default` (infra/constructs/websocket_api.py).

A `$default` message is answered by the return value (route response). Messages: docs/realtime.md.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson

from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.errors import AppError
from karma.core.live import declared
from karma.core.observability import logger
from karma.core.settings import load
from karma.realtime.channel_repository import ChannelRepository
from karma.realtime.messages import SocketRequest, answer, error_message, parse
from karma.realtime.repository import RealtimeRepository
from karma.realtime.service import ConnectionService
from realtime.settings import Settings


@cache
def services() -> ConnectionService:
    """Build the service once a process."""
    settings = load(Settings)
    bind_tables(settings)
    return ConnectionService(
        store=RealtimeRepository(), channels=ChannelRepository(), sources=declared(), clock=SystemClock()
    )


def lambda_handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Open or close a connection, or answer its message; an unexpected exception fails the invocation, which alarms."""
    gateway = event["requestContext"]
    connection_id: str = gateway["connectionId"]
    route: str = gateway["routeKey"]
    status, body = 200, ""
    if route == "$connect":
        status = _connect(connection_id, (event.get("queryStringParameters") or {}).get("ticket") or "")
    elif route == "$disconnect":
        services().disconnect(connection_id)
    else:
        body = orjson.dumps(_message(connection_id, event.get("body") or "")).decode()
    logger.info("realtime.handled", request_id=gateway.get("requestId"), route=route, status=status)
    return {"statusCode": status, "body": body}


def _connect(connection_id: str, ticket: str) -> int:
    try:
        services().connect(connection_id, ticket)
    except AppError as error:
        return error.status
    return 200


def _message(connection_id: str, text: str) -> dict[str, object]:
    request: SocketRequest | None = None
    try:
        request = parse(text)
        return answer(services(), connection_id, request)
    except AppError as error:
        return error_message(error, request)
