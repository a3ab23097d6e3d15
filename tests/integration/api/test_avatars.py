"""Avatars as the API shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from karma.core.ids import new_id
from tests.integration.api.conftest import PASSWORD, Api, reopen
from tests.support.stack import Stack

AVATARS = "/api/v1/avatars"
FERN: dict[str, Any] = {"name": "Fern", "role": "gardener"}
COLUMNS = {
    "id",
    "created_by",
    "name",
    "role",
    "description",
    "avatar_url",
    "skills",
    "status",
    "base_model",
    "system_prompt",
    "tools",
    "performance",
    "abilities",
    "earnings",
    "is_public",
    "price",
    "rating",
    "review_count",
    "download_count",
    "created_at",
    "updated_at",
}


def create(api: Api, **more: Any) -> Any:
    answer = api.call("POST", AVATARS, {**FERN, **more})
    assert answer.status == 201, answer.text
    return answer.data["avatar"]


@pytest.fixture
def other(api: Api) -> Api:
    user = api.register()
    return api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])


@pytest.mark.req("R-K-18")
def test_an_avatar_has_every_column_and_default(ada: Api) -> None:
    made = create(ada)

    assert set(made) == COLUMNS | {"version"}
    assert {name: made[name] for name in COLUMNS - {"id", "created_by", "created_at", "updated_at"}} == {
        **FERN,
        **dict.fromkeys(("description", "avatar_url", "base_model", "system_prompt", "price", "rating")),
        "skills": [],
        "status": "idle",
        "tools": [],
        "performance": {},
        "abilities": {},
        "earnings": {},
        "is_public": False,
        "review_count": 0,
        "download_count": 0,
    }
    assert made["created_by"] == ada.call("GET", "/api/v1/users/me").data["user"]["id"]
    shown = ada.call("GET", f"{AVATARS}/{made['id']}")
    assert (shown.data, shown.headers["etag"]) == ({"avatar": made}, '"1"')


def test_an_avatar_keeps_all_that_it_is_told(ada: Api) -> None:
    told = {
        "description": "Line one\nline two",
        "avatar_url": "https://example.com/fern.png",
        "skills": ["pruning", "watering", "pruning"],
        "status": "working",
        "base_model": "claude-opus-5",
        "system_prompt": "Be brief.",
        "tools": ["searchDatabase"],
        "abilities": {"speed": 3.5},
        "price": 9.99,
    }
    made = create(ada, **told)
    assert {name: made[name] for name in told} == {**told, "skills": ["pruning", "watering"]}
    listed = ada.call("GET", AVATARS).data["avatars"]
    assert listed == [{name: value for name, value in made.items() if name != "system_prompt"}]


def test_an_avatar_is_made_once_for_an_idempotency_key(ada: Api, stack: Stack) -> None:
    first = ada.call("POST", AVATARS, FERN, idempotency_key="once")
    again = ada.call("POST", AVATARS, FERN, idempotency_key="once")
    reopen(stack, expired=True)
    after_a_crash = ada.call("POST", AVATARS, FERN, idempotency_key="once")
    assert [each.status for each in (first, again, after_a_crash)] == [201, 201, 201]
    assert first.data == again.data == after_a_crash.data
    assert ada.call("GET", AVATARS).data["total"] == 1


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": " "}, "name"),
    ({"name": "x" * 256}, "name"),
    ({"role": None}, "role"),
    ({"role": "a\x00b"}, "role"),
    ({"description": "x" * 4_001}, "description"),
    ({"avatar_url": "http://example.com/a.png"}, "avatar_url"),
    ({"avatar_url": "javascript:alert(1)"}, "avatar_url"),
    ({"skills": "pruning"}, "skills"),
    ({"skills": ["x"] * 51}, "skills"),
    ({"tools": ["ok", ""]}, "tools.1"),
    ({"status": "asleep"}, "status"),
    ({"system_prompt": "x" * 32_001}, "system_prompt"),
    ({"abilities": []}, "abilities"),
    ({"abilities": {"a": "x" * 4_096}}, "abilities"),
    ({"price": 1.001}, "price"),
    ({"price": -1}, "price"),
    ({"price": "1.00"}, "price"),
    ({"is_public": True}, "is_public"),
    ({"rating": 5}, "rating"),
    ({"review_count": 1}, "review_count"),
    ({"earnings": {"usd": 1}}, "earnings"),
    ({"performance": {"runs": 1}}, "performance"),
    ({"created_by": "me"}, "created_by"),
]


def test_a_body_that_is_wrong_is_refused_by_its_field_and_stores_nothing(
    ada: Api, stored: Callable[[str], list[Any]]
) -> None:
    for wrong, field in WRONG:
        answer = ada.call("POST", AVATARS, {**FERN, **wrong})
        assert (answer.status, [entry["field"] for entry in answer.json["error"]["details"]]) == (422, [field])
    for raw in ("", "{", "[]", "null", '{"name": "a", "role": "b", "price": NaN}', '{"name": "\\ud800"}'):
        assert ada.call("POST", AVATARS, raw, content_type="application/json").status in {400, 422}, raw
    assert stored("agents") == []
    made = create(ada)
    for wrong, field in [*WRONG, ({"tools": None}, "tools"), ({"abilities": None}, "abilities")]:
        answer = ada.call("PATCH", f"{AVATARS}/{made['id']}", wrong)
        assert (answer.status, [entry["field"] for entry in answer.json["error"]["details"]]) == (422, [field])
    assert ada.call("GET", f"{AVATARS}/{made['id']}").data["avatar"] == made


def test_a_change_shows_and_null_removes(ada: Api) -> None:
    made = create(ada, description="old", price=5)
    path = f"{AVATARS}/{made['id']}"
    body = {"description": None, "price": 0.29, "skills": ["a"], "status": "error", "version": 1}
    changed = ada.call("PATCH", path, body)
    assert (changed.status, changed.headers["etag"]) == (200, '"2"')
    avatar = changed.data["avatar"]
    assert avatar == {**made, **body, "updated_at": avatar["updated_at"], "version": 2}
    for stale in (
        ada.call("PATCH", path, {"name": "x", "version": 1}),
        ada.call("PATCH", path, {"name": "x"}, if_match='"1"'),
        ada.call("DELETE", path, if_match='"1"'),
    ):
        assert (stale.status, stale.code) == (409, "STALE_VERSION")
    assert ada.call("GET", path).data == changed.data
    assert ada.call("DELETE", path, if_match='"2"').status == 204
    assert ada.call("GET", path).status == ada.call("DELETE", path).status == 404


def test_the_list_goes_by_page_offset_and_cursor(ada: Api, other: Api) -> None:
    create(other)
    made = [create(ada, name=f"a{n}")["id"] for n in range(5)]

    def ids(query: str) -> tuple[list[str], Any]:
        page = ada.call("GET", AVATARS, query=query).data
        assert page["total"] == 5
        return [avatar["id"] for avatar in page["avatars"]], page

    assert ids("")[0] == made[::-1]
    assert ids("order=asc&page=2&page_size=2")[0] == made[2:4]
    assert ids("offset=4")[0] == made[:1]
    first, page = ids("limit=3")
    rest, last = ids(f"limit=3&cursor={page['next_cursor']}")
    assert (first + rest, last["next_cursor"]) == (made[::-1], None)
    for query, code in {
        "offset=981": "INVALID_PAGE",
        f"page=1&cursor={page['next_cursor']}": "INVALID_PAGE",
        f"order=asc&cursor={page['next_cursor']}": "INVALID_CURSOR",
        "limit=101": "VALIDATION_ERROR",
    }.items():
        assert ada.call("GET", AVATARS, query=query).code == code, query
    assert other.call("GET", AVATARS, query=f"cursor={page['next_cursor']}").code == "INVALID_CURSOR"


@pytest.mark.fault("F-24i")
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_that_ends_by_bytes_loses_and_repeats_nothing(
    ada: Api, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [create(ada, name=f"a{n}")["id"] for n in range(3)]
    monkeypatch.setattr("karma.core.paging.MAX_PAGE_BYTES", 1)
    found: list[str] = []
    cursor = ""
    for _ in made:
        page = ada.call("GET", AVATARS, query=f"order={order}{cursor}").data
        found += [avatar["id"] for avatar in page["avatars"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert found == (made if order == "asc" else made[::-1])
    assert page["next_cursor"] is None


def test_an_avatar_that_is_missing_or_another_s_is_not_found(ada: Api, other: Api) -> None:
    theirs = create(other)
    for avatar_id in (new_id(), theirs["id"], "x", "a%23b"):
        for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
            answer = ada.call(method, f"{AVATARS}/{avatar_id}", body)
            assert (answer.status, answer.code) == (404, "NOT_FOUND"), (method, avatar_id)
    assert other.call("GET", f"{AVATARS}/{theirs['id']}").data["avatar"] == theirs


@pytest.mark.req("R-K-23")
def test_an_account_with_avatars_is_not_deleted(ada: Api) -> None:
    made = [create(ada)["id"] for _ in range(2)]
    me, confirmed = "/api/v1/users/me", {"current_password": PASSWORD}
    refused = ada.call("DELETE", me, confirmed)
    assert (refused.status, refused.code) == (409, "ACCOUNT_HOLDS")
    assert refused.json["error"]["details"] == {"avatar": 2}
    assert "2 avatars" in refused.json["error"]["message"]
    for avatar_id in made:
        assert ada.call("DELETE", f"{AVATARS}/{avatar_id}").status == 204
    assert ada.call("DELETE", me, confirmed).status == 202
    assert ada.call("POST", AVATARS, FERN).status == 404
