"""The agent catalogue as the API shows it, in both of its forms.

One file of more than 450 lines: each route is tried in both forms, side by side.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from karma.agents.domain import MODELS, AgentSpec
from karma.core.errors import AlreadyExists
from tests.integration.api.conftest import Api, reopen
from tests.support.stack import Stack

V1 = "/api/v1/agents"
AGIO = "/api/agents"
MODEL = MODELS[0]
TOOLS = ["searchDatabase", "controlDevice", "readTelemetry", "waitForFile"]
LISTED = {
    "id",
    "name",
    "description",
    "model",
    "tools",
    "tags",
    "built_in",
    "created_at",
    "updated_at",
    "version",
}


def body(name: str = "customer_support", **more: Any) -> dict[str, Any]:
    return {"name": name, "model": MODEL, "system_prompt": "You are helpful", **more}


def add_person(api: Api, stack: Stack, role: str) -> Api:
    user = api.register()
    stack.aws("dynamodb").update_item(
        TableName=stack.tables["identity"],
        Key={"pk": {"S": f"USER#{user['id']}"}, "sk": {"S": "PROFILE"}},
        UpdateExpression="SET #role = :role",
        ExpressionAttributeNames={"#role": "role"},
        ExpressionAttributeValues={":role": {"S": role}},
    )
    return api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])


@pytest.fixture
def admin(api: Api, stack: Stack) -> Api:
    return add_person(api, stack, "admin")


def waits(expires_in_s: int, on_expiry: str) -> dict[str, object]:
    return {"expires_in_s": expires_in_s, "on_expiry": on_expiry}


def create(admin: Api, name: str, **more: Any) -> dict[str, Any]:
    answer = admin.call("POST", V1, body(name, **more))
    assert answer.status == 201, answer.text
    made: dict[str, Any] = answer.data["agent"]
    return made


class TestCreating:
    @pytest.mark.fault("F-24z")
    def test_takes_a_name_that_folds_to_more_bytes_than_a_key_has(self, admin: Api) -> None:
        name = "\ufdfa" * 100
        made = create(admin, name)
        assert admin.call("GET", f"{V1}/{quote(name)}").data["agent"]["id"] == made["id"]
        again = admin.call("POST", V1, body(name))
        assert (again.status, again.code) == (409, "ALREADY_EXISTS")

    @pytest.mark.req("R-A-07")
    def test_takes_name_model_and_prompt_alone(self, admin: Api) -> None:
        answer = admin.call("POST", AGIO, body())

        made = answer.json
        assert answer.status == 201
        assert {name: made[name] for name in ("description", "tools", "tags", "memory", "knowledge", "config")} == {
            "description": "",
            "tools": [],
            "tags": [],
            "memory": None,
            "knowledge": None,
            "config": {
                "max_steps": 10,
                "temperature": 0.7,
                "reasoning": None,
                "compaction": {"enabled": True, "at_percent": 80, "model": None},
                "multitask_strategy": "reject",
                "budget": None,
                "max_cost_micros_per_day": None,
            },
        }
        assert (made["version"], made["created_at"]) == (1, made["updated_at"])
        assert admin.call("GET", f"{AGIO}/{made['id']}").json == made

    @pytest.mark.req("R-A-01", "R-A-04", "R-A-06")
    def test_keeps_all_that_it_is_told(self, admin: Api) -> None:
        told = body(
            description="Customer support agent",
            tools=["searchDatabase", "readTelemetry", "searchDatabase"],
            approvals=[
                {"tool": "readTelemetry", "policy": "when", "when": "args.device_id == 'x'", **waits(3600, "cancel")},
                {"tool": "searchDatabase", "policy": "always", "when": None, **waits(604_800, "refuse")},
            ],
            tags=["production"],
            memory="recent_runs",
            knowledge="product_docs",
            config={
                "max_steps": 4,
                "temperature": 0,
                "reasoning": "xhigh",
                "compaction": {"enabled": False, "at_percent": 60, "model": "claude-haiku-4-5"},
                "multitask_strategy": "enqueue",
                "budget": {"max_tokens": 9, "max_cost_micros": None},
                "max_cost_micros_per_day": 7,
            },
        )

        made = admin.call("POST", V1, told).data["agent"]

        shown = admin.call("GET", f"{AGIO}/{made['id']}")
        assert shown.json == made
        assert set(made) == LISTED | {"system_prompt", "subagents", "approvals", "memory", "knowledge", "config"}
        assert {name: made[name] for name in told} == {**told, "tools": ["searchDatabase", "readTelemetry"]}
        assert made["created_at"].endswith("Z")
        assert shown.headers["etag"] == '"1"'

    def test_keeps_what_clients_of_agio_do_not_know(self, admin: Api) -> None:
        rule = {"tool": "controlDevice", "policy": "always", "when": None, **waits(60, "refuse")}
        made = create(
            admin,
            "careful",
            tools=["controlDevice", "readTelemetry"],
            approvals=[rule],
            config={"reasoning": "low", "multitask_strategy": "enqueue", "max_cost_micros_per_day": 9},
        )
        known = body("careful", tools=["controlDevice"], config={"max_steps": 3})

        put = admin.call("PUT", f"{AGIO}/{made['id']}", known).json
        assert (put["approvals"], put["config"]) == ([rule], {**made["config"], "max_steps": 3})
        assert admin.call("PUT", f"{AGIO}/{made['id']}", body("careful")).json["approvals"] == []
        again = admin.call("PUT", f"{V1}/{made['id']}", known).data["agent"]
        assert (again["approvals"], again["config"]["multitask_strategy"]) == ([], "reject")

    def test_runs_once_for_an_idempotency_key(self, admin: Api, stack: Stack) -> None:
        first = admin.call("POST", V1, body(), idempotency_key="once")
        again = admin.call("POST", V1, body(), idempotency_key="once")
        reopen(stack, expired=True)
        after_a_crash = admin.call("POST", V1, body(), idempotency_key="once")

        assert [each.status for each in (first, again, after_a_crash)] == [201, 201, 201]
        assert first.data == again.data == after_a_crash.data
        assert admin.call("POST", V1, body(description="x"), idempotency_key="once").code == "IDEMPOTENCY_KEY_REUSED"
        assert admin.call("POST", V1, body(), idempotency_key="other").code == "ALREADY_EXISTS"

    @pytest.mark.parametrize("name", ["customer_support", " Customer_Support ", "karma", "KARMA"])
    def test_of_a_taken_name_is_refused(self, admin: Api, name: str) -> None:
        create(admin, "customer_support")

        answer = admin.call("POST", V1, body(name))

        assert (answer.status, answer.code) == (409, "ALREADY_EXISTS")
        assert "name" in answer.json["error"]["message"]
        assert admin.call("GET", V1).data["total"] == 2

    def test_at_once_under_one_name_gives_one_agent(self, admin: Api) -> None:
        from api.services import agents

        catalogue = agents.catalogue()

        def attempt(name: str, start: threading.Barrier) -> int:
            start.wait(5)
            try:
                catalogue.create(AgentSpec(name=name, model=MODEL, system_prompt="x"))
            except AlreadyExists as exc:
                return exc.status
            return 201

        with ThreadPoolExecutor(2) as pool:
            for i in range(50):
                start = threading.Barrier(2)
                answers = [pool.submit(attempt, f"twin {i}", start) for _ in range(2)]
                assert sorted(each.result() for each in answers) == [201, 409]
        assert admin.call("GET", V1, query="limit=1").data["total"] == 51


def approving(*others: Any, **rule: Any) -> dict[str, Any]:
    """Return an agent whose calls of a tool have to be approved."""
    first = {"tool": "searchDatabase", "policy": "always", **rule}
    return body(tools=["searchDatabase"], approvals=[first, *others])


WRONG: dict[str, tuple[Any, str]] = {
    "no name": ({"model": MODEL, "system_prompt": "x"}, "name"),
    "no model": ({"name": "a", "system_prompt": "x"}, "model"),
    "no prompt": ({"name": "a", "model": MODEL}, "system_prompt"),
    "empty name": (body(""), "name"),
    "blank name": (body("  \t "), "name"),
    "long name": (body("n" * 101), "name"),
    "name of lines": (body("a\nb"), "name"),
    "name with a NUL": (body("a\0b"), "name"),
    "name that is a number": (body(7), "name"),  # type: ignore[arg-type]
    "name that is null": (body(None), "name"),  # type: ignore[arg-type]
    "name like an id": (body("01890000-0000-7000-8000-000000000001"), "name"),
    "name like an id in capitals": (body("0189000A-0000-7000-8000-00000000000A"), "name"),
    "unknown model": (body(model="gpt4"), "model"),
    "empty model": (body(model=""), "model"),
    "model list": (body(model=[MODEL]), "model"),
    "empty prompt": (body(system_prompt=""), "system_prompt"),
    "blank prompt": (body(system_prompt=" \n "), "system_prompt"),
    "long prompt": (body(system_prompt="x" * 32_001), "system_prompt"),
    "long description": (body(description="x" * 501), "description"),
    "null description": (body(description=None), "description"),
    "unknown tool": (body(tools=["searchDatabase", "ticket"]), "tools.1"),
    "tools text": (body(tools="searchDatabase"), "tools"),
    "many tools": (body(tools=[f"t{n}" for n in range(51)]), "tools"),
    "tool object": (body(tools=[{"name": "searchDatabase"}]), "tools.0"),
    "approval of another tool": (approving(tool="readTelemetry"), "approvals.0.tool"),
    "two approvals of a tool": (approving(approving()["approvals"][0]), "approvals.1.tool"),
    "unknown policy": (approving(policy="ask"), "approvals.0.policy"),
    "no condition": (approving(policy="when"), "approvals.0.when"),
    "needless condition": (approving(when="true"), "approvals.0.when"),
    "broken condition": (approving(policy="when", when="args.command =="), "approvals.0.when"),
    "condition on another name": (approving(policy="when", when="user.id == 'x'"), "approvals.0.when"),
    "condition that is no truth": (approving(policy="when", when="size(args)"), "approvals.0.when"),
    "short wait": (approving(expires_in_s=59), "approvals.0.expires_in_s"),
    "long wait": (approving(expires_in_s=2_592_001), "approvals.0.expires_in_s"),
    "empty tag": (body(tags=[""]), "tags.0"),
    "long tag": (body(tags=["x" * 51]), "tags.0"),
    "many tags": (body(tags=[f"t{n}" for n in range(11)]), "tags"),
    "tag number": (body(tags=[1]), "tags.0"),
    "long memory": (body(memory="x" * 101), "memory"),
    "knowledge object": (body(knowledge={}), "knowledge"),
    "config null": (body(config=None), "config"),
    "no steps": (body(config={"max_steps": 0}), "config.max_steps"),
    "many steps": (body(config={"max_steps": 51}), "config.max_steps"),
    "huge steps": (body(config={"max_steps": 10**30}), "config.max_steps"),
    "no effort": (body(config={"reasoning": "none"}), "config.reasoning"),
    "steps true": (body(config={"max_steps": True}), "config.max_steps"),
    "steps text": (body(config={"max_steps": "3"}), "config.max_steps"),
    "half steps": (body(config={"max_steps": 1.5}), "config.max_steps"),
    "cold": (body(config={"temperature": -0.1}), "config.temperature"),
    "hot": (body(config={"temperature": 1.1}), "config.temperature"),
    "unknown setting": (body(config={"top_p": 1}), "config.top_p"),
    "unknown field": (body(owner="me"), "owner"),
    "own id": (body(id="x"), "id"),
    "own version": (body(version=1), "version"),
}


class TestABodyThatIsWrong:
    @pytest.mark.parametrize("case", WRONG)
    def test_is_refused_by_its_field_and_stores_nothing(
        self, admin: Api, stored: Callable[[str], list[Any]], case: str
    ) -> None:
        wrong, field = WRONG[case]

        answer = admin.call("POST", V1, wrong)

        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR"), answer.text
        assert [entry["field"] for entry in answer.json["error"]["details"]] == [field]
        assert stored("agents") == []

    @pytest.mark.parametrize("raw", ["", "{", "[1]", "null", '"x"', '{"name": NaN}'])
    def test_that_is_no_object_is_refused(self, admin: Api, stored: Callable[[str], list[Any]], raw: str) -> None:
        answer = admin.call("POST", V1, raw, content_type="application/json")

        assert answer.status in {400, 422}
        assert stored("agents") == []

    @pytest.mark.req("R-A-39")
    def test_is_told_the_choices(self, admin: Api) -> None:
        answer = admin.call("POST", AGIO, body(model="gpt4", tools=["ticket"]))

        error = answer.json["error"]
        assert (answer.status, error["type"], error["message"]) == (
            422,
            "ValidationError",
            "Request validation failed",
        )
        told = {entry["field"]: entry["message"] for entry in error["details"]}
        assert all(model in told["model"] for model in MODELS)
        assert all(tool in told["tools.0"] for tool in TOOLS)

    @pytest.mark.parametrize("case", ["unknown model", "unknown tool", "unknown field", "no prompt", "many steps"])
    def test_changes_nothing_by_put(self, admin: Api, case: str) -> None:
        made = create(admin, "one")
        wrong, _ = WRONG[case]

        assert admin.call("PUT", f"{V1}/{made['id']}", wrong).status == 422
        assert admin.call("GET", f"{V1}/{made['id']}").data["agent"] == made


class TestTheList:
    @pytest.mark.req("R-A-02", "R-A-03")
    def test_pages_by_limit_and_offset(self, admin: Api) -> None:
        for n in range(1, 25):
            create(admin, f"a{n:02d}")

        def page(query: str = "") -> tuple[Any, ...]:
            found = admin.call("GET", AGIO, query=query).json
            assert set(found) == {"total", "items", "limit", "offset", "has_more"}
            names = [item["name"] for item in found["items"]]
            return (*(found[name] for name in ("total", "limit", "offset", "has_more")), names)

        names = ["karma", *(f"a{n:02d}" for n in range(24, 0, -1))]
        assert page() == (25, 20, 0, True, names[:20])
        assert page("offset=20") == (25, 20, 20, False, names[20:])
        assert page("limit=1") == (25, 1, 0, True, ["karma"])
        assert page("limit=3&offset=22") == (25, 3, 22, False, names[22:])  # ends exactly at the total
        assert page("limit=1&offset=500") == (25, 1, 500, False, [])

    @pytest.mark.req("R-A-05")
    @pytest.mark.parametrize("path", [V1, AGIO])
    def test_filters_by_tag(self, admin: Api, path: str) -> None:
        create(admin, "one", tags=["production", "x"])
        create(admin, "two", tags=["test"])
        create(admin, "three", tags=["production"], tools=["searchDatabase"], description="Third")

        def names(tag: str) -> list[str]:
            found = admin.call("GET", path, query=f"tag={tag}").json
            page = found.get("data", found)
            items: list[dict[str, Any]] = page["items" if path == AGIO else "agents"]
            assert page["total"] == len(items)
            assert all(set(item) == LISTED for item in items)
            return [item["name"] for item in items]

        assert names("production") == ["three", "one"]
        assert names("test") == ["two"]
        assert names("built-in") == ["karma"]
        assert names("prod") == []

    @pytest.mark.parametrize(("query", "first"), [("", ["karma"]), ("tag=t&", [])])
    def test_goes_on_by_cursor(self, admin: Api, query: str, first: list[str]) -> None:
        for n in range(5):
            create(admin, f"a{n}", tags=["t"])
        names: list[str] = []
        totals: set[int] = set()
        cursor = ""
        for _ in range(10):
            page = admin.call("GET", V1, query=f"{query}limit=1{cursor}").data
            names += [agent["name"] for agent in page["agents"]]
            totals.add(page["total"])
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"

        assert names == [*first, "a4", "a3", "a2", "a1", "a0"]
        assert totals == {len(names)}

    def test_goes_on_by_page(self, admin: Api) -> None:
        for n in range(3):
            create(admin, f"a{n}")

        page = admin.call("GET", V1, query="page=2&page_size=2").data

        assert [agent["name"] for agent in page["agents"]] == ["a1", "a0"]
        assert (page["page"], page["page_size"], page["limit"], page["total"]) == (2, 2, 2, 4)

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("offset=981", "INVALID_PAGE"),
            ("page=51", "INVALID_PAGE"),
            (f"offset={10**30}", "INVALID_PAGE"),
            ("cursor=x", "INVALID_CURSOR"),
            ("limit=0", "VALIDATION_ERROR"),
            ("limit=101", "VALIDATION_ERROR"),
            ("offset=-1", "VALIDATION_ERROR"),
            (f"tag={'x' * 51}", "VALIDATION_ERROR"),
        ],
    )
    def test_refuses_what_is_no_page(self, admin: Api, query: str, code: str) -> None:
        answer = admin.call("GET", V1, query=query)
        assert (answer.status, answer.code) == (422 if code == "VALIDATION_ERROR" else 400, code)

    def test_takes_a_cursor_of_its_caller_and_tag_only(self, admin: Api, ada: Api) -> None:
        for n in range(2):
            create(admin, f"a{n}", tags=["t"])
        cursor = admin.call("GET", V1, query="limit=1").data["next_cursor"]

        assert ada.call("GET", V1, query=f"cursor={cursor}").code == "INVALID_CURSOR"
        assert admin.call("GET", V1, query=f"tag=t&cursor={cursor}").code == "INVALID_CURSOR"
        assert admin.call("GET", V1, query=f"page=2&cursor={cursor}").code == "INVALID_PAGE"


class TestReplacing:
    @pytest.mark.req("R-A-07")
    def test_answers_the_new_agent(self, admin: Api) -> None:
        made = create(admin, "one", tags=["old"], tools=["searchDatabase"], memory="m", config={"max_steps": 3})

        answer = admin.call("PUT", f"{AGIO}/{made['id']}", body("two", tags=["new"]))

        new = answer.json
        assert answer.status == 200
        assert (new["name"], new["tags"], new["tools"], new["memory"]) == ("two", ["new"], [], None)
        assert (new["config"]["max_steps"], new["version"], new["created_at"]) == (10, 2, made["created_at"])
        assert answer.headers["etag"] == '"2"'
        assert admin.call("GET", f"{AGIO}/{made['id']}").json == new
        assert admin.call("GET", V1, query="tag=old").data["agents"] == []
        assert [each["name"] for each in admin.call("GET", V1, query="tag=new").data["agents"]] == ["two"]
        create(admin, "one")  # the old name is free

    def test_with_the_same_again_changes_nothing(self, admin: Api) -> None:
        made = create(admin, "one")
        assert admin.call("PUT", f"{V1}/{made['id']}", body("one")).data["agent"] == made

    @pytest.mark.parametrize("how", ["if_match", "version"])
    def test_of_an_older_version_is_refused(self, admin: Api, how: str) -> None:
        path = f"{V1}/{create(admin, 'one')['id']}"

        def put(description: str, version: int) -> Any:
            told = body("one", description=description)
            if how == "version":
                return admin.call("PUT", path, {**told, "version": version})
            return admin.call("PUT", path, told, if_match=f'"{version}"')

        assert put("first", 1).data["agent"]["version"] == 2
        late = put("late", 1)
        assert (late.status, late.code) == (409, "STALE_VERSION")
        assert admin.call("PUT", path, body("one"), if_match="nonsense").code == "VALIDATION_ERROR"
        assert admin.call("GET", path).data["agent"]["description"] == "first"
        assert admin.call("PUT", path, body("one", description="any"), if_match="*").status == 200

    def test_by_a_taken_name_is_refused(self, admin: Api) -> None:
        create(admin, "one")
        two = create(admin, "two")
        assert admin.call("PUT", f"{V1}/{two['id']}", body("One")).code == "ALREADY_EXISTS"
        assert admin.call("GET", f"{V1}/{two['id']}").data["agent"] == two

    def test_at_once_loses_no_change(self, admin: Api) -> None:
        from api.services import agents

        catalogue = agents.catalogue()
        made = create(admin, "one")

        def change(n: int) -> None:
            catalogue.replace(made["id"], AgentSpec(name=f"n{n}", model=MODEL, system_prompt="x", tags=(f"t{n}",)))

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(change, range(9)))

        agent = admin.call("GET", f"{V1}/{made['id']}").data["agent"]
        assert agent["version"] == 10
        (tag,) = agent["tags"]
        listed = [n for n in range(9) if admin.call("GET", V1, query=f"tag=t{n}").data["agents"]]
        assert listed == [int(tag.removeprefix("t"))]


class TestDeleting:
    @pytest.mark.req("R-A-07", "R-A-36")
    def test_leaves_nothing(self, admin: Api) -> None:
        made = create(admin, "one", tags=["t"])

        gone = admin.call("DELETE", f"{AGIO}/{made['id']}")

        assert (gone.status, gone.text) == (204, "")
        for method in ("GET", "DELETE", "PUT"):
            told = admin.call(method, f"{AGIO}/{made['id']}", body() if method == "PUT" else None)
            assert told.status == 404
            assert told.json["error"]["message"] == f"Agent '{made['id']}' not found"
        assert admin.call("GET", V1).data["total"] == 1
        create(admin, "one")

    def test_of_an_older_version_is_refused(self, admin: Api) -> None:
        path = f"{V1}/{create(admin, 'one')['id']}"
        admin.call("PUT", path, body("one", description="new"))

        assert admin.call("DELETE", path, if_match='"1"').code == "STALE_VERSION"
        assert admin.call("DELETE", path, if_match='"2"').status == 204


class TestTheBuiltInAgent:
    def test_is_all_that_a_fresh_catalogue_has(self, ada: Api) -> None:
        page = ada.call("GET", V1).data
        (agent,) = page["agents"]
        assert (page["total"], page["total_capped"], page["next_cursor"]) == (1, False, None)
        assert (agent["id"], agent["built_in"], agent["tools"]) == ("karma", True, TOOLS)
        assert agent["model"] == "claude-sonnet-5-5"
        assert ada.call("GET", f"{V1}/karma").data["agent"]["system_prompt"].startswith("You are Karma's assistant.")

    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    def test_cannot_be_changed(self, admin: Api, stored: Callable[[str], list[Any]], method: str) -> None:
        answer = admin.call(method, f"{V1}/karma", body() if method == "PUT" else None)
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
        assert "built-in" in answer.json["error"]["message"]
        assert stored("agents") == []


class TestRoles:
    @pytest.mark.req("R-A-34", "R-A-35")
    @pytest.mark.parametrize("role", ["user", "viewer"])
    def test_read_what_admins_write(self, api: Api, stack: Stack, admin: Api, role: str) -> None:
        made = create(admin, "one")
        person = add_person(api, stack, role)

        assert person.call("GET", f"{V1}/{made['id']}").data["agent"] == made
        assert person.call("GET", AGIO).json["total"] == 2
        for method, path in (("POST", AGIO), ("PUT", f"{AGIO}/{made['id']}"), ("DELETE", f"{AGIO}/{made['id']}")):
            answer = person.call(method, path, None if method == "DELETE" else body("other"))
            assert (answer.status, answer.json["error"]["message"]) == (403, "Insufficient permissions")
        assert admin.call("GET", V1).data["total"] == 2

    def test_come_before_the_body_is_read(self, ada: Api) -> None:
        assert ada.call("POST", V1, {"nonsense": 1}).status == 403

    @pytest.mark.parametrize("path", [V1, AGIO, f"{V1}/karma", f"{AGIO}/karma"])
    def test_are_asked_for(self, api: Api, path: str) -> None:
        assert api.call("GET", path).status == 401


@pytest.mark.req("R-A-36")
@pytest.mark.parametrize(
    "agent_id", ["x", "agent_1", "01890000-0000-7000-8000-000000000001", "%00", "a%23b", "y" * 900]
)
def test_an_id_that_is_nobody_s_is_not_found(admin: Api, agent_id: str) -> None:
    answer = admin.call("GET", f"{AGIO}/{agent_id}")
    assert answer.status == 404
    assert answer.json["error"]["message"].startswith("Agent '")
    assert answer.json["error"]["message"].endswith("' not found")
    assert admin.call("DELETE", f"{V1}/{agent_id}").code == "NOT_FOUND"


@pytest.mark.fault("F-21i")
def test_a_repeat_whose_answer_is_too_large_to_keep_makes_no_second_agent(admin: Api) -> None:
    """The agent is shown as it is by then, under another name as well."""
    large = body("Large", system_prompt="\U0001f331" * 32_000)
    made = admin.call("POST", V1, large, idempotency_key="a")
    agent_id = made.data["agent"]["id"]
    admin.call("PUT", f"{V1}/{agent_id}", {**large, "name": "Other"})
    again = admin.call("POST", V1, large, idempotency_key="a")
    assert (made.status, again.status, again.data["agent"]["name"]) == (201, 201, "Other")
    assert again.data["agent"]["id"] == agent_id
    assert admin.call("GET", V1).data["total"] == 2, "the built-in one, and this"
    admin.call("DELETE", f"{V1}/{agent_id}")
    again = admin.call("POST", V1, large, idempotency_key="a")
    assert (again.status, again.code, again.json["error"]["details"]) == (410, "GONE", {"id": agent_id})
