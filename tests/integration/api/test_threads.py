"""Threads as the API shows them to their owners."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from karma.conversations.domain import Message, ThreadKey
from karma.core.ids import AgentId, RunId, ThreadId, UserId, new_id
from karma.runs.domain import Run, RunKey, RunStatus, Segment
from karma.runs.repository import RunRepository
from tests.integration.api.conftest import Api
from tests.support.rows import NOW

THREADS = "/api/v1/threads"


@pytest.fixture
def owner(api: Api) -> tuple[Api, UserId]:
    user = api.register()
    token = api.log_in(user["email"])["access_token"]
    return api.as_(authorization=f"Bearer {token}"), UserId(user["id"])


def ask(user_id: UserId, thread_id: str, *words: str, after_s: int = 0, agent: str | None = None) -> Run:
    """Begin a run that says these words in a thread."""
    store, key = RunRepository(), ThreadKey(user_id, ThreadId(thread_id))
    run = Run(
        key=RunKey(user_id, RunId(new_id())),
        thread_id=key.thread_id,
        status=RunStatus.RUNNING,
        model="m",
        created_at=NOW + timedelta(seconds=after_s),
        agent_id=AgentId(agent) if agent else None,
    )
    first = Segment(key=run.key, n=1, writer="w", epoch=1, lease_until=run.created_at, events=(b'{"type":"A"}',))
    said = tuple(Message(id=f"m{i}", role="user", content=each) for i, each in enumerate(words))
    store.start(run, thread=store.thread(key), segment=first, messages=said)
    return run


def listed(api: Api, query: str = "") -> tuple[list[str], str | None]:
    answer = api.call("GET", THREADS, query=query)
    assert answer.status == 200, answer.text
    return [thread["id"] for thread in answer.data["threads"]], answer.data["next_cursor"]


class TestTheList:
    def test_shows_what_is_known_of_a_thread(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        run = ask(user_id, "t1", "Which are online?", agent="karma")
        assert api.call("GET", THREADS).data == {
            "threads": [
                {
                    "id": "t1",
                    "name": "t1",
                    "title": "Which are online?",
                    "title_from": "words",
                    "agent_id": "karma",
                    "active_run_id": run.key.run_id,
                    "message_count": 1,
                    "created_at": "2026-11-21T12:00:00.000Z",
                    "updated_at": "2026-11-21T12:00:00.000Z",
                    "version": 1,
                }
            ],
            "limit": 20,
            "next_cursor": None,
        }

    def test_begins_with_the_newest_and_goes_on_by_cursor(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        for i in range(5):
            ask(user_id, f"t{i}", "hi", after_s=i)
        first, cursor = listed(api, "limit=3")
        second, end = listed(api, f"limit=3&cursor={cursor}")
        assert (first, second, end) == (["t4", "t3", "t2"], ["t1", "t0"], None)
        assert api.call("GET", THREADS, query=f"query=hi&cursor={cursor}").code == "INVALID_CURSOR"

    def test_may_be_limited_to_an_agent(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        for i in range(4):
            ask(user_id, f"t{i}", "hi", after_s=i, agent="karma" if i % 2 else None)
        first, cursor = listed(api, "agent_id=karma&limit=1")
        assert (first, listed(api, f"agent_id=karma&limit=1&cursor={cursor}")) == (["t3"], (["t1"], None))
        assert listed(api, "agent_id=nobody") == ([], None)

    @pytest.mark.parametrize("thread_id", ["a/b", "..", "50%?", "~YQ", "t\\1", "x" * 128])
    def test_names_each_thread_for_urls(self, owner: tuple[Api, UserId], thread_id: str) -> None:
        api, user_id = owner
        ask(user_id, thread_id, "hi")
        (shown,) = api.call("GET", THREADS).data["threads"]
        assert shown["id"] == thread_id
        assert quote(shown["name"], safe="~") == shown["name"]


class TestTheSearch:
    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("café", ["t0"]),
            ("CAFE", ["t0"]),
            ("opening hours", ["t1", "t0"]),
            ("hours cafe", ["t0"]),
            ("strasse", ["t2"]),
            ("Stra\u00dfe", ["t2"]),
            ("温度", ["t3"]),
            ("ﬁle", ["t3"]),
            ("nothing of it", []),
            (" ", ["t3", "t2", "t1", "t0"]),
        ],
    )
    def test_finds_words_of_titles_whatever_their_case_and_accents(
        self, owner: tuple[Api, UserId], query: str, found: list[str]
    ) -> None:
        api, user_id = owner
        titles = ("Opening hours of the Cafe\u0301", "opening HOURS", "Which stra\u00dfe?", "温度传感器 file")
        for i, title in enumerate(titles):
            ask(user_id, f"t{i}", title, after_s=i)
        assert listed(api, f"query={quote(query)}") == (found, None)

    def test_looks_at_a_bounded_number_of_titles_a_page(
        self, owner: tuple[Api, UserId], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from karma.threads import service

        monkeypatch.setattr(service, "_READ", 2)
        monkeypatch.setattr(service, "MAX_EXAMINED", 4)
        api, user_id = owner
        for i in range(9):
            ask(user_id, f"t{i}", "needle" if i in {0, 1, 6} else "hay", after_s=i)
        pages: list[Any] = []
        cursor: str | None = ""
        while cursor is not None:
            found, cursor = listed(api, "query=needle&limit=2" + (f"&cursor={cursor}" if cursor else ""))
            pages.append(found)
        assert pages == [["t6"], ["t1"], ["t0"]]

    def test_is_refused_when_it_is_too_long(self, owner: tuple[Api, UserId]) -> None:
        answer = owner[0].call("GET", THREADS, query="query=" + "x" * 201)
        assert (answer.status, answer.json["error"]["details"][0]["field"]) == (422, "query")
