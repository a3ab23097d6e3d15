"""Runs that are cancelled by the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from karma.core.ids import RunId, UserId
from karma.runs.domain import MAX_REASON_CHARS, RunKey, RunStatus, Wish
from karma.runs.repository import RunRepository
from tests.contexts.runs import begin, record
from tests.integration.api.conftest import Api

CANCEL = "/api/v1/runs/r1/cancel"


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
