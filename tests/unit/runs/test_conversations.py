"""The model is shown what the user's screen shows: clients of several kinds talk, go back and lose their connection.

A client holds a screen, sends what clients of its kind send of it, and applies the events that come back as
@ag-ui/client does. Whatever it did before: the model is shown what is on the screen, no run ends in an empty success,
and nothing that was sent goes missing unless the stream says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from karma.conversations.domain import ThreadKey
from karma.core.ids import ThreadId
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.runs.plan import RunLimits
from karma.runs.requests import parse_run_input
from karma.tools.toolbox import Tool, ToolContext, WhenLost
from tests.fakes.agents import catalogue
from tests.fakes.attachments import library
from tests.fakes.configuration import as_built
from tests.fakes.runs import KeptFrames, MemoryRuns, RememberedWatchdog, ScriptedModel, SetClock, caller
from tests.support.agui import verify
from tests.support.plans import allowances
from tests.support.run_services import run_service

Wire = dict[str, Any]


@dataclass(frozen=True)
class Nothing:
    pass


async def look(asked: Nothing, context: ToolContext) -> object:
    return {"seen": 1}


LOOK = Tool(
    name="look",
    description="",
    parameters=Nothing,
    permission="device:read",
    when_lost=WhenLost.CALL_AGAIN,
    timeout_s=5,
    run=look,
)
ASK = {"name": "ask", "description": "", "parameters": {"type": "object", "properties": {}}}


CALLS = {"look": ["look"], "ask": ["ask"], "ask twice": ["ask", "ask"], "look and ask": ["look", "ask"]}
"""Tools that the model calls in a turn; `ask` is the client's."""


class TalkingModel(ScriptedModel):
    """Answers as it is told to; no two answers are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.manner = "text"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        self.requests.append(request)
        said = f"answer {len(self.requests)}"
        manner, self.manner = self.manner, "text"
        if manner in CALLS:
            # Like a gateway: the same ids each time.
            made = [(f"call_{i}", name) for i, name in enumerate(CALLS[manner])]
            yield [event for call_id, name in made for event in (ToolBegun(call_id, name), ToolEnded(call_id, "{}"))]
            yield [TurnEnded(StopReason.TOOL_USE, Usage(1, 1), [use(*call) for call in made])]
            return
        yield [TextDelta(said)]
        if manner == "fail":
            raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT)
        yield [TurnEnded(StopReason.END, Usage(1, 1), [{"type": "text", "text": said}])]


def use(call_id: str, name: str) -> Wire:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {}}


@dataclass
class Client:
    """A user's program; `kind` says which part of its screen it sends."""

    kind: str
    screen: list[Wire] = field(default_factory=list)
    fresh: list[Wire] = field(default_factory=list)
    """Messages that were not sent before."""
    thread: str = "t0"
    runs: int = 0
    ids: int = 0
    waits: bool = False
    """True: it shows an empty answer after the question, and sends it with its screen."""
    before: Wire | None = None
    """Request before, to be sent once more; None: none."""

    def message(self, role: str, **more: Any) -> Wire:
        self.ids += 1
        made = {"id": f"{role}-{self.ids}", "role": role, **more}
        self.screen.append(made)
        self.fresh.append(made)
        return made

    def request(self) -> Wire:
        self.runs += 1
        if self.kind == "ids anew":
            self.screen = [{**each, "id": f"{self.runs}-{i}"} for i, each in enumerate(self.screen)]
        sent = self.fresh if self.kind == "new only" else self.screen
        self.fresh = []
        if self.waits and sent and sent[-1]["role"] == "user":
            sent = [*sent, {"id": f"waits-{self.runs}", "role": "assistant", "content": ""}]
        keep = [{k: v for k, v in each.items() if k != "id" or self.kind != "without ids"} for each in sent]
        self.before = {"threadId": self.thread, "runId": f"r{self.runs}", "messages": keep, "tools": [ASK]}
        return self.before | {"protocolVersion": "1.0"}

    def drop_from(self, at: int) -> None:
        del self.screen[at:]

    def pending(self) -> list[str]:
        is_open: dict[str, bool] = {}
        for each in self.screen:
            is_open |= {call["id"]: call["function"]["name"] == "ask" for call in each.get("toolCalls", ())}
            is_open |= {each["toolCallId"]: False} if each["role"] == "tool" else {}
        return [call_id for call_id, is_pending in is_open.items() if is_pending]

    def answers(self) -> list[tuple[str, str, bool]]:
        """Return the results of its own tool on the screen."""
        # Why one has failed stands before what it found, once the server has shown it.
        given = [(m, m["content"].removeprefix(f"{FAILED}\n")) for m in self.screen if m["role"] == "tool"]
        return [(m["toolCallId"], content, "error" in m) for m, content in given if content.startswith("said")]

    def apply(self, event: Wire) -> None:
        kind = event["type"]
        if kind == "MESSAGES_SNAPSHOT":
            held = [] if self.kind == "without ids" else self.screen
            self.screen = snapshot_taken(held, event["messages"])
        elif kind == "TEXT_MESSAGE_START":
            self._answer(event["messageId"])
        elif kind == "TEXT_MESSAGE_CONTENT":
            answer = self._answer(event["messageId"])
            answer["content"] = answer.get("content", "") + event["delta"]
        elif kind == "TOOL_CALL_START":
            function = {"name": event["toolCallName"], "arguments": ""}
            call = {"id": event["toolCallId"], "type": "function", "function": function}
            self._answer(event["parentMessageId"]).setdefault("toolCalls", []).append(call)
        elif kind == "TOOL_CALL_RESULT":
            kept = ("toolCallId", "content")
            self.screen.append({"id": event["messageId"], "role": "tool", **{name: event[name] for name in kept}})

    def _answer(self, message_id: str) -> Wire:
        found = next((each for each in self.screen if each["id"] == message_id), None)
        if found is None:
            found = {"id": message_id, "role": "assistant"}
            self.screen.append(found)
        return found


