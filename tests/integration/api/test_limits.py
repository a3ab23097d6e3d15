"""Rate limits at the edge of the API: what is counted, what is answered, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from karma.billing.plans import PlanName
from karma.core.ratelimit import Limit
from karma.identity.limits import RULES, Counted, Rule
from tests.integration.api.conftest import PASSWORD, Api
from tests.integration.api.test_edge import routes
from tests.support.clients import hooked
from tests.support.plans import subscribe
from tests.support.stack import HttpEvent, Stack

pytestmark = pytest.mark.req("R-M-37")

REFRESH = "/api/v1/auth/refresh"


@pytest.fixture
def small(api: Api, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a row of the table smaller: three requests a minute."""

    def shrink(name: str) -> None:
        limits = {plan: Limit(name, 3, timedelta(minutes=1)) for plan in RULES[name].limits}
        monkeypatch.setitem(cast("dict[str, Rule]", RULES), name, replace(RULES[name], limits=limits))

    return shrink


def calls_of(api: Api, method: str, path: str) -> list[str]:
    calls: list[str] = []

    def note(model: Any, **_: Any) -> None:
        calls.append(model.name)

    with hooked("dynamodb", "before-call.dynamodb.*", note):
        assert api.call(method, path).status == 200
    return calls


class TestTheTable:
    def test_has_a_row_for_each_route_that_fits_it(self, api: Api) -> None:
        from api.app import build
        from karma.http.openapi import permissions
        from karma.http.routing import Route

        for route in build().router.routes:
            if isinstance(route, Route):
                public = not list(permissions(route.described.dependant))
                assert (RULES[route.limit].counted is Counted.NETWORK) == public, route.path

    def test_has_a_limit_for_each_plan(self) -> None:
        for name, rule in RULES.items():
            assert set(rule.limits) in ({""}, set(PlanName)), name
            assert {limit.name for limit in rule.limits.values()} == {name}

    def test_is_described_for_every_route(self, api: Api) -> None:
        document = api.call("GET", "/openapi.json").json
        for name, _ in routes():
            method, path = name.split(" ")
            assert "429" in document["paths"][path][method.lower()]["responses"], name


class TestARouteThatIsLimitedByNetwork:
    def test_tells_how_many_requests_are_left(self, api: Api) -> None:
        answers = [api.call("POST", REFRESH, {"refresh_token": "x"}) for _ in range(2)]
        assert [answer.headers["ratelimit-policy"] for answer in answers] == ['"auth";q=300;w=60'] * 2
        left = [int(answer.headers["ratelimit"].removeprefix('"auth";r=').partition(";t=")[0]) for answer in answers]
        assert left[0] == 299
        assert 298 <= left[1] <= 299, "five come back each second"

    def test_refuses_the_one_too_many_of_a_network_and_nobody_else(
        self,
        api: Api,
        small: Callable[[str], None],
        http_event: HttpEvent,
        written: Callable[[], str],
    ) -> None:
        small("auth")
        for _ in range(3):
            assert api.call("POST", REFRESH, {"refresh_token": "x"}).status == 401
        written()
        refused = api.call("POST", REFRESH, {"refresh_token": "x"})
        assert (refused.status, refused.code) == (429, "RATE_LIMITED")
        assert refused.json["error"]["details"] == {
            "limit": "auth",
            "retry_after_s": int(refused.headers["retry-after"]),
        }
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        assert refused.headers["ratelimit"].startswith('"auth";r=0;t=')
        [metric] = [json.loads(line) for line in written().splitlines() if "RateLimited" in line and "_aws" in line]
        assert metric["limit"] == "auth"
        event = http_event("POST", REFRESH, body={"refresh_token": "x"}, source_ip="198.51.100.4")
        assert api.raw(event).status == 401

    def test_refuses_before_it_reads_the_body(self, api: Api, small: Callable[[str], None]) -> None:
        small("auth")
        answers = [api.call("POST", REFRESH, "{ not json").status for _ in range(4)]
        assert answers == [415, 415, 415, 429]

    def test_names_the_bucket_that_is_empty(self, api: Api) -> None:
        body = {"email": "nobody@example.com", "password": "wrong password"}
        answers = [api.call("POST", "/api/v1/auth/login", body) for _ in range(6)]
        assert [answer.status for answer in answers] == [401] * 5 + [429]
        assert answers[-1].headers["ratelimit-policy"] == '"login_network";q=5;w=900'
        assert answers[-1].json["error"]["details"]["limit"] == "login_network"


