"""Search over HTTP: what a caller finds, how it is told, its pages, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from karma.core.ids import UserId
from karma.core.search_rows import RowChange, SearchKey, SearchText
from karma.search.ports import StampedChange
from karma.search.repository import SearchRepository
from tests.integration.api.conftest import Api
from tests.integration.api.test_metrics import caller

_DAY_MS = 86_400_000
PUMPS = {
    ("device", "d1"): SearchText(
        name="North hall pump", code="EOS3A-0001", tags=("north",), text="EOS-3A", status="online", updated_ms=3_000
    ),
    ("device", "d2"): SearchText(name="South hall pump", code="EOS3A-0002", status="offline", updated_ms=2_000),
    ("task", "t1"): SearchText(name="Replace pump", text="Its bearing is loud", status="pending", updated_ms=1_000),
    ("project", "p1"): SearchText(name="Online shop", status="active"),
    ("file", "f1"): SearchText(name="温度传感器.pdf", tags=("manual",), text="/docs application/pdf"),
}


NAMES: dict[str, str] = {}
"""Names of the tests for ids of projects, which must be there to be found."""


def store(owner: UserId, texts: Mapping[tuple[str, str], SearchText | None], *, sequence: int = 1) -> None:
    changes = [
        StampedChange(RowChange(SearchKey(owner, *key, n * _DAY_MS), text), str(sequence))
        for n, (key, text) in enumerate(texts.items())
    ]
    SearchRepository().write(owner, changes, at=datetime.now(UTC))


@pytest.fixture
def ada(api: Api) -> tuple[Api, UserId]:
    """Return somebody who has two pumps, and what else is about them."""
    person, user_id = caller(api)
    made = person.call("POST", "/api/v1/projects", {"name": "Online shop"}).data["project"]["id"]
    NAMES[made] = "p1"
    store(user_id, {(kind, made if of == "p1" else of): text for (kind, of), text in PUMPS.items()})
    return person, user_id


def search(person: Api, **query: object) -> Any:
    return person.call("GET", "/api/v1/search", query=urlencode(query, quote_via=quote))


def ids(answer: Any) -> list[str]:
    return [NAMES.get(each["id"], each["id"]) for each in answer.data["results"]]


@pytest.mark.req("R-C-31")
def test_hits_say_what_they_are_and_why_they_were_found(ada: tuple[Api, UserId]) -> None:
    data = search(ada[0], q="online pum").data
    assert data["interpreted"]["words"] == ["pum"]
    assert (data["interpreted"]["statuses"], data["interpreted"]["types"]) == (
        ["online"],
        ["avatar", "device", "file", "project", "run", "task", "thread"],
    )
    [hit] = data["results"]
    assert (hit["type"], hit["id"], hit["status"], hit["tags"]) == ("device", "d1", "online", ["north"])
    assert hit["highlights"]["name"] == [
        {"text": "North hall ", "matches": False},
        {"text": "pum", "matches": True},
        {"text": "p", "matches": False},
    ]
    assert hit["why"] == {
        "reading": 0,
        "missing": 0,
        "typos": 0,
        "proximity": 0,
        "attribute": 0,
        "position": 2,
        "exactness": 3,
    }
    assert (data["total"], data["next_cursor"], data["engine"], data["searched"], data["is_complete"]) == (
        1,
        None,
        "memory",
        5,
        True,
    )


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "pumpp hal"}, ["d1", "d2", "t1"]),
        ({"q": "online"}, ["d1", "p1"]),
        ({"q": "传感器"}, ["f1"]),
        ({"q": "EOS3A-0002"}, ["d2"]),
        ({"q": "pump", "type": "task"}, ["t1"]),
        ({"q": "pump", "status": "offline"}, ["d2"]),
        ({"q": "", "tag": "North"}, ["d1"]),
        ({"q": "status:pending"}, ["t1"]),
        ({"q": "pump", "created_after": "1970-01-02T00:00:00Z"}, ["t1", "d2"]),
        ({"created_before": "1970-01-02T00:00:00Z"}, ["d1"]),
        ({"q": "hall", "sort": "name"}, ["d1", "d2"]),
        ({}, ["d1", "d2", "t1", "p1", "f1"]),
        ({"q": "fridge"}, []),
        ({"q": '"pump hall"'}, []),
        ({"q": '" : ) type: ☃ \\'}, []),
    ],
    ids=lambda value: quote(str(value))[:40] if isinstance(value, dict) else "",
)
def test_words_and_filters(ada: tuple[Api, UserId], query: Mapping[str, str], found: Sequence[str]) -> None:
    assert ids(search(ada[0], **query)) == found


def test_pages_together_are_the_whole_list(ada: tuple[Api, UserId]) -> None:
    person, user_id = ada
    store(user_id, {("task", f"t{n}"): SearchText(name=f"Pump {n % 7}", updated_ms=n % 5) for n in range(9, 60)})
    whole = search(person, q="pump", limit=100)
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = search(person, q="pump", limit=7, **cursor)
        seen += ids(page)
        if page.data["next_cursor"] is None:
            break
        cursor = {"cursor": page.data["next_cursor"]}
    assert seen == ids(whole)
    assert len(seen) == len(set(seen)) == whole.data["total"] == 54
    other = search(person, q="other", **cursor)
    assert (other.status, other.code) == (400, "INVALID_CURSOR")


def test_a_change_is_found_by_the_next_request_once_it_is_stored(ada: tuple[Api, UserId]) -> None:
    person, user_id = ada
    assert ids(search(person, q="north")) == ["d1"]
    key = ("device", "d1")
    store(user_id, {key: SearchText(name="West hall pump", status="online")}, sequence=2)
    assert (ids(search(person, q="north")), ids(search(person, q="west"))) == ([], ["d1"])
    store(user_id, {key: None}, sequence=3)
    assert ids(search(person, q="west")) == []


def test_nobody_finds_what_is_another_s(api: Api, ada: tuple[Api, UserId]) -> None:
    bob, _ = caller(api)
    assert search(bob, q="pump").data["total"] == 0
    assert search(bob).data["results"] == []
    assert search(bob, q="d1").data["total"] == 0


def test_a_key_finds_what_its_scopes_let_it_read(api: Api) -> None:
    user = api.register(verified=True)
    store(UserId(user["id"]), PUMPS)
    person = api.as_(authorization=f"Bearer {api.log_in(user['email'])['access_token']}")
    made = person.call("POST", "/api/v1/api-keys", {"name": "k", "scopes": ["search:read", "task:read"]})
    key = api.as_(x_api_key=made.data["key"])
    assert ids(search(key, q="pump")) == ["t1"]
    refused = search(key, q="pump", type="device")
    assert (refused.status, refused.json["error"]["details"]["permission"]) == (403, "device:read")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"q": "x" * 201}, "q"),
        ({"q": "x" * 10_000}, "q"),
        ({"type": "planet"}, "type"),
        ({"limit": "101"}, "limit"),
        ({"limit": "0"}, "limit"),
        ({"sort": "relevance"}, "sort"),
        ({"created_after": "yesterday"}, "created_after"),
        ({"status": "On line"}, "status"),
        ({"tag": ""}, "tag"),
        ({"query": "pump"}, "query"),
    ],
    ids=["201", "10000", "type", "101", "0", "sort", "moment", "status", "tag", "unknown"],
)
def test_what_cannot_be_asked_is_refused(ada: tuple[Api, UserId], query: dict[str, str], field: str) -> None:
    answer = search(ada[0], **query)
    assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")
    assert field in answer.text


def test_words_behind_the_tenth_are_named(ada: tuple[Api, UserId]) -> None:
    data = search(ada[0], q="north hall pump " + " ".join("abcdefghijkl")).data
    assert len(data["interpreted"]["words"]) == 10
    assert data["interpreted"]["cut"] == ["i", "j", "k", "l"]
    assert data["results"][0]["id"] == "d1"