def snapshot_taken(screen: Sequence[Wire], shown: Sequence[Wire]) -> list[Wire]:
    """Merge a snapshot as @ag-ui/client does: what is held keeps its place, what is absent goes, the rest follows."""
    given = {each["id"]: dict(each) for each in shown}
    kept = [given.pop(each["id"]) for each in screen if each["id"] in given]
    return kept + list(given.values())


FAILED = "did not work"
ACTIONS = (
    "say",
    "say to another agent object",
    "say the same",
    "regenerate",
    "edit under the id",
    "edit under another id",
    "go back and say",
    "send again",
    "answer",
    "answer and say",
    "answer anew",
    "answer anew under the id",
    "edit and answer anew",
    "copy the thread",
    "go back",
)
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 9), st.sampled_from(["text", "text", *CALLS, "fail"])),
    min_size=2,
    max_size=9,
)
NEW_ONLY = {"say", "say the same", "send again", "answer", "answer and say", "answer anew"}
"""Actions of clients that send new messages alone."""
KINDS = st.sampled_from(["whole", "without ids", "new only", "ids anew"])


def act(client: Client, action: str, at: int) -> bool:
    """Change the client's screen; tell whether there is something to send."""
    own = [i for i, each in enumerate(client.screen) if each["role"] == "user"]
    if client.kind == "new only" and action not in NEW_ONLY:
        action = "say"
    if action.endswith("answer anew") or action == "answer anew under the id":
        if answer_anew(client, action, at):
            return True
        action = "answer"
    if action == "send again":
        return client.before is not None
    if action.startswith("answer") and client.pending():
        failed = {"error": FAILED} if at % 4 == 3 else {}  # some of them
        call_id = client.pending()[at % len(client.pending())]
        client.message("tool", toolCallId=call_id, content=f"said {at // 2}", **failed)
        if action == "answer":
            return True
    elif not own or action in {"say", "answer", "answer and say"}:
        pass
    elif action == "say to another agent object":
        client.drop_from(0)
    elif action == "say the same":
        client.message("user", content=client.screen[own[-1]]["content"])
        return True
    elif action == "copy the thread":
        client.thread = f"t{client.runs}"
        return True
    else:
        chosen = own[at % len(own)]
        if action == "regenerate":
            client.drop_from(own[-1] + 1)
            return True
        if action == "go back":
            client.drop_from(chosen + 1 + at % 2)
            return True
        if action == "edit under the id":
            edited = client.screen[chosen] | {"content": f"edited {client.runs}"}
            client.drop_from(chosen)
            client.screen.append(edited)
            return True
        client.drop_from(chosen if action == "edit under another id" else chosen + 1)
    client.message("user", content=f"words {client.runs}")
    return True


def answer_anew(client: Client, action: str, at: int) -> bool:
    """Change a result of the client's tool, and drop what is behind it; False: there is none."""
    own = [i for i, each in enumerate(client.screen) if each["role"] == "user"]
    given = [i for i, each in enumerate(client.screen) if str(each.get("content")).startswith("said")]
    if client.kind == "new only":
        given = [i for i in given[-1:] if i > own[-1]]  # what was said last
    if not given:
        return False
    place = given[at % len(given)]
    before = client.screen[place]
    if action == "edit and answer anew":
        asked = next(i for i in reversed(own) if i < place)
        client.screen[asked] = client.screen[asked] | {"content": f"edited {client.runs}"}
    client.drop_from(place)
    client.message("tool", toolCallId=before["toolCallId"], content=f"said anew {client.runs}")
    if action == "answer anew under the id" or (action == "edit and answer anew" and at % 2):
        client.screen[-1]["id"] = before["id"]
    return True


