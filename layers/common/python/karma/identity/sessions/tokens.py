"""Access tokens: JWT, HS256, with `kid`.

Claims: iss, sub (user id), iat and exp (seconds; iat to the millisecond), sid (the session that it belongs to) and
auth_time (when that session began with a login; refreshing does not move it).
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from karma.core.errors import Unauthenticated
from karma.core.ids import UserId, is_id
from karma.core.imports import absent
from karma.identity.domain import ACCESS_TOKEN_TTL
from karma.identity.sessions.signing_keys import KeyRing

with absent("cryptography"):  # HS256 needs none of it
    import jwt

_ALGORITHM = "HS256"
_ISSUER = "karma"
_SKEW = timedelta(seconds=5)
"""Largest difference between the clocks of two of our machines."""
_MAX_CHARS = 2048
_REFUSED = "Invalid authentication credentials"
_BEARER = {"WWW-Authenticate": "Bearer"}
_MAX_REMEMBERED = 1000


class AccessToken(NamedTuple):
    """Claims of a verified token."""

    user_id: UserId
    issued_at: datetime
    session_id: str | None = None
    authenticated_at: datetime | None = None
    """Moment of its owner's login; None: a token from before tokens had it."""

    @property
    def began_at(self) -> datetime:
        """The moment its session began, which a refresh at the moment of its end does not move.

        Of a token that names none: when it was issued.
        """
        return self.issued_at if self.authenticated_at is None else self.authenticated_at


class UnknownKey(Unauthenticated):
    """The token names a key that is not in the ring: forged, too old, or signed with a key newer than the ring."""

    def __init__(self) -> None:
        super().__init__(_REFUSED)
        self.headers.update(_BEARER)


class _Signed(NamedTuple):
    """Claims whose signature was verified, and the key that verified it."""

    kid: str
    key: str
    token: AccessToken
    not_before_s: float
    expires_s: float


def issue(
    user_id: UserId,
    *,
    ring: KeyRing,
    now: datetime,
    session_id: str | None = None,
    authenticated_at: datetime | None = None,
    ttl: timedelta = ACCESS_TOKEN_TTL,
) -> str:
    """Sign a token of a session with the current key."""
    issued_s = round(now.timestamp(), 3)
    claims: dict[str, object] = {"iss": _ISSUER, "sub": user_id, "iat": issued_s, "exp": int((now + ttl).timestamp())}
    if session_id is not None:
        claims["sid"] = session_id
    if authenticated_at is not None:
        claims["auth_time"] = round(authenticated_at.timestamp(), 3)
    return jwt.encode(claims, ring.keys[ring.current], algorithm=_ALGORITHM, headers={"kid": ring.current})


class Verifier:
    """Verifies tokens, and caches the newest 1,000 valid signatures: these are most of a warm request's CPU.

    The token's times, and that its key is still in the ring, are checked each time.
    """

    def __init__(self) -> None:
        self._signed: OrderedDict[str, _Signed] = OrderedDict()

    def verify(self, token: str, *, ring: KeyRing, now: datetime) -> AccessToken:
        """Verify a token and return its claims.

        Raises:
            UnknownKey: the ring lacks the token's key.
            Unauthenticated: the token is forged, expired, from the future, without `sub`, or of another algorithm.
        """
        signed = self._signed.get(token)
        if signed is None or ring.keys.get(signed.kid) != signed.key:
            signed = _signed(token, ring)
            self._signed[token] = signed
            if len(self._signed) > _MAX_REMEMBERED:
                self._signed.popitem(last=False)
        seconds = now.timestamp()
        if not (signed.expires_s > seconds and signed.not_before_s <= seconds + _SKEW.total_seconds()):
            raise refused()
        return signed.token


def _signed(token: str, ring: KeyRing) -> _Signed:
    try:
        if len(token) > _MAX_CHARS:
            raise jwt.InvalidTokenError("too long")
        kid = jwt.get_unverified_header(token).get("kid")
        if not isinstance(kid, str):
            raise jwt.InvalidTokenError("kid")
        if kid not in ring.keys:
            raise UnknownKey
        claims = jwt.decode(
            token,
            ring.keys[kid],
            algorithms=[_ALGORITHM],
            issuer=_ISSUER,
            # Times are compared by the verifier, with the clock that it was given.
            options={
                "require": ["exp", "iat", "sub"],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_aud": False,
            },
        )
        subject = claims["sub"]
        session_id, authenticated_s = claims.get("sid"), claims.get("auth_time")
        times = [claims["exp"], claims["iat"], claims.get("nbf", 0), authenticated_s or 0]
        if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in times):
            raise jwt.InvalidTokenError("times are numbers")
        if not isinstance(subject, str) or not is_id(subject):
            raise jwt.InvalidTokenError("subject")
        if session_id is not None and (not isinstance(session_id, str) or not is_id(session_id)):
            raise jwt.InvalidTokenError("session")
        issued_at = datetime.fromtimestamp(claims["iat"], UTC)
        authenticated_at = None if authenticated_s is None else datetime.fromtimestamp(authenticated_s, UTC)
    except (jwt.PyJWTError, KeyError, ValueError, OverflowError, OSError, RecursionError):
        raise refused() from None
    return _Signed(
        kid=kid,
        key=ring.keys[kid],
        token=AccessToken(UserId(subject), issued_at, session_id, authenticated_at),
        not_before_s=max(claims["iat"], claims.get("nbf", 0)),
        expires_s=claims["exp"],
    )


def refused(message: str = _REFUSED) -> Unauthenticated:
    """Return the 401 that names the scheme."""
    error = Unauthenticated(message)
    error.headers.update(_BEARER)
    return error
