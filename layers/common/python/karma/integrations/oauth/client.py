"""HTTP with limits, and the authorization code grant with PKCE, for logins through any provider.

The grant's messages are made and read by oauthlib, which does no I/O; urllib3 carries them. Neither tokens nor codes
nor what a provider says about an error are logged. Errors become:

Upstream
├─ ProviderUnavailable 502   no answer, or one that breaks the protocol
└─ ProviderTimeout 504       no answer in time
InvalidCode 400              the provider does not accept the code, or not with this verifier
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from karma.core.clock import monotonic
from karma.core.errors import Upstream, UpstreamTimeout
from karma.core.observability import logger
from karma.core.records import Record
from karma.identity.oauth.domain import Flow, InvalidCode, ProviderNotConfigured

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_WRONG_CODE = frozenset({"invalid_grant", "bad_verification_code"})
"""Error codes for a wrong code, of RFC 6749 and of GitHub."""
_MAX_TOKEN_CHARS = 4096
_CHUNK_BYTES = 16 * 1024

_T = TypeVar("_T")


class ProviderUnavailable(Upstream):
    """The provider did not answer, or its answer breaks the protocol."""

    code = "PROVIDER_UNAVAILABLE"


class ProviderTimeout(UpstreamTimeout):
    """The provider did not answer in time."""

    code = "PROVIDER_TIMEOUT"


class ProviderAnswer(BaseModel):
    """Base of a provider's answers, which may have more fields."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class Credentials(Record, kw_only=True):
    """Our client id and secret at a provider."""

    client_id: str
    client_secret: str = field(repr=False)

    @classmethod
    def of(cls, secret: Mapping[str, object], provider: str) -> Credentials:
        """Read the credentials from `{provider: {"client_id": .., "client_secret": ..}}`.

        Raises:
            ProviderNotConfigured: the secret has no such entry, or an incomplete one.
        """
        entry = secret.get(provider)
        if isinstance(entry, dict):
            client_id, client_secret = entry.get("client_id"), entry.get("client_secret")
            if isinstance(client_id, str) and isinstance(client_secret, str) and client_id and client_secret:
                return cls(client_id=client_id, client_secret=client_secret)
        raise ProviderNotConfigured("Logging in through this provider is not configured")


class Limits(Record, kw_only=True):
    """Limits on the time and memory of a login; the API answers within 20 s."""

    connect_s: float = 2.0
    read_s: float = 5.0
    """Longest silence in seconds."""
    total_s: float = 12.0
    """Seconds of all requests of one login."""
    max_bytes: int = 256 * 1024
    """Bytes of one answer."""


class Http:
    """HTTP client for the requests of one login. It follows no redirects: they could send secrets to another host."""

    def __init__(self, limits: Limits) -> None:
        import certifi  # local, as all of this: only logins through providers need it
        import urllib3

        self._limits = limits
        self._ends_at = monotonic() + limits.total_s
        self._pool = urllib3.PoolManager(retries=False, cert_reqs="CERT_REQUIRED", ca_certs=certifi.where())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.clear()

    def get(self, url: str, as_: type[_T], *, headers: Mapping[str, str] | None = None) -> _T:
        """Fetch a JSON document.

        Raises:
            ProviderUnavailable: the provider did not answer 200 with the expected JSON.
            ProviderTimeout: the provider did not answer in time.
        """
        status, body = self.request("GET", url, headers=headers or {})
        if status != 200:
            raise _unusable(url, status=status)
        try:
            return TypeAdapter(as_).validate_json(body)
        except ValidationError:
            raise _unusable(url, status=status) from None

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: str | None = None
    ) -> tuple[int, bytes]:
        """Send a request; return status and body, whatever the status.

        Raises:
            ProviderUnavailable, ProviderTimeout: the provider did not answer, or not in time.
        """
        import urllib3

        if not _is_private(url):
            raise _unusable(url)
        left = max(0.1, self._ends_at - monotonic())
        timeout = urllib3.Timeout(connect=min(self._limits.connect_s, left), read=min(self._limits.read_s, left))
        sent = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "karma-cloud", **headers}
        try:
            answer = self._pool.request(
                method, url, body=body, headers=sent, timeout=timeout, redirect=False, preload_content=False
            )
            try:
                return answer.status, self._read(url, answer)
            finally:
                answer.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as failure:
            # urllib3 counts refused connections among the late ones.
            refused = isinstance(failure, urllib3.exceptions.NewConnectionError)
            late = isinstance(failure, urllib3.exceptions.TimeoutError) and not refused
            raise (_late(url) if late else _unusable(url)) from None

    def _read(self, url: str, answer: BaseHTTPResponse) -> bytes:
        body = bytearray()
        while chunk := answer.read1(_CHUNK_BYTES, decode_content=False):
            body += chunk
            if len(body) > self._limits.max_bytes:
                raise _unusable(url, status=answer.status)
            if monotonic() > self._ends_at:
                raise _late(url)
        return bytes(body)


