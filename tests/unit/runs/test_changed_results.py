"""A result of a client's tool is its user's word, also while the run that has another one goes on."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.conversations.arrival import recognise
from karma.conversations.domain import ThreadKey
from karma.core.ids import RunId, ThreadId
from karma.models.ports import StopReason
from karma.runs.domain import RunExists, RunKey, RunStatus
from karma.runs.repeats import has_left, is_repeat
from karma.runs.requests import parse_run_input
from tests.fakes.runs import KeptFrames, caller, ended, text, tool
from tests.support.agui import verify
from tests.support.run_world import FIND_TOOL, World, asked, user
from tests.unit.runs.test_conversations import CALLS, KINDS, Talk, Wire

pytestmark = pytest.mark.fault("F-02o")

CHANGES: dict[str, Any] = {
    "under its id": lambda m: m | {"content": "NO"},
    "under another id": lambda m: m | {"id": "t9", "content": "NO"},
    "withdrawn": lambda m: m | {"error": "withdrawn"},
    "without ids": lambda m: m | {"id": "", "content": "NO"},
}
ANSWERING = st.lists(
    st.tuples(st.sampled_from(["say", "answer", "answer anew"]), st.integers(0, 9), st.sampled_from(["text", *CALLS])),
    min_size=2,
    max_size=6,
)


class Watched(Talk):
    """A talk in which each result that a run answers is changed while it would go on."""

    changed = 0

    def run(self, body: Wire) -> list[Wire]:
        before = len(self.model.requests)
        events = super().run(body)
        last = body["messages"][-1]
        if len(self.model.requests) > before and last["role"] == "tool" and last["content"].startswith("said"):
            assert self.is_repeat(body), "a retry is a retry"
            for change in ({"content": "said NO"}, {"error": None if "error" in last else "withdrawn"}):
                self.changed += 1
                assert not self.is_repeat(body, **change), "the run that has another answer is joined"
        return events

    def is_repeat(self, body: Wire, **change: Any) -> bool:
        """Tell whether a request would join the run of this body while it went on; one that does not must end it."""
        again = deepcopy(body) | {"runId": "again"}
        again["messages"][-1] |= change
        request = parse_run_input(orjson.dumps(again))
        stored = self.store.run(RunKey(caller().user_id, RunId(body["runId"])))
        thread = self.store.thread(ThreadKey(caller().user_id, ThreadId(body["threadId"])))
        assert stored is not None
        run = replace(stored, status=RunStatus.RUNNING)
        sent = recognise(caller().user_id, thread.messages, request.sent, request.unread)
        joins = is_repeat(run, thread, request, sent, own={"look"})
        assert joins or has_left(run, thread, request, sent, own={"look"}), "the run goes on"
        return joins


@settings(max_examples=40)
@given(KINDS, ANSWERING)
def test_a_changed_result_never_joins_the_run_of_the_earlier_one(kind: str, steps: list[tuple[str, int, str]]) -> None:
    talk = Watched(kind)
    for step in [("say", 0, "ask"), ("answer", 0, "text"), *steps]:
        talk.step(*step)
    assert talk.changed


def question(thread: World) -> tuple[Wire, Wire, Wire]:
    """Return a question, the turn that asks its user, and the user's answer."""
    q = user("May you move?", "u1")
    events = thread.run(asked(q, run="r0", tools=[FIND_TOOL]))
    begun = next(event for event in events if event["type"] == "TOOL_CALL_START")
    function = {"name": "askUser", "arguments": "{}"}
    call = {"id": begun["toolCallId"], "type": "function", "function": function}
    turn = {"id": begun["parentMessageId"], "role": "assistant", "toolCalls": [call]}
    return q, turn, {"id": "t1", "role": "tool", "toolCallId": call["id"], "content": "yes"}


ASKS = [*tool("c1", "askUser", "{}"), *ended(StopReason.TOOL_USE)]


@pytest.mark.parametrize("is_alone", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_an_answer_that_is_withdrawn_stops_the_run_that_has_it(
    change: str, *, is_alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.01)
    monkeypatch.setattr("karma.runs.replacing._END_POLL_S", 0.01)
    world = World(ASKS, [*text("I mo"), lambda: asyncio.Event().wait()], [*text("I stay."), *ended()])
    q, turn, yes = question(world)
    other = CHANGES[change](yes)
    first = asked(q, turn, yes, run="r1", tools=[FIND_TOOL])
    shown = [other] if is_alone else [q, turn, other]

    async def go() -> KeptFrames:
        running = (await world.service.start(caller(), first)).execute(KeptFrames())
        answer = await world.go(asked(*shown, run="r2", tools=[FIND_TOOL]))
        await running
        return answer

    answer = asyncio.run(asyncio.wait_for(go(), 10))  # who joins the earlier run waits for ever

    verify(answer.events)
    assert world.stored(first).status is RunStatus.CANCELLED
    told = [m for m in world.model.requests[-1].messages if m.role == "tool"]
    words = "\n".join([other["error"], other["content"]] if "error" in other else [other["content"]])
    assert [(m.content, m.failed) for m in told] == [(words, "error" in other)]
    assert not [event for event in answer.events if event["type"] == "CUSTOM"]


@pytest.mark.parametrize("change", CHANGES)
def test_another_answer_under_the_same_run_id_is_another_request(change: str) -> None:
    world = World(ASKS, [*text("I move."), *ended()])
    q, turn, yes = question(world)
    world.run(asked(q, turn, yes, run="r1", tools=[FIND_TOOL]))

    with pytest.raises(RunExists):
        world.run(asked(q, turn, CHANGES[change](yes), run="r1", tools=[FIND_TOOL]))


@pytest.mark.parametrize("is_over", [False, True])
def test_who_joins_a_run_is_told_what_is_not_used(*, is_over: bool) -> None:
    go_on = asyncio.Event()
    world = World(ASKS, [*text("I move."), *ended()], [*text("A"), go_on.wait, *text("gain."), *ended()])
    q, turn, yes = question(world)
    answer = next(e for e in world.run(asked(q, turn, yes, run="r1")) if e["type"] == "TEXT_MESSAGE_START")
    moved = {"id": answer["messageId"], "role": "assistant", "content": "I move."}
    more = user("And now?", "u2")
    changed = [q, turn, yes | {"content": "NO"}, moved | {"content": "I stay."}, more]
    part = {"id": "part", "role": "assistant", "content": "A"}

    async def go() -> KeptFrames:
        running = (await world.service.start(caller(), asked(q, turn, yes, moved, more, run="r2"))).execute(
            KeptFrames()
        )
        if is_over:
            go_on.set()
            await running
        frames = KeptFrames()
        joined = (await world.service.start(caller(), asked(*changed, part, run="r2"))).execute(frames)
        go_on.set()
        await asyncio.gather(running, joined)
        return frames

    frames = asyncio.run(go())

    verify(frames.events)
    (told,) = [event["value"] for event in frames.events if event["type"] == "CUSTOM"]
    assert [note["field"] for note in told] == ["messages.2", "messages.3"]
