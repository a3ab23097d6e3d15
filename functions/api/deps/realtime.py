"""Tickets for the WebSocket."""

from __future__ import annotations

from functools import cache

from api.deps.process import clock, settings
from karma.core.dynamo.items import bind
from karma.realtime.repository import RealtimeItem, RealtimeRepository
from karma.realtime.service import TicketService


@cache
def tickets() -> TicketService:
    """Give out tickets for the WebSocket."""
    bind(RealtimeItem, settings().realtime_table)
    return TicketService(store=RealtimeRepository(), clock=clock(), url=settings().websocket_url)
