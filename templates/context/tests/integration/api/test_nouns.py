"""Nouns as the API shows them; and a request on one that dies before or after each of its AWS calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from karma.core.ids import new_id
from tests.integration.api.conftest import Api, reopen
from tests.support.crash import CrashReport

NOUNS = "/api/v1/nouns"
FIRST: dict[str, Any] = {"name": "First", "note": "Line one\nline two"}


def create(api: Api, **more: Any) -> Any:
    answer = api.call("POST", NOUNS, {**FIRST, **more})
    assert answer.status == 201, answer.text
    return answer.data["noun"]


@pytest.fixture
def other(api: Api) -> Api:
    user = api.register()
    return api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])


def test_it_is_shown_as_it_was_made(ada: Api) -> None:
    made = create(ada)
    assert set(made) == {"id", "name", "note", "created_at", "updated_at", "version"}
    assert {name: made[name] for name in FIRST} == FIRST
    shown = ada.call("GET", f"{NOUNS}/{made['id']}")
    assert (shown.data, shown.headers["etag"]) == ({"noun": made}, '"1"')
    assert create(ada, note="")["note"] == ""


def test_one_is_made_for_an_idempotency_key(ada: Api, stack: Any) -> None:
    first = ada.call("POST", NOUNS, FIRST, idempotency_key="once")
    again = ada.call("POST", NOUNS, FIRST, idempotency_key="once")
    reopen(stack, expired=True)
    after_a_crash = ada.call("POST", NOUNS, FIRST, idempotency_key="once")
    assert [each.status for each in (first, again, after_a_crash)] == [201, 201, 201]
    assert first.data == again.data == after_a_crash.data
    assert ada.call("GET", NOUNS).data["nouns"] == [first.data["noun"]]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": " "}, "name"),
    ({"name": "x" * 256}, "name"),
    ({"name": "a\x00b"}, "name"),
    ({"name": None}, "name"),
    ({"note": "x" * 2_001}, "note"),
    ({"note": 1}, "note"),
    ({"user_id": "me"}, "user_id"),
]


def test_a_body_that_is_wrong_is_refused_by_its_field_and_stores_nothing(
    ada: Api, stored: Callable[[str], list[Any]]
) -> None:
    for wrong, field in WRONG:
        answer = ada.call("POST", NOUNS, {**FIRST, **wrong})
        assert (answer.status, [entry["field"] for entry in answer.json["error"]["details"]]) == (422, [field])
    assert stored("work") == []
    made = create(ada)
    for wrong, field in WRONG:
        answer = ada.call("PATCH", f"{NOUNS}/{made['id']}", wrong)
        assert (answer.status, [entry["field"] for entry in answer.json["error"]["details"]]) == (422, [field])
    assert ada.call("GET", f"{NOUNS}/{made['id']}").data["noun"] == made


def test_a_change_shows_and_a_stale_one_is_refused(ada: Api) -> None:
    made = create(ada)
    path = f"{NOUNS}/{made['id']}"
    changed = ada.call("PATCH", path, {"note": "", "version": 1})
    assert (changed.status, changed.headers["etag"]) == (200, '"2"')
    noun = changed.data["noun"]
    assert noun == {**made, "note": "", "updated_at": noun["updated_at"], "version": 2}
    for stale in (
        ada.call("PATCH", path, {"name": "x", "version": 1}),
        ada.call("PATCH", path, {"name": "x"}, if_match='"1"'),
        ada.call("DELETE", path, if_match='"1"'),
    ):
        assert (stale.status, stale.code) == (409, "STALE_VERSION")
    assert ada.call("GET", path).data == changed.data
    assert ada.call("DELETE", path, if_match='"2"').status == 204
    assert ada.call("GET", path).status == ada.call("DELETE", path).status == 404


def test_the_list_goes_on_with_its_cursor(ada: Api, other: Api) -> None:
    create(other)
    made = [create(ada, name=f"{n}")["id"] for n in range(5)][::-1]
    first = ada.call("GET", NOUNS, query="limit=3").data
    rest = ada.call("GET", NOUNS, query=f"limit=3&cursor={first['next_cursor']}").data
    assert [noun["id"] for noun in first["nouns"] + rest["nouns"]] == made
    assert (rest["limit"], rest["next_cursor"]) == (3, None)
    assert other.call("GET", NOUNS, query=f"cursor={first['next_cursor']}").code == "INVALID_CURSOR"


def test_what_is_missing_or_another_s_is_not_found(ada: Api, other: Api) -> None:
    theirs = create(other)
    for noun_id in (new_id(), theirs["id"], "x", "a%23b"):
        for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
            answer = ada.call(method, f"{NOUNS}/{noun_id}", body)
            assert (answer.status, answer.code) == (404, "NOT_FOUND"), (method, noun_id)
    assert other.call("GET", f"{NOUNS}/{theirs['id']}").data["noun"] == theirs


class TestARequestThatDies:
    def test_while_it_makes_one_makes_one(self, die: Callable[..., CrashReport]) -> None:
        report = die("POST", lambda: NOUNS, table="work", accept={201}, body=FIRST)
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_changes_one_changes_it_once(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        report = die(
            "PATCH", lambda: f"{NOUNS}/{create(ada)['id']}", table="work", accept={200}, body={"name": "Second"}
        )
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_deletes_one_leaves_nothing(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        report = die("DELETE", lambda: f"{NOUNS}/{create(ada)['id']}", table="work", accept={204, 404})
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
