from __future__ import annotations

from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from api.access import permit
from api.deps import realtime
from api.openapi import answers
from api.presenters import ok
from api.routing import Router
from karma.core.schemas import Data
from karma.identity.domain import Caller

router = Router("realtime")


class TicketData(Data):
    """Admission to the WebSocket: connect to `<url>?ticket=<ticket>`."""

    ticket: str
    expires_in: Annotated[int, Field(description="Seconds")]
    url: str


@router.post("/realtime/ticket", status_code=201, responses=answers(TicketData, status=201, errors=(503,)))
async def issue_ticket(caller: Annotated[Caller, permit("realtime:connect")]) -> Response:
    """Make a ticket: for one connection, within a minute."""
    issued = realtime.tickets().issue(caller)
    return ok({"ticket": issued.ticket, "expires_in": issued.expires_in_s, "url": issued.url}, 201)
