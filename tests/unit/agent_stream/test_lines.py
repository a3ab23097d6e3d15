"""An event is one line, whatever characters it holds, also for readers that end lines where the protocol does not."""

import json
from collections.abc import Iterable

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karma.runs import events
from karma_agent.sse import FrameReader

pytestmark = pytest.mark.fault("F-05b")

ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""Characters at which Python's `splitlines` ends a line, and so do the line readers of httpx, requests and others."""
TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from(ENDS), min_size=1, max_size=20)


def told(text: str) -> list[bytes]:
    """Return events of every kind that may contain the text."""
    deltas = [events.encode_delta(make("id"), text) for make in (events.text_deltas, events.args_deltas)]
    made = [
        events.state_snapshot({text: [text]}),
        events.tool_start(tool_call_id="c", name=text, parent_message_id="m"),
        events.tool_result(message_id="m", tool_call_id="c", content=text, failed=False),
        events.run_finished(thread_id=text, run_id="r", result={"text": text}),
        events.run_error(message=text, code="INTERNAL"),
        events.messages_snapshot([{"id": "m", "role": "user", "content": text}]),
        events.input_ignored([{"id": text, "reason": text}]),
    ]
    return [*deltas, *(event.data for event in made)]


def heard(lines: Iterable[str]) -> list[object]:
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


@given(TEXTS)
@example(ENDS)
def test_common_clients_find_every_event_whole(text: str) -> None:
    written = told(text)
    stream = events.frames(written, n=1) + events.position(2)

    for lines in (httpx.Response(200, content=stream).iter_lines(), stream.decode().splitlines()):
        assert heard(lines) == [json.loads(data) for data in written]
    assert heard(stream.decode().split("\n")) == [json.loads(data) for data in written]


@given(TEXTS, st.integers(1, 7))
@example(ENDS, 1)
def test_our_own_reader_takes_what_no_server_has_escaped(text: str, size: int) -> None:
    written = json.dumps({"text": text}, ensure_ascii=False).encode()
    stream = b"data: " + written + b"\n\n: keep-alive\n\ndata: " + written + b"\n\n"
    reader = FrameReader()

    found = [frame for at in range(0, len(stream), size) for frame in reader.feed(stream[at : at + size])]

    assert [json.loads(frame.data) for frame in found] == [{"text": text}] * 2
