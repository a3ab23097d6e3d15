"""The run that a request names as its parent: one of its account, or none, so that nobody's lineage is invented."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from karma.identity.domain import Caller
from karma.runs.askers import NO_PARENT
from karma.runs.background import run_input
from karma.runs.domain import RunKey
from karma.runs.requests import RunInput
from karma.runs.schemas import StartRunBody
from tests.fakes.runs import KeptFrames, caller, ended, text
from tests.support.lost_runs import Life
from tests.support.lost_runs import World as LostWorld
from tests.support.run_world import World, asked, user
from tests.unit.runs.test_interrupts import DONE, Approving, calls

pytestmark = pytest.mark.fault("F-38d")

OTHER = "01890000-0000-7000-8000-000000000002"
SAID = [*text("Well."), *ended()]
NOBODYS = ["theirs", "unknown", "r1", "gone/../x"]
"""Runs of another account, of nobody, the new one itself, and an id that no run can have."""


def begin(world: World, who: Caller, request: RunInput) -> list[dict[str, Any]]:
    async def go() -> KeptFrames:
        frames = KeptFrames()
        await (await world.service.start(who, request)).execute(frames)
        return frames

    return asyncio.run(go()).events


def ignored(events: list[dict[str, Any]]) -> list[str]:
    told = [event["value"] for event in events if event.get("name") == "karma.input_ignored"]
    return [each["reason"] for value in told for each in value]


def earlier() -> World:
    """Return a world with a run of this account in a thread, and one of another account."""
    world = World(SAID, SAID, SAID)
    begin(world, caller(), asked(user("hi"), thread="t0", run="mine"))
    begin(world, caller(user_id=OTHER), asked(user("hi"), thread="t0", run="theirs"))
    return world


@pytest.mark.parametrize("thread", ["t0", "t1"])
def test_a_run_of_the_account_is_kept_whichever_its_thread(thread: str) -> None:
    world = earlier()
    request = asked(user("and now?"), thread=thread, run="r1", parentRunId="mine")
    events = begin(world, caller(), request)
    assert (events[0]["parentRunId"], world.stored(request).parent_run_id, ignored(events)) == ("mine", "mine", [])


@pytest.mark.parametrize("named", NOBODYS)
def test_what_is_no_run_of_the_account_is_left_out_and_named(named: str) -> None:
    """With the same words whoever has it, so that nobody learns of others' runs."""
    world = earlier()
    request = asked(user("and now?"), run="r1", parentRunId=named)
    events = begin(world, caller(), request)
    assert "parentRunId" not in events[0]
    assert world.stored(request).parent_run_id == ""
    assert ignored(events) == [NO_PARENT]
    again = begin(world, caller(), request)
    assert "parentRunId" not in again[0]


@pytest.mark.parametrize(("named", "kept"), [("mine", "mine"), *((each, "") for each in NOBODYS[:2])])
def test_so_it_is_in_the_background(named: str, kept: str) -> None:
    world, old = LostWorld(), earlier()
    world.store.runs_by_key = old.store.runs_by_key
    body = StartRunBody(message="go", thread_id="t9", parent_run_id=named)
    request = run_input(body, None, taken=())
    run = asyncio.run(world.background(Life(None)).begin(caller(), request)).run
    assert run.parent_run_id == kept
    (first,) = world.store.segments(run.key, after=0, limit=1)
    events = [orjson.loads(data) for data in first.events]
    assert events[0].get("parentRunId", "") == kept
    assert ignored(events) == ([] if kept else [NO_PARENT])


@pytest.mark.parametrize(("named", "parent"), [("mine", "mine"), ("unknown", "a1")])
def test_an_answer_goes_on_from_the_run_that_asked_unless_it_names_one(named: str, parent: str) -> None:
    world = Approving(DONE, calls("hi"), DONE)
    world.run(world.ask(user("hi"), thread="t0", run="mine"))
    world.run(world.ask(user("go", "u1"), run="a1"))
    answer = world.ask(resume={"a1/1": {"approved": True}}, run="r2", parentRunId=named)
    world.run(answer)
    assert world.stored(answer).parent_run_id == parent
    assert world.store.run(RunKey(caller().user_id, answer.run_id)) == world.stored(answer)
