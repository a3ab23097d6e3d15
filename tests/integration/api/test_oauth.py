"""Logging in through GitHub and Google, against npm's oidc-provider in their place (tests/support/oauth)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from tests.integration.api.conftest import PASSWORD, Api
from tests.support.crash import CrashTest
from tests.support.oauth.providers import CLIENTS, Browser, Providers, running

FRONT = "https://app.example.com"
COOKIE = "__Host-karma-oauth"
EXCHANGE = "/api/v1/auth/oauth/exchange"
BOTH = pytest.mark.parametrize("provider", ["google", "github"])

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


@pytest.fixture(scope="module")
def servers() -> Iterator[Providers]:
    with running() as started:
        yield started


@pytest.fixture
def providers(servers: Providers) -> Providers:
    servers.reset()
    return servers


@pytest.fixture
def secret_values(secret_values: Mapping[str, Mapping[str, object]]) -> Mapping[str, Mapping[str, object]]:
    return {**secret_values, "oauth": CLIENTS}


def addresses(of: Providers) -> dict[str, str]:
    return {"GITHUB_URL": of.github, "GITHUB_API_URL": f"{of.github}/api", "GOOGLE_ISSUER": of.google}


@pytest.fixture
def api(stack: Any, api: Api, providers: Providers) -> Api:
    stack.use("api", **addresses(providers))
    return api


@dataclass
class Reply:
    """What the function returned, cookies included."""

    raw: dict[str, Any]

    @property
    def status(self) -> int:
        return int(self.raw["statusCode"])

    @property
    def location(self) -> str:
        assert self.status == 303, self.raw
        return str(self.raw["headers"]["location"])

    @property
    def told(self) -> dict[str, str]:
        """What a frontend finds behind the `#`."""
        return dict(parse_qsl(urlsplit(self.location).fragment))

    @property
    def error(self) -> tuple[int, str]:
        return self.status, json.loads(self.raw["body"])["error"]["code"]

    @property
    def cookie(self) -> str:
        [cookie] = self.raw["cookies"]
        return str(cookie)


@dataclass
class Visitor:
    """A person's browser: what it keeps for our API, and what for the providers."""

    api: Api
    provider: str = "google"
    browser: Browser = field(default_factory=Browser)
    cookie: str = ""

    def begin(self, redirect: str | None = None) -> Reply:
        query = "" if redirect is None else urlencode({"redirect": redirect})
        reply = self._get("start", query)
        if reply.status == 303:
            self.cookie = reply.cookie.partition(";")[0]
        return reply

    def come_back(self, redirect: str | None = None) -> dict[str, str]:
        """Begin, log in at the provider, and return what our callback would be given."""
        return self.browser.visit(self.begin(redirect).location)

    def event(self, given: Mapping[str, str], *, cookie: str | None = None, accept: str = "") -> dict[str, Any]:
        path = f"/api/v1/auth/oauth/{self.provider}/callback"
        event = self.api.event("GET", path, query=urlencode(given), headers={"accept": accept} if accept else {})
        kept = self.cookie if cookie is None else cookie
        return {**event, "cookies": [kept]} if kept else event

    def callback(self, given: Mapping[str, str], *, cookie: str | None = None, accept: str = "") -> Reply:
        return self._serve(self.event(given, cookie=cookie, accept=accept))

    def log_in(self, redirect: str | None = None) -> dict[str, Any]:
        """Go the whole way; return tokens and user."""
        reply = self.callback(self.come_back(redirect))
        answer = self.api.call("POST", EXCHANGE, {"code": reply.told["code"]})
        assert answer.status == 200, answer.text
        data: dict[str, Any] = answer.data
        return data

    def _get(self, what: str, query: str) -> Reply:
        return self._serve(self.api.event("GET", f"/api/v1/auth/oauth/{self.provider}/{what}", query=query))

    def _serve(self, event: dict[str, Any]) -> Reply:
        from api.handler import lambda_handler

        return Reply(lambda_handler(event, self.api.context))


@pytest.fixture
def visitor(api: Api) -> Iterator[Callable[..., Visitor]]:
    made: list[Visitor] = []

    def make(provider: str = "google") -> Visitor:
        made.append(Visitor(api, provider))
        return made[-1]

    yield make
    for each in made:
        each.browser.close()


@pytest.fixture
def kinds(stored: Callable[[str], list[Any]]) -> Callable[[], Counter[str]]:
    """How many items of each type there are; audit entries by their event."""

    def count() -> Counter[str]:
        return Counter(item.get("event", item["type"])["S"] for item in stored("identity") if "type" in item)

    return count


def item_of(stored: Callable[[str], list[Any]], kind: str) -> Any:
    [found] = [item for item in stored("identity") if item.get("type") == {"S": kind}]
    return found


