"""Tasks and subtasks as the API shows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from karma.core.ids import UserId, new_id
from karma.tasks.domain import NewTask
from tests.integration.api.conftest import Api, reopen
from tests.support.stack import Stack

TASKS = "/api/v1/tasks"
CHAIN: dict[str, Any] = {
    "title": "Inventory",
    "subtasks": [
        {"title": "Count", "ref": "count"},
        {"title": "Report", "dependencies": ["count"], "tools": ["browser", "browser"], "metadata": {"pages": 3}},
    ],
}


def create(api: Api, body: dict[str, Any] | None = None, **headers: str) -> Any:
    answer = api.call("POST", TASKS, body or {"title": "Inventory"}, **headers)
    assert answer.status == 201, answer.text
    return answer.data


def step(api: Api, task: Any, *statuses: str) -> Any:
    for status in statuses:
        answer = api.call("PATCH", f"{TASKS}/{task['id']}", {"status": status})
        assert answer.status == 200, answer.text
        task = answer.data["task"]
    return task


@pytest.fixture
def other(api: Api) -> Api:
    user = api.register()
    return api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])


class TestCreating:
    @pytest.mark.req("R-M-04", "R-M-30")
    def test_needs_a_title_alone(self, ada: Api) -> None:
        made = create(ada)

        task = made["task"]
        assert {name: value for name, value in task.items() if name not in {"id", "created_at", "updated_at"}} == {
            "title": "Inventory",
            "description": "",
            "priority": 5,
            "status": "pending",
            "progress": 0,
            "subtask_count": 0,
            "completed_count": 0,
            "metadata": {},
            "version": 1,
        }
        assert made["subtasks"] == []
        shown = ada.call("GET", f"{TASKS}/{task['id']}")
        assert shown.data == {"task": task}
        assert shown.headers["etag"] == '"1"'

    @pytest.mark.req("R-M-03", "R-M-07")
    def test_makes_the_subtasks_in_their_order(self, ada: Api) -> None:
        made = create(ada, {**CHAIN, "description": "All of it", "priority": 9, "metadata": {"a": [1]}})

        count, report = made["subtasks"]
        task = made["task"]
        assert (task["subtask_count"], task["priority"], task["metadata"]) == (2, 9, {"a": [1]})
        assert {name: count[name] for name in ("task_id", "ref", "status", "dependencies", "tools", "metadata")} == {
            "task_id": task["id"],
            "ref": "count",
            "status": "pending",
            "dependencies": [],
            "tools": [],
            "metadata": {},
        }
        assert (report["ref"], report["dependencies"], report["tools"]) == (None, [count["id"]], ["browser"])
        listed = ada.call("GET", f"{TASKS}/{task['id']}/subtasks").data
        assert listed == {"subtasks": made["subtasks"], "total": 2}

    def test_runs_once_for_an_idempotency_key(self, ada: Api, stack: Stack) -> None:
        first = ada.call("POST", TASKS, CHAIN, idempotency_key="once")
        again = ada.call("POST", TASKS, CHAIN, idempotency_key="once")
        reopen(stack, expired=True)
        after_a_crash = ada.call("POST", TASKS, CHAIN, idempotency_key="once")

        assert [each.status for each in (first, again, after_a_crash)] == [201, 201, 201]
        assert first.data == again.data == after_a_crash.data
        assert ada.call("POST", TASKS, {"title": "x"}, idempotency_key="once").code == "IDEMPOTENCY_KEY_REUSED"
        assert ada.call("GET", TASKS).data["total"] == 1


def subtask(**more: Any) -> dict[str, Any]:
    return {"title": "t", "subtasks": [{"title": "a", **more}]}


WRONG: dict[str, tuple[Any, str]] = {
    "no title": ({}, "title"),
    "blank title": ({"title": "  "}, "title"),
    "long title": ({"title": "x" * 256}, "title"),
    "title of lines": ({"title": "a\nb"}, "title"),
    "title that is a number": ({"title": 7}, "title"),
    "long description": ({"title": "t", "description": "x" * 4_001}, "description"),
    "priority above nine": ({"title": "t", "priority": 10}, "priority"),
    "negative priority": ({"title": "t", "priority": -1}, "priority"),
    "priority true": ({"title": "t", "priority": True}, "priority"),
    "half a priority": ({"title": "t", "priority": 1.5}, "priority"),
    "metadata list": ({"title": "t", "metadata": []}, "metadata"),
    "much metadata": ({"title": "t", "metadata": {"a": "x" * 8_192}}, "metadata"),
    "own status": ({"title": "t", "status": "completed"}, "status"),
    "own owner": ({"title": "t", "user_id": "me"}, "user_id"),
    "subtasks text": ({"title": "t", "subtasks": "a"}, "subtasks"),
    "many subtasks": ({"title": "t", "subtasks": [{"title": "a"}] * 91}, "subtasks"),
    "subtask without title": ({"title": "t", "subtasks": [{"ref": "a"}]}, "subtasks.0.title"),
    "nested subtasks": (subtask(subtasks=[]), "subtasks.0.subtasks"),
    "empty ref": (subtask(ref=""), "subtasks.0.ref"),
    "long ref": (subtask(ref="x" * 65), "subtasks.0.ref"),
    "dependencies null": (subtask(dependencies=None), "subtasks.0.dependencies"),
    "dependency number": (subtask(dependencies=[0]), "subtasks.0.dependencies.0"),
    "unknown dependency": (subtask(dependencies=["b"]), "subtasks.0.dependencies.0"),
    "dependency on itself": (subtask(ref="a", dependencies=["a"]), "subtasks.0.dependencies"),
    "empty tool": (subtask(tools=["browser", " "]), "subtasks.0.tools.1"),
    "many tools": (subtask(tools=[f"t{n}" for n in range(21)]), "subtasks.0.tools"),
    "much metadata of a subtask": (subtask(metadata={"a": "x" * 4_096}), "subtasks.0.metadata"),
    "ref twice": (
        {"title": "t", "subtasks": [{"title": "a", "ref": "a"}, {"title": "b", "ref": "a"}]},
        "subtasks.1.ref",
    ),
    "cycle": (
        {
            "title": "t",
            "subtasks": [
                {"title": "a", "ref": "a", "dependencies": ["c"]},
                {"title": "b", "ref": "b", "dependencies": ["a"]},
                {"title": "c", "ref": "c", "dependencies": ["b"]},
            ],
        },
        "subtasks.0.dependencies",
    ),
}
RAW = [
    "",
    "{",
    "[1]",
    "null",
    '"x"',
    '{"title": NaN}',
    '{"title": "\\ud800"}',
    '{"title": "a", "metadata": ' + "[" * 3000,
]
WRONG_CHANGES: list[tuple[Any, ...]] = [
    ({"title": None}, "title"),
    ({"metadata": None, "description": None}, "description", "metadata"),
    ({"status": "done"}, "status"),
    ({"status": None}, "status"),
    ({"progress": 5}, "progress"),
    ({"subtasks": []}, "subtasks"),
    ({"version": 0}, "version"),
    ({"version": "1"}, "version"),
]


class TestABodyThatIsWrong:
    def test_is_refused_by_its_field_and_stores_nothing(self, ada: Api, stored: Callable[[str], list[Any]]) -> None:
        for case, (wrong, field) in WRONG.items():
            answer = ada.call("POST", TASKS, wrong)
            assert (answer.status, answer.code) == (422, "VALIDATION_ERROR"), (case, answer.text)
            assert [entry["field"] for entry in answer.json["error"]["details"]] == [field], case
        for raw in RAW:
            assert ada.call("POST", TASKS, raw, content_type="application/json").status in {400, 422}, raw
        assert stored("work") == []

    def test_changes_nothing(self, ada: Api) -> None:
        made = create(ada, CHAIN)
        path = f"{TASKS}/{made['task']['id']}"
        for wrong, *fields in WRONG_CHANGES:
            answer = ada.call("PATCH", path, wrong)
            assert (answer.status, [entry["field"] for entry in answer.json["error"]["details"]]) == (422, fields)
        for wrong in ({}, {"status": "done"}, {"status": "failed", "title": "x"}):
            assert ada.call("PATCH", f"{path}/subtasks/{made['subtasks'][0]['id']}", wrong).status == 422
        assert ada.call("GET", path).data["task"] == made["task"]
        assert ada.call("GET", f"{path}/subtasks").data["subtasks"] == made["subtasks"]

    def test_of_the_largest_size_is_taken_and_shown(self, ada: Api) -> None:
        body = {
            "title": "𝄞" * 255,
            "description": "\t𝄞" * 2_000,
            "metadata": {"a": "x" * 8_000},
            "subtasks": [
                {
                    "title": "𝄞" * 255,
                    "ref": str(n),
                    "description": "x" * 3_800,
                    "dependencies": [str(m) for m in range(n)],
                    "metadata": {"a": "x" * 4_000},
                    "tools": [f"{'𝄞' * 60}{m}" for m in range(7)],
                }
                for n in range(90)
            ],
        }
        raw = json.dumps(body, ensure_ascii=False)
        assert 1_000_000 < len(raw.encode()) < 1024 * 1024
        made = ada.call("POST", TASKS, raw, content_type="application/json").data
        listed = ada.call("GET", f"{TASKS}/{made['task']['id']}/subtasks").data
        assert [each["ref"] for each in listed["subtasks"]] == [str(n) for n in range(90)]
        assert step(ada, made["task"], "in_progress", "failed")["status"] == "failed"
        assert ada.call("DELETE", f"{TASKS}/{made['task']['id']}").status == 204


class TestTheList:
    def fill(self, ada: Api, count: int) -> list[str]:
        return [create(ada, {"title": f"t{n}"})["task"]["id"] for n in range(count)]

    @pytest.mark.req("R-M-08", "R-M-30")
    def test_goes_from_the_newest_on_by_status_too(self, ada: Api, other: Api) -> None:
        made = [create(ada, {"title": f"t{n}"})["task"] for n in range(4)]
        create(other)
        step(ada, made[1], "in_progress")
        step(ada, made[3], "in_progress")

        def titles(query: str = "") -> list[str]:
            page = ada.call("GET", TASKS, query=query).data
            assert page["total"] == len(page["tasks"])
            return [task["title"] for task in page["tasks"]]

        assert titles() == ["t3", "t2", "t1", "t0"]
        assert titles("order=asc") == ["t0", "t1", "t2", "t3"]
        assert titles("status=in_progress") == ["t3", "t1"]
        assert titles("status=pending&order=asc") == ["t0", "t2"]
        assert titles("status=failed") == []

    @pytest.mark.parametrize("query", ["", "status=pending&", "order=asc&"])
    def test_goes_on_by_cursor(self, ada: Api, query: str) -> None:
        made = self.fill(ada, 5)
        found: list[str] = []
        totals: set[int] = set()
        cursor = ""
        for _ in range(9):
            page = ada.call("GET", TASKS, query=f"{query}limit=2{cursor}").data
            found += [task["id"] for task in page["tasks"]]
            totals.add(page["total"])
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert found == (made if "asc" in query else made[::-1])
        assert totals == {5}

    def test_goes_on_by_page_and_by_offset(self, ada: Api) -> None:
        made = self.fill(ada, 5)[::-1]
        first = ada.call("GET", TASKS).data
        assert (first["page"], first["page_size"], first["limit"]) == (1, 20, 20)
        page = ada.call("GET", TASKS, query="page=2&page_size=2").data
        assert [task["id"] for task in page["tasks"]] == made[2:4]
        assert (page["page"], page["page_size"], page["total"], page["total_capped"]) == (2, 2, 5, False)
        tail = ada.call("GET", TASKS, query="limit=2&offset=4").data
        assert ([task["id"] for task in tail["tasks"]], tail["next_cursor"]) == (made[4:], None)
        assert "page" not in tail

    def test_refuses_what_is_no_page(self, ada: Api, other: Api) -> None:
        self.fill(ada, 2)
        cursor = ada.call("GET", TASKS, query="limit=1").data["next_cursor"]
        for query, code in {
            "offset=981": "INVALID_PAGE",
            "page=51": "INVALID_PAGE",
            f"page=2&cursor={cursor}": "INVALID_PAGE",
            "cursor=x": "INVALID_CURSOR",
            f"status=pending&cursor={cursor}": "INVALID_CURSOR",
            f"order=asc&cursor={cursor}": "INVALID_CURSOR",
            "limit=0": "VALIDATION_ERROR",
            "page_size=101": "VALIDATION_ERROR",
            "status=done": "VALIDATION_ERROR",
            "order=up": "VALIDATION_ERROR",
        }.items():
            assert ada.call("GET", TASKS, query=query).code == code, query
        assert other.call("GET", TASKS, query=f"cursor={cursor}").code == "INVALID_CURSOR"


class TestChanging:
    @pytest.mark.req("R-M-05")
    def test_an_older_version_is_refused(self, ada: Api) -> None:
        task = create(ada)["task"]
        path = f"{TASKS}/{task['id']}"
        changed = ada.call("PATCH", path, {"title": "Stock", "priority": 0, "version": 1})
        assert (changed.status, changed.headers["etag"]) == (200, '"2"')
        assert changed.data["task"]["title"] == "Stock"
        for stale in (
            ada.call("PATCH", path, {"title": "x", "version": 1}),
            ada.call("PATCH", path, {"title": "x"}, if_match='"1"'),
            ada.call("PATCH", path, {"title": "x"}, if_match='"none"'),
            ada.call("POST", f"{path}/cancel", if_match='"1"'),
            ada.call("DELETE", path, if_match='"1"'),
        ):
            assert (stale.status, stale.code) == (409, "STALE_VERSION")
        assert ada.call("GET", path).data == changed.data
        assert ada.call("PATCH", path, {"title": "Stock"}, if_match='"2"').data["task"]["version"] == 2

    @pytest.mark.req("R-M-39")
    def test_a_completed_task_is_refused(self, ada: Api) -> None:
        task = step(ada, create(ada)["task"], "in_progress", "completed")
        assert (task["progress"], task["version"]) == (100, 3)
        path = f"{TASKS}/{task['id']}"
        for refused in (
            ada.call("PATCH", path, {"status": "completed"}),
            ada.call("PATCH", path, {"status": "in_progress"}),
            ada.call("PATCH", path, {"title": "late"}),
            ada.call("POST", f"{path}/cancel"),
        ):
            assert (refused.status, refused.code) == (409, "ALREADY_COMPLETED")
        assert ada.call("GET", path).data["task"] == task

    def test_by_a_step_that_is_none_is_refused(self, ada: Api) -> None:
        path = f"{TASKS}/{create(ada)['task']['id']}"
        answer = ada.call("PATCH", path, {"status": "completed"})
        assert (answer.status, answer.code) == (409, "INVALID_TRANSITION")

    def test_to_cancelled_ends_the_subtasks_and_again_changes_nothing(self, ada: Api) -> None:
        made = create(ada, CHAIN)
        path = f"{TASKS}/{made['task']['id']}"
        first, again = ada.call("POST", f"{path}/cancel"), ada.call("POST", f"{path}/cancel")
        assert [each.status for each in (first, again)] == [200, 200]
        assert first.data == again.data
        assert (first.data["task"]["status"], first.data["task"]["version"]) == ("cancelled", 2)
        statuses = [each["status"] for each in ada.call("GET", f"{path}/subtasks").data["subtasks"]]
        assert statuses == ["cancelled", "cancelled"]
        assert ada.call("PATCH", path, {"title": "late"}).code == "INVALID_TRANSITION"

    @pytest.mark.req("R-M-40")
    def test_what_is_missing_or_another_s_is_not_found(self, ada: Api, other: Api) -> None:
        made = create(other, CHAIN)
        part = f"/subtasks/{made['subtasks'][0]['id']}"
        for task_id in (new_id(), made["task"]["id"], "x", "a%23b"):
            path = f"{TASKS}/{task_id}"
            for method, where, body in (
                ("GET", path, None),
                ("PATCH", path, {"title": "x"}),
                ("POST", f"{path}/cancel", None),
                ("DELETE", path, None),
                ("GET", f"{path}/subtasks", None),
                ("PATCH", path + part, {"status": "in_progress"}),
            ):
                answer = ada.call(method, where, body)
                assert (answer.status, answer.code) == (404, "NOT_FOUND"), (method, where)
        mine = create(ada, CHAIN)["task"]["id"]
        answer = ada.call("PATCH", f"{TASKS}/{mine}{part}", {"status": "in_progress"})
        assert answer.json["error"]["message"] == f"Subtask {made['subtasks'][0]['id']} not found"
        assert other.call("GET", f"{TASKS}/{made['task']['id']}").data["task"] == made["task"]


class TestSubtasks:
    def test_start_in_the_order_of_their_dependencies_and_move_the_progress(self, ada: Api) -> None:
        made = create(ada, CHAIN)
        path = f"{TASKS}/{made['task']['id']}"
        count, report = (f"{path}/subtasks/{each['id']}" for each in made["subtasks"])

        early = ada.call("PATCH", report, {"status": "in_progress"})
        assert (early.status, early.code) == (409, "DEPENDENCIES_UNFINISHED")
        blocker = made["subtasks"][0]
        assert early.json["error"]["details"] == {
            "subtasks": [blocker["id"]],
            "blockers": [{"id": blocker["id"], "ref": blocker["ref"], "status": "pending"}],
        }
        started = ada.call("PATCH", count, {"status": "in_progress", "version": 1})
        assert (started.data["subtask"]["status"], started.headers["etag"]) == ("in_progress", '"2"')
        assert ada.call("GET", path).data["task"]["status"] == "in_progress"
        assert ada.call("PATCH", count, {"status": "completed"}, if_match='"1"').code == "STALE_VERSION"
        assert ada.call("PATCH", count, {"status": "completed"}, if_match='"2"').status == 200
        assert ada.call("PATCH", count, {"status": "failed"}).code == "ALREADY_COMPLETED"
        assert ada.call("PATCH", report, {"status": "in_progress"}).status == 200
        task = ada.call("GET", path).data["task"]
        assert (task["progress"], task["completed_count"], task["version"]) == (50, 1, 4)

        step(ada, task, "completed")

        assert ada.call("PATCH", report, {"status": "completed"}).code == "ALREADY_COMPLETED"
        statuses = [each["status"] for each in ada.call("GET", f"{path}/subtasks").data["subtasks"]]
        assert statuses == ["completed", "cancelled"]


@pytest.mark.req("R-M-06")
def test_a_deleted_task_takes_its_subtasks_along(ada: Api, stored: Callable[[str], list[dict[str, Any]]]) -> None:
    kept, made = create(ada, CHAIN), create(ada, CHAIN)
    path = f"{TASKS}/{made['task']['id']}"
    assert ada.call("DELETE", path).status == 204
    assert ada.call("GET", path).status == ada.call("DELETE", path).status == 404
    assert ada.call("GET", TASKS).data["total"] == 1
    kinds = sorted(item["type"]["S"] for item in stored("work"))
    assert kinds == ["subtask", "subtask", "task", "task_counter"]
    assert ada.call("GET", f"{TASKS}/{kept['task']['id']}/subtasks").data["total"] == 2


def test_tasks_made_at_once_are_all_counted(ada: Api, stored: Callable[[str], list[dict[str, Any]]]) -> None:
    from api.services import tasks

    user_id = UserId(ada.call("GET", "/api/v1/users/me").data["user"]["id"])
    service = tasks.service()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: service.create(user_id, NewTask(title=f"t{n}", metadata={})), range(12)))
    assert len({each.task.id for each in made}) == 12
    assert ada.call("GET", TASKS, query="limit=1").data["total"] == 12
