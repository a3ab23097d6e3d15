"""Checkpoints of runs as the API shows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.billing.allowances import Metric
from karma.billing.plans import PlanName
from karma.conversations.domain import History, Message, ThreadKey, ToolCall
from karma.core.ids import RunId, ThreadId, UserId
from karma.models.domain import Usage, Usages
from karma.runs.domain import Checkpoint, CheckpointKind, Progress, RunEnd, RunKey, RunStatus, Segment
from karma.runs.points import MAX_POINT_DESCRIPTION_CHARS, MAX_POINT_TAGS, PointId, write_point_id
from karma.runs.repository import RunRepository
from tests.contexts.runs import begin, ended_run, plain_setup
from tests.integration.api.conftest import Api
from tests.support.clients import hooked
from tests.support.plans import allowance, subscribe, take
from tests.support.rows import NOW

LIST = "/api/v1/runs/r1/checkpoints"


@pytest.fixture
def owner(api: Api) -> tuple[Api, UserId]:
    user = api.register()
    token = api.log_in(user["email"])["access_token"]
    return api.as_(authorization=f"Bearer {token}"), UserId(user["id"])


def stored(user_id: UserId, turns: int = 2, *, size: int = 10, setup: bytes = b"", run_id: str = "r1") -> None:
    """Store a run with a question, and for each turn a call with its result."""
    store, key = RunRepository(), RunKey(user_id, RunId(run_id))
    run = begin(user_id, run_id, agent="karma", setup=setup)
    thread = ThreadKey(user_id, run.thread_id)
    for n in range(2, 2 + 2 * turns):
        turn, is_call = n // 2, n % 2 == 0
        said = (
            Message(id=f"a{turn}", role="assistant", content="x" * size, tool_calls=(ToolCall(f"c{turn}", "look", ""),))
            if is_call
            else Message(id=f"t{turn}", role="tool", content="{}", tool_call_id=f"c{turn}")
        )
        segment = Segment(key=key, n=n, writer="w", epoch=1, lease_until=NOW, events=(b"{}",))
        used = Usages({("anthropic", "m"): Usage(30 * turn, 20 * turn)})
        progress = Progress(turns=turn, steps=turn, usages=used, spent_micros=7 * turn, messages=n - 1)
        kind = CheckpointKind.TURN if is_call else CheckpointKind.TOOLS
        point = Checkpoint(n=n, epoch=1, position=n - 2, progress=progress, kind=kind, at=NOW + timedelta(seconds=n))
        store.append(segment, history=History(thread, n - 2, (said,)), checkpoint=point)


def at(n: int, run_id: str = "r1") -> str:
    return write_point_id(PointId(RunId(run_id), n))


class TestList:
    @pytest.mark.req("R-A-19")
    def test_as_agio_shows_it(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        stored(user_id)
        found = api.call("GET", "/api/runs/r1/checkpoints").json
        assert (found["run_id"], found["total"]) == ("r1", 4)
        assert found["checkpoints"][1] == {
            "id": at(3),
            "step_num": 1,
            "kind": "tools",
            "description": "After results of tools in turn 1",
            "tags": [],
            "created_at": "2026-11-21T12:00:03.000Z",
            "message_count": 2,
            "total_tokens": 50,
        }

    def test_by_cursor(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        stored(user_id, turns=3)
        api.call("POST", LIST, {"description": "Mine"})
        ids, cursor = [], ""
        while True:
            page = api.call("GET", LIST, query=f"limit=2{cursor}").data
            ids += [each["id"] for each in page["checkpoints"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert ids[:6] == [at(n) for n in range(2, 8)]
        assert len(ids) == 7
        assert api.call("GET", "/api/v1/runs", query=f"limit=2{cursor}").code == "INVALID_CURSOR"


class TestOne:
    @pytest.mark.req("R-A-21")
    def test_as_agio_shows_it(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        stored(user_id)
        found = api.call("GET", f"/api/checkpoints/{at(4)}").json
        assert (found["id"], found["run_id"], found["step_num"], found["status"]) == (at(4), "r1", 2, "running")
        assert [each["id"] for each in found["messages"]] == ["a1", "t1", "a2"]
        assert found["metrics"] == {"total_steps": 2, "total_tokens": 100, "cost_micros": 14}
        config = found["agent_config"]
        assert (config["model"], config["system_prompt"], config["tools"]) == ("m", None, None), "it was stored without"
        assert config["subagents"] is None
        assert (found["description"], found["created_at"]) == ("After turn 2 of the model", "2026-11-21T12:00:04.000Z")

    def test_by_pages_of_messages_from_the_last_one_back(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        stored(user_id, turns=3)
        path, shown, cursor = f"/api/v1/checkpoints/{at(7)}", list[str](), ""
        while True:
            found = api.call("GET", path, query=f"limit=4{cursor}").data["checkpoint"]
            shown = [*(each["id"] for each in found["messages"]), *shown]
            if found["next_cursor"] is None:
                break
            cursor = f"&cursor={found['next_cursor']}"
        assert shown == ["a1", "t1", "a2", "t2", "a3", "t3"]
        assert found["message_count"] == 6

    def test_however_large_its_history_is(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        stored(user_id, turns=5, size=1_000_000)
        path = f"/api/v1/checkpoints/{at(11)}"
        first = api.call("GET", path, query="limit=100").data["checkpoint"]
        second = api.call("GET", path, query=f"limit=100&cursor={first['next_cursor']}").data["checkpoint"]
        ids = [each["id"] for each in [*second["messages"], *first["messages"]]]
        assert ids == [name for turn in range(1, 6) for name in (f"a{turn}", f"t{turn}")]

    @pytest.mark.parametrize("name", ["x", "ckpt_", "ckpt_!", at(99), f"{at(3)}A", "ckpt_MiNy", "%20"])
    def test_that_is_not_there_is_404(self, owner: tuple[Api, UserId], name: str) -> None:
        api, user_id = owner
        stored(user_id)
        assert api.call("GET", f"/api/v1/checkpoints/{name}").status == 404

    def test_of_another_account_is_404(self, owner: tuple[Api, UserId], api: Api) -> None:
        stored(owner[1])
        other = api.as_(authorization="Bearer " + api.log_in(api.register()["email"])["access_token"])
        for method, path in (
            ("GET", f"/api/v1/checkpoints/{at(3)}"),
            ("GET", f"/api/checkpoints/{at(3)}"),
            ("GET", LIST),
            ("POST", LIST),
            ("POST", "/api/runs/r1/checkpoints"),
        ):
            assert other.call(method, path, {} if method == "POST" else None).status == 404

    def test_of_a_deleted_thread_is_404(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        stored(user_id)
        made = api.call("POST", LIST, {"description": "Mine"}).data["checkpoint"]["id"]
        assert api.call("DELETE", "/api/v1/threads/thread-of-r1").status == 204
        for name in (at(3), made):
            assert api.call("GET", f"/api/v1/checkpoints/{name}").status == 404
        assert api.call("POST", LIST, {"description": "Late"}).status == 404


TWICE = [{"tool_call_id": "t1", "content": "{}"}, {"tool_call_id": "t2", "content": "{}"}]
BAD_CHANGES: list[tuple[dict[str, object], str]] = [
    ({"tool_results": [*TWICE, TWICE[0]]}, "modifications.tool_results.2.tool_call_id"),
    ({"messages": [{"id": "u1", "content": "a"}] * 2}, "modifications.messages.1.id"),
    ({"state": {"lamps": 1}}, "modifications.state"),
    ({"max_steps": 0}, "modifications.max_steps"),
    ({"max_tokens": 10**9}, "modifications.max_tokens"),
    ({"keep_messages": 0}, "modifications.keep_messages"),
    ({"system_prompt": " "}, "modifications.system_prompt"),
    ({"messages": [{"id": "u1", "content": ""}]}, "modifications.messages.0.content"),
    ({"tool_results": [{"content": "x"}]}, "modifications.tool_results.0.tool_call_id"),
    ({"color": "red"}, "modifications.color"),
    ({"model": "nobody's"}, "modifications.model"),
    ({"tools": ["nobody's"]}, "modifications.tools.0"),
    ({"messages": [{"id": "u1", "content": "x"}]}, "modifications.messages.0.id"),
    ({"tool_results": [{"tool_call_id": "c1", "content": "x"}]}, "modifications.tool_results.0.tool_call_id"),
    ({"keep_messages": 9}, "modifications.keep_messages"),
]


class TestGoingBack:
    @pytest.fixture
    def mine(self, ada: Api) -> tuple[Api, str]:
        user_id = UserId(ada.call("GET", "/api/v1/users/me").data["user"]["id"])
        return ada, ended_run(user_id)

    @pytest.mark.req("R-A-23")
    def test_a_fork_is_a_run_in_a_thread_of_its_own_that_waits_for_a_process(self, mine: tuple[Api, str]) -> None:
        api, point = mine
        body = {"description": "Testing different approach", "modifications": {"system_prompt": "New prompt"}}
        first = api.call("POST", f"/api/checkpoints/{point}/fork", body, idempotency_key="k")
        again = api.call("POST", f"/api/checkpoints/{point}/fork", body, idempotency_key="k")
        assert (first.status, again.json) == (202, first.json)
        assert api.call("POST", f"/api/v1/checkpoints/{point}/fork", body, idempotency_key="k").data == first.json
        made = first.json
        assert made["message"] == "Forked successfully"
        run = api.call("GET", f"/api/v1/runs/{made['new_run_id']}").data["run"]
        assert (run["status"], run["thread_id"]) == ("running", made["thread_id"])
        shown = api.call("GET", f"/api/checkpoints/{made['checkpoint_id']}").json
        assert [each["content"] for each in shown["messages"]] == ["hi"]
        assert shown["agent_config"]["system_prompt"] == "New prompt"
        assert shown["agent_config"]["subagents"] == []
        assert (shown["kind"], shown["description"]) == ("fork", "Testing different approach")
        other = api.call("POST", f"/api/checkpoints/{point}/fork", {}, idempotency_key="k")
        assert other.status == 409
        assert len(api.call("GET", "/api/v1/runs").data["runs"]) == 2

    @pytest.mark.parametrize(("what", "body", "more"), [("fork", {}, 4), ("restore", {"create_new_run": False}, 0)])
    def test_five_megabytes_cost_a_fixed_number_of_calls(
        self, ada: Api, what: str, body: dict[str, object], more: int
    ) -> None:
        """Those of a short one, a Query a megabyte more, and for a copy its draft: one, and one for two messages."""
        user_id = UserId(ada.call("GET", "/api/v1/users/me").data["user"]["id"])
        subscribe(user_id)
        made, written, read = [], [], []
        for run_id, size in (("short", 10), ("long", 1_000_000)):
            stored(user_id, turns=5, size=size, setup=plain_setup(user_id), run_id=run_id)
            end = RunEnd(status=RunStatus.FINISHED, at=NOW, last_message=9)
            last = Segment(
                key=RunKey(user_id, RunId(run_id)),
                n=12,
                writer="w",
                epoch=1,
                lease_until=NOW,
                events=(b'{"type":"RUN_FINISHED"}',),
                terminal=True,
            )
            RunRepository().finish(last, end, thread=ThreadKey(user_id, ThreadId(f"thread-of-{run_id}")))
            calls: list[str] = []

            def note(model: Any, calls: list[str] = calls, **_: Any) -> None:
                calls.append(model.name)

            with hooked("dynamodb", "before-call.dynamodb.*", note):
                made.append(ada.call("POST", f"/api/v1/checkpoints/{at(11, run_id)}/{what}", body))
            written.append(calls.count("TransactWriteItems"))
            read.append(calls.count("Query"))
        assert [answer.status for answer in made] == [202 if what == "fork" else 200] * 2, made[-1].text
        assert written[1] - written[0] == more
        assert read[1] - read[0] <= 5
        if what == "fork":
            thread = RunRepository().thread(ThreadKey(user_id, ThreadId(made[1].data["thread_id"])))
            parent = RunRepository().thread(ThreadKey(user_id, ThreadId("thread-of-long")))
            assert thread.messages == parent.messages
            assert made[1].data["thread_id"] in ada.call("GET", "/api/v1/threads").text

    def test_megabytes_are_not_written_for_a_run_that_the_plan_refuses(self, ada: Api) -> None:
        user_id = UserId(ada.call("GET", "/api/v1/users/me").data["user"]["id"])
        subscribe(user_id, PlanName.TEAM)
        stored(user_id, turns=5, size=1_000_000, setup=plain_setup(user_id))
        take(allowance(user_id, PlanName.TEAM, at=datetime.now(UTC)).reserve(Metric.RUNS, 50_000))
        calls: list[str] = []
        with hooked("dynamodb", "before-call.dynamodb.*", lambda model, **_: calls.append(model.name)):
            refused = ada.call("POST", f"/api/v1/checkpoints/{at(11)}/fork", {})
        assert (refused.status, refused.json["error"]["details"]["limit"]) == (402, "runs_per_month")
        assert calls.count("TransactWriteItems") == 1
        assert [each["name"] for each in ada.call("GET", "/api/v1/threads").data["threads"]] == ["thread-of-r1"]

    @pytest.mark.req("R-A-22")
    def test_a_thread_is_restored_or_goes_on_in_a_new_run(self, mine: tuple[Api, str]) -> None:
        api, point = mine
        path = f"/api/checkpoints/{point}/restore"
        in_place = api.call("POST", path, {"create_new_run": False}, idempotency_key="k")
        assert (in_place.status, in_place.json["new_run_id"]) == (200, None)
        assert in_place.json["message"] == "Restored successfully"
        changed = api.call("POST", path, {"create_new_run": False, "modifications": {"message": "x"}})
        assert changed.status == 422
        new = api.call("POST", path, {"create_new_run": True, "modifications": {"modified_query": "New query"}})
        assert (new.status, new.json["thread_id"]) == (202, in_place.json["thread_id"])
        busy = api.call("POST", f"/api/v1/checkpoints/{point}/restore", {})
        assert (busy.status, busy.json["error"]["details"]["run_id"]) == (409, new.json["new_run_id"])
        for address in ("/api", "/api/v1"):
            path = f"{address}/checkpoints/{point}/restore"
            again = api.call("POST", path, {"create_new_run": False}, idempotency_key="k")
            assert (again.status, again.json.get("data", again.json)) == (200, in_place.json)
            assert api.call("POST", path, {}, idempotency_key="k").status == 409

    @pytest.mark.parametrize(("changes", "field"), BAD_CHANGES)
    def test_what_is_not_possible_is_refused_by_its_field(
        self, mine: tuple[Api, str], changes: dict[str, object], field: str
    ) -> None:
        api, point = mine
        for what in ("fork", "restore"):
            refused = api.call("POST", f"/api/v1/checkpoints/{point}/{what}", {"modifications": changes})
            named = [each["field"] for each in refused.json["error"]["details"]]
            assert (refused.status, named) == (422, [field])
        assert len(api.call("GET", "/api/v1/runs").data["runs"]) == 1


class TestLabels:
    @pytest.mark.req("R-A-20")
    def test_stand_at_the_latest_point(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        stored(user_id)
        given = {"description": " Manual checkpoint ", "tags": ["important", "important"]}
        first = api.call("POST", "/api/runs/r1/checkpoints", given)
        second = api.call("POST", LIST, given)
        assert (first.status, second.status) == (201, 201)
        made = first.json
        assert second.data["checkpoint"] == made, "the same words at the same point are one label"
        assert (made["kind"], made["description"], made["tags"]) == ("manual", "Manual checkpoint", ["important"])
        assert (made["step_num"], made["message_count"], made["total_tokens"]) == (2, 4, 100)
        assert api.call("GET", LIST).data["checkpoints"][-1] == made
        shown = api.call("GET", f"/api/checkpoints/{made['id']}").json
        assert [each["id"] for each in shown["messages"]] == ["a1", "t1", "a2", "t2"]

    def test_are_made_once_for_a_key(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        stored(user_id, turns=1)
        first = api.call("POST", LIST, {"description": "Mine"}, idempotency_key="k")
        segment = Segment(key=RunKey(user_id, RunId("r1")), n=4, writer="w", epoch=1, lease_until=NOW, events=(b"{}",))
        progress = Progress(turns=2, usages=Usages(), spent_micros=9, messages=2)
        RunRepository().append(segment, checkpoint=Checkpoint(n=4, epoch=1, position=1, progress=progress))
        again = api.call("POST", LIST, {"description": "Mine"}, idempotency_key="k")
        assert again.data == first.data
        assert again.headers["idempotent-replayed"] == "true"
        assert api.call("POST", LIST, {"description": "Other"}, idempotency_key="k").code == "IDEMPOTENCY_KEY_REUSED"

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"description": "x" * (MAX_POINT_DESCRIPTION_CHARS + 1)}, "description"),
            ({"tags": [f"t{n}" for n in range(MAX_POINT_TAGS + 1)]}, "tags"),
            ({"tags": ["x" * 33]}, "tags.0"),
            ({"tags": [""]}, "tags.0"),
            ({"tags": "x"}, "tags"),
            ({"kind": "turn"}, "kind"),
        ],
    )
    def test_of_another_form_are_refused(self, owner: tuple[Api, UserId], body: dict[str, object], field: str) -> None:
        api, user_id = owner
        stored(user_id)
        refused = api.call("POST", LIST, body)
        named = [each["field"] for each in refused.json["error"]["details"]]
        assert (refused.status, named) == (422, [field])
        assert {each["kind"] for each in api.call("GET", LIST).data["checkpoints"]} == {"turn", "tools"}
