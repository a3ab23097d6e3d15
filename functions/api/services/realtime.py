"""Services of the WebSocket's tickets."""

from __future__ import annotations

from functools import cache

from api.services.process import clock, settings
from karma.core.ids import UserId
from karma.integrations.sockets import Sockets
from karma.realtime.repository import RealtimeRepository
from karma.realtime.service import SocketCloser, TicketService


@cache
def tickets() -> TicketService:
    """Return the service of tickets for the WebSocket."""
    return TicketService(store=RealtimeRepository(), clock=clock(), url=settings().websocket_url)


def close_ended(user_id: UserId) -> None:
    """Close the WebSockets of a user's ended sessions and API keys, where the stage has WebSockets."""
    if settings().websocket_url:
        _closer().close_ended(user_id)


@cache
def _closer() -> SocketCloser:
    return SocketCloser(store=RealtimeRepository(), sockets=Sockets(settings().websocket_url), clock=clock())
