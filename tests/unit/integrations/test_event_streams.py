"""Event streams as their standard allows them: the same events through our readers, however they are cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karma.integrations.anthropic_turn import Turn
from karma.integrations.event_stream import BYTE_ORDER_MARK, EventStream, fields_of
from karma.integrations.mcp_streams import StreamPlace, read
from karma.integrations.openai_turn import ChatTurn
from karma.models.domain import Target
from karma.models.ports import ModelEvent, ModelRequest
from tests.support.chat_calls import USAGE, call
from tests.support.chat_stream import chunks
from tests.support.model_server import message, text, tool_use

pytestmark = pytest.mark.fault("F-33d")


class Dispatched(NamedTuple):
    """An event as a browser dispatches it."""

    kind: str
    data: str


class Interpreter:
    """The algorithm of the standard, step by step, for a stream that is there as a whole.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    def __init__(self) -> None:
        self.events: list[Dispatched] = []
        self.last_id = ""
        self.retry_ms: int | None = None
        """As of the last event that ended: nobody waits for what stands in one that does not."""
        self._retry_ms: int | None = None
        self._data = self._kind = self._id = ""

    def interpret(self, stream: bytes) -> Interpreter:
        *lines, _ = stream.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line in lines:
            self._line(line)
        return self

    def _line(self, line: str) -> None:
        if line == "":
            self._dispatch()
        elif line.startswith(":"):
            pass
        elif ":" in line:
            field, value = line.split(":", 1)
            self._field(field, value[1:] if value.startswith(" ") else value)
        else:
            self._field(line, "")

    def _field(self, field: str, value: str) -> None:
        if field == "event":
            self._kind = value
        elif field == "data":
            self._data += value + "\n"
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self._retry_ms = int(value)

    def _dispatch(self) -> None:
        self.last_id, self.retry_ms = self._id, self._retry_ms
        if self._data:
            self.events.append(Dispatched(self._kind or "message", self._data.removesuffix("\n")))
        self._data = self._kind = ""