class TestARouteThatIsLimitedByAccount:
    def test_refuses_the_one_too_many_of_an_account_and_nobody_else(
        self, ada: Api, api: Api, small: Callable[[str], None]
    ) -> None:
        eve = api.as_(authorization="Bearer " + api.log_in(api.register()["email"])["access_token"])
        small("command")
        path = "/api/v1/devices/none/commands"
        answers = [ada.call("POST", path, {"command": "move"}) for _ in range(4)]
        assert [answer.status for answer in answers] == [404, 404, 404, 429]
        assert [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers[:2]] == [
            '"command";r=2',
            '"command";r=1',
        ]
        assert eve.call("POST", path, {"command": "move"}).status == 404

    @pytest.mark.fault("F-26h")
    def test_keeps_an_account_from_using_up_what_all_have_of_aws_iot(
        self, ada: Api, api: Api, small: Callable[[str], None]
    ) -> None:
        eve = api.as_(authorization="Bearer " + api.log_in(api.register()["email"])["access_token"])
        small("device")
        answers = [ada.call("DELETE", "/api/v1/devices/none") for _ in range(3)]
        answers.append(ada.call("POST", "/api/v1/devices", {}))
        assert [answer.status for answer in answers] == [404, 404, 404, 429]
        assert answers[-1].json["error"]["details"]["limit"] == "device"
        assert eve.call("POST", "/api/v1/devices", {}).status == 422

    def test_lets_a_stolen_session_guess_ten_passwords_wherever_it_tries(self, ada: Api, stack: Stack) -> None:
        account = ada.call("GET", "/api/v1/users/me").data["user"]
        mine, new = "/api/v1/users/me", "another good password"
        wrong = [
            ("DELETE", mine, {"current_password": "a guess"}),
            ("PATCH", mine, {"email": "eve@example.com", "current_password": "a guess"}),
            ("POST", "/api/v1/auth/change-password", {"current_password": "a guess", "password": new}),
        ]
        right = ("POST", "/api/v1/auth/change-password", {"current_password": PASSWORD, "password": new})
        answers = [ada.call(*wrong[n % len(wrong)]) for n in range(10)]
        assert {(answer.status, answer.code) for answer in answers} == {(403, "WRONG_PASSWORD")}
        for request in (*wrong, right):
            refused = ada.call(*request)
            assert (refused.status, refused.json["error"]["details"]["limit"]) == (429, "password")
        assert ada.call("GET", mine).data["user"] == account

    def test_gives_a_right_password_back(self, ada: Api) -> None:
        wrong = {"email": "eve@example.com", "current_password": "a guess"}
        for _ in range(9):
            assert ada.call("PATCH", "/api/v1/users/me", wrong).code == "WRONG_PASSWORD"
        for n in range(2):
            body = {"email": f"ada{n}@example.com", "current_password": PASSWORD}
            assert ada.call("PATCH", "/api/v1/users/me", body).status == 200

    def test_has_the_limit_of_the_plan(self, ada: Api, stack: Stack) -> None:
        me = ada.call("GET", "/api/v1/users/me").data["user"]["id"]
        path = "/api/v1/devices/none/commands"
        free = ada.call("POST", path, {"command": "move"}).headers["ratelimit-policy"]
        subscribe(me, PlanName.TEAM)
        stack.use("api")
        team = ada.call("POST", path, {"command": "move"}).headers["ratelimit-policy"]
        assert (free, team) == ('"command";q=60;w=60', '"command";q=1200;w=60')

    def test_costs_no_call_where_nothing_is_named(self, ada: Api) -> None:
        ada.call("GET", "/api/v1/api-keys")
        assert calls_of(ada, "GET", "/api/v1/api-keys") == ["GetItem", "Query"]
        assert "ratelimit" not in ada.call("GET", "/api/v1/api-keys").headers

    def test_is_in_agio_s_words_under_api(self, ada: Api, small: Callable[[str], None]) -> None:
        small("default")
        answers = [ada.call("GET", "/api/runs") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].json["error"]["type"] == "RateLimited"
        assert answers[-1].headers["retry-after"]
        assert answers[-1].headers["ratelimit-policy"] == '"default";q=3;w=60'
