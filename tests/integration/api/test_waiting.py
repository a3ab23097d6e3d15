"""The view of a person who comes back: the runs of a thread, and the questions of all threads that wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from karma.conversations.domain import ThreadKey
from karma.core.ids import RunId, UserId
from karma.runs.domain import Run, RunEnd, RunKey, RunStatus, Segment
from karma.runs.interrupts import Answered, AnswerStatus, InterruptAnswer
from karma.runs.repository import RunRepository
from tests.contexts.runs import question
from tests.integration.api.conftest import Api
from tests.integration.api.test_threads import ask, owner

__all__ = ["owner"]

INTERRUPTS = "/api/v1/interrupts"


def end(run: Run, status: RunStatus, *, asks: int = 0, within: timedelta = timedelta(days=1)) -> None:
    """End a run, with questions."""
    until = datetime.now(UTC) + within
    asked = tuple(replace(question(run, n), expires_at=until) for n in range(1, asks + 1))
    last = Segment(
        key=run.key, n=2, writer="w", epoch=1, lease_until=run.created_at, events=(b'{"type":"B"}',), terminal=True
    )
    how = RunEnd(status=status, at=run.created_at, interrupts=asked)
    RunRepository().finish(last, how, thread=ThreadKey(run.key.user_id, run.thread_id))


def answer_some(run: Run, shown: Sequence[str], left: Sequence[str], *, after_s: int = 1) -> None:
    """Begin a run that answers questions of a thread, and ends with the others still open."""
    store, user_id = RunRepository(), run.key.user_id
    thread = ThreadKey(user_id, run.thread_id)
    key = RunKey(user_id, RunId(f"{run.key.run_id}-answers-{after_s}"))
    answers = replace(run, key=key, created_at=run.created_at + timedelta(minutes=after_s))
    answer = InterruptAnswer(status=AnswerStatus.RESOLVED, payload={}, by=key.run_id, at=answers.created_at)
    begun = Segment(key=key, n=1, writer="w", epoch=1, lease_until=answers.created_at, events=(b"{}",))
    asked = store.interrupts(user_id, [*shown, *left])
    store.start(
        answers,
        thread=store.thread(thread),
        segment=begun,
        messages=(),
        answers=[Answered(interrupt=asked[name], answer=answer) for name in shown],
        left=[asked[name] for name in left],
    )
    last = replace(begun, n=2, events=(b'{"type":"B"}',), terminal=True)
    status = RunStatus.INTERRUPTED if left else RunStatus.FINISHED
    how = RunEnd(status=status, at=answers.created_at, interrupts=tuple(asked[name] for name in left))
    store.finish(last, how, thread=thread)


def found(api: Api, query: str = "") -> tuple[list[tuple[str, str]], str | None]:
    answer = api.call("GET", INTERRUPTS, query=query)
    assert answer.status == 200, answer.text
    return [(each["thread_id"], each["id"]) for each in answer.data["interrupts"]], answer.data["next_cursor"]


class TestQuestionsThatWait:
    def test_are_listed_with_what_they_ask_and_how_they_are_answered(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        run = ask(user_id, "a/b", "Move the lamp", agent="karma")
        end(run, RunStatus.INTERRUPTED, asks=1)
        (shown,) = api.call("GET", INTERRUPTS).data["interrupts"]
        (stored,) = api.call("GET", f"/api/v1/runs/{run.key.run_id}").data["interrupts"]
        place = {"run_id": run.key.run_id, "thread_id": "a/b", "thread_name": "~YS9i", "thread_title": "Move the lamp"}
        assert shown == {**stored, **place}
        assert shown["status"] == "open"

    def test_are_none_that_expired_were_answered_or_are_another_s(self, owner: tuple[Api, UserId], api: Api) -> None:
        mine, user_id = owner
        end(ask(user_id, "late", "x"), RunStatus.INTERRUPTED, asks=2, within=-timedelta(seconds=1))
        run = ask(user_id, "t1", "x", after_s=1)
        end(run, RunStatus.INTERRUPTED, asks=2)
        end(ask(UserId(api.register()["id"]), "theirs", "x"), RunStatus.INTERRUPTED, asks=1)
        assert found(mine) == ([("t1", question(run, 1).id), ("t1", question(run, 2).id)], None)
        first, second = (question(run, n).id for n in (1, 2))
        answer_some(run, [first], [second])
        assert found(mine) == ([("t1", second)], None)

    def test_come_page_by_page_each_once(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        wanted: list[tuple[str, str]] = []
        for n in range(4):
            run = ask(user_id, f"t{n}", "x", after_s=n, agent="karma" if n else None)
            end(run, RunStatus.INTERRUPTED, asks=n)
            wanted = [(f"t{n}", question(run, each).id) for each in range(1, n + 1)] + wanted
        for limit in (1, 2, 4, 6):
            pages: list[tuple[str, str]] = []
            cursor: str | None = ""
            while cursor is not None:
                page, cursor = found(api, f"limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
                assert len(page) <= limit
                pages += page
            assert pages == wanted
        assert found(api, "agent_id=nobody") == ([], None)
        assert found(api, "agent_id=karma")[0] == wanted
        assert api.call("GET", INTERRUPTS, query="cursor=x").code == "INVALID_CURSOR"

    def test_are_none_passed_over_when_those_shown_are_answered_between_pages(self, owner: tuple[Api, UserId]) -> None:
        """An answer takes the question's name from its thread, and moves the thread to the list's beginning."""
        api, user_id = owner
        runs = [ask(user_id, f"t{n}", "x", after_s=n) for n in range(2)]
        for run in runs:
            end(run, RunStatus.INTERRUPTED, asks=11)
        wanted = [(run.thread_id, question(run, n).id) for run in reversed(runs) for n in range(1, 12)]
        pages: list[tuple[str, str]] = []
        cursor: str | None = ""
        while cursor is not None:
            page, cursor = found(api, "limit=2" + (f"&cursor={cursor}" if cursor else ""))
            pages += page
            for run in runs:
                shown = [name for thread_id, name in page if thread_id == run.thread_id]
                left = [
                    name for thread_id, name in wanted if thread_id == run.thread_id and (thread_id, name) not in pages
                ]
                if shown:
                    answer_some(run, shown, left, after_s=len(pages))
        assert pages == wanted


class TestTheRunsOfAThread:
    def test_are_those_of_all_its_branches_newest_first(self, owner: tuple[Api, UserId]) -> None:
        api, user_id = owner
        names = []
        for n in range(5):
            run = ask(user_id, "t1", f"word {n}", after_s=n, follows=-1 if n == 3 else None)
            names.append(run.key.run_id)
            if n < 4:
                end(run, RunStatus.FINISHED)
        ask(user_id, "t2", "x")
        pages, cursor = [], ""
        for _ in range(3):
            page = api.call("GET", "/api/v1/threads/t1/runs", query=f"limit=2{cursor}").data
            pages += [each["id"] for each in page["runs"]]
            cursor = f"&cursor={page['next_cursor']}"
        assert pages == names[::-1]
        assert page["next_cursor"] is None

    def test_are_none_of_a_thread_without_runs_and_not_found_of_none(self, owner: tuple[Api, UserId], api: Api) -> None:
        mine, _ = owner
        thread = mine.call("POST", "/api/v1/threads", {"title": "Empty"}).data["thread"]
        assert mine.call("GET", f"/api/v1/threads/{thread['name']}/runs").data["runs"] == []
        assert mine.call("GET", "/api/v1/threads/nobody/runs").status == 404
        other = api.as_(authorization=f"Bearer {api.log_in(api.register()['email'])['access_token']}")
        assert other.call("GET", f"/api/v1/threads/{thread['name']}/runs").status == 404


@pytest.mark.parametrize("path", [INTERRUPTS, "/api/v1/threads/t1/runs"])
def test_pages_have_a_hundred_at_the_most(owner: tuple[Api, UserId], path: str) -> None:
    api, _ = owner
    assert api.call("GET", path, query="limit=101").status == 422
