"""Letting requests in: by the public address only, from callers who may, as often as they may.

Without a framework, so that every function that serves HTTP asks the same one: the API through its edge and `permit`,
the stream before it reads a body.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

from karma.core.errors import Forbidden
from karma.core.ratelimit import Decision, network_of
from karma.identity.domain import Caller
from karma.identity.limits import RULES, Throttle
from karma.identity.sessions.authentication import READING, Authenticator

Headers = list[tuple[bytes, bytes]]
"""Headers of an answer, names in lower case."""

ORIGIN_HEADER = b"x-karma-origin"
"""Header by which CloudFront proves that a request came through it."""


class Admission:
    """Admits requests; each step raises what refuses."""

    def __init__(
        self,
        *,
        authenticator: Callable[[], Authenticator],
        throttle: Callable[[], Throttle],
        origin_secrets: Callable[[], Sequence[str]],
    ) -> None:
        """Make one of a function's composition root.

        Args:
            authenticator: tells who calls.
            throttle: counts requests.
            origin_secrets: the values valid now of `ORIGIN_HEADER`; none: the header is not asked for.
        """
        self._authenticator = authenticator
        self._throttle = throttle
        self._origin_secrets = origin_secrets

    def require_origin(self, given: bytes) -> bool:
        """Tell whether a request has proven that it came through the public address; False where none has to.

        Raises:
            Forbidden: it has to, and has not.
        """
        valid = self._origin_secrets()
        if not valid:
            return False
        if not any(hmac.compare_digest(given, secret.encode()) for secret in valid):
            raise Forbidden("Requests come through the public address only")
        return True

    def count_network(self, limit: str, address: str) -> Headers:
        """Count a request whose limit is by network, and return what its answer tells; [] for other limits.

        Raises:
            RateLimited: the network has sent too many.
        """
        throttle = self._throttle()
        if not throttle.is_counted_by_network(limit):
            return []
        return _told(throttle.admit(limit, network=network_of(address)))

    def caller(
        self, authorization: str | None, api_key: str | None, *, method: str, may_be_over: bool = False
    ) -> Caller:
        """Return who calls. Whoever changes something is asked about afresh (Authenticator.authenticate).

        Raises:
            Unauthenticated: nobody calls, or nobody who can be believed.
        """
        reading = method in READING or may_be_over
        return self._authenticator().authenticate(authorization, api_key, reading=reading)

    def admit(self, caller: Caller, *, permission: str, limit: str) -> Headers:
        """Let a caller pass who has a permission ("" asks for none), and count the request if its limit is by account.

        Raises:
            Forbidden: the caller lacks the permission.
            RateLimited: the account has sent too many requests.
        """
        if permission and not caller.may(permission):
            raise Forbidden.lacking(permission)
        throttle = self._throttle()
        if throttle.is_counted_by_network(limit):
            return []
        return _told(throttle.admit(limit, user_id=caller.user_id))


def _told(decision: Decision) -> Headers:
    if not RULES[decision.limit.name].stored:  # what one process of many has counted helps nobody to plan
        return []
    return [(name.lower().encode(), value.encode()) for name, value in decision.headers()]
