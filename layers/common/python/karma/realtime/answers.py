"""Answers of the WebSocket's route: the shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypedDict

from pydantic import Field

if TYPE_CHECKING:
    from karma.realtime.service import IssuedTicket


class TicketData(TypedDict):
    """A ticket for the WebSocket: connect to `<url>?ticket=<ticket>`."""

    ticket: str
    expires_in: Annotated[int, Field(description="Seconds")]
    url: str


def ticket_data(issued: IssuedTicket) -> TicketData:
    """Shape a new ticket."""
    return {"ticket": issued.ticket, "expires_in": issued.expires_in_s, "url": issued.url}
