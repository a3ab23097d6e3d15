"""Agents that call others, as the API of the catalogue takes and shows them."""

from __future__ import annotations

from typing import Any

import pytest

from karma.agents.schemas import ReplaceAgentBody
from tests.integration.api.conftest import Api
from tests.integration.api.test_agents import AGIO, V1, add_person, body, create
from tests.support.stack import Stack


@pytest.fixture
def admin(api: Api, stack: Stack) -> Api:
    return add_person(api, stack, "admin")


def calls(*others: str | dict[str, Any]) -> dict[str, Any]:
    return {"subagents": [each if isinstance(each, dict) else {"agent_id": each} for each in others]}


def wrong(admin: Api, method: str, path: str, asked: dict[str, Any]) -> tuple[int, str, list[str]]:
    answer = admin.call(method, path, asked)
    error = answer.json["error"]
    return answer.status, error["code"], [each["field"] for each in error["details"]]


class TestAnAgentThatCallsOthers:
    def test_names_them_by_id_or_name_and_keeps_them_by_id(self, admin: Api) -> None:
        scout = create(admin, "Night Scout", description="Looks around at night")
        watcher = create(admin, "watcher")
        named = {"agent_id": watcher["id"], "name": "watch", "description": "Keeps an eye on it"}
        lead = create(admin, "lead", **calls("night scout", named, {"agent_id": "karma", "name": "assistant"}))
        assert lead["subagents"][:2] == [
            {"agent_id": scout["id"], "name": "night_scout", "description": "Looks around at night"},
            {"agent_id": watcher["id"], "name": "watch", "description": "Keeps an eye on it"},
        ]
        assert (lead["subagents"][2]["agent_id"], lead["subagents"][2]["name"]) == ("karma", "assistant")
        assert admin.call("GET", f"{V1}/{lead['id']}").data["agent"] == lead
        assert "subagents" not in admin.call("GET", V1).data["agents"][1]
        sent_back = {name: lead[name] for name in ReplaceAgentBody.model_fields if name in lead}
        again = admin.call("PUT", f"{V1}/{lead['id']}", sent_back).data["agent"]
        assert (again["subagents"], again["approvals"]) == (lead["subagents"], lead["approvals"])

    def test_may_have_calls_of_them_approved(self, admin: Api) -> None:
        create(admin, "scout")
        rule = {"tool": "scout", "policy": "when", "when": "args.task.size() > 100"}
        lead = create(admin, "lead", **calls("scout"), approvals=[rule])
        assert [each["tool"] for each in lead["approvals"]] == ["scout"]
        # A client of Agio's API, which knows neither, takes neither away.
        kept = admin.call("PUT", f"{AGIO}/{lead['id']}", body("lead", system_prompt="New")).json
        assert (kept["subagents"], kept["approvals"]) == (lead["subagents"], lead["approvals"])
        gone = admin.call("PUT", f"{V1}/{lead['id']}", body("lead")).data["agent"]
        assert (gone["subagents"], gone["approvals"]) == ([], [])

    @pytest.mark.parametrize(
        ("others", "code", "field"),
        [
            (["nobody"], "SUBAGENT_NOT_FOUND", "subagents.0.agent_id"),
            (["scout", "lead"], "SUBAGENT_IS_ITSELF", "subagents.1.agent_id"),
            (["scout", {"agent_id": "scout"}], "SUBAGENT_NAME_TAKEN", "subagents.1.name"),
            ([{"agent_id": "scout", "name": "searchDatabase"}], "SUBAGENT_NAME_TAKEN", "subagents.0.name"),
            ([{"agent_id": "scout", "name": "notes__add"}], "SUBAGENT_NAME_TAKEN", "subagents.0.name"),
            ([{"agent_id": "scout", "name": "look around"}], "VALIDATION_ERROR", "subagents.0.name"),
            ([{"agent_id": "scout", "name": "x" * 65}], "VALIDATION_ERROR", "subagents.0.name"),
            ([{"agent_id": "scout", "description": ""}], "VALIDATION_ERROR", "subagents.0.description"),
            ([{"name": "scout"}], "VALIDATION_ERROR", "subagents.0.agent_id"),
            ([{"agent_id": "scout", "name": f"s{n}"} for n in range(9)], "VALIDATION_ERROR", "subagents"),
        ],
    )
    def test_is_refused_by_the_field_that_is_wrong(self, admin: Api, others: Any, code: str, field: str) -> None:
        create(admin, "scout")
        asked = body("lead", **calls(*others))
        assert wrong(admin, "POST", V1, asked) == (422, code, [field])
        lead = create(admin, "lead")
        assert wrong(admin, "PUT", f"{V1}/{lead['id']}", asked) == (422, code, [field])
        assert admin.call("GET", f"{V1}/{lead['id']}").data["agent"] == lead

    def test_is_not_called_by_those_that_it_calls(self, admin: Api) -> None:
        first = create(admin, "first")
        create(admin, "second", **calls("first"))
        create(admin, "third", **calls("second"))
        asked = body("first", **calls("third"))
        assert wrong(admin, "PUT", f"{V1}/{first['id']}", asked) == (422, "SUBAGENT_CYCLE", ["subagents.0.agent_id"])

    def test_reaches_three_levels(self, admin: Api) -> None:
        create(admin, "a0")
        for n in range(3):
            create(admin, f"a{n + 1}", **calls(f"a{n}"))
        asked = body("a4", **calls("a3"))
        assert wrong(admin, "POST", V1, asked) == (422, "SUBAGENTS_TOO_DEEP", ["subagents.0.agent_id"])

    def test_stays_when_one_of_them_is_deleted(self, admin: Api) -> None:
        scout = create(admin, "scout")
        lead = create(admin, "lead", **calls("scout"))
        assert admin.call("DELETE", f"{V1}/{scout['id']}").status == 204
        assert admin.call("GET", f"{V1}/{lead['id']}").data["agent"]["subagents"] == lead["subagents"]
        asked = body("lead", **calls(scout["id"]))
        assert wrong(admin, "PUT", f"{V1}/{lead['id']}", asked)[1] == "SUBAGENT_NOT_FOUND"
