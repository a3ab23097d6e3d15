"""GitHub: OAuth 2.0 with PKCE; the identity comes from its REST API, since it has no id_token."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from karma.identity.oauth.domain import Flow, Profile, ProviderName, display_name
from karma.integrations.oauth.client import Credentials, Http, Limits, ProviderAnswer, authorization_url, redeem

URL = "https://github.com"
API_URL = "https://api.github.com"
API_VERSION = "2022-11-28"
_SCOPE = "read:user user:email"


class _User(ProviderAnswer):
    id: int = Field(gt=0)
    login: str
    name: str | None = None


class _Email(ProviderAnswer):
    email: str
    primary: bool
    verified: bool


class GitHub:
    """Login through GitHub; implements karma.identity.oauth.ports.Provider."""

    def __init__(
        self,
        *,
        credentials: Callable[[], Credentials],
        url: str = URL,
        api_url: str = API_URL,
        limits: Limits | None = None,
    ) -> None:
        """Make a provider; `url` and `api_url` may be another GitHub's, without a slash at their ends."""
        self._credentials = credentials
        self._url = url
        self._api_url = api_url
        self._limits = limits or Limits()

    def authorization_url(self, flow: Flow, *, state: str, redirect_uri: str) -> str:
        """Return the URL of the page at which the user agrees; sends no request."""
        page = f"{self._url}/login/oauth/authorize"
        return authorization_url(page, self._credentials(), flow, state=state, redirect_uri=redirect_uri, scope=_SCOPE)

    def profile(self, flow: Flow, *, code: str, redirect_uri: str) -> Profile:
        """Exchange a code for the user's profile; the e-mail address is the primary one if GitHub has verified it."""
        with Http(self._limits) as http:
            tokens = redeem(
                http,
                f"{self._url}/login/oauth/access_token",
                self._credentials(),
                flow,
                code=code,
                redirect_uri=redirect_uri,
            )
            headers = {"authorization": f"Bearer {tokens['access_token']}", "x-github-api-version": API_VERSION}
            user = http.get(f"{self._api_url}/user", _User, headers=headers)
            emails = http.get(f"{self._api_url}/user/emails?per_page=100", list[_Email], headers=headers)
        return Profile(
            provider=ProviderName.GITHUB,
            subject=str(user.id),
            email=next((each.email for each in emails if each.primary and each.verified), None),
            name=display_name(user.name, user.login),
        )
