from __future__ import annotations

from typing import Annotated

from api.services import realtime
from karma.http.access import permit
from karma.http.openapi import answers
from karma.http.presenters import Answer, ok
from karma.http.routing import Router
from karma.identity.domain import Caller
from karma.realtime.answers import TicketData, ticket_data

router = Router("realtime")


@router.post("/realtime/ticket", status_code=201, responses=answers(status=201, errors=(503,)))
async def issue_ticket(caller: Annotated[Caller, permit("realtime:connect")]) -> Answer[TicketData]:
    """Create a ticket for one connection to the WebSocket, valid for a minute."""
    return ok(ticket_data(realtime.tickets().issue(caller)), 201)
