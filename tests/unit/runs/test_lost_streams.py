"""A client that lost its stream sends again what it holds: no call is made twice, and it gets the whole answer.

The run that is lost has several turns with calls that have an effect. It is held at each of its steps; the client has
got any part of the events until there, applied as @ag-ui/client applies them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from karma.conversations.domain import ThreadKey
from karma.core.ids import ThreadId, new_id
from karma.models.ports import StopReason
from karma.runs.domain import RunExists, RunKey, RunStatus, ThreadBusy
from karma.runs.plan import RunLimits
from karma.runs.requests import parse_run_input
from karma.tools.toolbox import Tool, ToolContext, WhenLost
from tests.fakes.agents import catalogue
from tests.fakes.attachments import library
from tests.fakes.configuration import as_built
from tests.fakes.runs import (
    KeptFrames,
    MemoryRuns,
    RememberedWatchdog,
    ScriptedModel,
    SetClock,
    caller,
    ended,
    text,
    tool,
)
from tests.support.agui import verify
from tests.support.plans import allowances
from tests.support.run_services import run_service
from tests.unit.runs.test_conversations import Client, Nothing, Wire

pytestmark = pytest.mark.fault("F-02d", "F-02g", "F-02j")

STEPS = 34
"""Number of steps; more than the run has, so that at the last ones the client returns after its end."""
ANSWERS = {"Good morning.", "I look.", "Both.", "It moved."}
EARLIER = ["answered", "left"]
GREETINGS = st.sampled_from(["none", *EARLIER])
"""State of a client's earlier run: none, answered, or left before there was any text."""
ANEW = "answered anew"
"""The question has an answer already, and its user wants another one."""
KINDS = st.sampled_from(["whole", "ids anew", "without ids"])


class World:
    """One run of three turns, held at a step, and the effects of its calls."""

    def __init__(self, held_at: int) -> None:
        self.held_at = held_at
        self.steps = 0
        self.effects: list[str] = []
        self.is_held = asyncio.Event()
        self.go_on = asyncio.Event()
        self.store = MemoryRuns()
        self.model = ScriptedModel(
            self._steps([*text("Good ", "morning."), *ended()]),
            self._steps([*text("I ", "look."), *tool("c1", "move", "{", "}"), *ended(StopReason.TOOL_USE)]),
            self._steps(
                [*tool("c2", "move", "{}"), *tool("c3", "move", "{", "}"), *text("Both."), *ended(StopReason.TOOL_USE)]
            ),
            self._steps([*text("It ", "moved."), *ended()]),
        )
        self.service = run_service(
            store=self.store,
            watchdog=RememberedWatchdog(),
            model=self.model,
            agents=catalogue(tools=("move",)),
            configuration=as_built(),
            tools=[
                Tool(
                    name="move",
                    description="",
                    parameters=Nothing,
                    permission="device:read",
                    when_lost=WhenLost.CALL_AGAIN,
                    timeout_s=60,
                    run=self._move,
                )
            ],
            library=library(),
            allowances=allowances(),
            clock=SetClock(),
            limits=RunLimits(),
        )

    def _steps(self, steps: Sequence[Any]) -> list[Any]:
        return [each for step in steps for each in (step, self._step)]

    async def _step(self) -> None:
        self.steps += 1
        if self.steps == self.held_at:
            self.is_held.set()
            await self.go_on.wait()

    async def _move(self, asked: Nothing, context: ToolContext) -> object:
        self.effects.append(context.call_id)
        await self._step()
        return {"moved": context.call_id}

    async def start(self, body: Wire) -> tuple[KeptFrames, asyncio.Task[None]]:
        frames = KeptFrames()
        started = await self.service.start(caller(), parse_run_input(orjson.dumps(body)))
        return frames, started.execute(frames)

    async def whole(self, body: Wire) -> list[Wire]:
        frames, running = await self.start(body)
        await running
        verify(frames.events)
        return frames.events