def change(stack: Any, item: Mapping[str, Any], **values: Any) -> None:
    """Set attributes of a stored item, None removes one."""
    names = {f"#{name}": name for name in values}
    sets = [f"#{name} = :{name}" for name, value in values.items() if value is not None]
    removes = [f"#{name}" for name, value in values.items() if value is None]
    expression = (f"SET {', '.join(sets)} " if sets else "") + (f"REMOVE {', '.join(removes)}" if removes else "")
    given = {f":{name}": value for name, value in values.items() if value is not None}
    stack.aws("dynamodb").update_item(
        TableName=stack.tables["identity"],
        Key={"pk": item["pk"], "sk": item["sk"]},
        UpdateExpression=expression,
        ExpressionAttributeNames=names,
        **({"ExpressionAttributeValues": given} if given else {}),
    )


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
        self, visitor: Callable[..., Visitor], stack: Any, providers: Providers
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
        stack: Any,
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
        self, visitor: Callable[..., Visitor], api: Api, stack: Any, stored: Callable[[str], list[Any]]
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

    def test_runs_out(self, visitor: Callable[..., Visitor], stack: Any, stored: Callable[[str], list[Any]]) -> None:
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
    def test_is_one_that_knows_us(self, api: Api, stack: Any, providers: Providers, secret: object) -> None:
        stack.aws("secretsmanager").put_secret_value(SecretId=stack.secrets["oauth"], SecretString=json.dumps(secret))
        stack.use("api", GITHUB_URL=providers.github)
        answer = api.call("GET", "/api/v1/auth/oauth/github/start")
        assert (answer.status, answer.code) == (503, "PROVIDER_NOT_CONFIGURED")

    def test_needs_our_own_address(self, api: Api, stack: Any, providers: Providers) -> None:
        for missing in ({"API_URL": ""}, {"FRONTEND_ORIGINS": ""}, {"OAUTH_SECRET_ARN": ""}):
            stack.use("api", **{"GITHUB_URL": providers.github, **missing})
            answer = api.call("GET", "/api/v1/auth/oauth/github/start")
            assert (answer.status, answer.code) == (503, "PROVIDER_NOT_CONFIGURED"), missing

    @BOTH
    def test_refuses_another_verifier(
        self, visitor: Callable[..., Visitor], stack: Any, stored: Callable[[str], list[Any]], provider: str
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

    def test_that_is_down_is_502(self, visitor: Callable[..., Visitor], stack: Any) -> None:
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
        stack: Any,
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


class TestTheExchange:
    def test_happens_once(self, visitor: Callable[..., Visitor], api: Api) -> None:
        someone = visitor()
        body = {"code": someone.callback(someone.come_back()).told["code"]}
        assert api.call("POST", EXCHANGE, body).status == 200
        answer = api.call("POST", EXCHANGE, body)
        assert (answer.status, answer.code) == (400, "INVALID_CODE")

    def test_happens_within_a_minute(
        self, visitor: Callable[..., Visitor], api: Api, stack: Any, stored: Callable[[str], list[Any]]
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

    def test_knows_no_account_that_is_gone(
        self, visitor: Callable[..., Visitor], api: Api, stack: Any, stored: Callable[[str], list[Any]]
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
        from api import deps
        from karma.identity.audit import NOWHERE

        service = deps.oauth()
        came = []
        for provider in ("google", "github", "google", "github"):
            someone = visitor(provider)
            given = someone.come_back()
            secret = someone.cookie.partition("=")[2]
            came.append((service.resume(provider, state=given["state"], browser_secret=secret), given["code"]))
        with ThreadPoolExecutor(len(came)) as pool:
            codes = list(pool.map(lambda one: service.finish(one[0], code=one[1], denied=False, source=NOWHERE), came))
        assert len({service.exchange(code, source=NOWHERE)[0].id for code in codes}) == 1
        found = kinds()
        assert (found["user"], found["email_guard"], found["user.registered"]) == (1, 1, 1)
        assert found["provider_guard"] == found["provider_identity"] == found["provider.linked"] == 2


class TestACrash:
    @BOTH
    def test_of_the_callback_leaves_one_account_to_who_begins_again(
        self, stack: Any, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]], provider: str
    ) -> None:
        """The provider's code is good once, so the repeat of the very same callback is refused: people begin again."""

        def seed() -> dict[str, Any]:
            someone = visitor(provider)
            return someone.event(someone.come_back())

        def counts() -> dict[str, int]:
            found = kinds()
            names = ("user", "email_guard", "provider_guard", "provider_identity", "user.registered", "provider.linked")
            return {name: found[name] for name in names}

        report = CrashTest(
            entry="api.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["identity"]],
            seed=seed,
            redeliver=lambda _event: seed(),
            normalise=lambda _item: None,
            other_state=counts,
            accept=lambda answer: answer["statusCode"] == 303,
        ).run()
        assert set(counts().values()) == {1}
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_of_the_callback_uses_up_its_state(self, stack: Any, visitor: Callable[..., Visitor]) -> None:
        someone = visitor()

        def seed() -> dict[str, Any]:
            return someone.event(someone.come_back())

        CrashTest(
            entry="api.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["identity"]],
            seed=seed,
            normalise=lambda _item: None,
            accept=lambda answer: answer["statusCode"] in {303, 400},
        ).run()

    def test_of_the_exchange_gives_tokens_once_or_not_at_all(
        self, stack: Any, api: Api, visitor: Callable[..., Visitor], kinds: Callable[[], Counter[str]]
    ) -> None:
        someone = visitor()

        def seed() -> dict[str, Any]:
            code = someone.callback(someone.come_back()).told["code"]
            return api.event("POST", EXCHANGE, body={"code": code})

        def consistent() -> bool:
            found = kinds()
            return found["session"] == found["refresh_token"] == found["session.started"] <= 1

        CrashTest(
            entry="api.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["identity"]],
            seed=seed,
            normalise=lambda _item: None,
            other_state=consistent,
            accept=lambda answer: answer["statusCode"] in {200, 400},
        ).run()
        assert consistent()
