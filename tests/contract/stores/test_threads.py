"""Threads in the list of their owner: when they are listed, in which order, and with what."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.conversations.domain import History, Message, ThreadKey, TitleSource
from karma.conversations.items import HEAD, thread_pk
from karma.conversations.repository import ThreadRepository
from karma.conversations.stored import dump_messages
from karma.core.ids import AgentId, ThreadId
from karma.runs.domain import Run, RunEnd, RunStatus
from karma.runs.repository import RunRepository
from tests.contract.stores.test_runs import NOW, OTHER, THREAD, USER, begin, run, said, segment, stored_runs
from tests.support.stores import Database


@pytest.fixture
def runs(database: Database) -> RunRepository:
    return stored_runs(database)


@pytest.fixture
def threads(runs: RunRepository) -> ThreadRepository:
    return ThreadRepository()


def of_thread(thread_id: str, run_id: str, *, after_s: int = 0) -> Run:
    return replace(run(run_id, at=NOW + timedelta(seconds=after_s)), thread_id=ThreadId(thread_id))


def finish(runs: RunRepository, of: Run, *, after_s: int, answer: Message | None = None, last: int = -1) -> None:
    key = ThreadKey(of.key.user_id, of.thread_id)
    how = RunEnd(status=RunStatus.FINISHED, at=NOW + timedelta(seconds=after_s), last_message=last)
    history = History(key, last, (answer,)) if answer else None
    runs.finish(segment(2, of=of, terminal=True), how, thread=key, history=history)


def test_a_thread_is_listed_from_its_first_run_on(runs: RunRepository, threads: ThreadRepository) -> None:
    assert threads.get(THREAD) is None
    begin(runs, replace(run(), agent_id=AgentId("karma")), said("Which are\nonline?"))

    (head,) = threads.page(USER, limit=5, below=None)

    assert head == threads.get(THREAD)
    assert (head.key, head.title, head.title_from) == (THREAD, "Which are online?", TitleSource.WORDS)
    assert (head.agent_id, head.active_run_id, head.message_count) == ("karma", "r1", 1)
    assert head.created_at == head.updated_at == NOW
    assert threads.page(OTHER, limit=5, below=None) == []


def test_the_newest_activity_comes_first_by_pages(runs: RunRepository, threads: ThreadRepository) -> None:
    for i in range(4):
        begin(runs, of_thread(f"t{i}", f"r{i}", after_s=i), said(f"no. {i}"))
    finish(runs, of_thread("t1", "r1"), after_s=10)
    begin(runs, replace(run("other", user=OTHER), thread_id=ThreadId("t9")))

    first = threads.page(USER, limit=2, below=None)
    second = threads.page(USER, limit=2, below=first[-1].place)

    assert [head.key.thread_id for head in (*first, *second)] == ["t1", "t3", "t2", "t0"]
    assert threads.page(USER, limit=2, below=second[-1].place) == []


def test_an_end_counts_the_messages_that_its_run_added(runs: RunRepository, threads: ThreadRepository) -> None:
    begin(runs, None, said("hi"))
    finish(runs, run(), after_s=3, answer=Message(id="a", role="assistant", content="ho"), last=1)

    (head,) = threads.page(USER, limit=5, below=None)
    assert (head.message_count, head.active_run_id) == (2, None)
    assert head.updated_at == NOW + timedelta(seconds=3)

    # A run that answers an earlier message anew, and ends before it has added anything.
    begin(runs, run("r2", at=NOW + timedelta(seconds=5)))
    finish(runs, run("r2"), after_s=6, last=0)
    assert [each.message_count for each in threads.page(USER, limit=5, below=None)] == [2]


def test_the_bytes_of_its_messages_are_known_however_they_came_and_are_cut(runs: RunRepository) -> None:
    begin(runs, None, said("hi"), said("x" * 400_000))
    finish(runs, run(), after_s=3, answer=Message(id="a", role="assistant", content="h\u00f6"), last=1)
    thread = runs.thread(THREAD)
    assert len(thread.messages) == 3
    assert thread.stored_bytes == sum(len(dump_messages([each])) - 2 for each in thread.messages)
    assert runs.thread(ThreadKey(OTHER, THREAD.thread_id)).stored_bytes == 0


def test_a_title_is_made_once_of_the_first_words(runs: RunRepository, threads: ThreadRepository) -> None:
    image = {"type": "image", "source": {"type": "data", "value": "AAAA", "mimeType": "image/png"}}
    begin(runs, None, Message(id="m1", role="user", content=(image,)))
    finish(runs, run(), after_s=1)
    assert [head.title for head in threads.page(USER, limit=5, below=None)] == [""]

    begin(runs, run("r2", at=NOW + timedelta(seconds=2)), said("What is " + "very " * 30 + "odd?"))
    finish(runs, run("r2"), after_s=3)
    begin(runs, run("r3", at=NOW + timedelta(seconds=4)), said("And this?"))

    (head,) = threads.page(USER, limit=5, below=None)
    assert head.title == "What is very very very very very very very very very very…"


def test_a_thread_from_before_there_was_a_list_gets_there_by_its_next_run(
    runs: RunRepository, threads: ThreadRepository, database: Database
) -> None:
    begin(runs, None, said("Long ago"))
    database.client.update_item(
        TableName=database.tables["agents"],
        Key={"pk": {"S": thread_pk(THREAD)}, "sk": {"S": HEAD}},
        UpdateExpression="REMOVE gsi1pk, gsi1sk, title, title_from, agent_id, messages_begun, last_message",
    )
    finish(runs, run(), after_s=1, answer=Message(id="a", role="assistant", content="ho"), last=1)
    assert threads.page(USER, limit=5, below=None) == []

    begin(runs, run("r2", at=NOW + timedelta(seconds=2)), said("again"))

    (head,) = threads.page(USER, limit=5, below=None)
    assert (head.title, head.message_count, head.active_run_id) == ("Long ago", 3, "r2")
