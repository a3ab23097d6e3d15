"""Google, and any other OpenID Provider that signs with RS256: the identity comes from a signed id_token.

The provider's description (`/.well-known/openid-configuration`) has its URLs. It and the keys are cached for an
hour; for an unknown key they are read again, at most once a minute.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from karma.core.clock import Clock, monotonic
from karma.core.errors import Unauthenticated
from karma.core.observability import logger
from karma.identity.oauth.domain import Flow, Profile, ProviderName, display_name
from karma.integrations.oauth.client import (
    Credentials,
    Http,
    Limits,
    ProviderAnswer,
    ProviderUnavailable,
    authorization_url,
    redeem,
)

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

ISSUER = "https://accounts.google.com"
_SCOPE = "openid email profile"
_ALGORITHM = "RS256"
_MAX_AGE_S = 3600.0
_SKEW_S = 60
"""Seconds by which Google's clock and ours may differ."""


class IdTokenRefused(Unauthenticated):
    """The id_token is not signed by the provider, not for us, not for this login, or too old."""

    code = "INVALID_ID_TOKEN"


class _Description(ProviderAnswer):
    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str


class _Claims(ProviderAnswer):
    sub: str
    email: str | None = None
    email_verified: bool = False
    name: str | None = None


class Google:
    """Login through Google; implements karma.identity.oauth.ports.Provider."""

    def __init__(
        self,
        *,
        credentials: Callable[[], Credentials],
        clock: Clock,
        issuer: str = ISSUER,
        limits: Limits | None = None,
        keys_again_s: float = 60.0,
    ) -> None:
        """Make a provider; `issuer` is as its tokens spell it, `keys_again_s` the pause between reads of its keys."""
        self._credentials = credentials
        self._clock = clock
        self._issuer = issuer
        self._limits = limits or Limits()
        self._keys_again_s = keys_again_s
        self._description: tuple[float, _Description] | None = None
        self._keys: tuple[float, KeySet] | None = None

    def authorization_url(self, flow: Flow, *, state: str, redirect_uri: str) -> str:
        """Return the URL of the page at which the user agrees; the provider's description is cached for an hour."""
        credentials = self._credentials()
        with Http(self._limits) as http:
            page = self._described(http).authorization_endpoint
        return authorization_url(
            page, credentials, flow, state=state, redirect_uri=redirect_uri, scope=_SCOPE, nonce=flow.nonce
        )

    def profile(self, flow: Flow, *, code: str, redirect_uri: str) -> Profile:
        """Exchange a code for the user's profile.

        Raises:
            IdTokenRefused: the id_token is not valid.
        """
        credentials = self._credentials()
        with Http(self._limits) as http:
            endpoint = self._described(http).token_endpoint
            tokens = redeem(http, endpoint, credentials, flow, code=code, redirect_uri=redirect_uri)
            claims = self._claims(http, tokens.get("id_token"), client_id=credentials.client_id, nonce=flow.nonce)
        return Profile(
            provider=ProviderName.GOOGLE,
            subject=claims.sub,
            email=claims.email if claims.email_verified else None,
            name=display_name(claims.name, (claims.email or "").partition("@")[0]),
        )

    def _claims(self, http: Http, id_token: object, *, client_id: str, nonce: str) -> _Claims:
        """Check a token as OpenID Connect Core, 3.1.3.7 demands, and return its claims."""
        from joserfc.errors import InvalidKeyIdError, JoseError
        from joserfc.jwt import JWTClaimsRegistry, decode

        if not isinstance(id_token, str):
            raise _refused("absent")
        rules = JWTClaimsRegistry(
            now=int(self._clock.now().timestamp()),
            leeway=_SKEW_S,
            # Google spells itself with and without the scheme.
            iss={"essential": True, "values": [self._issuer, self._issuer.removeprefix("https://")]},
            aud={"essential": True, "value": client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
        )
        try:
            try:
                token = decode(id_token, self._key_set(http, _MAX_AGE_S), algorithms=[_ALGORITHM])
            except InvalidKeyIdError:
                token = decode(id_token, self._key_set(http, self._keys_again_s), algorithms=[_ALGORITHM])
            claims: dict[str, Any] = token.claims
            rules.validate(claims)
            found = _Claims.model_validate(claims)
        except (JoseError, ValidationError, ValueError, TypeError) as wrong:
            raise _refused(type(wrong).__name__) from None
        said = claims.get("nonce")
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(errors="replace"), nonce.encode()):
            raise _refused("nonce")
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if claims.get("azp", None if several else client_id) != client_id:
            raise _refused("azp")
        return found

    def _described(self, http: Http) -> _Description:
        kept = self._description
        if kept is None or monotonic() - kept[0] >= _MAX_AGE_S:
            found = http.get(f"{self._issuer}/.well-known/openid-configuration", _Description)
            if found.issuer != self._issuer:
                raise ProviderUnavailable("The provider describes another one")
            kept = self._description = (monotonic(), found)
        return kept[1]

    def _key_set(self, http: Http, max_age_s: float) -> KeySet:
        from joserfc.errors import JoseError
        from joserfc.jwk import KeySet

        kept = self._keys
        if kept is None or monotonic() - kept[0] >= max_age_s:
            document: Mapping[str, Any] = http.get(self._described(http).jwks_uri, dict[str, Any])
            try:
                keys = KeySet.import_key_set({"keys": document["keys"]})
            except (JoseError, KeyError, ValueError, TypeError, AttributeError):
                raise ProviderUnavailable("The provider's keys cannot be read") from None
            kept = self._keys = (monotonic(), keys)
        return kept[1]


def _refused(why: str) -> IdTokenRefused:
    logger.warning("provider.not_believed", why=why)
    return IdTokenRefused("What the provider says cannot be believed: begin again")
