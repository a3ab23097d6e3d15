"""Access tokens: JWT, HS256, with `kid`. Claims: iss, sub (user id), iat, exp."""

from __future__ import annotations

from datetime import datetime, timedelta

from karma.core.errors import Unauthenticated
from karma.core.ids import UserId, is_id
from karma.core.imports import absent
from karma.identity.domain import ACCESS_TOKEN_TTL
from karma.identity.keys import KeyRing

with absent("cryptography"):  # HS256 needs none of it
    import jwt

_ALGORITHM = "HS256"
_ISSUER = "karma"
_SKEW = timedelta(seconds=5)
"""How far two of our machines' clocks may differ."""
_MAX_CHARS = 2048


def issue(user_id: UserId, *, ring: KeyRing, now: datetime, ttl: timedelta = ACCESS_TOKEN_TTL) -> str:
    """Sign a token with the current key."""
    claims = {"iss": _ISSUER, "sub": user_id, "iat": int(now.timestamp()), "exp": int((now + ttl).timestamp())}
    return jwt.encode(claims, ring.keys[ring.current], algorithm=_ALGORITHM, headers={"kid": ring.current})


def verify(token: str, *, ring: KeyRing, now: datetime) -> UserId:
    """Return whom the token names.

    Raises:
        Unauthenticated: forged, expired, from the future, without `sub`, or signed in a way that we do not use.
    """
    try:
        if len(token) > _MAX_CHARS:
            raise jwt.InvalidTokenError("too long")
        kid = jwt.get_unverified_header(token).get("kid")
        claims = jwt.decode(
            token,
            ring.keys[kid] if isinstance(kid, str) else "",
            algorithms=[_ALGORITHM],
            issuer=_ISSUER,
            # Times are compared below, with the clock that we were given.
            options={
                "require": ["exp", "iat", "sub"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_aud": False,
            },
        )
        seconds = now.timestamp()
        latest = seconds + _SKEW.total_seconds()
        subject = claims["sub"]
        times = [claims["exp"], claims["iat"], claims.get("nbf", 0)]
        if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in times):
            raise jwt.InvalidTokenError("times are numbers")
        if not (claims["exp"] > seconds and claims["iat"] <= latest and claims.get("nbf", 0) <= latest):
            raise jwt.InvalidTokenError("not valid now")
        if not isinstance(subject, str) or not is_id(subject):
            raise jwt.InvalidTokenError("subject")
    except (jwt.PyJWTError, KeyError, ValueError, RecursionError):
        raise refused() from None
    return UserId(subject)


def refused(message: str = "Invalid authentication credentials") -> Unauthenticated:
    """Make the 401 that names the scheme."""
    error = Unauthenticated(message)
    error.headers["WWW-Authenticate"] = "Bearer"
    return error