def seen(screen: Sequence[Wire]) -> list[tuple[str, str, list[str]]]:
    """Return a screen without ids of messages, which some clients make themselves."""
    return [(m["role"], m.get("content", ""), [call["id"] for call in m.get("toolCalls", ())]) for m in screen]


def receive(client: Client, events: Sequence[Wire]) -> None:
    for event in events:
        client.apply(event)


async def begin(world: World, client: Client, share: float, *, greeting: str) -> tuple[Wire, asyncio.Task[None]]:
    """Ask, and lose the connection when the run is held; returns what was asked and the run."""
    if greeting == "none":
        world.model.turns.pop(0)
    else:
        client.message("user", content="move it" if greeting == ANEW else "hello")
        answer = await world.whole({**client.request(), "protocolVersion": "1.0"})
        receive(client, answer if greeting == "answered" else [])
    if greeting != ANEW:
        client.message("user", content="move it")
    first = {**client.request(), "protocolVersion": "1.0"}
    frames, running = await world.start(first)
    held = asyncio.ensure_future(world.is_held.wait())
    await asyncio.wait([held, running], return_when=asyncio.FIRST_COMPLETED)
    held.cancel()
    got = frames.events
    opened = next(i for i, event in enumerate(got, 1) if event["type"] == "STATE_SNAPSHOT")  # in one write
    cut = round(share * len(got))
    receive(client, got[: cut if cut >= opened else 0])
    return first, running


async def lose(client: Client, held_at: int, share: float, *, same_run: bool, greeting: str) -> None:
    world = World(held_at)
    first, running = await begin(world, client, share, greeting=greeting)
    before = max(i for i, each in enumerate(client.screen, 1) if each["role"] == "user")
    is_over = running.done()

    again = {**client.request(), "runId": first["runId"] if same_run else new_id(), "protocolVersion": "1.0"}
    told = [m for m in client.screen[before:] if m.get("content") or m.get("toolCalls")]
    if is_over and not same_run and not told:
        return  # the question alone, or with an empty answer, asks for another answer when it has been answered
    if client.kind == "ids anew" and not same_run and not told:
        # Nothing tells a retry from the same words said once more: its client is to repeat the run's id.
        with pytest.raises(ThreadBusy):
            await world.start(again)
        again["runId"] = first["runId"]
    repeated, heard = await world.start(again)
    world.go_on.set()
    await asyncio.gather(running, heard)

    verify(repeated.events)
    receive(client, repeated.events)
    assert world.effects == ["c1", "c2", "c3"]
    assert len(world.model.requests) == 3 + (greeting != "none")
    assert seen(client.screen)[-6:] == [
        ("assistant", "I look.", ["c1"]),
        ("tool", '{"moved":"c1"}', []),
        ("assistant", "Both.", ["c2", "c3"]),
        ("tool", '{"moved":"c2"}', []),
        ("tool", '{"moved":"c3"}', []),
        ("assistant", "It moved.", []),
    ]
    assert [each for each in seen(client.screen) if each[0] == "user"] == [
        *[("user", "hello", [])] * (greeting in EARLIER),
        ("user", "move it", []),
    ]


async def leave(client: Client, held_at: int, share: float, *, greeting: str) -> None:
    world = World(held_at)
    first, running = await begin(world, client, share, greeting=greeting)
    is_over = running.done()
    world.held_at = 0
    asked_at = max(i for i, each in enumerate(client.screen) if each["role"] == "user")
    has_some = any(each.get("content") or each.get("toolCalls") for each in client.screen[asked_at + 1 :])
    client.message("user", content="stop")
    world.model.turns = [[*text("Well."), *ended()]]
    frames, going_on = await world.start({**client.request(), "protocolVersion": "1.0"})
    await asyncio.gather(running, going_on)

    verify(frames.events)
    receive(client, frames.events)
    run = world.store.run(RunKey(caller().user_id, first["runId"]))
    assert run is not None
    assert run.status is (RunStatus.FINISHED if is_over else RunStatus.CANCELLED), "its client did not wait for it"
    assert len(set(world.effects)) == len(world.effects), "a call was made twice"
    shown = world.model.requests[-1].messages
    answers = [m.content for m in shown if m.role == "assistant" and m.content != "Good morning."]
    assert set(answers) <= ANSWERS, "half an answer is taken for one"
    if is_over and has_some:
        assert answers == ["I look.", "Both.", "It moved."], "a finished answer is dropped"
    told = [str(m.content) for m in shown if m.role == "user"]
    asked = [*["hello"] * (greeting in EARLIER), "move it", "stop"]
    assert told == asked
    assert [m["content"] for m in client.screen if m["role"] == "user"] == asked
    stored = world.store.thread(ThreadKey(caller().user_id, ThreadId(client.thread))).messages
    assert [m.content for m in stored if m.role == "user"] == asked, "a question is stored twice"


