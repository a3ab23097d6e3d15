"""Dependencies of routes that let a caller pass, and say where a request came from."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.params import Depends as DependsParam
from starlette.types import Scope

from karma.audit.domain import Source
from karma.core.observability import logger
from karma.http.edge import LIMIT_HEADERS, REQUEST_ID, USER_ID, address_of
from karma.http.headers import text_of
from karma.http.serving import serving
from karma.identity.domain import Caller
from karma.identity.permissions import canonical


def count_network(scope: Scope, limit: str) -> None:
    """Count a request whose limit is by network; those by account are counted by `permit`, which knows whose.

    Raises:
        RateLimited: the network has sent too many.
    """
    scope[LIMIT_HEADERS] = serving().admission.count_network(limit, address_of(scope))


class Permit:
    """A dependency that lets a caller with one permission pass; `permission` "" asks only for a caller.

    Who changes something is asked about anew (Authenticator.authenticate): by the method, so that no route forgets it.
    """

    def __init__(self, permission: str, *, may_be_over: bool = False) -> None:
        self.permission = canonical(permission) if permission else ""
        self._may_be_over = may_be_over

    async def __call__(self, request: Request) -> Caller:
        """Return the caller.

        Raises:
            Unauthenticated: nobody, or nobody that can be believed.
            Forbidden: known, and not allowed.
        """
        headers, scope, admission = request.headers, request.scope, serving().admission
        caller = admission.caller(
            headers.get("authorization"),
            headers.get("x-api-key"),
            method=request.method,
            may_be_over=self._may_be_over,
        )
        scope[USER_ID] = caller.user_id
        logger.append_keys(user_id=caller.user_id)
        limit = scope["route"].limit
        if told := admission.admit(caller, permission=self.permission, limit=limit):
            scope[LIMIT_HEADERS] = told
        return caller


def permit(permission: str) -> DependsParam:
    """Let through whoever has a permission.

    Written as `caller: Annotated[Caller, permit("device:read")]`.
    """
    depends: DependsParam = Depends(Permit(permission))
    return depends


CurrentCaller = Annotated[Caller, permit("")]
LeavingCaller = Annotated[Caller, Depends(Permit("", may_be_over=True))]
"""Caller of a log-out, which is answered as before when it is repeated, though the session is over."""


_MAX_USER_AGENT_CHARS = 256


async def _source(request: Request) -> Source:
    agent = text_of(request.headers.get("user-agent", ""))[:_MAX_USER_AGENT_CHARS]
    return Source(
        address=address_of(request.scope) or None, user_agent=agent or None, request_id=request.scope[REQUEST_ID]
    )


RequestSource = Annotated[Source, Depends(_source)]
"""Address, user agent and id of the request, for the audit log."""
