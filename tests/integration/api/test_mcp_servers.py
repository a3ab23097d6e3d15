"""MCP servers as the API shows them, each really connected to; and a request that dies at each of its AWS calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from karma.core.ids import new_id
from karma.identity.limits import RULES, Rule
from tests.integration.api.conftest import Api, reopen
from tests.support.crash import CrashReport
from tests.support.mcp_server import HEADERS, TOKEN, shared_url
from tests.support.stack import Stack

SERVERS = "/api/v1/mcp-servers"


def body(**more: Any) -> dict[str, Any]:
    return {"name": "weather", "url": shared_url(), "headers": HEADERS, **more}


def create(api: Api, **more: Any) -> Any:
    answer = api.call("POST", SERVERS, body(**more))
    assert answer.status == 201, answer.text
    return answer.data["server"]


@pytest.fixture
def other(api: Api) -> Api:
    user = api.register(verified=True)
    return api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])


def test_it_is_shown_with_its_tools_and_without_its_headers(
    ada: Api, stored: Callable[[str], list[Any]], written: Callable[[], str]
) -> None:
    made = create(ada)
    assert (made["name"], made["header_names"], made["protocol_version"]) == (
        "weather",
        ["Authorization"],
        "2026-07-28",
    )
    assert made["health"]["status"] == "ok"
    assert made["agents"] == [{"agent": "karma", "tools": None, "approvals": []}]
    tools = {tool["name"]: tool for tool in made["tools"]}
    assert made["tool_count"] == len(tools) >= 7
    assert tools["weather"]["call_name"] == "weather__weather"
    assert (tools["weather"]["repeatable"], tools["order"]["repeatable"]) == (True, False)
    shown = ada.call("GET", f"{SERVERS}/{made['id']}")
    assert shown.data["server"] == made
    listed = ada.call("GET", SERVERS)
    assert [each["id"] for each in listed.data["servers"]] == [made["id"]]
    assert ada.call("DELETE", f"{SERVERS}/{made['id']}").status == 204
    assert ada.call("GET", SERVERS).data["servers"] == []
    told = written() + shown.text + listed.text + repr(stored("agents"))
    assert TOKEN not in told
    assert TOKEN[8:24] not in told


def test_its_rules_for_approvals_are_shown_as_they_were_given(ada: Api) -> None:
    rules = [
        {"tool": "*", "policy": "always", "when": None, "expires_in_s": 604_800, "on_expiry": "cancel"},
        {"tool": "order", "policy": "when", "when": "args.item == 'tea'", "expires_in_s": 60, "on_expiry": "refuse"},
    ]
    made = create(ada, agents=[{"approvals": rules}])
    assert made["agents"] == [{"agent": "karma", "tools": None, "approvals": rules}]
    assert ada.call("GET", f"{SERVERS}/{made['id']}").data["server"]["agents"] == made["agents"]


def test_one_is_made_for_an_idempotency_key(ada: Api, stack: Stack) -> None:
    first = ada.call("POST", SERVERS, body(), idempotency_key="once")
    again = ada.call("POST", SERVERS, body(), idempotency_key="once")
    reopen(stack, expired=True)
    after_a_crash = ada.call("POST", SERVERS, body(), idempotency_key="once")
    assert [each.status for each in (first, again, after_a_crash)] == [201, 201, 201]
    assert first.data == again.data == after_a_crash.data
    taken = ada.call("POST", SERVERS, body())
    assert (taken.status, taken.code) == (409, "ALREADY_EXISTS")


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "a\x00b"}, "name"),
    ({"name": "x" * 25}, "name"),
    ({"url": "http://mcp.example.com/"}, "url"),
    ({"url": "https://user:secret@mcp.example.com/"}, "url"),
    ({"url": "https://mcp.example.com/#x"}, "url"),
    ({"url": "file:///etc/passwd"}, "url"),
    ({"headers": {"Host": "x"}}, "headers"),
    ({"headers": {"Mcp-Session-Id": "x"}}, "headers"),
    ({"headers": {"X-A": "a\r\nX-B: b"}}, "headers"),
    ({"headers": {"X-A": "a", "x-a": "b"}}, "headers"),
    ({"headers": {"X-A": "a" * 2_048, "X-B": "b" * 2_048}}, "headers"),
    ({"headers": {"X-A": "é"}}, "headers"),
    ({"agents": [{"agent": "karma"}, {"agent": "karma"}]}, "agents"),
    ({"agents": [{"tools": ["weather", "nothing"]}]}, "agents.0.tools.1"),
    ({"agents": [{"approvals": [{"tool": "nothing", "policy": "always"}]}]}, "agents.0.approvals.0.tool"),
    (
        {"agents": [{"tools": ["weather"], "approvals": [{"tool": "order", "policy": "always"}]}]},
        "agents.0.approvals.0.tool",
    ),
    ({"agents": [{"approvals": [{"tool": "*", "policy": "always"}] * 2}]}, "agents.0.approvals.1.tool"),
    ({"agents": [{"approvals": [{"tool": "*", "policy": "when"}]}]}, "agents.0.approvals.0.when"),
    ({"agents": [{"approvals": [{"tool": "*", "policy": "when", "when": "arg.x"}]}]}, "agents.0.approvals.0.when"),
    ({"agents": [{"approvals": [{"tool": "*", "policy": "seldom"}]}]}, "agents.0.approvals.0.policy"),
    ({"timeout_s": 0}, "timeout_s"),
    ({"timeout_s": 121}, "timeout_s"),
    ({"max_result_bytes": 1_048_577}, "max_result_bytes"),
    ({"version": 1}, "version"),
]


def test_a_body_that_is_wrong_is_refused_by_its_field_and_stores_nothing(
    ada: Api, stored: Callable[[str], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cast("dict[str, Rule]", RULES), "outward", RULES["default"])
    for wrong, field in WRONG:
        answer = ada.call("POST", SERVERS, body(**wrong))
        assert (answer.status, [entry["field"] for entry in answer.json["error"]["details"]]) == (422, [field]), wrong
    assert stored("agents") == []


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"headers": {}}, "MCP_UNAUTHORIZED"),
        ({"url": "http://127.0.0.1:9/mcp"}, "MCP_UNREACHABLE"),
        ({"url": "https://10.0.0.1/mcp"}, "MCP_ADDRESS_REFUSED"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "MCP_ADDRESS_REFUSED"),
        ({"url": "https://[::ffff:169.254.169.254]/"}, "MCP_ADDRESS_REFUSED"),
    ],
)
def test_a_server_that_cannot_be_asked_is_not_kept(
    ada: Api, stored: Callable[[str], list[Any]], wrong: dict[str, Any], code: str
) -> None:
    answer = ada.call("POST", SERVERS, body(**wrong))
    assert (answer.status, answer.code) == (422, code), answer.text
    assert stored("agents") == []


def test_what_is_missing_or_another_s_is_not_found(ada: Api, other: Api) -> None:
    theirs = create(other)
    for server_id in (new_id(), theirs["id"], "x", "a%23b"):
        for method in ("GET", "DELETE"):
            answer = ada.call(method, f"{SERVERS}/{server_id}")
            assert (answer.status, answer.code) == (404, "NOT_FOUND"), (method, server_id)
    assert other.call("GET", f"{SERVERS}/{theirs['id']}").data["server"] == theirs


def test_it_is_asked_for_its_tools_on_request(ada: Api, other: Api) -> None:
    made = create(ada)
    path = f"{SERVERS}/{made['id']}/refresh"
    answer = ada.call("POST", path)
    assert (answer.status, answer.headers["etag"]) == (200, '"1"')
    server = answer.data["server"]
    assert (server["tools"], server["health"]["status"]) == (made["tools"], "ok")
    assert server["health"]["checked_at"] > made["health"]["checked_at"]
    assert ada.call("GET", f"{SERVERS}/{made['id']}").data["server"] == server
    assert (other.call("POST", path).status, ada.call("POST", f"{SERVERS}/x/refresh").status) == (404, 404)
    statuses = [ada.call("POST", path).status for _ in range(20)]
    assert statuses[-1] == 429, "with all else that goes outward"


def test_it_is_changed_by_its_version_and_headers_are_tried_first(ada: Api, written: Callable[[], str]) -> None:
    path = f"{SERVERS}/{create(ada)['id']}"
    agents = [{"agent": "karma", "tools": ["weather"], "approvals": []}]
    changed = ada.call("PATCH", path, {"name": "sky", "agents": agents, "timeout_s": 9}, if_match='"1"')
    assert (changed.status, changed.headers["etag"]) == (200, '"2"')
    server = changed.data["server"]
    assert (server["name"], server["timeout_s"], server["agents"]) == ("sky", 9, agents)
    assert {tool["call_name"] for tool in server["tools"]} >= {"sky__weather"}
    assert ada.call("PATCH", path, {"name": "sky", "headers": HEADERS}).data["server"] == server
    for method, answer in (
        ("PATCH", ada.call("PATCH", path, {"name": "x", "version": 1})),
        ("DELETE", ada.call("DELETE", path, if_match='"1"')),
    ):
        assert (answer.status, answer.code) == (409, "STALE_VERSION"), method
    wrong = ada.call("PATCH", path, {"headers": {"Authorization": "Bearer wrong-canary"}})
    assert (wrong.status, wrong.code) == (422, "MCP_UNAUTHORIZED")
    assert ada.call("GET", path).data["server"] == server
    create(ada, name="other")
    assert ada.call("PATCH", path, {"name": "other"}).code == "ALREADY_EXISTS"
    for field, value in (("url", "https://x.example"), ("name", ""), ("timeout_s", 0), ("headers", {"Host": "x"})):
        refused = ada.call("PATCH", path, {field: value})
        assert (refused.status, refused.json["error"]["details"][0]["field"].partition(".")[0]) == (422, field)
    assert "wrong-canary" not in written()


class TestARequestThatDies:
    def test_while_it_changes_one_changes_it_once(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        def path() -> str:
            return f"{SERVERS}/{create(ada)['id']}"

        report = die("PATCH", path, table="agents", accept={200}, body={"name": "sky", "timeout_s": 9})
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_makes_one_makes_one(self, die: Callable[..., CrashReport]) -> None:
        report = die("POST", lambda: SERVERS, table="agents", accept={201}, body=body())
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_deletes_one_leaves_nothing(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        report = die("DELETE", lambda: f"{SERVERS}/{create(ada)['id']}", table="agents", accept={204, 404})
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
