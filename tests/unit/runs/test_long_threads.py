"""Threads that have as much as they may have: what begins a run in them is refused before it costs anything."""

from __future__ import annotations

import asyncio

import pytest

from karma.conversations.domain import ConversationTooLong
from karma.conversations.stored import dump_messages
from karma.runs.modifications import Modifications
from tests.fakes.runs import caller
from tests.support.forks import forks
from tests.support.lost_runs import KEY, THREAD, Life, begin
from tests.support.lost_runs import World as LostWorld
from tests.support.run_world import World, asked, user
from tests.unit.runs.test_budgets import DONE
from tests.unit.runs.test_forking import name, points
from tests.unit.runs.test_interrupts import Approving, calls

LIMIT = "karma.conversations.domain.MAX_CONVERSATION_BYTES"
TEXT = "ä" * 1_000


def begun() -> World:
    world = World(DONE, DONE, DONE)
    world.run(asked(user(TEXT, "u0"), run="r0"))
    return world


def test_a_thread_takes_runs_until_its_messages_have_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    world = begun()
    held = sum(len(dump_messages([each])) - 2 for each in world.thread().messages)
    monkeypatch.setattr(LIMIT, held - 1)
    with pytest.raises(ConversationTooLong, match=f"more than {held - 1} bytes; start a new thread") as refused:
        world.run(asked(user("more", "u1"), run="r1"))
    assert (refused.value.status, refused.value.code) == (409, "CONVERSATION_TOO_LONG")
    assert len(world.model.requests) == 1
    assert len(world.thread().messages) == 2
    monkeypatch.setattr(LIMIT, held)
    world.run(asked(user("more", "u1"), run="r1"))
    assert len(world.thread().messages) == 4


def test_a_repeat_gets_the_answer_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world = begun()
    monkeypatch.setattr(LIMIT, 10)
    started = asyncio.run(world.service.start(caller(), asked(user(TEXT, "u0"), run="r0")))
    assert started.key.run_id == "r0"
    assert len(world.model.requests) == 1


def test_what_a_run_has_asked_can_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Approving(calls("one"), DONE)
    world.run(world.ask(user("go", "u1"), run="r1"))
    monkeypatch.setattr(LIMIT, 10)
    events = world.run(world.ask(*world.held(), resume={"r1/1": {"approved": True}}, run="r2"))
    assert events[-1]["outcome"] == {"type": "success"}


def test_a_fork_within_it_is_refused_and_one_into_a_new_thread_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    world = LostWorld()
    begin(world, Life(None))
    point = name(points(world)[2])
    monkeypatch.setattr(LIMIT, 10)
    with pytest.raises(ConversationTooLong):
        forks(world).restore_as_run(caller(), point, Modifications(message="Go on"), key=None)
    assert set(world.store.runs_by_key) == {KEY}
    made = forks(world).fork(caller(), point, Modifications(message="Go on"), key=None).run
    assert made.thread_id != THREAD.thread_id
