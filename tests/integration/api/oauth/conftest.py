"""A person's browser between our API and npm's oidc-provider, which plays GitHub and Google (tests/support/oauth)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from tests.integration.api.conftest import ENTRY, Api
from tests.support.crash import CrashReport, CrashTest
from tests.support.oauth.providers import CLIENTS, Browser, Providers, running
from tests.support.stack import Stack

FRONT = "https://app.example.com"
COOKIE = "__Host-karma-oauth"
EXCHANGE = "/api/v1/auth/oauth/exchange"
BOTH = pytest.mark.parametrize("provider", ["google", "github"])


class Crash(Protocol):
    """The fixture `crash`."""

    def __call__(
        self,
        seed: Callable[[], dict[str, Any]],
        state: Callable[[], object],
        accept: set[int],
        *,
        redeliver: Callable[[], dict[str, Any]] | None = None,
    ) -> CrashReport: ...


_NOTICE = {"S": "notice"}


@pytest.fixture(scope="package")
def servers() -> Iterator[Providers]:
    with running() as started:
        yield started


@pytest.fixture
def providers(servers: Providers) -> Providers:
    servers.reset()
    return servers


@pytest.fixture
def secret_values(secret_values: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    return {**secret_values, "oauth": CLIENTS}


def addresses(of: Providers) -> dict[str, str]:
    return {"GITHUB_URL": of.github, "GITHUB_API_URL": f"{of.github}/api", "GOOGLE_ISSUER": of.google}


@pytest.fixture
def api(stack: Stack, api: Api, providers: Providers) -> Api:
    stack.use("api", **addresses(providers))
    return api


@dataclass
class Reply:
    """Answer of the function, cookies included."""

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
        """Return the values that a frontend finds behind the `#`."""
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
    """A person's browser with its cookies, for our API and for the providers."""

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
        """Begin, log in at the provider, and return the parameters of our callback."""
        return self.browser.visit(self.begin(redirect).location)

    def event(self, given: Mapping[str, str], *, cookie: str | None = None, accept: str = "") -> dict[str, Any]:
        path = f"/api/v1/auth/oauth/{self.provider}/callback"
        event = self.api.event("GET", path, query=urlencode(given), headers={"accept": accept} if accept else {})
        kept = self.cookie if cookie is None else cookie
        return {**event, "cookies": [kept]} if kept else event

    def callback(self, given: Mapping[str, str], *, cookie: str | None = None, accept: str = "") -> Reply:
        return self._serve(self.event(given, cookie=cookie, accept=accept))

    def log_in(self, redirect: str | None = None) -> dict[str, Any]:
        """Log in completely; return tokens and user."""
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
    """Return the number of items of each type; audit entries by their event, no notices, which follow from them."""

    def count() -> Counter[str]:
        return Counter(
            item.get("event", item["type"])["S"] for item in stored("identity") if item.get("type", _NOTICE) != _NOTICE
        )

    return count


@pytest.fixture
def crash(stack: Stack) -> Crash:
    """Let a request die at each call; its repeat ends in the same `state` and with one of the statuses of `accept`.

    The repeat is the same request, or the one that `redeliver` makes.
    """

    def run(
        seed: Callable[[], dict[str, Any]],
        state: Callable[[], object],
        accept: set[int],
        *,
        redeliver: Callable[[], dict[str, Any]] | None = None,
    ) -> CrashReport:
        return CrashTest(
            asks_others=True,
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables["identity"]],
            seed=seed,
            redeliver=lambda event: redeliver() if redeliver else event,
            normalise=lambda _item: None,
            other_state=state,
            accept=lambda answer: answer["statusCode"] in accept,
        ).run()

    return run


def item_of(stored: Callable[[str], list[Any]], kind: str) -> Any:
    [found] = [item for item in stored("identity") if item.get("type") == {"S": kind}]
    return found


def change(stack: Stack, item: Mapping[str, Any], **values: Any) -> None:
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
