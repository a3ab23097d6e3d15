"""Limits of a login at a provider in time and memory, and when a provider's keys are read again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from karma.core.clock import SystemClock
from karma.core.errors import AppError
from karma.identity.oauth.domain import Flow, Profile, ProviderName
from karma.integrations.oauth.client import Credentials, Http, Limits, ProviderTimeout, ProviderUnavailable
from karma.integrations.oauth.github import GitHub
from karma.integrations.oauth.google import Google, IdTokenRefused
from tests.support.oauth.providers import SECRET, Browser, Providers, callback_url, running

QUICK = Limits(connect_s=0.5, read_s=0.5, total_s=1.0, max_bytes=64 * 1024)
FLOW = Flow(
    state_hash="s",
    provider=ProviderName.GOOGLE,
    browser_hash="b",
    code_verifier="v" * 64,
    nonce="n",
    redirect="https://app.example.com/",
    expires_at=datetime(2026, 11, 21, tzinfo=UTC) + timedelta(minutes=10),
)


@pytest.fixture(scope="module")
def servers() -> Iterator[Providers]:
    with running() as started:
        yield started


@pytest.fixture
def providers(servers: Providers) -> Providers:
    servers.reset()
    return servers


@pytest.fixture
def browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.close()


def google(providers: Providers, limits: Limits | None = None, *, keys_again_s: float = 60) -> Google:
    credentials = Credentials(client_id="google-client", client_secret=SECRET)
    return Google(
        credentials=lambda: credentials,
        clock=SystemClock(),
        issuer=providers.google,
        limits=limits,
        keys_again_s=keys_again_s,
    )


def code_for(provider: Google | GitHub, browser: Browser, name: str) -> str:
    page = provider.authorization_url(FLOW, state="s", redirect_uri=callback_url(name))
    return browser.visit(page)["code"]


def log_in(provider: Google, browser: Browser) -> Profile:
    code = code_for(provider, browser, "google")
    return provider.profile(FLOW, code=code, redirect_uri=callback_url("google"))


class TestASlowProvider:
    @pytest.mark.parametrize("kind", ["silent", "drip"])
    def test_is_left_after_its_time(self, providers: Providers, browser: Browser, kind: str) -> None:
        slow = google(providers, QUICK)
        code = code_for(slow, browser, "google")
        providers.fault(path="/token", kind=kind)
        began = time.monotonic()
        with pytest.raises(ProviderTimeout) as caught:
            slow.profile(FLOW, code=code, redirect_uri=callback_url("google"))
        assert caught.value.status == 504
        assert time.monotonic() - began < 5

    def test_leaves_nothing_of_its_time_to_the_next_request(self, providers: Providers) -> None:
        credentials = Credentials(client_id="github-client", client_secret=SECRET)
        slow = GitHub(
            credentials=lambda: credentials, url=providers.github, api_url=f"{providers.github}/api", limits=QUICK
        )
        browser = Browser()
        code = code_for(slow, browser, "github")
        browser.close()
        providers.fault(path="/api/user/emails", kind="drip")
        with pytest.raises(ProviderTimeout):
            slow.profile(FLOW, code=code, redirect_uri=callback_url("github"))


class TestARequest:
    @pytest.mark.parametrize(
        "url", ["http://example.com/", "ftp://127.0.0.1/", "file:///etc/passwd", "http://169.254.169.254/", "", "//x"]
    )
    def test_goes_over_tls_or_to_this_machine(self, url: str) -> None:
        with Http(QUICK) as http, pytest.raises(ProviderUnavailable):
            http.get(url, dict[str, object])

    def test_says_nothing_of_what_it_asked(self, providers: Providers) -> None:
        providers.fault(path="/jwks", kind="status", status=500, body="a secret")
        with Http(QUICK) as http, pytest.raises(AppError) as caught:
            http.get(f"{providers.google}/jwks", dict[str, object])
        assert "secret" not in caught.value.message
        assert providers.google not in caught.value.message


class TestTheProvidersKeys:
    def test_are_kept(self, providers: Providers, browser: Browser) -> None:
        steady = google(providers)
        assert log_in(steady, browser).email == "ada@example.com"
        providers.fault(path="/jwks", kind="status", status=500)
        assert log_in(steady, browser).subject == "1001"
        providers.fault(path="/jwks", kind="status", status=500, id_token="unknown_kid")
        with pytest.raises(IdTokenRefused):
            log_in(steady, browser)

    def test_are_read_again_when_one_is_unknown(self, providers: Providers, browser: Browser) -> None:
        eager = google(providers, keys_again_s=0)
        log_in(eager, browser)
        providers.fault(path="/jwks", kind="status", status=500, id_token="unknown_kid")
        with pytest.raises(ProviderUnavailable):
            log_in(eager, browser)

    def test_come_from_who_the_issuer_says_it_is(self, providers: Providers) -> None:
        body = '{"issuer": "https://evil.example.com", "authorization_endpoint": "https://evil.example.com/",'
        body += '"token_endpoint": "https://evil.example.com/", "jwks_uri": "https://evil.example.com/"}'
        providers.fault(path="/.well-known/openid-configuration", kind="status", status=200, body=body)
        with pytest.raises(ProviderUnavailable):
            google(providers).authorization_url(FLOW, state="s", redirect_uri=callback_url("google"))


def test_a_secret_is_not_shown() -> None:
    assert SECRET not in repr(Credentials(client_id="c", client_secret=SECRET))
    assert "v" * 64 not in repr(FLOW)
