"""Threads as the API shows them to their owners."""

from __future__ import annotations

import json
import urllib.request
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest

from karma.conversations.domain import Message, ThreadChanged, ThreadKey, ThreadSpending
from karma.core.ids import AgentId, RunId, ThreadId, UserId, new_id
from karma.integrations.s3 import S3Attachments
from karma.runs.domain import Run, RunEnd, RunKey, RunStatus, Segment
from karma.runs.repository import RunRepository
from karma.runs.wishes import Wish
from tests.contexts.runs import record
from tests.integration.api.conftest import Api, reopen
from tests.support.rows import NOW
from tests.support.stack import Drain, Stack

THREADS = "/api/v1/threads"


@pytest.fixture
def owner(api: Api) -> tuple[Api, UserId]:
    user = api.register()
    token = api.log_in(user["email"])["access_token"]
    return api.as_(authorization=f"Bearer {token}"), UserId(user["id"])


def ask(
    user_id: UserId,
    thread_id: str,
    *words: str | tuple[Any, ...],
    after_s: int = 0,
    agent: str | None = None,
    follows: int | None = None,
) -> Run:
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
    store.start(run, thread=store.thread(key), segment=first, messages=said, after=follows)
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
                    "budget": {
                        "max_tokens": None,
                        "max_cost_micros": None,
                        "spent_tokens": 0,
                        "spent_cost_micros": 0,
                    },
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


def create(api: Api, title: str = "Greenhouse", **more: Any) -> Any:
    answer = api.call("POST", THREADS, {"title": title, **more})
    assert answer.status == 201, answer.text
    return answer.data["thread"]


class TestAThreadWithoutARun:
    def test_is_listed_under_its_title_and_taken_by_the_first_run(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        made = create(api, " Greenhouse ", id="mine")
        assert (made["id"], made["title"], made["title_from"], made["message_count"]) == (
            "mine",
            "Greenhouse",
            "user",
            0,
        )
        assert api.call("GET", THREADS).data["threads"] == [made]
        assert api.call("GET", f"{THREADS}/mine").data["messages"] == []

        ask(user_id, "mine", "Which are online?")

        (shown,) = api.call("GET", THREADS).data["threads"]
        assert (shown["title"], shown["title_from"], shown["message_count"]) == ("Greenhouse", "user", 1)

    def test_is_made_once_for_an_idempotency_key_and_once_under_an_id(self, ada: Api, stack: Stack) -> None:
        body = {"title": "Greenhouse"}
        first = ada.call("POST", THREADS, body, idempotency_key="once")
        reopen(stack, expired=True)
        again = ada.call("POST", THREADS, body, idempotency_key="once")
        assert (first.status, again.status, first.data) == (201, 201, again.data)
        assert len(ada.call("GET", THREADS).data["threads"]) == 1

        create(ada, id="mine")
        taken = ada.call("POST", THREADS, {"title": "Other", "id": "mine"})
        assert (taken.status, taken.code) == (409, "ALREADY_EXISTS")

    def test_is_gone_after_thirty_days(self, ada: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        from api.services import threads
        from karma.threads.service import EMPTY_FOR

        made = create(ada)
        clock = threads.service()._clock
        later = clock.now() + EMPTY_FOR

        class Later:
            def now(self) -> Any:
                return later

        monkeypatch.setattr(threads.service(), "_clock", Later())
        assert ada.call("GET", THREADS).data["threads"] == []
        for method, body in (("GET", None), ("PATCH", {"title": "New"})):
            assert ada.call(method, f"{THREADS}/{made['name']}", body).status == 404


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"title": " "}, "title"),
    ({"title": "x" * 201}, "title"),
    ({"title": "a\nb"}, "title"),
    ({"title": None}, "title"),
    ({"title": "t", "user_id": "me"}, "user_id"),
]


