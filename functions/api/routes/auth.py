from __future__ import annotations

from fastapi import Request
from starlette.responses import Response

from api import deps
from api.deps import CurrentCaller, RequestSource
from api.idempotency import Outcome, once
from api.openapi import answers
from api.presenters import no_content, ok
from api.routing import Router
from api.views import tokens_view, user_view
from karma.identity.schemas import LogIn, LoginData, Refresh, Register, TokensOut, UserData

router = Router("auth")


@router.post("/auth/register", status_code=201, responses=answers(UserData, status=201, errors=(409,)))
async def register(request: Request, body: Register) -> Response:
    """Make an account; the address must be new."""

    def create() -> Outcome:
        user = deps.accounts().register(email=body.email, password=body.password, name=body.name)
        return Outcome(status=201, data={"user": user_view(user)})

    return await once(request, None, create)


@router.post("/auth/login", responses=answers(LoginData, errors=(401,)))
async def log_in(body: LogIn, source: RequestSource) -> Response:
    """Trade address and password for an access token (30 minutes) and a refresh token (30 days)."""
    user, tokens = deps.sessions().log_in(email=body.email, password=body.password, source=source)
    return ok({**tokens_view(tokens), "user": user_view(user)})


@router.post("/auth/refresh", responses=answers(TokensOut, errors=(401,)))
async def refresh(body: Refresh, source: RequestSource) -> Response:
    """Trade a refresh token for a new pair.

    A repeat within 10 seconds gets the same refresh token while that is unused; any later use ends the session.
    """
    return ok(tokens_view(deps.sessions().refresh(body.refresh_token, source=source)))


@router.post("/auth/logout", status_code=204, responses=answers(status=204, errors=(403,)))
async def log_out(body: Refresh, caller: CurrentCaller, source: RequestSource) -> Response:
    """End the session of a refresh token; access tokens run out by themselves within 30 minutes."""
    deps.sessions().log_out(caller, body.refresh_token, source=source)
    return no_content()


@router.post("/auth/logout-all", status_code=204, responses=answers(status=204, errors=(403,)))
async def log_out_everywhere(caller: CurrentCaller, source: RequestSource) -> Response:
    """End every session of the caller, access tokens included; those are refused everywhere within a minute."""
    deps.sessions().log_out_everywhere(caller, source=source)
    return no_content()
