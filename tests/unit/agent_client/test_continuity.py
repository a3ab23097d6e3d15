"""A client whose connections are cut anywhere hands on one stream, as if there had been a single connection.

The run's processes die as well, at any of their steps, in the half of the histories. What is cut, and where, is drawn
from the number of the run, which SEED plays again.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from karma_agent.continuity import Continuity
from karma_agent.sse import MAX_FRAME_BYTES, FrameReader, FrameTooLarge
from tests.support.cut_runs import CutRun
from tests.support.lost_runs import KEY

HISTORIES = 40


def taken(continuity: Continuity, data: bytes, dice: random.Random) -> list[dict[str, Any]]:
    """Read bytes in pieces of any size, as a network brings them."""
    reader, events = FrameReader(), []
    while data:
        size = dice.randint(1, 400)
        for frame in reader.feed(data[:size]):
            event = json.loads(frame.data) if frame.data else None
            events += continuity.take(event, position=None if frame.id is None else int(frame.id))
        data = data[size:]
    return [dict(event) for event in events]


@pytest.mark.req("R-K-40")
@pytest.mark.parametrize("nth", range(HISTORIES))
def test_connections_that_are_cut_anywhere_are_one_stream(nth: int, seed: int) -> None:
    dice = random.Random(seed)
    continuity, seen = Continuity(), []
    history = CutRun(dice)
    while not continuity.is_over and (data := history.connection(continuity.position)) is not None:
        seen += taken(continuity, data, dice)
        continuity.reconnect()
    if history.world.store.run(KEY) is not None:
        history.check(seen)


def test_a_text_that_no_log_has_is_closed_before_anything_follows() -> None:
    continuity = Continuity()
    continuity.take({"type": "RUN_STARTED"}, position=1)
    start = {"type": "TEXT_MESSAGE_START", "messageId": "m1", "role": "assistant"}
    for event in (start, {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m1", "delta": "never committed"}):
        assert continuity.take(event, position=None) == [event]
    continuity.reconnect()

    snapshot = {"type": "MESSAGES_SNAPSHOT", "messages": []}
    end = {"type": "TEXT_MESSAGE_END", "messageId": "m1"}
    assert continuity.take(snapshot, position=2) == [end, snapshot]
    assert continuity.take(end, position=3) == [], "a text ends once"


def test_a_frame_may_be_cut_at_each_byte_and_ends_at_line_feeds_alone() -> None:
    text = 'data: {"delta":"a\u2028b"}\n\n: keep-alive\n\nid: 7\n\nid: 8\ndata: {}\n\n'.encode()
    whole = FrameReader().feed(text)
    assert [(frame.id, frame.data) for frame in whole] == [
        (None, '{"delta":"a\u2028b"}'.encode()),
        ("7", b""),
        ("8", b"{}"),
    ]
    for at in range(len(text)):
        reader = FrameReader()
        assert reader.feed(text[:at]) + reader.feed(text[at:]) == whole


def test_a_frame_that_never_ends_is_refused() -> None:
    reader = FrameReader()
    assert reader.feed(b"x" * MAX_FRAME_BYTES) == []
    with pytest.raises(FrameTooLarge):
        reader.feed(b"x")


def test_an_end_that_no_log_has_does_not_come_twice() -> None:
    continuity = Continuity()
    start = {"type": "TEXT_MESSAGE_START", "messageId": "m1", "role": "assistant"}
    end = {"type": "TEXT_MESSAGE_END", "messageId": "m1"}
    delta = {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m1", "delta": "never committed"}
    continuity.take(start, position=1)
    assert [*continuity.take(delta, position=None), *continuity.take(end, position=None)] == [delta, end]
    continuity.reconnect()
    assert continuity.take(end, position=2) == [], "the log's own, by which the next process closed it"


def test_a_stream_that_begins_within_a_text_has_its_end() -> None:
    continuity = Continuity(position=3)
    end = {"type": "TEXT_MESSAGE_END", "messageId": "m1"}
    assert continuity.take(end, position=4) == [end]


def test_a_run_that_is_paused_is_so_until_its_log_says_that_it_goes_on() -> None:
    continuity = Continuity()
    for name, is_paused in (("karma.run_paused", True), ("karma.run_resumed", False), ("karma.run_paused", True)):
        continuity.take({"type": "CUSTOM", "name": name, "value": {"runId": "r1"}}, position=1)
        assert continuity.is_paused is is_paused