@settings(max_examples=50)
@given(KINDS, st.integers(4, STEPS), st.floats(0, 1), st.booleans(), st.booleans(), GREETINGS)
@example("whole", 12, 1.0, False, False, "answered")
@example("whole", STEPS, 0.6, False, False, "answered")
@example("ids anew", 9, 0.5, False, False, "answered")
@example("ids anew", STEPS, 0.9, False, False, "answered")
@example("ids anew", 5, 0.0, False, True, "none")
@example("without ids", 5, 0.0, False, True, "none")
@example("without ids", 9, 0.0, False, False, "left")
@example("ids anew", 9, 0.0, False, True, "left")
def test_a_part_of_a_run_that_is_sent_again_is_nothing_new(
    kind: str,
    held_at: int,
    share: float,
    same_run: bool,
    waits: bool,
    greeting: str,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("karma.runs.repeats._POLL_S", 0.001)
        patch.setattr("karma.runs.repeats._MAX_POLL_S", 0.001)
        asyncio.run(lose(Client(kind, waits=waits), held_at, share, same_run=same_run, greeting=greeting))


@pytest.mark.fault("F-06g")
@settings(max_examples=50)
@given(KINDS, st.integers(4, STEPS), st.floats(0, 1), st.booleans(), GREETINGS)
@example("without ids", 6, 1.0, False, "none")
@example("ids anew", 6, 1.0, False, "none")
@example("ids anew", 6, 0.0, True, "none")
@example("ids anew", 9, 1.0, False, "left")
def test_a_client_that_goes_on_does_not_wait_for_the_run_that_it_left(
    kind: str, held_at: int, share: float, waits: bool, greeting: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
        patch.setattr("karma.runs.replacing._END_POLL_S", 0.001)
        asyncio.run(leave(Client(kind, waits=waits), held_at, share, greeting=greeting))


@pytest.mark.parametrize("kind", ["whole", "ids anew", "without ids"])
def test_another_question_under_a_used_run_id_is_told_to_take_a_new_one(kind: str) -> None:
    async def go() -> None:
        world, client = World(STEPS), Client(kind)
        client.message("user", content="hello")
        first = {**client.request(), "protocolVersion": "1.0"}
        receive(client, await world.whole(first))
        client.message("user", content="move it")
        with pytest.raises(RunExists, match="take a new runId"):
            await world.start({**client.request(), "runId": first["runId"]})

    asyncio.run(go())


@pytest.mark.fault("F-02s")
@settings(max_examples=30)
@given(st.integers(4, STEPS), st.floats(0, 1), st.booleans(), st.booleans())
@example(6, 1.0, False, False)
@example(6, 1.0, False, True)
def test_an_earlier_answer_does_not_stand_in_the_place_of_one_that_is_made_anew(
    held_at: int, share: float, same_run: bool, leaves: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("karma.runs.repeats._POLL_S", 0.001)
        patch.setattr("karma.runs.repeats._MAX_POLL_S", 0.001)
        patch.setattr("karma.runs.log._LISTEN_EVERY_S", 0.001)
        patch.setattr("karma.runs.replacing._END_POLL_S", 0.001)
        if leaves:
            asyncio.run(leave(Client("whole"), held_at, share, greeting=ANEW))
        else:
            asyncio.run(lose(Client("whole"), held_at, share, same_run=same_run, greeting=ANEW))