def words(messages: Sequence[Wire]) -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in messages if m["role"] in {"user", "assistant"} and m.get("content")]


def told(request: ModelRequest) -> list[tuple[str, str]]:
    """Return the texts that a model is shown, without those that stand for a late result."""
    shown = [(m.role, str(m.content)) for m in request.messages if m.role != "tool" and m.content]
    return [each for each in shown if not each[1].startswith("The call ")]


def results(request: ModelRequest) -> str:
    return " ".join(str(m.content) for m in request.messages if m.role == "tool" or "The call " in str(m.content))


class Talk:
    def __init__(self, kind: str, *, waits: bool = False) -> None:
        self.client = Client(kind, waits=waits)
        self.model = TalkingModel()
        self.store = MemoryRuns()
        self.service = run_service(
            store=self.store,
            watchdog=RememberedWatchdog(),
            model=self.model,
            agents=catalogue(tools=("look",)),
            configuration=as_built(),
            tools=[LOOK],
            library=library(),
            allowances=allowances(),
            clock=SetClock(),
            limits=RunLimits(),
        )

    def run(self, body: Wire) -> list[Wire]:
        async def go() -> list[Wire]:
            frames = KeptFrames()
            started = await self.service.start(caller(), parse_run_input(orjson.dumps(body)))
            await started.execute(frames)
            return frames.events

        events = asyncio.run(go())
        verify(events)
        return events

    def step(self, action: str, at: int, manner: str) -> None:
        client, self.model.manner, shown = self.client, manner, len(words(self.client.screen))
        before = client.answers()
        if not act(client, action, at):
            return
        again = action == "send again"
        body = client.before if again and client.before else client.request()
        asked = len(self.model.requests)
        events = self.run({"protocolVersion": "1.0", **body})
        calls = self.model.requests[asked:]
        if again:
            assert not calls, "the same request must not ask the model again"
        sent, answers, is_open = list(client.screen), client.answers(), client.pending()
        opened = [event for event in events if event["type"] == "MESSAGES_SNAPSHOT"]
        notes = [note["field"] for event in events if event["type"] == "CUSTOM" for note in event["value"]]
        for event in opened:
            client.apply(event)
        if action == "say to another agent object":
            assert len(client.screen) >= shown, "the conversation is not brought"
        if calls:
            assert told(calls[0]) == words(client.screen)
            turns = [len(m.tool_calls) for m in calls[0].messages if m.tool_calls]
            assert turns == [len(m["toolCalls"]) for m in client.screen if "toolCalls" in m], "a call is missing"
            given = [m["content"] for m in client.screen if m["role"] == "tool" and m["content"].startswith("said")]
            assert all(each in results(calls[0]) for each in given)
        if "answer" in action and answers != before:
            assert client.answers() == answers, "an answer is not what it was"
            assert not calls or all(content in results(calls[0]) for _, content, _ in answers), (
                "the model is told another"
            )
            assert calls or is_open or "said anew" not in str(answers[-1:]), "another answer is not told to the model"
        if events[-1]["type"] == "RUN_FINISHED":
            pending = events[-1]["outcome"].get("pendingToolCallIds")
            assert calls or pending or opened, "an empty success"
        if not again and opened:
            kept = {each["id"] for each in client.screen}
            lost = [i for i, each in enumerate(sent) if client.kind == "whole" and each["id"] not in kept]
            # The same result of the same call is the same under any id.
            shown_results = {(each["toolCallId"], each["content"]) for each in client.screen if each["role"] == "tool"}
            lost = [i for i in lost if (sent[i].get("toolCallId"), sent[i].get("content")) not in shown_results]
            seen = [i for i in lost if sent[i].get("content") or sent[i]["role"] == "tool"]
            assert {f"messages.{i}" for i in seen} <= set(notes), "something that was sent is gone without a word"
        for event in events:
            if event["type"] != "MESSAGES_SNAPSHOT":
                client.apply(event)


