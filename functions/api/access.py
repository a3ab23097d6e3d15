"""Access to routes: dependencies that check the caller's permission and rate limits."""

from __future__ import annotations

from functools import cache
from typing import Annotated

from fastapi import Depends, Request
from fastapi.params import Depends as DependsParam
from starlette.types import Scope

from api.deps import billing, identity
from api.deps.process import clock
from api.edge import LIMIT_HEADERS, REQUEST_ID, USER_ID, caller_address
from karma.audit.domain import Source
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.dynamo.leases import DynamoLeases
from karma.core.errors import Forbidden
from karma.core.observability import logger
from karma.core.ratelimit import Decision, LocalBuckets, network_of
from karma.identity.domain import Caller
from karma.identity.limits import RULES, WAITING_REQUESTS, OpenRequests, Throttle
from karma.identity.permissions import canonical
from karma.identity.sessions.authentication import READING


@cache
def throttle() -> Throttle:
    """Return the rate limits; only stored rows cost calls, only those by plan read the plan."""
    return Throttle(
        stored=DynamoBuckets(),
        local=LocalBuckets(),
        clock=clock(),
        plan_of=lambda user_id: billing.subscriptions().plan(user_id).name,
    )


@cache
def waiting() -> OpenRequests:
    """Return the limit of requests that wait for a device."""
    return OpenRequests(DynamoLeases(), clock(), pool=WAITING_REQUESTS)


def admit(scope: Scope, limit: str) -> None:
    """Count a request whose limit is by network; those by account are counted by `permit`, which knows the caller.

    Raises:
        RateLimited: the network has sent too many requests.
    """
    if throttle().is_counted_by_network(limit):
        _tell(scope, throttle().admit(limit, network=network_of(caller_address(scope))))


def _tell(scope: Scope, decision: Decision) -> None:
    if RULES[decision.limit.name].stored:  # what one process of many has counted helps nobody to plan
        scope[LIMIT_HEADERS] = [(name.lower().encode(), value.encode()) for name, value in decision.headers()]


class Permit:
    """Dependency that requires a caller with a permission; `permission` "": any caller.

    Who changes something is asked about anew (Authenticator.authenticate): by the method, so that no route forgets it.
    """

    def __init__(self, permission: str, *, may_be_over: bool = False) -> None:
        self.permission = canonical(permission) if permission else ""
        self._may_be_over = may_be_over

    async def __call__(self, request: Request) -> Caller:
        """Authenticate the caller and check the permission.

        Raises:
            Unauthenticated: there is no credential, or it does not verify.
            Forbidden: the caller lacks the permission.
        """
        headers = request.headers
        reading = request.method in READING or self._may_be_over
        caller = identity.authenticator().authenticate(
            headers.get("authorization"), headers.get("x-api-key"), reading=reading
        )
        request.scope[USER_ID] = caller.user_id
        logger.append_keys(user_id=caller.user_id)
        if self.permission and not caller.may(self.permission):
            raise Forbidden.lacking(self.permission)
        limit = request.scope["route"].limit
        if not throttle().is_counted_by_network(limit):
            _tell(request.scope, throttle().admit(limit, user_id=caller.user_id))
        return caller


def permit(permission: str) -> DependsParam:
    """Return the dependency that requires a caller with a permission.

    Written as `caller: Annotated[Caller, permit("device:read")]`.
    """
    depends: DependsParam = Depends(Permit(permission))
    return depends


CurrentCaller = Annotated[Caller, permit("")]
LeavingCaller = Annotated[Caller, Depends(Permit("", may_be_over=True))]
"""Caller who logs out: a repeat gets the same answer, though the session has ended."""


_MAX_USER_AGENT_CHARS = 256


async def _source(request: Request) -> Source:
    agent = request.headers.get("user-agent", "")[:_MAX_USER_AGENT_CHARS]
    return Source(
        address=caller_address(request.scope) or None, user_agent=agent or None, request_id=request.scope[REQUEST_ID]
    )


RequestSource = Annotated[Source, Depends(_source)]
"""Network and device of a request, for the audit log."""
