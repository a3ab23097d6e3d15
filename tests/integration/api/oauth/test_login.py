"""Logging in through a provider: the whole way, whose account it is, what a state and a code are good for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.integration.api.conftest import PASSWORD, Api
from tests.integration.api.oauth.conftest import BOTH, COOKIE, EXCHANGE, FRONT, Visitor, change, item_of
from tests.support.oauth.providers import Providers
from tests.support.stack import Stack


class TestARoundTrip:
    @pytest.mark.req("R-C-27", "R-C-30")
    @BOTH
    def test_ends_with_tokens_of_a_new_verified_account(
        self, visitor: Callable[..., Visitor], api: Api, kinds: Callable[[], Counter[str]], provider: str
    ) -> None:
        found = visitor(provider).log_in()
        assert (found["user"]["email"], found["user"]["name"]) == ("ada@example.com", "Ada")
        assert found["user"]["email_verified"] is True
        me = api.call("GET", "/api/v1/users/me", authorization=f"Bearer {found['access_token']}")
        assert me.data["user"]["id"] == found["user"]["id"]
        again = api.call("POST", "/api/v1/auth/refresh", {"refresh_token": found["refresh_token"]})
        assert again.status == 200
        assert {"user.registered": 1, "provider.linked": 1, "session.started": 1}.items() <= kinds().items()

    @BOTH
    def test_a_second_time_ends_at_the_same_account(
        self, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]], provider: str
    ) -> None:
        first, second = visitor(provider).log_in(), visitor(provider).log_in()
        assert first["user"]["id"] == second["user"]["id"]
        assert kinds()["provider.linked"] == 1

    @BOTH
    def test_follows_the_person_and_not_the_address(
        self, visitor: Callable[..., Visitor], providers: Providers, provider: str
    ) -> None:
        first = visitor(provider).log_in()
        providers.person(email="moved@example.com", email_verified=False)
        assert visitor(provider).log_in()["user"]["id"] == first["user"]["id"]
        providers.person(sub="2002", email="ada@example.com")
        assert visitor(provider).log_in()["user"]["id"] == first["user"]["id"], "the address is verified on both sides"

    def test_begins_at_the_provider_with_everything_that_the_code_is_bound_to(
        self, visitor: Callable[..., Visitor], providers: Providers, stored: Callable[[str], list[Any]]
    ) -> None:
        reply = visitor("google").begin()
        assert reply.location.startswith(f"{providers.google}/auth?")
        asked = dict(parse_qsl(urlsplit(reply.location).query))
        assert (asked["code_challenge_method"], asked["response_type"]) == ("S256", "code")
        assert len(asked["state"]) == len(asked["nonce"]) == len(asked["code_challenge"]) == 43
        flow = item_of(stored, "oauth_flow")
        assert not {asked["state"], asked["code_challenge"], reply.cookie.split("=")[1].split(";")[0]} & {
            value for attribute in flow.values() for value in attribute.values()
        }
        assert reply.raw["headers"]["cache-control"] == "no-store"

    def test_is_bound_to_the_browser_by_a_cookie_that_only_this_host_can_set(
        self, visitor: Callable[..., Visitor], stack: Stack, providers: Providers
    ) -> None:
        parts = visitor().begin().cookie.split("; ")
        assert parts[0].startswith(f"{COOKIE}=")
        assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/", "Max-Age=600"} == set(parts[1:])
        stack.use("api", API_URL="http://127.0.0.1:8080", GOOGLE_ISSUER=providers.google)
        parts = visitor().begin().cookie.split("; ")
        assert parts[0].startswith("karma-oauth=")
        assert {"HttpOnly", "SameSite=lax", "Path=/", "Max-Age=600"} == set(parts[1:])

    @pytest.mark.parametrize(
        "page", [f"{FRONT}/", f"{FRONT}/welcome?next=%2Fa&n=1", FRONT, "https://beta.example.com:8443/x"]
    )
    def test_ends_at_the_page_that_was_asked_for(self, visitor: Callable[..., Visitor], page: str) -> None:
        someone = visitor()
        reply = someone.callback(someone.come_back(page))
        assert reply.location.partition("#")[0] == page
        assert set(reply.told) == {"code"}
        assert "Max-Age=0" in reply.cookie

    def test_ends_at_the_front_page_by_default(self, visitor: Callable[..., Visitor]) -> None:
        someone = visitor()
        assert someone.callback(someone.come_back()).location.startswith(f"{FRONT}/#code=")

    def test_leaves_no_secret_in_the_logs(
        self, visitor: Callable[..., Visitor], api: Api, written: Callable[[], str]
    ) -> None:
        someone = visitor("github")
        written()
        given = someone.come_back()
        code = someone.callback(given).told["code"]
        tokens = api.call("POST", EXCHANGE, {"code": code}).data
        text = written()
        assert "request" in text
        for secret in (given["code"], given["state"], code, tokens["access_token"], tokens["refresh_token"]):
            assert secret not in text
        assert someone.cookie.partition("=")[2] not in text


class TestAnAccountThatHasTheAddress:
    @BOTH
    def test_is_linked_when_it_is_verified(
        self,
        visitor: Callable[..., Visitor],
        api: Api,
        stack: Stack,
        stored: Callable[[str], list[Any]],
        provider: str,
    ) -> None:
        user = api.register("Ada@example.com")
        change(stack, item_of(stored, "user"), email_verified={"BOOL": True})
        assert visitor(provider).log_in()["user"]["id"] == user["id"]
        assert api.log_in("ada@example.com")["user"]["id"] == user["id"], "the password stays"

    def test_opens_to_both_providers(self, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]) -> None:
        assert visitor("google").log_in()["user"]["id"] == visitor("github").log_in()["user"]["id"]
        assert kinds()["provider_identity"] == kinds()["provider_guard"] == 2

    @BOTH
    def test_is_not_handed_over_while_nobody_proved_it(
        self, visitor: Callable[..., Visitor], api: Api, kinds: Callable[[], Counter[str]], provider: str
    ) -> None:
        api.register("ada@example.com")
        someone = visitor(provider)
        assert someone.callback(someone.come_back()).error == (409, "ACCOUNT_EMAIL_UNVERIFIED")
        assert kinds()["provider_guard"] == kinds()["login_code"] == 0
        api.log_in("ada@example.com")

    @BOTH
    def test_is_not_handed_to_an_unverified_address(
        self, visitor: Callable[..., Visitor], providers: Providers, api: Api, provider: str
    ) -> None:
        api.register("ada@example.com")
        providers.person(email_verified=False)
        someone = visitor(provider)
        assert someone.callback(someone.come_back()).error == (403, "PROVIDER_EMAIL_UNVERIFIED")

    def test_is_refused_when_disabled_at_every_step(
        self, visitor: Callable[..., Visitor], api: Api, stack: Stack, stored: Callable[[str], list[Any]]
    ) -> None:
        someone = visitor()
        someone.log_in()
        code = someone.callback(someone.come_back()).told["code"]
        change(stack, item_of(stored, "user"), disabled_at={"S": "2026-11-21T12:00:00.000Z"})
        answer = api.call("POST", EXCHANGE, {"code": code})
        assert (answer.status, answer.code) == (403, "ACCOUNT_DISABLED")
        assert someone.callback(someone.come_back()).error == (403, "ACCOUNT_DISABLED")
        other = visitor("github")
        assert other.callback(other.come_back()).error == (403, "ACCOUNT_DISABLED"), "it is not linked either"

    def test_without_a_password_is_not_opened_by_one(self, visitor: Callable[..., Visitor], api: Api) -> None:
        visitor().log_in()
        for password in (PASSWORD, "x", "None"):
            answer = api.call("POST", "/api/v1/auth/login", {"email": "ada@example.com", "password": password})
            assert answer.status == 401


class TestState:
    def test_is_good_once(self, visitor: Callable[..., Visitor]) -> None:
        someone = visitor()
        given = someone.come_back()
        assert someone.callback(given).status == 303
        assert someone.callback(given).error == (400, "INVALID_STATE")

    def test_is_of_one_browser(self, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]) -> None:
        mine, theirs = visitor(), visitor()
        given = mine.come_back()
        theirs.begin()
        for cookie in ("", theirs.cookie, f"{COOKIE}=", "karma-oauth=" + mine.cookie.partition("=")[2]):
            assert mine.callback(given, cookie=cookie).error == (400, "INVALID_STATE"), cookie
        assert kinds()["user"] == 0
        assert mine.callback(given).status == 303, "who has not the cookie does not use it up"

    def test_is_of_one_provider(self, visitor: Callable[..., Visitor]) -> None:
        someone = visitor("google")
        given = someone.come_back()
        someone.provider = "github"
        assert someone.callback(given).error == (400, "INVALID_STATE")

    def test_runs_out(self, visitor: Callable[..., Visitor], stack: Stack, stored: Callable[[str], list[Any]]) -> None:
        someone = visitor()
        given = someone.come_back()
        change(stack, item_of(stored, "oauth_flow"), valid_until={"S": "2026-01-01T00:00:00.000Z"})
        assert someone.callback(given).error == (400, "INVALID_STATE")

    @pytest.mark.parametrize(
        "given",
        [
            {},
            {"code": "x"},
            {"state": ""},
            {"state": "x", "code": "x"},
            {"state": "\x00", "code": "x"},
            {"state": "../../etc/passwd", "code": "x"},
            {"state": "OAUTH#x", "code": "x"},
            {"state": "é" * 200, "code": "x"},
            {"error": "access_denied"},
            {"state": "x", "error": "<script>alert(1)</script>"},
        ],
    )
    def test_that_we_never_gave_out(self, visitor: Callable[..., Visitor], given: dict[str, str]) -> None:
        someone = visitor()
        someone.begin()
        assert someone.callback(given).error == (400, "INVALID_STATE")

    def test_that_is_too_long(self, visitor: Callable[..., Visitor]) -> None:
        assert visitor().callback({"state": "x" * 257}).error == (422, "VALIDATION_ERROR")


class TestTheExchange:
    def test_happens_once(self, visitor: Callable[..., Visitor], api: Api) -> None:
        someone = visitor()
        body = {"code": someone.callback(someone.come_back()).told["code"]}
        assert api.call("POST", EXCHANGE, body).status == 200
        answer = api.call("POST", EXCHANGE, body)
        assert (answer.status, answer.code) == (400, "INVALID_CODE")

    def test_happens_within_a_minute(
        self, visitor: Callable[..., Visitor], api: Api, stack: Stack, stored: Callable[[str], list[Any]]
    ) -> None:
        someone = visitor()
        code = someone.callback(someone.come_back()).told["code"]
        change(stack, item_of(stored, "login_code"), valid_until={"S": "2026-01-01T00:00:00.000Z"})
        answer = api.call("POST", EXCHANGE, {"code": code})
        assert (answer.status, answer.code) == (400, "INVALID_CODE")

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({"code": "x"}, 400),
            ({"code": "LOGINCODE#x"}, 400),
            ({"code": "\x00"}, 400),
            ({"code": ""}, 422),
            ({"code": "x" * 257}, 422),
            ({"code": None}, 422),
            ({"code": ["x"]}, 422),
            ({}, 422),
            ({"code": "x", "redirect": "https://evil.example.com"}, 422),
            ([], 422),
            ("{", 400),
            (b"\xff", 400),
        ],
    )
    def test_is_of_codes_that_we_gave_out(self, api: Api, body: object, status: int) -> None:
        answer = api.call("POST", EXCHANGE, body, content_type="application/json")
        assert answer.status == status, answer.text

    @pytest.mark.fault("F-21d")
    def test_begins_no_session_once_all_were_ended(self, visitor: Callable[..., Visitor], api: Api) -> None:
        token = visitor().log_in()["access_token"]
        someone = visitor()
        code = someone.callback(someone.come_back()).told["code"]
        assert api.call("POST", "/api/v1/auth/logout-all", authorization=f"Bearer {token}").status == 204
        answer = api.call("POST", EXCHANGE, {"code": code})
        assert (answer.status, answer.code) == (400, "INVALID_CODE")
        assert visitor().log_in()["access_token"]

    def test_knows_no_account_that_is_gone(
        self, visitor: Callable[..., Visitor], api: Api, stack: Stack, stored: Callable[[str], list[Any]]
    ) -> None:
        someone = visitor()
        code = someone.callback(someone.come_back()).told["code"]
        user = item_of(stored, "user")
        stack.aws("dynamodb").delete_item(TableName=stack.tables["identity"], Key={"pk": user["pk"], "sk": user["sk"]})
        answer = api.call("POST", EXCHANGE, {"code": code})
        assert (answer.status, answer.code) == (403, "ACCOUNT_DISABLED")


class TestAtTheSameMoment:
    def test_a_new_person_gets_one_account(
        self, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        from api.services import identity
        from karma.audit.domain import NOWHERE

        service = identity.oauth()
        came = []
        for provider in ("google", "github", "google", "github"):
            someone = visitor(provider)
            given = someone.come_back()
            secret = someone.cookie.partition("=")[2]
            came.append((service.resume(provider, state=given["state"], browser_secret=secret), given["code"]))
        with ThreadPoolExecutor(len(came)) as pool:
            told = list(pool.map(lambda one: service.finish(one[0], code=one[1], denied=False, source=NOWHERE), came))
        assert len({service.exchange(each["code"], source=NOWHERE)[0].id for each in told}) == 1
        found = kinds()
        assert (found["user"], found["email_guard"], found["user.registered"]) == (1, 1, 1)
        assert found["provider_guard"] == found["provider_identity"] == found["provider.linked"] == 2