def authorization_url(
    url: str, credentials: Credentials, flow: Flow, *, state: str, redirect_uri: str, scope: str, **more: str
) -> str:
    """Return the URL of the page at which a user agrees, with everything that the code is bound to."""
    from oauthlib.common import add_params_to_uri
    from oauthlib.oauth2 import WebApplicationClient

    challenge = WebApplicationClient(credentials.client_id).create_code_challenge(flow.code_verifier, "S256")
    asked = {
        "response_type": "code",
        "client_id": credentials.client_id,
        "redirect_uri": redirect_uri,
        "scope": scope,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        **more,
    }
    # Not oauthlib's `prepare_request_uri`: it takes https alone, and is told otherwise by an environment variable.
    return str(add_params_to_uri(url, list(asked.items())))


def redeem(
    http: Http, url: str, credentials: Credentials, flow: Flow, *, code: str, redirect_uri: str
) -> Mapping[str, Any]:
    """Exchange a code for tokens: `access_token`, and others that the provider returns.

    Raises:
        InvalidCode, ProviderUnavailable, ProviderTimeout: see the table of this module.
    """
    from oauthlib.oauth2 import OAuth2Error, WebApplicationClient

    client = WebApplicationClient(credentials.client_id)
    body = client.prepare_request_body(
        code=code,
        redirect_uri=redirect_uri,
        client_secret=credentials.client_secret,
        code_verifier=flow.code_verifier,
    )
    form = {"content-type": "application/x-www-form-urlencoded"}
    status, answer = http.request("POST", url, headers=form, body=body)
    try:
        if status >= 500 or not isinstance(orjson.loads(answer), dict):
            raise _unusable(url, status=status)
        tokens: Mapping[str, Any] = client.parse_request_body_response(answer.decode())
    except OAuth2Error as refusal:
        if refusal.error in _WRONG_CODE:
            raise InvalidCode("The provider does not take its code: begin again") from None
        raise _unusable(url, status=status) from None
    except (ValueError, TypeError):
        raise _unusable(url, status=status) from None
    token = tokens["access_token"]
    if not isinstance(token, str) or not token.isascii() or len(token) > _MAX_TOKEN_CHARS:
        raise _unusable(url, status=status)
    return tokens


def credentials_from(secret: Callable[[], Mapping[str, object]], provider: str) -> Callable[[], Credentials]:
    """Return a function that reads a provider's credentials each time, since they may be replaced."""
    return lambda: Credentials.of(secret(), provider)


def _is_private(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


def _unusable(url: str, *, status: int = 0) -> ProviderUnavailable:
    logger.warning("provider.unusable", host=urlsplit(url).netloc, path=urlsplit(url).path, status=status)
    return ProviderUnavailable("The provider did not answer as it should; try again")


def _late(url: str) -> ProviderTimeout:
    logger.warning("provider.late", host=urlsplit(url).netloc, path=urlsplit(url).path)
    return ProviderTimeout("The provider did not answer in time; try again")
