"""Redirects elsewhere, providers that are wrong, slow, down or not who they say, and what they say of people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.api.conftest import Api
from tests.integration.api.oauth.conftest import BOTH, FRONT, Visitor, addresses, change, item_of
from tests.support.oauth.providers import Providers
from tests.support.stack import Stack

ELSEWHERE = [
    "",
    "/",
    "//evil.example.com",
    "javascript:alert(1)",
    "data:text/html,x",
    "https://evil.example.com/",
    "https://app.example.com.evil.example.com/",
    "https://app.example.com@evil.example.com/",
    "https://evil.example.com\\@app.example.com/",
    "https://app.example.com\\@evil.example.com/",
    "https:///app.example.com/",
    "https:app.example.com",
    "http://app.example.com/",
    "https://app.example.com:8443/",
    "https://APP.example.com/",
    "https://app.example.com/#code=planted",
    "https://app.example.com/\r\nSet-Cookie: a=b",
    "https://app.example.com\t/",
    " https://app.example.com/",
    "https://[app.example.com/",
    "https://app.example.com/\u202e",
    "https://app.example.com/" + "x" * 1990,
]
FAULTS: list[dict[str, Any]] = [
    {"kind": "status", "status": 503},
    {"kind": "status", "status": 429},
    {"kind": "status", "status": 200, "body": "<html>"},
    {"kind": "status", "status": 200, "body": "[1]"},
    {"kind": "status", "status": 200, "body": '{"access_token": {"a": 1}, "id": "1", "keys": 7}'},
    {"kind": "status", "status": 302, "headers": {"location": "http://127.0.0.1:9/"}},
    {"kind": "huge", "bytes": 300_000},
    {"kind": "cut"},
]
WRONG_CLAIMS: list[dict[str, Any]] = [
    {"nonce": "another"},
    {"nonce": None},
    {"nonce": 7},
    {"aud": "another-client"},
    {"aud": ["another-client"]},
    {"aud": ["google-client", "another-client"]},
    {"aud": None},
    {"azp": "another-client"},
    {"iss": "https://evil.example.com"},
    {"iss": None},
    {"exp": 1},
    {"exp": None},
    {"exp": "never"},
    {"iat": 99999999999},
    {"sub": None},
    {"sub": 7},
    {"email_verified": "true"},
    {"email": ["ada@example.com"]},
]


class TestWhereALoginMayEnd:
    def test_is_nowhere_else(self, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]) -> None:
        for page in ELSEWHERE:
            reply = visitor("github").begin(page)
            assert reply.error == (422, "VALIDATION_ERROR"), page
            assert not reply.raw.get("cookies"), page
        assert kinds()["oauth_flow"] == 0


class TestTheProvider:
    @pytest.mark.parametrize("provider", ["", "GitHub", "facebook", "%2e%2e", "github%00"])
    def test_is_one_that_we_know(self, api: Api, provider: str) -> None:
        for what in ("start", "callback"):
            assert api.call("GET", f"/api/v1/auth/oauth/{provider}/{what}").status == 404

    @pytest.mark.parametrize(
        "secret",
        [
            {},
            {"github": {}},
            {"github": "x"},
            {"github": {"client_id": "", "client_secret": ""}},
            {"github": {"client_id": 7, "client_secret": []}},
        ],
    )
    def test_is_one_that_knows_us(self, api: Api, stack: Stack, providers: Providers, secret: object) -> None:
        stack.aws("secretsmanager").put_secret_value(SecretId=stack.secrets["oauth"], SecretString=json.dumps(secret))
        stack.use("api", GITHUB_URL=providers.github)
        answer = api.call("GET", "/api/v1/auth/oauth/github/start")
        assert (answer.status, answer.code) == (404, "PROVIDER_NOT_CONFIGURED")

    def test_needs_our_own_address(self, api: Api, stack: Stack, providers: Providers) -> None:
        for missing in ({"API_URL": ""}, {"FRONTEND_ORIGINS": ""}, {"OAUTH_SECRET_ARN": ""}):
            stack.use("api", **{"GITHUB_URL": providers.github, **missing})
            answer = api.call("GET", "/api/v1/auth/oauth/github/start")
            assert (answer.status, answer.code) == (404, "PROVIDER_NOT_CONFIGURED"), missing

    @BOTH
    def test_refuses_another_verifier(
        self, visitor: Callable[..., Visitor], stack: Stack, stored: Callable[[str], list[Any]], provider: str
    ) -> None:
        someone = visitor(provider)
        given = someone.come_back()
        change(stack, item_of(stored, "oauth_flow"), code_verifier={"S": "w" * 64})
        assert someone.callback(given).error == (400, "INVALID_CODE")

    @BOTH
    def test_refuses_codes_that_it_never_gave_out(self, visitor: Callable[..., Visitor], provider: str) -> None:
        for code in ("", "x", "\x00\r\n", "é", "x" * 2048, "x" * 2049):
            someone = visitor(provider)
            given = someone.come_back()
            assert someone.callback({**given, "code": code}).error == (400, "INVALID_CODE"), code

    @BOTH
    def test_may_say_no(self, visitor: Callable[..., Visitor], providers: Providers, provider: str) -> None:
        providers.fault(refuses=True)
        someone = visitor(provider)
        given = someone.come_back()
        assert given["error"] == "access_denied"
        assert someone.callback(given).error == (403, "PROVIDER_DENIED")

    def test_s_failure_goes_back_to_the_frontend_with_a_person(
        self, visitor: Callable[..., Visitor], providers: Providers
    ) -> None:
        providers.fault(refuses=True)
        someone = visitor()
        reply = someone.callback(someone.come_back(f"{FRONT}/in"), accept="text/html,application/xhtml+xml;q=0.9")
        assert reply.location.startswith(f"{FRONT}/in#")
        assert reply.told["error"] == "PROVIDER_DENIED"
        assert reply.told["request_id"]

    def test_that_is_down_is_502(self, visitor: Callable[..., Visitor], stack: Stack) -> None:
        stack.use("api", GOOGLE_ISSUER="http://127.0.0.1:9")
        assert visitor("google").begin().error == (502, "PROVIDER_UNAVAILABLE")

    @pytest.mark.parametrize(
        ("provider", "path"),
        [
            ("google", "/token"),
            ("google", "/jwks"),
            ("github", "/login/oauth/access_token"),
            ("github", "/api/user"),
            ("github", "/api/user/emails"),
        ],
    )
    def test_that_does_not_answer_as_agreed_is_502(
        self,
        visitor: Callable[..., Visitor],
        providers: Providers,
        stack: Stack,
        kinds: Callable[[], Counter[str]],
        provider: str,
        path: str,
    ) -> None:
        for fault in FAULTS:
            providers.reset()
            # Keys that were read once are kept: begin with none.
            stack.use("api", **addresses(providers))
            someone = visitor(provider)
            given = someone.come_back()
            providers.fault(path=path, **fault)
            assert someone.callback(given).error == (502, "PROVIDER_UNAVAILABLE"), fault
        assert kinds()["user"] == kinds()["login_code"] == 0


class TestTheIdToken:
    def test_with_wrong_claims_is_not_believed(
        self, visitor: Callable[..., Visitor], providers: Providers, kinds: Callable[[], Counter[str]]
    ) -> None:
        for claims in WRONG_CLAIMS:
            providers.fault(claims=claims)
            someone = visitor("google")
            assert someone.callback(someone.come_back()).error == (401, "INVALID_ID_TOKEN"), claims
        assert kinds()["user"] == 0

    def test_that_the_provider_did_not_sign_is_not_believed(
        self, visitor: Callable[..., Visitor], providers: Providers
    ) -> None:
        for forgery in ("alg_none", "another_key", "symmetric", "unknown_kid", "not_a_token", "missing"):
            providers.fault(id_token=forgery)
            someone = visitor("google")
            assert someone.callback(someone.come_back()).error == (401, "INVALID_ID_TOKEN"), forgery

    def test_for_several_is_believed_when_it_was_made_for_us(
        self, visitor: Callable[..., Visitor], providers: Providers
    ) -> None:
        providers.fault(claims={"aud": ["google-client", "another-client"], "azp": "google-client"})
        assert visitor("google").log_in()["user"]["email"] == "ada@example.com"

    @pytest.mark.parametrize("email", ["no address", "", "a@b", "ada@example.com\n", "x" * 300 + "@example.com"])
    def test_with_an_address_that_is_none_makes_no_account(
        self, visitor: Callable[..., Visitor], providers: Providers, email: str
    ) -> None:
        providers.person(email=email)
        someone = visitor("google")
        reply = someone.callback(someone.come_back())
        if email.strip() == "ada@example.com":
            assert reply.status == 303
        else:
            assert reply.error == (403, "PROVIDER_EMAIL_UNVERIFIED")


class TestGitHubsAddresses:
    @pytest.mark.parametrize(
        ("emails", "chosen"),
        [
            ([], None),
            ([{"email": "a@example.com", "primary": False, "verified": True}], None),
            ([{"email": "a@example.com", "primary": True, "verified": False}], None),
            (
                [
                    {"email": "a@example.com", "primary": False, "verified": True},
                    {"email": "b@example.com", "primary": True, "verified": True},
                ],
                "b@example.com",
            ),
        ],
    )
    def test_are_used_when_primary_and_verified(
        self, visitor: Callable[..., Visitor], providers: Providers, emails: list[Any], chosen: str | None
    ) -> None:
        providers.person(emails=emails)
        someone = visitor("github")
        if chosen is None:
            assert someone.callback(someone.come_back()).error == (403, "PROVIDER_EMAIL_UNVERIFIED")
        else:
            assert someone.log_in()["user"]["email"] == chosen

    @pytest.mark.parametrize(
        ("name", "shown"), [(None, "ada"), ("", "ada"), ("A\x00d\na", "A d a"), ("é" * 300, "é" * 255)]
    )
    def test_come_with_names_that_can_be_shown(
        self, visitor: Callable[..., Visitor], providers: Providers, name: str | None, shown: str
    ) -> None:
        providers.person(name=name)
        assert visitor("github").log_in()["user"]["name"] == shown

    @pytest.mark.parametrize("user", [{"id": "1001"}, {"id": 0}, {"id": True}, {"id": None}, {"login": None}])
    def test_of_nobody_are_502(
        self, visitor: Callable[..., Visitor], providers: Providers, user: dict[str, object]
    ) -> None:
        providers.fault(user=user)
        someone = visitor("github")
        assert someone.callback(someone.come_back()).error == (502, "PROVIDER_UNAVAILABLE")
