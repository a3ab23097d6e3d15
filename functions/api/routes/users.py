from __future__ import annotations

from starlette.responses import Response

from api import deps
from api.deps import CurrentCaller
from api.openapi import answers
from api.presenters import ok
from api.routing import Router
from api.views import user_view
from karma.identity.schemas import UserData

router = Router("users")


@router.get("/users/me", responses=answers(UserData))
async def me(caller: CurrentCaller) -> Response:
    """Show the caller's own account."""
    return ok({"user": user_view(deps.accounts().get_user(caller.user_id))})