class TestATitle:
    def test_that_its_owner_gives_stays(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        ask(user_id, "t1", "hi", after_s=1)
        ask(user_id, "t2", "hi", after_s=2)

        answer = api.call("PATCH", f"{THREADS}/t1", {"title": "Données", "version": 1})

        assert (answer.status, answer.headers["etag"]) == (200, '"2"')
        assert (answer.data["thread"]["title"], answer.data["thread"]["title_from"]) == ("Données", "user")
        assert listed(api) == (["t2", "t1"], None)
        assert listed(api, "query=donnees") == (["t1"], None)

    def test_that_somebody_else_has_changed_is_not_overwritten(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        ask(user_id, "t1", "hi")
        assert api.call("PATCH", f"{THREADS}/t1", {"title": "One"}).status == 200
        for stale in ({"if_match": '"1"'}, {}):
            answer = api.call("PATCH", f"{THREADS}/t1", {"title": "Two", **({} if stale else {"version": 1})}, **stale)
            assert (answer.status, answer.code) == (409, "STALE_VERSION")
        assert api.call("GET", f"{THREADS}/t1").data["thread"]["title"] == "One"

    def test_that_is_wrong_is_refused_by_its_field_and_changes_nothing(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        ask(user_id, "t1", "hi")
        before = api.call("GET", THREADS).data
        for body, field in [*WRONG, ({"title": "t", "version": 0}, "version")]:
            answer = api.call("PATCH", f"{THREADS}/t1", body)
            assert (answer.status, [each["field"] for each in answer.json["error"]["details"]]) == (422, [field])
        for body, field in [*WRONG, ({"title": "t", "id": "a b"}, "id"), ({"title": "t", "id": "a#b"}, "id")]:
            answer = api.call("POST", THREADS, body)
            assert (answer.status, [each["field"] for each in answer.json["error"]["details"]]) == (422, [field])
        assert api.call("GET", THREADS).data == before


class TestABudget:
    def test_is_given_with_the_thread_or_later_and_shown_with_what_was_spent(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        made = api.call("POST", THREADS, {"title": "t", "budget": {"max_cost_micros": 5}}).data["thread"]
        assert made["budget"] == {
            "max_tokens": None,
            "max_cost_micros": 5,
            "spent_tokens": 0,
            "spent_cost_micros": 0,
        }
        thread = ThreadKey(user_id, ThreadId("thread-of-r1"))
        record(user_id, "r1")
        named = f"{THREADS}/{thread.thread_id}"
        changed = api.call("PATCH", named, {"budget": {"max_tokens": 7, "max_cost_micros": 9}}).data["thread"]
        limits = {"max_tokens": 7, "max_cost_micros": 9}
        assert changed["budget"] == {**limits, "spent_tokens": 3, "spent_cost_micros": 40}
        kept = api.call("PATCH", named, {"title": "Other"}).data["thread"]
        assert (kept["title"], kept["budget"]) == ("Other", changed["budget"])
        both = api.call("PATCH", named, {"title": "Third", "budget": {"max_tokens": 8}}).data["thread"]
        assert (both["title"], both["budget"]["max_tokens"], both["budget"]["max_cost_micros"]) == ("Third", 8, None)
        assert RunRepository().thread(thread).spending == ThreadSpending(tokens=3, cost_micros=40, max_tokens=8)
        ended = api.call("PATCH", named, {"budget": None}).data["thread"]
        assert (ended["budget"]["max_tokens"], ended["title"]) == (None, "Third")

    def test_that_is_wrong_is_refused_by_its_field_and_changes_nothing(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        ask(user_id, "t1", "hi")
        before = api.call("GET", THREADS).data
        for body, field in (
            ({}, "title"),
            ({"version": 1}, "title"),
            ({"budget": 5}, "budget"),
            ({"budget": {"max_tokens": 0}}, "budget.max_tokens"),
            ({"budget": {"max_tokens": 10**12 + 1}}, "budget.max_tokens"),
            ({"budget": {"max_cost_micros": 1.5}}, "budget.max_cost_micros"),
            ({"budget": {"dollars": 1}}, "budget.dollars"),
        ):
            answer = api.call("PATCH", f"{THREADS}/t1", body)
            assert (answer.status, [each["field"] for each in answer.json["error"]["details"]]) == (422, [field])
        assert api.call("GET", THREADS).data == before


class TestAThread:
    def test_shows_the_last_messages_of_its_newest_branch_and_leads_to_those_before(
        self, owner: tuple[Api, UserId]
    ) -> None:
        api, user_id = owner
        ask(user_id, "t1", *(f"no. {i}" for i in range(5)))

        first = api.call("GET", f"{THREADS}/t1", query="limit=2")
        pages = [first.data["messages"]]
        cursor = first.data["next_cursor"]
        while cursor:
            page = api.call("GET", f"{THREADS}/t1", query=f"limit=2&cursor={cursor}").data
            pages.append(page["messages"])
            cursor = page["next_cursor"]

        assert [[each["content"] for each in page] for page in pages] == [
            ["no. 3", "no. 4"],
            ["no. 1", "no. 2"],
            ["no. 0"],
        ]
        assert first.headers["etag"] == f'"{first.data["thread"]["version"]}"'
        assert pages[2] == [{"id": "m0", "role": "user", "content": "no. 0"}]

    def test_of_another_branch_is_left_out(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        run = ask(user_id, "t1", "first", "second")
        end(run)
        ask(user_id, "t1", "instead", after_s=1, follows=0)

        found = api.call("GET", f"{THREADS}/t1").data
        assert [each["content"] for each in found["messages"]] == ["first", "instead"]
        assert found["thread"]["message_count"] == 3

    @pytest.mark.parametrize("name", ["nobody", "~", "a%23b", "~YQ"])
    def test_that_nobody_has_is_404(self, ada: Api, name: str) -> None:
        for method, body in (("GET", None), ("PATCH", {"title": "t"}), ("DELETE", None)):
            assert ada.call(method, f"{THREADS}/{name}", body).status == 404

    @pytest.mark.parametrize("thread_id", ["a/b", "..", "50%?", "~YQ", "t\\1", "x" * 128])
    def test_is_found_by_its_name(self, owner: tuple[Api, UserId], thread_id: str) -> None:
        api, user_id = owner
        ask(user_id, thread_id, "hi")
        (head,) = api.call("GET", THREADS).data["threads"]
        assert api.call("GET", f"{THREADS}/{head['name']}").data["thread"] == head


class TestADeletedThread:
    def test_is_nowhere_and_its_id_is_refused(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        ask(user_id, "t1", "hi")
        ask(user_id, "t2", "hi", after_s=1)

        assert api.call("DELETE", f"{THREADS}/t1", if_match='"7"').code == "STALE_VERSION"
        assert api.call("DELETE", f"{THREADS}/t1").status == 204
        assert api.call("DELETE", f"{THREADS}/t1").status == 204

        assert listed(api) == (["t2"], None)
        assert api.call("GET", f"{THREADS}/t1").status == 404
        assert api.call("PATCH", f"{THREADS}/t1", {"title": "t"}).status == 404
        assert api.call("POST", THREADS, {"title": "t", "id": "t1"}).code == "ALREADY_EXISTS"
        with pytest.raises(ThreadChanged):
            ask(user_id, "t1", "again", after_s=3)

    def test_has_asked_its_run_to_end_and_left_the_rest_to_the_queue(
        self, owner: tuple[Api, UserId], stack: Stack, drain: Drain
    ) -> None:
        api, user_id = owner
        run = ask(user_id, "t1", "hi")
        api.call("DELETE", f"{THREADS}/t1")
        assert RunRepository().wishes(run.key) == {Wish.CANCEL: "Its thread was deleted"}
        (message,) = drain(stack.queues["deletions"])
        assert json.loads(message["Body"]) == {"user_id": user_id, "thread_id": "t1"}


class TestAnExport:
    def test_has_all_branches_with_their_tree_and_the_runs(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        run = ask(user_id, "t1", "first", "second")
        end(run)
        again = ask(user_id, "t1", "instead", after_s=1, follows=0)

        found = api.call("GET", f"{THREADS}/t1/export").data

        assert (found["url"], found["expires_at"]) == (None, None)
        document = found["export"]
        assert document["format"] == 1
        assert document["thread"] == api.call("GET", f"{THREADS}/t1").data["thread"]
        told = [(each["position"], each["follows"], each["message"]["content"]) for each in document["messages"]]
        assert told == [(0, -1, "first"), (1, 0, "second"), (2, 0, "instead")]
        assert [each["id"] for each in document["runs"]] == [again.key.run_id, run.key.run_id]
        assert document["runs"][1] == api.call("GET", f"/api/v1/runs/{run.key.run_id}").data["run"]

    def test_links_to_attachments_and_to_a_file_where_it_is_too_large_for_an_answer(
        self, owner: tuple[Api, UserId], stack: Stack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from api.services import threads

        api, user_id = owner
        kept = S3Attachments(stack.bucket).keep(user_id, b"an image")
        image = {"type": "image", "source": {"type": "file", "value": f"attachments/{kept}", "mimeType": "image/png"}}
        end(ask(user_id, "t1", (image,)))

        small = api.call("GET", f"{THREADS}/t1/export").data["export"]
        monkeypatch.setattr(threads.exports(), "_most_bytes", 100)
        large = api.call("GET", f"{THREADS}/t1/export").data

        assert large["export"] is None
        assert large["expires_at"] > "2026"
        loaded = json.loads(load(large["url"]))
        [message], [shown] = loaded["messages"], small["messages"]
        assert load(message["message"]["content"][0]["source"]["value"]) == b"an image"
        assert load(shown["message"]["content"][0]["source"]["value"]) == b"an image"
        assert {**loaded, "messages": []} == {**small, "messages": []}

    def test_of_a_thread_that_nobody_has_is_404(self, ada: Api) -> None:
        assert ada.call("GET", f"{THREADS}/nobody/export").status == 404


def load(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read())


def end(run: Run) -> None:
    last = Segment(key=run.key, n=2, writer="w", epoch=1, lease_until=NOW, events=(b"{}",), terminal=True)
    key = ThreadKey(run.key.user_id, run.thread_id)
    RunRepository().finish(last, RunEnd(status=RunStatus.FINISHED, at=NOW), thread=key)
