"""Linking and unlinking a provider while logged in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.api.conftest import PASSWORD, Answer, Api
from tests.integration.api.oauth.conftest import BOTH, FRONT, Crash, Reply, Visitor
from tests.support.oauth.providers import Providers

LINKS = "/api/v1/users/me/links"


def begin(api: Api, provider: str = "google", body: object = None) -> Reply:
    """Begin as a frontend does, with the person's token."""
    from api.handler import lambda_handler

    sent = {"current_password": PASSWORD} if body is None else body
    path = f"/api/v1/auth/oauth/{provider}/link"
    return Reply(lambda_handler(api.event("POST", path, body=sent, headers=api.headers), api.context))


def address(reply: Reply) -> str:
    assert reply.status == 200, reply.raw
    return str(Answer(200, {}, reply.raw["body"]).data["authorization_url"])


def went_away(api: Api, someone: Visitor, body: object = None) -> dict[str, str]:
    """Begin a link in somebody's browser, and log in at the provider."""
    reply = begin(api, someone.provider, body)
    someone.cookie = reply.cookie.partition(";")[0]
    return someone.browser.visit(address(reply))


def link(api: Api, someone: Visitor) -> None:
    assert someone.callback(went_away(api, someone)).told == {"linked": someone.provider}


def logged_in(api: Api, tokens: dict[str, Any]) -> Api:
    return api.as_(authorization=f"Bearer {tokens['access_token']}")


@pytest.fixture
def grace(api: Api) -> Api:
    """Return the API for a person with a password and a verified address that no provider knows."""
    user = api.register("grace@example.com", verified=True)
    return logged_in(api, api.log_in(user["email"]))


class TestALink:
    @BOTH
    def test_opens_the_account_of_who_began_it(
        self, grace: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]], provider: str
    ) -> None:
        me = grace.call("GET", "/api/v1/users/me").data["user"]["id"]
        assert grace.call("GET", LINKS).data == {"links": [], "total": 0, "has_password": True}
        link(grace, visitor(provider))
        [shown] = grace.call("GET", LINKS).data["links"]
        assert (shown["provider"], kinds()["provider.linked"]) == (provider, 1)
        assert visitor(provider).log_in()["user"]["id"] == me, "whatever address the provider knows"

    def test_ends_at_the_page_that_was_asked_for_and_is_made_once(
        self, grace: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        someone = visitor()
        for _ in range(2):
            given = went_away(grace, someone, {"current_password": PASSWORD, "redirect": f"{FRONT}/me?n=1"})
            assert someone.callback(given).location == f"{FRONT}/me?n=1#linked=google"
        assert (kinds()["provider_guard"], kinds()["login_code"], kinds()["provider.linked"]) == (1, 0, 1)

    def test_needs_no_address_at_the_provider(
        self, grace: Api, visitor: Callable[..., Visitor], providers: Providers
    ) -> None:
        providers.person(email_verified=False)
        link(grace, visitor("github"))

    def test_is_refused_when_another_account_has_it(
        self, grace: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        ada = visitor().log_in()["user"]["id"]
        someone = visitor()
        reply = someone.callback(went_away(grace, someone), accept="text/html")
        assert reply.told["error"] == "IDENTITY_TAKEN"
        assert someone.callback(went_away(grace, someone)).error == (409, "IDENTITY_TAKEN")
        assert grace.call("GET", LINKS).data["total"] == 0
        assert visitor().log_in()["user"]["id"] == ada
        assert kinds()["provider_guard"] == 1

    def test_comes_back_in_the_browser_that_began_it_only(
        self, grace: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        someone, stranger = visitor(), visitor()
        given = went_away(grace, someone)
        stranger.begin()
        assert stranger.callback(given).error == (400, "INVALID_STATE")
        assert someone.callback(given, cookie="").error == (400, "INVALID_STATE")
        assert kinds()["provider_guard"] == 0
        assert someone.callback(given).told == {"linked": "google"}
        assert someone.callback(given).error == (400, "INVALID_STATE")

    def test_is_over_with_the_session(
        self, grace: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        someone = visitor()
        given = went_away(grace, someone)
        assert grace.call("POST", "/api/v1/auth/logout-all").status == 204
        assert someone.callback(given).error == (400, "INVALID_STATE")
        assert kinds()["provider_guard"] == 0

    def test_is_begun_by_the_owner_alone(self, api: Api, grace: Api, kinds: Callable[[], Counter[str]]) -> None:
        assert begin(grace, body={}).error == (422, "VALIDATION_ERROR")
        assert begin(grace, body={"current_password": "another password"}).error == (403, "WRONG_PASSWORD")
        assert begin(grace, "gitlab").error == (404, "NOT_FOUND")
        assert begin(api).error == (401, "UNAUTHORIZED")
        key = grace.call("POST", "/api/v1/api-keys", {"name": "ci"}).data["key"]
        assert begin(api.as_(x_api_key=key)).error == (403, "FORBIDDEN")
        assert api.as_(x_api_key=key).call("GET", LINKS).status == 403
        eve = logged_in(api, api.log_in(api.register("eve@example.com")["email"]))
        assert begin(eve).error == (403, "EMAIL_NOT_VERIFIED")
        away = {"current_password": PASSWORD, "redirect": "https://evil.example.com/"}
        assert begin(grace, body=away).error == (422, "VALIDATION_ERROR")
        assert kinds()["oauth_flow"] == 0

    def test_survives_a_death_anywhere(
        self, crash: Crash, api: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        def seed() -> dict[str, Any]:
            if not kinds()["user"]:
                api.register("grace@example.com", verified=True)
            someone = visitor("github")
            return someone.event(went_away(logged_in(api, api.log_in("grace@example.com")), someone))

        def counts() -> dict[str, int]:
            found = kinds()
            return {name: found[name] for name in ("user", "provider_guard", "provider_identity", "provider.linked")}

        crash(seed, counts, {303}, redeliver=seed)
        assert set(counts().values()) == {1}


class TestUnlinking:
    def test_closes_that_way_in(
        self, grace: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        me = grace.call("GET", "/api/v1/users/me").data["user"]["id"]
        link(grace, visitor())
        assert grace.call("DELETE", f"{LINKS}/google").status == 204
        assert grace.call("DELETE", f"{LINKS}/google").status == 404
        assert grace.call("DELETE", f"{LINKS}/gitlab").status == 404
        found = kinds()
        assert (found["provider_guard"], found["provider_identity"], found["provider.unlinked"]) == (0, 0, 1)
        assert visitor().log_in()["user"]["id"] != me, "an account of its own"

    def test_of_the_only_way_in_is_refused(
        self, api: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        ada = logged_in(api, visitor("google").log_in())
        assert ada.call("DELETE", f"{LINKS}/google").code == "LAST_LOGIN"
        assert ada.call("GET", LINKS).data["has_password"] is False
        someone = visitor("github")
        assert someone.callback(went_away(ada, someone, {})).told == {"linked": "github"}
        assert ada.call("DELETE", f"{LINKS}/google").status == 204
        assert ada.call("DELETE", f"{LINKS}/github").code == "LAST_LOGIN"
        assert kinds()["provider_guard"] == 1

    def test_of_both_at_the_same_moment_leaves_one(
        self, api: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        ada = logged_in(api, visitor("google").log_in())
        visitor("github").log_in()
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda name: ada.call("DELETE", f"{LINKS}/{name}"), ("google", "github")))
        assert sorted(answer.status for answer in answers)[0] == 204
        assert {answer.status for answer in answers} <= {204, 409}
        assert kinds()["provider_guard"] == kinds()["provider_identity"] == 1