names = st.sampled_from(["data", "data", "data", "event", "id", "retry", "", "", "datas", "Data", " data", "other"])
values = st.text(st.sampled_from("aé: {}0\0\ufeff"), max_size=4) | st.sampled_from(
    ["data: x", "data:", '{"data": 1}', "7", "1500", "message", " two", "[DONE]"]
)
lines = st.one_of(
    st.tuples(names, st.sampled_from([":", ": ", ":  "]), values).map("".join),
    st.sampled_from(["", "", "", "data", "event", "id", "nothing", ":"]),
)
ends = st.sampled_from(["\n", "\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Draw any stream; its end may be an event that is not complete."""
    written = "".join(line + draw(ends) for line in draw(st.lists(lines, max_size=14)))
    return (draw(st.sampled_from(["", "\ufeff"])) + written + draw(st.sampled_from(["", "data: cut"]))).encode()


cuts = st.lists(st.integers(0, 200), max_size=8)


def pieces(stream: bytes, at: Sequence[int]) -> Iterator[bytes]:
    edges = [0, *sorted({min(each, len(stream)) for each in at}), len(stream)]
    return (stream[a:b] for a, b in pairwise(edges))


def one_by_one(stream: bytes) -> Sequence[int]:
    return range(len(stream))


@given(stream=streams(), at=cuts)
@example(stream=b"data: a\r\rdata: b\r\r", at=[8, 9])
@example(stream=b"data: a\r\n\r\n", at=[8, 9, 10])
@example(stream=b"data: a\n\nretry: 1\n", at=[])
@example(stream=b": data: no\n\ndata: {\ndata: }\nretry: 5\nid: 7\n\n", at=[3])
@example(stream=BYTE_ORDER_MARK + b"data: a\n\n", at=[1, 2, 3])
def test_any_stream_has_the_same_events_as_by_the_standard(stream: bytes, at: Sequence[int]) -> None:
    expected = Interpreter().interpret(stream)
    for cut in (at, one_by_one(stream)):
        of_models, of_servers = EventStream(), EventStream()
        told = [data for each in pieces(stream, cut) for data in of_models.feed(each)]
        fields = [fields_of(block) for each in pieces(stream, cut) for block in of_servers.blocks(each)]

        assert told == [data.encode() for _, data in expected.events if not data.encode().isspace() and data]
        found = [(each.get(b"event") or b"message", each[b"data"]) for each in fields if b"data" in each]
        assert found == [(kind.encode(), data.encode()) for kind, data in expected.events]
        place = StreamPlace(is_resumable=True)
        for each in fields:
            place.note(each)
        last = expected.last_id
        assert place.event_id == (last if last.isascii() and last.isprintable() else "")
        assert place.pause_s == (1.0 if expected.retry_ms is None else max(0.1, expected.retry_ms / 1000))


decorations = st.lists(
    st.sampled_from(["retry: 15000", "id: 7", "event: x", ": data: no", ":", "id", "other: data: {}"]), max_size=3
)


@st.composite
def written(draw: st.DrawFn, bodies: Sequence[bytes]) -> bytes:
    """Draw another form of a stream of events that have one line of data each."""
    end = draw(ends)
    events = []
    for body in bodies:
        data = body.split(b"data: ", 1)[1].decode().strip()
        if data != "[DONE]" and draw(st.booleans()):
            data = json.dumps(json.loads(data), indent=draw(st.sampled_from([None, 0, 1])), ensure_ascii=False)
        space = draw(st.sampled_from(["", " "]))
        told = [f"data:{space}{line}" for line in data.split("\n")]
        events += [*draw(decorations), *told, *draw(decorations), ""]
        if draw(st.integers(0, 4)) == 0:
            events += [draw(st.sampled_from([": data: no", "", "retry: 5", "data:", "event: ping"])), ""]
    return (draw(st.sampled_from(["", "\ufeff"])) + end.join([*events, ""])).encode()


REQUEST: Final = ModelRequest(target=Target(model="m"), system=(), messages=(), tools=(), max_tokens=1)
CALLS: Final = [call(0, call_id="c", name="find"), call(0, '{"a":'), call(0, '"data: é"}')]
CHAT: Final = chunks("Hel\n\n", "lo é", calls=CALLS, usage=USAGE)
SAID: Final = message(text("Hel\n\n", "lo é"), tool_use("c", "find", '{"a":', '"data: é"}'))
MESSAGES: Final = [each for each in SAID if b'"ping"' not in each]


def of_chat(parts: Iterator[bytes]) -> list[ModelEvent]:
    turn = ChatTurn()
    events = [event for each in parts for event in turn.feed(each)]
    if not turn.is_complete:
        events += turn.end_of_body()
    return [*events, turn.ended(REQUEST)]


def of_messages(parts: Iterator[bytes]) -> list[ModelEvent]:
    turn = Turn()
    return [event for each in parts for event in turn.feed(each)]


@pytest.mark.parametrize(("reader", "events"), [(of_chat, CHAT), (of_messages, MESSAGES)], ids=["chat", "messages"])
@given(drawn=st.data())
def test_an_answer_is_the_same_in_each_form_of_its_stream(
    reader: Callable[[Iterator[bytes]], list[ModelEvent]], events: Sequence[bytes], drawn: st.DataObject
) -> None:
    stream = drawn.draw(written(events))

    assert reader(pieces(stream, drawn.draw(cuts))) == reader(iter(events))


ANSWER: Final = {"jsonrpc": "2.0", "id": 3, "result": {"content": "é"}}
PROGRESS: Final = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}


def answered(parts: Iterator[bytes], kind: str, heed: Callable[[Mapping[str, Any]], None] | None = None) -> object:
    async def arriving() -> AsyncIterator[bytes]:
        for each in parts:
            yield each

    place = StreamPlace(is_resumable=False, heed=heed)
    return asyncio.run(read(arriving(), {"content-type": kind}, 3, place))


@given(drawn=st.data())
def test_a_result_is_the_same_in_each_form_of_its_stream(drawn: st.DataObject) -> None:
    bodies = [b"data: " + json.dumps(each).encode() for each in (PROGRESS, ANSWER)]
    stream = drawn.draw(written(bodies)).replace(b"event: x", b"event: message").replace(b"event: ping", b"event")
    heeded: list[Mapping[str, Any]] = []

    assert answered(pieces(stream, drawn.draw(cuts)), "text/event-stream", heeded.append) == ANSWER
    assert heeded == [PROGRESS]


def test_a_byte_order_mark_is_no_part_of_a_body_in_json() -> None:
    assert answered(iter([BYTE_ORDER_MARK, json.dumps(ANSWER).encode()]), "application/json") == ANSWER


WHOLE: Final = {
    "choices": [
        {
            "message": {
                "role": "assistant",
                "content": "Hel\n\nlo é",
                "tool_calls": [{"id": "c", "function": {"name": "find", "arguments": '{"a":"data: é"}'}}],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": USAGE,
}


@given(
    before=st.sampled_from(["", "\ufeff", "\n", " \r\n\n\n ", "\n" * 4000]),
    indent=st.sampled_from([None, 2]),
    at=cuts,
)
def test_one_object_is_an_answer_whatever_stands_before_it_and_however_it_is_cut(
    before: str, indent: int | None, at: Sequence[int]
) -> None:
    body = (before + json.dumps(WHOLE, indent=indent, ensure_ascii=False)).encode()

    *said, end = of_chat(pieces(body, at))

    assert end == of_chat(iter(CHAT))[-1]
    assert said


def test_a_stream_may_begin_with_blank_lines_for_as_long_as_its_server_likes() -> None:
    for blanks in (1, 3, 4096, 10_000):
        assert of_chat(iter([b"\n"] * blanks + CHAT)) == of_chat(iter(CHAT))