@pytest.mark.fault("F-02a", "F-02b", "F-02c", "F-02d", "F-02k", "F-02n")
@given(KINDS, STEPS, st.booleans())
@example("whole", [("say", 0, "ask"), ("answer", 0, "text"), ("go back", 1, "text"), ("answer", 0, "text")], False)
@example("whole", [("say", 0, "ask"), ("answer", 0, "text"), ("go back", 1, "text"), ("answer", 2, "text")], False)
@example("without ids", [("say", 0, "ask"), ("answer", 0, "text"), ("answer anew", 0, "text")], False)
@example("ids anew", [("say", 0, "ask"), ("answer", 0, "fail"), ("answer anew", 0, "text")], False)
@example("whole", [("say", 0, "ask"), ("answer", 0, "text"), ("answer anew under the id", 0, "text")], False)
@example(
    "whole", [("say", 0, "ask twice"), ("answer", 1, "text"), ("answer", 0, "text"), ("answer anew", 0, "text")], False
)
@example("whole", [("say", 0, "ask"), ("answer", 0, "text"), ("edit and answer anew", 1, "text")], False)
@example("new only", [("say", 0, "ask"), ("answer", 0, "text"), ("answer anew", 1, "text")], False)
@example("whole", [("say", 0, "look"), ("say", 0, "ask"), ("answer", 0, "text")], False)
@example(
    "ids anew",
    [("say", 0, "look"), ("say the same", 0, "ask"), ("answer and say", 0, "text"), ("go back", 0, "text")],
    False,
)
@example("whole", [("say", 0, "ask"), ("say", 0, "text"), ("answer", 0, "text")], False)
@example("new only", [("say", 0, "ask"), ("say", 0, "text"), ("answer", 0, "text")], False)
@example("without ids", [("say", 0, "ask"), ("say", 0, "text"), ("answer", 0, "text")], False)
@example(
    "whole", [("say", 0, "ask"), ("answer", 0, "fail"), ("regenerate", 0, "text"), ("send again", 0, "text")], False
)
@example("whole", [("say", 0, "look"), ("copy the thread", 0, "text"), ("say the same", 0, "text")], False)
@example("whole", [("say to another agent object", 0, "text"), ("say", 0, "text"), ("regenerate", 0, "text")], False)
@example("without ids", [("say the same", 0, "text"), ("say the same", 0, "text"), ("regenerate", 0, "text")], False)
def test_the_model_is_shown_what_is_on_the_screen(kind: str, steps: list[tuple[str, int, str]], waits: bool) -> None:
    talk = Talk(kind, waits=waits)
    talk.step("say", 0, "text")
    for action, at, manner in steps:
        talk.step(action, at, manner)


@pytest.mark.fault("F-02h")
@given(steps=st.lists(st.sampled_from(["say", "say the same"]), min_size=2, max_size=6), is_told=st.booleans())
def test_a_thread_grows_by_what_is_new_where_ids_are_made_anew(steps: list[str], *, is_told: bool) -> None:
    talk = Talk("ids anew" if is_told else "whole")
    for turn, action in enumerate(steps):
        act(talk.client, action, 0)
        if not is_told:  # its own ids from here on, and no eye for snapshots
            talk.client.screen = [{**each, "id": f"own-{i}"} for i, each in enumerate(talk.client.screen)]
        events = talk.run(talk.client.request())
        assert told(talk.model.requests[-1]) == words(talk.client.screen)
        for event in events:
            if is_told or event["type"] != "MESSAGES_SNAPSHOT":
                talk.client.apply(event)
        thread = talk.store.thread(ThreadKey(caller().user_id, ThreadId(talk.client.thread)))
        assert thread.next_message == 2 * (turn + 1)


@pytest.mark.fault("F-02l")
@settings(max_examples=50)
@given(
    kind=st.sampled_from(["whole", "without ids", "ids anew"]),
    steps=st.lists(st.tuples(st.sampled_from(["say", "say the same", "regenerate"]), st.booleans()), max_size=7),
    waits=st.booleans(),
    is_told=st.booleans(),
)
def test_each_question_is_stored_once_also_when_its_client_leaves_before_there_is_text(
    kind: str, steps: list[tuple[str, bool]], *, waits: bool, is_told: bool
) -> None:
    talk = Talk(kind, waits=waits)
    for action, leaves in [("say", True), *steps]:
        if action == "regenerate" and len(talk.client.screen) == 1:
            continue  # one message alone that was said before is said once more
        act(talk.client, action, 0)
        events = talk.run(talk.client.request())
        for event in events:
            if is_told and (event["type"] == "MESSAGES_SNAPSHOT" or not leaves):  # else it never sees an answer
                talk.client.apply(event)
        assert told(talk.model.requests[-1])[-1] == words(talk.client.screen[: own_last(talk.client)])[-1]
        thread = talk.store.thread(ThreadKey(caller().user_id, ThreadId(talk.client.thread)))
        asked = [each["content"] for each in talk.client.screen if each["role"] == "user"]
        assert [each.content for each in thread.messages if each.role == "user"] == asked


def own_last(client: Client) -> int:
    return max(i for i, each in enumerate(client.screen, 1) if each["role"] == "user")
