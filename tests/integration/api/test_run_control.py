"""Runs that are cancelled, paused and resumed by the API."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.core.ids import AgentId, RunId, UserId
from karma.runs.domain import MAX_REASON_CHARS, RunKey, RunStatus, Segment
from karma.runs.ports import AtWork, DelegatedWork
from karma.runs.repository import RunRepository
from karma.runs.wishes import AgentStop, Wish
from tests.contexts.runs import begin, record
from tests.integration.api.conftest import Api
from tests.support.queues import delayed_messages
from tests.support.stack import Stack

RUN = "/api/v1/runs/r1"
CANCEL = f"{RUN}/cancel"


@pytest.fixture
def owner(api: Api) -> tuple[Api, UserId]:
    user = api.register()
    token = api.log_in(user["email"])["access_token"]
    return api.as_(authorization=f"Bearer {token}"), UserId(user["id"])


def begin_alive(user_id: UserId) -> None:
    begin(user_id, "r1", at=datetime.now(UTC) + timedelta(minutes=5))


class TestCancelling:
    def test_a_run_that_no_process_executes_ends_it(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        begin(user_id, "r1")

        first = api.call("POST", CANCEL, {"reason": " No longer needed "})
        again = api.call("POST", CANCEL, {"reason": "another"})

        assert (first.status, first.data["ended"]) == (200, True)
        run = first.data["run"]
        assert (run["status"], run["cancel_reason"], run["error_code"]) == ("cancelled", "No longer needed", None)
        assert run["finished_at"] is not None
        assert (again.status, again.data) == (200, first.data)
        events = api.call("GET", "/api/v1/runs/r1/events").data
        assert [event["type"] for each in events["segments"] for event in each["events"]][-1] == "RUN_ERROR"
        assert events["finished"], "the client named no version, and would read cancelled as success"

    def test_a_run_that_a_process_executes_asks_it_to_end_it(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        begin_alive(user_id)

        answers = [api.call("POST", CANCEL, body) for body in ({"reason": "first"}, {}, None)]

        for answer in answers:
            assert (answer.status, answer.data["ended"], answer.data["run"]["status"]) == (202, False, "running")
        assert RunRepository().wishes(RunKey(user_id, RunId("r1"))) == {Wish.CANCEL: "first"}

    def test_a_run_that_has_ended_otherwise_is_a_conflict(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        record(user_id, "r1")

        answer = api.call("POST", CANCEL)

        assert (answer.status, answer.code) == (409, "RUN_ENDED")
        assert answer.json["error"]["details"] == {"run_id": "r1", "status": "finished"}
        assert RunRepository().wishes(RunKey(user_id, RunId("r1"))) == {}

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"reason": "x" * (MAX_REASON_CHARS + 1)}, "reason"),
            ({"reason": None}, "reason"),
            ({"reason": 1}, "reason"),
            ({"because": "x"}, "because"),
        ],
    )
    def test_by_a_body_that_is_wrong_is_refused_and_nothing_is_written(
        self, owner: tuple[Api, UserId], body: object, field: str
    ) -> None:
        api, user_id = owner
        begin_alive(user_id)

        answer = api.call("POST", CANCEL, body)

        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")
        (told,) = answer.json["error"]["details"]
        assert told["field"] == field
        if field == "reason" and isinstance(body, dict) and isinstance(body["reason"], str):
            assert str(MAX_REASON_CHARS) in told["message"]
        assert RunRepository().wishes(RunKey(user_id, RunId("r1"))) == {}

    def test_another_person_s_run_is_not_found_and_goes_on(self, api: Api, owner: tuple[Api, UserId]) -> None:
        begin_alive(owner[1])
        other = api.register()
        eve = api.as_(authorization=f"Bearer {api.log_in(other['email'])['access_token']}")

        for path in (CANCEL, "/api/runs/r1/cancel"):
            assert eve.call("POST", path).status == 404
        key = RunKey(owner[1], RunId("r1"))
        run = RunRepository().run(key)
        assert run is not None
        assert (run.status, RunRepository().wishes(key)) == (RunStatus.RUNNING, {})


def asked_for(stack: Stack, queue: str) -> list[dict[str, Any]]:
    sqs, url = stack.aws("sqs"), stack.queues[queue]
    found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(each["Body"]) for each in found]


class TestPausing:
    def test_a_run_that_no_process_executes_pauses_it_until_it_is_resumed(
        self, owner: tuple[Api, UserId], stack: Stack
    ) -> None:
        api, user_id = owner
        begin(user_id, "r1")

        first, again = (api.call("POST", f"{RUN}/pause") for _ in range(2))

        assert (first.status, first.data["run"]["status"]) == (200, "paused")
        assert first.data["run"]["paused_at"] is not None
        assert again.data == first.data
        assert api.call("GET", "/api/runs").json["items"][0]["status"] == "paused"
        assert asked_for(stack, "executions") == []
        events = api.call("GET", f"{RUN}/events").data
        assert events["segments"][-1]["events"] == [
            {"type": "CUSTOM", "name": "karma.run_paused", "value": {"runId": "r1"}}
        ]
        assert not events["finished"]

        resumed, once_more = (api.call("POST", f"{RUN}/resume") for _ in range(2))

        assert (resumed.status, resumed.data["run"]["status"]) == (200, "running")
        assert resumed.data["run"]["paused_at"] is None
        assert once_more.data == resumed.data
        told = {"user_id": user_id, "run_id": "r1"}
        assert asked_for(stack, "executions")[0] == told
        assert delayed_messages(stack, "runs") == 1
        after = api.call("GET", f"{RUN}/events", query=f"after={events['next_after']}").data
        assert [event["name"] for each in after["segments"] for event in each["events"]] == ["karma.run_resumed"]

    def test_a_run_that_a_process_executes_asks_it_and_may_be_taken_back(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        begin_alive(user_id)
        key = RunKey(user_id, RunId("r1"))

        answer = api.call("POST", f"{RUN}/pause")
        assert (answer.status, answer.data["run"]["status"]) == (202, "running")
        assert RunRepository().wishes(key) == {Wish.PAUSE: ""}

        answer = api.call("POST", f"{RUN}/resume")
        assert (answer.status, answer.data["run"]["status"]) == (200, "running")
        assert RunRepository().wishes(key) == {}

    def test_a_paused_run_can_be_cancelled(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        begin(user_id, "r1")
        api.call("POST", f"{RUN}/pause")
        answer = api.call("POST", CANCEL)
        assert (answer.status, answer.data["run"]["status"]) == (200, "cancelled")
        for verb in ("pause", "resume"):
            refused = api.call("POST", f"{RUN}/{verb}")
            assert (refused.status, refused.code) == (409, "RUN_ENDED")
            assert refused.json["error"]["details"]["status"] == "cancelled"

    @pytest.mark.parametrize("verb", ["pause", "resume"])
    def test_another_person_s_run_is_not_found(self, api: Api, owner: tuple[Api, UserId], verb: str) -> None:
        begin(owner[1], "r1")
        other = api.register()
        eve = api.as_(authorization=f"Bearer {api.log_in(other['email'])['access_token']}")
        for path in (f"{RUN}/{verb}", f"/api/runs/r1/{verb}"):
            assert eve.call("POST", path).status == 404
        assert owner[0].call("GET", RUN).data["run"]["status"] == "running"


class TestStoppingAnAgent:
    def test_cancels_all_runs_of_it_that_the_caller_has(self, api: Api, owner: tuple[Api, UserId]) -> None:
        mine, user_id = owner
        for n in range(3):
            begin(user_id, f"lost{n}", agent="karma")
        begin(user_id, "alive", agent="karma", at=datetime.now(UTC) + timedelta(minutes=5))
        begin(user_id, "paused", agent="karma")
        mine.call("POST", "/api/v1/runs/paused/pause")
        record(user_id, "ended", agent="karma")
        begin(user_id, "another agent's", agent="01890000-0000-7000-8000-0000000000aa")
        eve = UserId(api.register()["id"])
        begin(eve, "another's", agent="karma")

        answer = mine.call("POST", "/api/v1/agents/karma/stop", {"reason": "It goes wrong"})

        assert (answer.status, answer.data["ended"], answer.data["total"]) == (202, False, 5)
        status = {run["id"]: run["status"] for run in answer.data["runs"]}
        cancelled = dict.fromkeys(("lost0", "lost1", "lost2", "paused"), "cancelled")
        assert status == {**cancelled, "alive": "running"}
        store = RunRepository()
        assert store.wishes(RunKey(user_id, RunId("alive"))) == {Wish.CANCEL: "It goes wrong"}
        for key in (RunKey(user_id, RunId("another agent's")), RunKey(eve, RunId("another's"))):
            left = store.run(key)
            assert left is not None
            assert (left.status, store.wishes(key)) == (RunStatus.RUNNING, {})
        again = mine.call("POST", "/api/v1/agents/karma/stop").data
        assert [run["id"] for run in again["runs"]] == ["alive"]

    def test_ends_its_work_within_runs_of_others(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        later, scout = datetime.now(UTC) + timedelta(minutes=5), AgentId("01890000-0000-7000-8000-0000000000bb")
        run, store = begin(user_id, "theirs", agent="karma", at=later), RunRepository()
        listed = DelegatedWork([], begun=AtWork("sub_1", scout))
        store.append(Segment(key=run.key, n=2, writer="w", epoch=1, lease_until=later, events=()), delegated=listed)
        answer = api.call("POST", f"/api/v1/agents/{scout}/stop", {"reason": "enough"})
        assert (answer.status, answer.data) == (
            202,
            {"runs": [], "total": 0, "within": ["theirs"], "questions": [], "ended": False},
        )
        assert store.wishes(run.key) == {AgentStop(scout): "enough"}

    def test_that_has_no_runs_stops_nothing_and_one_that_is_not_there_is_not_found(
        self, owner: tuple[Api, UserId]
    ) -> None:
        api, _ = owner
        answer = api.call("POST", "/api/v1/agents/karma/stop")
        assert (answer.status, answer.data) == (
            200,
            {"runs": [], "total": 0, "within": [], "questions": [], "ended": True},
        )
        assert api.call("POST", "/api/v1/agents/nobody/stop").status == 404

    def test_tells_runs_of_all_pages(self, owner: tuple[Api, UserId], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("karma.runs.control._PAGE", 7)
        api, user_id = owner
        names = [f"r{n}" for n in range(20)]
        for name in names:
            begin(user_id, name, agent="karma", at=datetime.now(UTC) + timedelta(minutes=5))
        answer = api.call("POST", "/api/v1/agents/karma/stop")
        assert (answer.status, answer.data["total"]) == (202, 20)
        store = RunRepository()
        assert all(store.wishes(RunKey(user_id, RunId(name))) == {Wish.CANCEL: ""} for name in names)


class TestAgioSPause:
    @pytest.mark.req("R-A-18")
    def test_answers_once_the_run_is_paused_and_resumed(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        begin(user_id, "r1")
        paused, resumed = (api.call("POST", f"/api/runs/r1/{verb}") for verb in ("pause", "resume"))
        assert (paused.status, paused.json) == (
            200,
            {"run_id": "r1", "message": "Run paused successfully", "status": "paused"},
        )
        assert (resumed.status, resumed.json) == (
            200,
            {"run_id": "r1", "message": "Run resumed successfully", "status": "running"},
        )

    def test_says_so_when_its_process_takes_longer(
        self, owner: tuple[Api, UserId], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.routes.runs._AGIO_WAIT_S", 0.5)
        api, user_id = owner
        begin_alive(user_id)
        answer = api.call("POST", "/api/runs/r1/pause")
        assert (answer.status, answer.json["status"]) == (202, "running")


class TestAgioSCancel:
    @pytest.mark.req("R-A-18")
    def test_answers_once_the_run_has_ended(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        begin(user_id, "r1")

        answer = api.call("POST", "/api/runs/r1/cancel")

        assert (answer.status, answer.json) == (
            200,
            {"run_id": "r1", "message": "Run cancelled successfully", "status": "cancelled"},
        )

    def test_says_so_when_its_process_takes_longer(
        self, owner: tuple[Api, UserId], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.routes.runs._AGIO_WAIT_S", 0.5)
        api, user_id = owner
        begin_alive(user_id)

        answer = api.call("POST", "/api/runs/r1/cancel")

        assert (answer.status, answer.json["status"]) == (202, "running")
