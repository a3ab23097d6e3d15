"""Configuration as the API shows it, in both of its forms."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from karma.agents.domain import MODELS
from karma.core.ids import UserId
from tests.integration.api.conftest import Api
from tests.integration.api.test_agents import TOOLS, add_person
from tests.integration.api.test_agents import body as agent_body
from tests.support.stack import Stack

V1 = "/api/v1/config"
AGIO = "/api/config"
MODEL = {"type": "model", "model": MODELS[0]}
SUMMARY = {"name", "type", "description", "enabled", "tags", "built_in", "version"}


@pytest.fixture
def admin(api: Api, stack: Stack) -> Api:
    return add_person(api, stack, "admin")


def put(admin: Api, name: str, config: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = admin.call("PUT", f"{V1}/{name}", {"config": config, **more})
    assert answer.status == 200, answer.text
    shown: dict[str, Any] = answer.data["config"]
    return shown


class TestTheList:
    @pytest.mark.req("R-A-24", "R-C-30")
    def test_shows_what_code_brings_to_everybody(self, ada: Api) -> None:
        found = ada.call("GET", AGIO).json

        assert set(found) == {"total", "configs"}
        assert found["total"] == len(found["configs"]) == len(MODELS) + len(TOOLS) + 2  # karma, updateState
        assert all(set(each) == SUMMARY for each in found["configs"])
        assert all(each["enabled"] and each["built_in"] and each["version"] == 0 for each in found["configs"])
        assert ada.call("GET", V1).data == found

    @pytest.mark.req("R-A-24")
    @pytest.mark.parametrize("path", [V1, AGIO])
    def test_filters_by_type(self, admin: Api, path: str) -> None:
        put(admin, "gpt4", {**MODEL, "description": "GPT-4 model", "tags": ["production"]})

        def names(kind: str) -> list[str]:
            found = admin.call("GET", path, query=f"type={kind}").json
            page = found.get("data", found)
            assert {each["type"] for each in page["configs"]} == {kind}
            assert page["total"] == len(page["configs"])
            return [each["name"] for each in page["configs"]]

        assert names("model") == sorted({*MODELS, "gpt4"})
        assert names("tool") == sorted([*TOOLS, "updateState"])
        assert names("agent") == ["karma"]

    @pytest.mark.parametrize("query", ["type=plugin", "type="])
    def test_knows_no_other_type(self, ada: Api, query: str) -> None:
        assert ada.call("GET", AGIO, query=query).status == 422


class TestModels:
    OWN: ClassVar[dict[str, Any]] = {
        "type": "model",
        "provider": "openai",
        "model": "llama",
        "base_url": "http://10.0.0.7/v1",
    }

    @pytest.mark.req("R-C-28")
    def test_that_are_enabled_are_listed_with_what_they_cost(self, admin: Api, ada: Api) -> None:
        price = {"since": "2026-01-01T00:00:00Z", "input": 0.5, "output": 1}
        put(admin, "own", {**self.OWN, "prices": [price], "context_window": 8192, "fallback": MODELS[0]})
        put(admin, "unknown", {"type": "model", "provider": "openai", "model": "gpt-4o"})
        put(admin, MODELS[1], {"enabled": False})
        put(admin, "other name", {**MODEL, "model": MODELS[1]})

        data = ada.call("GET", "/api/v1/llm/models").data

        found = {each["name"]: each for each in data["models"]}
        assert data["total"] == len(data["models"]) == len(found)
        assert set(found) == {*MODELS, "own", "unknown"} - {MODELS[1]}
        assert found["own"]["price"] == {
            "basis": "configured",
            "input": 0.5,
            "output": 1.0,
            "cache_write": 0.5,
            "cache_read": 0.5,
        }
        assert [found["own"][name] for name in ("provider", "model", "context_window", "fallback")] == [
            "openai",
            "llama",
            8192,
            MODELS[0],
        ]
        assert (found["unknown"]["price"]["basis"], found["unknown"]["price"]["output"]) == ("assumed", 50.0)
        assert found[MODELS[0]]["price"]["basis"] == "published"
        assert not {"base_url", "secret"} & found["own"].keys()

    def test_of_another_provider_are_shown_as_they_are_asked(self, admin: Api) -> None:
        put(admin, "own", {**self.OWN, "secret": "vllm", "images": False})

        for shown in (admin.call("GET", f"{V1}/own").data["config"], admin.call("GET", f"{AGIO}/own").json):
            assert [shown[name] for name in ("provider", "base_url", "secret", "images")] == [
                "openai",
                "http://10.0.0.7/v1",
                "vllm",
                False,
            ]

    def test_in_a_circle_are_refused_and_change_nothing(self, admin: Api) -> None:
        put(admin, "a", MODEL)
        put(admin, "b", {**MODEL, "fallback": "a"})

        refused = admin.call("PUT", f"{V1}/a", {"config": {"fallback": "b"}})

        assert (refused.status, refused.json["error"]["code"]) == (400, "INVALID_CONFIGURATION")
        assert refused.json["error"]["details"][0]["field"] == "fallback"
        assert admin.call("GET", f"{V1}/a").data["config"]["version"] == 1


class TestAComponent:
    @pytest.mark.req("R-A-25")
    def test_of_a_model_shows_how_it_is_called(self, admin: Api) -> None:
        put(admin, "gpt4", {**MODEL, "temperature": 0.4, "tags": ["production"], "max_tokens": 100})

        answer = admin.call("GET", f"{AGIO}/gpt4")

        shown = answer.json
        updated_at = shown.pop("updated_at")
        assert updated_at.endswith("Z")
        assert shown == {
            "name": "gpt4",
            "type": "model",
            "description": "",
            "enabled": True,
            "tags": ["production"],
            "provider": "anthropic",
            "model": MODELS[0],
            "temperature": 0.4,
            "max_tokens": 100,
            "built_in": False,
            "version": 1,
        }
        assert answer.headers["etag"] == '"1"'
        assert admin.call("GET", f"{V1}/gpt4").data["config"] == {**shown, "updated_at": updated_at}

    def test_of_code_is_there_before_anybody_wrote_it(self, ada: Api) -> None:
        answer = ada.call("GET", f"{V1}/searchDatabase")
        assert answer.data["config"]["description"].startswith("Find what the user has")
        assert answer.headers["etag"] == '"0"'

    @pytest.mark.parametrize("name", ["nothing", "CONFIG", "a%00b", "%ff", "x" * 500, "GPT4%20", "COMPONENT%23x"])
    def test_that_is_not_there_is_404(self, admin: Api, name: str) -> None:
        put(admin, "x", MODEL)
        for method, body in (("GET", None), ("DELETE", None)):
            answer = admin.call(method, f"{V1}/{name}", body)
            assert (answer.status, answer.code) == (404, "NOT_FOUND")
        assert admin.call("GET", f"{V1}/{name}/history").status == 404
        assert admin.call("POST", f"{V1}/{name}/rollback", {"version": 1}).status == 404

    def test_may_have_a_name_of_any_script(self, admin: Api) -> None:
        put(admin, "%E6%9B%B4%E5%BF%AB%20%26%20%23", MODEL)
        assert "更快 & #" in [each["name"] for each in admin.call("GET", V1).data["configs"]]


class TestPutting:
    @pytest.mark.req("R-A-26")
    def test_answers_success_and_message(self, admin: Api) -> None:
        answer = admin.call("PUT", f"{AGIO}/gpt4", {"config": {**MODEL, "name": "gpt4", "temperature": 0.8}})

        assert answer.json == {"success": True, "message": "Configuration updated successfully"}
        assert answer.headers["etag"] == '"1"'
        assert admin.call("GET", f"{AGIO}/gpt4").json["temperature"] == 0.8

    @pytest.mark.req("R-A-26")
    def test_with_validate_only_changes_nothing(self, admin: Api, stored: Callable[[str], list[Any]]) -> None:
        answer = admin.call("PUT", f"{AGIO}/gpt4", {"config": MODEL, "validate_only": True})

        assert answer.json == {"success": True, "message": "Configuration is valid"}
        shown = admin.call("PUT", "/api/v1/config/gpt4", {"config": MODEL, "validate_only": True})
        assert (shown.status, shown.data["config"]["model"]) == (200, MODEL["model"])
        assert admin.call("GET", f"{AGIO}/gpt4").status == 404
        wrong = {"config": {**MODEL, "temperature": 2}, "validate_only": True}
        assert admin.call("PUT", f"{AGIO}/gpt4", wrong).status == 400
        assert stored("agents") == []

    @pytest.mark.req("R-A-37")
    def test_of_a_broken_rule_is_told_which(self, admin: Api, stored: Callable[[str], list[Any]]) -> None:
        body = {"config": {"type": "model", "model": "gpt-4-turbo-preview", "temperature": 7}}

        agio, v1 = admin.call("PUT", f"{AGIO}/gpt4", body), admin.call("PUT", f"{V1}/gpt4", body)

        told = "Invalid configuration: temperature: must be at most 1"
        assert (agio.status, agio.json["error"]["message"]) == (400, told)
        assert agio.json["error"]["type"] == "InvalidConfiguration"
        assert (v1.status, v1.code, v1.json["error"]["message"]) == (400, "INVALID_CONFIGURATION", told)
        assert [entry["field"] for entry in v1.json["error"]["details"]] == ["temperature"]
        assert stored("agents") == []

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"config": None},
            {"config": []},
            {"config": "x"},
            {"config": MODEL, "validate_only": "yes"},
            {"config": MODEL, "validate_only": 1},
            {"config": MODEL, "version": -1},
            {"config": MODEL, "version": "0"},
            {"config": MODEL, "who": "me"},
        ],
    )
    def test_of_another_shape_is_422(self, admin: Api, body: object, stored: Callable[[str], list[Any]]) -> None:
        answer = admin.call("PUT", f"{V1}/gpt4", body)
        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")
        assert stored("agents") == []

    @pytest.mark.parametrize(
        "config",
        [
            {},
            {"type": {"$ne": ""}},
            {"type": "model"},
            {**MODEL, "model": "x" * 100_000},
            {**MODEL, "tags": [["x"]]},
            {**MODEL, "tags": ["x"] * 100_000},
            {**MODEL, "description": "\ufeff" * 501},
            {**MODEL, "temperature": 10**400},
            {**MODEL, "__class__": "x"},
            {"type": "tool", "name": "gpt4"},
            {"type": "agent", "name": "gpt4"},
        ],
    )
    def test_of_hostile_values_is_refused_shortly(self, admin: Api, config: object) -> None:
        answer = admin.call("PUT", f"{V1}/gpt4", {"config": config})
        assert answer.status in {400, 422}
        assert len(answer.text) < 3000
        assert admin.call("GET", f"{V1}/gpt4").status == 404

    @pytest.mark.parametrize("name", ["%20gpt4", "a%0Ab", "x" * 101, "%2e%2e", "%2e", "50%25", "a%3Fb"])
    def test_under_a_name_that_is_none_is_refused(self, admin: Api, name: str) -> None:
        assert admin.call("PUT", f"{V1}/{name}", {"config": MODEL}).code == "INVALID_CONFIGURATION"

    @pytest.mark.parametrize("how", ["if_match", "version"])
    def test_of_an_older_version_is_refused(self, admin: Api, how: str) -> None:
        def change(description: str, version: int) -> Any:
            body: dict[str, Any] = {"config": {"description": description}}
            if how == "version":
                return admin.call("PUT", f"{V1}/searchDatabase", {**body, "version": version})
            return admin.call("PUT", f"{V1}/searchDatabase", body, if_match=f'"{version}"')

        assert change("first", 0).data["config"]["version"] == 1
        assert change("late", 0).code == "STALE_VERSION"
        assert admin.call("GET", f"{V1}/searchDatabase").data["config"]["description"] == "first"

    @pytest.mark.fault("F-24t")
    def test_only_if_there_is_none_or_one(self, admin: Api) -> None:
        body = {"config": MODEL}
        for root in (V1, AGIO):
            path = f"{root}/gpt-{root.count('/')}"
            absent = admin.call("PUT", path, body, if_match="*")
            assert (absent.status, "There is no configuration" in absent.text) == (412, True)
            assert admin.call("GET", path).status == 404
            assert admin.call("PUT", path, body, if_none_match="*").status == 200
            there = admin.call("PUT", path, {"config": {"description": "another's"}}, if_none_match="*")
            assert (there.status, "There is a configuration" in there.text) == (412, True)
            assert admin.call("PUT", path, {"config": {"description": "mine"}}, if_match="*").status == 200
            assert admin.call("DELETE", path, if_none_match="*").status == 422
            assert admin.call("DELETE", path).status == 204
            back = admin.call("POST", f"{path}/rollback", {"version": 1}, if_match="*")
            assert back.status == 412
            assert admin.call("POST", f"{path}/rollback", {"version": 1}, if_none_match="*").status == 200
        built_in = admin.call("PUT", f"{V1}/searchDatabase", {"config": {"description": "x"}}, if_none_match="*")
        assert built_in.status == 412, "what code brings is there, at version 0"
        differing = admin.call("PUT", f"{V1}/searchDatabase", {"config": {}, "version": 1}, if_match='"0"')
        assert (differing.status, differing.json["error"]["details"][0]["field"]) == (422, "if-match")

    def test_at_once_loses_no_entry(self, admin: Api) -> None:
        from api.services import configuration

        service = configuration.service()
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda n: service.put("gpt4", {**MODEL, "max_tokens": n}, by=UserId("u")), range(1, 10)))

        shown = admin.call("GET", f"{V1}/gpt4").data["config"]
        history = admin.call("GET", f"{V1}/gpt4/history").data["history"]
        assert shown["version"] == len(history) == 9
        assert history[0]["new_config"]["max_tokens"] == shown["max_tokens"]
        assert all(newer["old_config"] == older["new_config"] for newer, older in pairwise(history))


class TestTheHistory:
    @pytest.mark.req("R-A-27")
    def test_gains_an_entry_with_each_change(self, admin: Api, ada: Api) -> None:
        put(admin, "gpt4", MODEL)
        put(admin, "gpt4", {"enabled": False})
        admin.call("POST", f"{AGIO}/gpt4/rollback", {"version": 1})
        admin.call("DELETE", f"{AGIO}/gpt4")

        found = ada.call("GET", f"{AGIO}/gpt4/history").json

        assert {name: found[name] for name in ("component_name", "total", "limit", "offset")} == {
            "component_name": "gpt4",
            "total": 4,
            "limit": 20,
            "offset": 0,
        }
        history = found["history"]
        assert [each["change_type"] for each in history] == ["deleted", "rolled_back", "updated", "created"]
        assert [each["version"] for each in history] == [4, 3, 2, 1]
        assert [each["rolled_back_to"] for each in history] == [None, 1, None, None]
        assert len({each["changed_by"] for each in history}) == 1
        assert all(each["timestamp"].endswith("Z") for each in history)
        enabled = [tuple(c and c["enabled"] for c in (each["old_config"], each["new_config"])) for each in history]
        assert enabled == [(True, None), (False, True), (True, False), (None, True)]

    def test_goes_on_by_cursor_and_offset(self, admin: Api, ada: Api) -> None:
        for n in range(1, 6):
            put(admin, "gpt4", {**MODEL, "max_tokens": n})
        versions: list[int] = []
        cursor = ""
        for _ in range(9):
            page = admin.call("GET", f"{V1}/gpt4/history", query=f"limit=2{cursor}").data
            assert page["total"] == 5
            versions += [each["version"] for each in page["history"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert versions == [5, 4, 3, 2, 1]
        numbered = admin.call("GET", f"{AGIO}/gpt4/history", query="limit=2&offset=3").json["history"]
        assert [each["version"] for each in numbered] == [2, 1]
        assert admin.call("GET", f"{AGIO}/gpt4/history", query="offset=6").json["history"] == []
        for beyond in (-1, 10**8, 10**30):
            assert admin.call("GET", f"{AGIO}/gpt4/history", query=f"offset={beyond}").status == 422
        put(admin, "gpt5", MODEL)
        assert ada.call("GET", f"{V1}/gpt4/history", query=cursor[1:]).code == "INVALID_CURSOR"
        assert admin.call("GET", f"{V1}/gpt5/history", query=cursor[1:]).code == "INVALID_CURSOR"

    @pytest.mark.fault("F-24i")
    def test_goes_on_where_a_page_ended_by_bytes(self, admin: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        for n in range(1, 4):
            put(admin, "gpt4", {**MODEL, "max_tokens": n})
        monkeypatch.setattr("karma.core.paging.MAX_PAGE_BYTES", 1)
        by_cursor: list[int] = []
        by_offset: list[int] = []
        cursor, offset = "", 0
        for _ in range(3):
            page = admin.call("GET", f"{V1}/gpt4/history", query=cursor).data
            by_cursor += [each["version"] for each in page["history"]]
            cursor = f"cursor={page['next_cursor']}"
            numbered = admin.call("GET", f"{AGIO}/gpt4/history", query=f"offset={offset}").json
            by_offset += [each["version"] for each in numbered["history"]]
            offset += numbered["limit"]
        assert by_cursor == by_offset == [3, 2, 1]
        assert page["next_cursor"] is None


class TestRollingBack:
    def test_makes_a_component_what_it_was(self, admin: Api) -> None:
        first = put(admin, "controlDevice", {"enabled": False})
        put(admin, "controlDevice", {"enabled": True})

        answer = admin.call("POST", f"{V1}/controlDevice/rollback", {"version": 1})

        assert answer.data["message"] == "Configuration rolled back to version 1"
        back = answer.data["config"]
        assert {**back, "version": 1, "updated_at": first["updated_at"]} == first
        assert back["version"] == 3

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"version": 9}, 404, "NOT_FOUND"),
            ({"version": 10**18}, 404, "NOT_FOUND"),
            ({"version": 10**30}, 422, "VALIDATION_ERROR"),
            ({"version": 0}, 422, "VALIDATION_ERROR"),
            ({"version": "1"}, 422, "VALIDATION_ERROR"),
            ({}, 422, "VALIDATION_ERROR"),
            ({"version": 2}, 400, "INVALID_CONFIGURATION"),
        ],
    )
    def test_to_what_never_was_is_refused(self, admin: Api, body: object, status: int, code: str) -> None:
        put(admin, "gpt4", MODEL)
        assert admin.call("DELETE", f"{V1}/gpt4").status == 204
        answer = admin.call("POST", f"{V1}/gpt4/rollback", body)
        assert (answer.status, answer.code) == (status, code)


class TestDeleting:
    def test_brings_back_what_code_has(self, admin: Api) -> None:
        put(admin, "searchDatabase", {"enabled": False})

        assert admin.call("DELETE", f"{AGIO}/searchDatabase", if_match='"7"').status == 409
        assert admin.call("DELETE", f"{AGIO}/searchDatabase").status == 204

        shown = admin.call("GET", f"{AGIO}/searchDatabase").json
        assert (shown["enabled"], shown["version"]) == (True, 2)


class TestWhatItChanges:
    def test_an_agent_may_name_a_configured_model(self, admin: Api) -> None:
        assert admin.call("POST", "/api/v1/agents", agent_body(model="fast")).status == 422
        put(admin, "fast", MODEL)
        made = admin.call("POST", "/api/v1/agents", agent_body(model="fast"))
        assert (made.status, made.data["agent"]["model"]) == (201, "fast")

    def test_an_agent_is_configured_by_its_name(self, admin: Api) -> None:
        assert admin.call("PUT", f"{V1}/scout", {"config": {"type": "agent"}}).code == "INVALID_CONFIGURATION"
        admin.call("POST", "/api/v1/agents", agent_body("Scout"))
        assert admin.call("PUT", f"{V1}/scout", {"config": {"type": "agent"}}).code == "INVALID_CONFIGURATION"
        assert put(admin, "Scout", {"type": "agent", "enabled": False})["enabled"] is False

    def test_capabilities_leave_out_disabled_tools(self, admin: Api) -> None:
        def tools() -> set[str]:
            found = admin.call("GET", "/api/v1/agent/capabilities").data["tools"]["items"]
            return {tool["name"] for tool in found}

        assert tools() == set(TOOLS)
        put(admin, "controlDevice", {"enabled": False})
        assert tools() == set(TOOLS) - {"controlDevice"}
