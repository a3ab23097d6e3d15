"""Equal words are the same request only of a client that names neither them, nor the request, nor what it wants."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from karma.core.ids import RunId
from karma.runs.domain import Run, RunKey, RunStatus, ThreadBusy
from karma.runs.requests import RunInput
from tests.fakes.runs import caller
from tests.support.lost_runs import THREAD, Life, World, live
from tests.support.run_world import asked

pytestmark = pytest.mark.fault("F-02c")

ANSWER = {"id": "a0", "role": "assistant", "content": "Hi."}


def words(message_id: str = "", content: str = "move it") -> dict[str, Any]:
    return {"role": "user", "content": content, **({"id": message_id} if message_id else {})}


def request(run: str, *sent: dict[str, Any], strategy: str | None = None) -> RunInput:
    props = {"multitask_strategy": strategy} if strategy else {}
    return asked(*sent, run=run, forwardedProps=props)


def begin(world: World, asks: RunInput) -> Run:
    return asyncio.run(world.background(Life(None)).begin(caller(), asks)).run


def execute(world: World) -> None:
    while world.executions.requested:
        key = world.executions.requested.pop(0)
        live(lambda: world.executor(Life(None)).go_on(key))  # noqa: B023  run at once


def status(world: World, key: RunKey) -> RunStatus:
    run = world.store.run(key)
    assert run is not None
    return run.status


def said(world: World) -> list[str]:
    thread = world.store.thread(THREAD)
    return [str(each.content) for each in thread.messages if each.role == "user"]


@pytest.mark.parametrize("are_named", [True, False])
def test_said_thrice_to_wait_they_are_answered_thrice(*, are_named: bool) -> None:
    world = World()
    runs = [begin(world, request(f"r{n}", words(f"u{n}" if are_named else ""), strategy="enqueue")) for n in range(3)]
    assert [(run.key.run_id, run.status) for run in runs] == [("r0", "running"), ("r1", "queued"), ("r2", "queued")]
    execute(world)
    assert said(world) == ["move it"] * 3
    assert {status(world, run.key) for run in runs} == {RunStatus.FINISHED}


def test_a_history_whose_ids_are_made_anew_brings_its_last_words_to_wait() -> None:
    world = World()
    begin(world, request("r0", words("u0"), ANSWER, words("u1")))
    anew = [words("v0"), {**ANSWER, "id": "b0"}, words("v1")]
    assert begin(world, request("r1", *anew, strategy="enqueue")).status is RunStatus.QUEUED
    execute(world)
    assert said(world) == ["move it"] * 3


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
def test_said_once_more_to_end_what_is_active_they_do(strategy: str) -> None:
    world = World()
    begin(world, request("r0", words()))
    assert begin(world, request("r1", words(), strategy=strategy)).key.run_id == "r1"
    assert status(world, RunKey(caller().user_id, RunId("r0"))) is RunStatus.CANCELLED


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(request("r1", words("u1")), id="under another id"),
        pytest.param(request("r1", words("v0"), {**ANSWER, "id": "b0"}, words("v1")), id="a history, ids anew"),
        pytest.param(request("r1", words(), strategy="reject"), id="to be refused"),
        pytest.param(replace(request("r1", words()), stands_alone=True), id="under another key"),
    ],
)
def test_said_once_more_while_they_are_answered_they_are_refused(again: RunInput) -> None:
    world = World()
    begin(world, request("r0", words("u0", "Hello"), ANSWER, words("w1")))
    with pytest.raises(ThreadBusy) as busy:
        begin(world, again)
    assert busy.value.details == {"run_id": "r0"}
    execute(world)
    assert said(world)[-1] == "move it", "the first goes on"


@pytest.mark.parametrize("strategy", [None, "reject", "enqueue", "interrupt", "rollback"])
def test_the_same_ids_are_the_same_request_whatever_it_wants(strategy: str | None) -> None:
    world = World()
    begin(world, request("r0", words("u0")))
    assert begin(world, request("r1", words("u0"), strategy=strategy)).key.run_id == "r0"


def test_without_ids_key_or_strategy_they_are_a_second_click() -> None:
    world = World()
    begin(world, request("r0", words()))
    assert begin(world, request("r1", words())).key.run_id == "r0"
