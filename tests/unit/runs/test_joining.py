"""A client that joins a run, at any moment of it and whatever it holds, ends with the conversation that is stored."""

from __future__ import annotations

import copy
import os
import random
from typing import Any

import orjson
import pytest

from karma.core.errors import NotFound
from karma.core.ids import RunId
from karma.models.domain import ModelErrorCode
from karma.models.ports import ModelFailed, StopReason
from karma.runs import joining
from karma.runs.domain import LEASE, RunKey, RunStatus
from karma.runs.events import CURRENT
from karma.runs.joining import Joined, join
from karma.runs.opening import shown
from karma.runs.pause_events import PAUSED
from karma.runs.ports import StoredRun
from karma.runs.reading import RunReader
from tests.fakes.runs import KeptFrames, MemoryRuns, caller, ended, text, tool
from tests.support.agui_client import HeldMessages
from tests.support.lost_runs import KEY, THREAD, Life, World, begin, go_on, pause
from tests.support.run_world import World as ShortWorld
from tests.support.run_world import asked, user

RUNS = int(os.environ.get("KILLS") or 15)


class Until(MemoryRuns):
    """A store that is read when its log has `n` segments, and its thread a moment later."""

    def __init__(self, of: MemoryRuns, n: int) -> None:
        super().__init__()
        self.threads = of.threads
        self._of, self._n = of, n

    def whole(self, key: RunKey) -> StoredRun | None:
        found = self._of.whole(key)
        return found and found._replace(log=found.log[: self._n])


def joined(store: MemoryRuns, n: int, *, key: RunKey = KEY) -> Joined:
    found = join(Until(store, n), key, link=list)
    assert found is not None
    return found


def follow(client: HeldMessages, first: Joined, rest: list[dict[str, Any]]) -> HeldMessages:
    for event in [*map(orjson.loads, first.events), *rest]:
        client.take(event)
    return client


def played(dice: random.Random) -> World:
    """Return a run that was killed a few times, and has ended."""
    world = World(thinks=dice.random() < 0.5)
    begin(world, Life(dice.randint(30, 90), after=dice.random() < 0.5), KeptFrames())
    for _ in range(dice.randint(0, 2)):
        go_on(world, Life(dice.randint(10, 60), after=dice.random() < 0.5))
    go_on(world, Life(None))
    return world


@pytest.mark.parametrize("nth", range(RUNS))
def test_a_client_that_joins_anywhere_ends_with_the_stored_conversation(nth: int, seed: int) -> None:
    dice = random.Random(seed)
    world = played(dice)
    run = world.store.run(KEY)
    if run is None:
        return
    whole = len(world.log)
    at_its_end = follow(HeldMessages(), joined(world.store, whole), [])
    thread = world.store.thread(THREAD)
    if run.status is RunStatus.FINISHED:
        stored = [shown(thread.messages[at], CURRENT) for at in thread.path_to(run.last_message)]
        assert at_its_end.said == HeldMessages(stored).conversation

    for n in range(1, whole + 1):
        first = joined(world.store, n)
        rest = world.shown(after=n)
        empty = follow(HeldMessages(), first, rest)
        assert empty.conversation == at_its_end.conversation
        assert at_its_end.thoughts.items() <= empty.thoughts.items()
        held = [each for each in copy.deepcopy(empty.messages) if dice.random() < 0.5]
        dice.shuffle(held)
        half = follow(HeldMessages([*held, {"id": "mine", "role": "user", "content": "typed"}]), first, rest)
        assert half.conversation == at_its_end.conversation


def test_a_run_is_joined_with_its_end_alone_when_it_is_over() -> None:
    world = World()
    begin(world, Life(None), KeptFrames())

    first = joined(world.store, len(world.log))

    kinds = [orjson.loads(each)["type"] for each in first.events]
    assert kinds == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", "RUN_FINISHED"]
    assert (first.n, first.is_over) == (len(world.log), True)


def test_what_is_open_begins_again_without_what_it_has_said() -> None:
    world = World(thinks=True)
    begin(world, Life(None), KeptFrames())
    begun = 0

    for n in range(1, len(world.log)):
        first = [orjson.loads(each) for each in joined(world.store, n).events]
        rest = world.shown(after=n)
        opened = {str(event.get("messageId", event.get("toolCallId"))) for event in first[4:]}
        begun += len(opened)
        later = {str(each.get("messageId", each.get("toolCallId"))) for each in rest if each["type"].endswith("_START")}
        ends = {str(each.get("messageId", each.get("toolCallId"))) for each in rest if each["type"].endswith("_END")}
        assert ends - later == opened
        assert not [event for event in first if event["type"].endswith(("_CONTENT", "_ARGS"))]
    assert begun


def test_a_paused_run_says_that_it_is_paused() -> None:
    world = World()
    begin(world, Life(20), KeptFrames())
    world.clock.pass_by(LEASE * 2)
    pause(world)
    go_on(world, Life(None))

    first = joined(world.store, len(world.log))

    assert orjson.loads(first.events[-1]).get("name") == PAUSED
    assert not first.is_over


def test_a_failed_call_is_shown_as_one() -> None:
    world = ShortWorld([*tool("c1", "echo", '{"word":"fail"}'), *ended(StopReason.TOOL_USE)], [*text("No"), *ended()])
    request = asked(user("go", "u1"), run="r1")
    world.run(request)

    (*_, snapshot, _, _) = map(orjson.loads, joined(world.store, 99).events)

    assert snapshot["messages"] == [shown(each, CURRENT) for each in world.thread().messages]
    assert snapshot["messages"][2]["error"]


def test_what_a_failed_run_had_begun_to_say_is_withdrawn() -> None:
    failure = ModelFailed(ModelErrorCode.MODEL_OVERLOADED)
    world = ShortWorld([*text("Half an ans"), failure])
    world.run(asked(user("go", "u1"), run="r1"))

    client = follow(HeldMessages(), joined(world.store, 99), [])

    assert [each["content"] for each in client.conversation] == ["go"]


def test_the_application_s_own_messages_are_where_the_client_has_them() -> None:
    world = ShortWorld([*text("Hi"), *ended()])
    system = {"id": "s1", "role": "system", "content": "Be kind"}
    world.run(asked(system, user("go", "u1"), run="r1", state={"page": 7}))

    client = follow(HeldMessages(), joined(world.store, 99), [])

    assert [each["id"] for each in client.messages][:2] == ["s1", "u1"]
    assert client.state["page"] == 7


def test_a_conversation_that_is_too_long_to_be_shown_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    begin(world, Life(None), KeptFrames())
    monkeypatch.setattr(joining, "MAX_SNAPSHOT_BYTES", 100)

    assert joined(world.store, 5) == Joined((), 0, is_over=False)


def test_nobody_joins_a_run_that_is_not_his() -> None:
    world = World()
    begin(world, Life(None), KeptFrames())
    reader = RunReader(world.store)

    assert reader.joined(KEY.user_id, KEY.run_id).events
    for user_id, run_id in [("another", KEY.run_id), (KEY.user_id, "r2"), (KEY.user_id, "a#b"), (KEY.user_id, "")]:
        with pytest.raises(NotFound):
            reader.joined(type(caller().user_id)(user_id), RunId(run_id))
