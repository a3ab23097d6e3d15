"""A refused message stays in its client's list: the next request is accepted, with a note on the message left out.

Clients of the protocol keep every message that they were told to send, and send all of them with each request. Whatever
one of them was refused for, the conversation goes on behind it.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from karma.conversations.attachments import INLINE_CHARS
from karma.conversations.messages import MAX_MESSAGE_BYTES
from karma.core.errors import ValidationFailed
from karma.runs.requests import MAX_BODY_BYTES
from tests.support.media import b64, png
from tests.unit.runs.test_conversations import Talk, Wire, told


def image(value: str, how: str = "data") -> Wire:
    return {"type": "image", "source": {"type": how, "value": value, "mimeType": "image/png"}}


def deep(levels: int) -> object:
    return [deep(levels - 1)] if levels else 0


BAD: dict[str, Wire] = {
    "an SVG": {"content": [{"type": "text", "text": "look"}, image(b64(b"<svg/>"))]},
    "an unreachable URL": {"content": [image("https://gone.example.com/a.png", "url")]},
    "another's file": {"content": [image("devices/d1/files/f1", "file")]},
    "too many images": {"content": [image(b64(png(1, 1 + n))) for n in range(21)]},
    "a long text": {"content": "x" * (MAX_MESSAGE_BYTES + 1)},
    "a long text in parts": {"content": [{"type": "text", "text": "x" * (MAX_MESSAGE_BYTES // 2 + 1)}] * 2},
    "a part that is too deep": {"content": [{"type": "text", "text": "a", "metadata": deep(70)}]},
    "a blank text": {"content": " \n"},
    "no content": {"content": 5},
    "an unknown part": {"content": [{"type": "hologram"}]},
    "a part without a source": {"content": [{"type": "image"}]},
    "an unreadable id": {"id": "with space", "content": "a"},
    "an unknown role": {"role": "robot", "content": "a"},
    "a result without its call's id": {"role": "tool", "content": "a"},
    "an answer with unreadable calls": {"role": "assistant", "content": "a", "toolCalls": 3},
    "an answer in parts": {"role": "assistant", "content": [{"type": "text", "text": "a"}]},
    "a failure that is none": {"role": "tool", "toolCallId": "c1", "content": "a", "error": 5},
}


def say(talk: Talk, content: object) -> list[Wire]:
    talk.client.message("user", content=content)
    return talk.run(talk.client.request())


def apply(talk: Talk, events: list[Wire], *, snapshots: bool) -> None:
    for event in events:
        if snapshots or event["type"] != "MESSAGES_SNAPSHOT":
            talk.client.apply(event)


@pytest.mark.fault("F-01e", "F-02k")
@given(
    kind=st.sampled_from(["whole", "without ids"]),
    steps=st.lists(st.one_of(st.none(), st.sampled_from(sorted(BAD))), min_size=1, max_size=4),
    applies=st.booleans(),
    waits=st.booleans(),
)
@example(kind="whole", steps=sorted(BAD), applies=True, waits=False)
@example(kind="whole", steps=sorted(BAD), applies=True, waits=True)
@example(kind="without ids", steps=[*sorted(BAD), None, *sorted(BAD)], applies=False, waits=False)
def test_the_next_message_goes_through_whatever_the_one_before_was_refused_for(
    kind: str, steps: list[str | None], *, applies: bool, waits: bool
) -> None:
    talk = Talk(kind, waits=waits)
    apply(talk, say(talk, "hello"), snapshots=applies)
    for number, bad in enumerate([*steps, None]):
        if bad is not None:
            if kind == "without ids" and "id" in BAD[bad]:
                continue
            talk.client.message(**{"role": "user", **BAD[bad]})
            with pytest.raises(ValidationFailed):
                talk.run(talk.client.request())
            continue
        left = [i for i, each in enumerate(talk.client.screen) if any(BAD[b].items() <= each.items() for b in BAD)]
        events = say(talk, f"words {number}")
        assert events[-1]["type"] == "RUN_FINISHED"
        assert told(talk.model.requests[-1])[-1] == ("user", f"words {number}")
        notes = [note["field"] for event in events if event["type"] == "CUSTOM" for note in event["value"]]
        assert {f"messages.{i}" for i in left} <= set(notes)
        apply(talk, events, snapshots=applies)
        if applies and left:
            assert not any(BAD[b].items() <= each.items() for b in BAD for each in talk.client.screen)


@pytest.mark.fault("F-01e", "F-07b")
def test_two_messages_of_one_id_are_refused_once() -> None:
    talk = Talk("whole")
    apply(talk, say(talk, "hello"), snapshots=True)
    talk.client.screen.append({**talk.client.screen[0], "content": "again"})
    with pytest.raises(ValidationFailed):
        talk.run(talk.client.request())

    events = say(talk, "words")

    assert told(talk.model.requests[-1])[-1] == ("user", "words")
    assert [n["field"] for e in events if e["type"] == "CUSTOM" for n in e["value"]] == ["messages.2"]


@pytest.mark.fault("F-01e")
def test_an_unreadable_copy_of_a_message_that_is_held_is_that_message() -> None:
    talk = Talk("whole")
    apply(talk, say(talk, "hello"), snapshots=True)
    talk.client.screen[0] = {**talk.client.screen[0], "content": 5}

    events = say(talk, "words")

    assert told(talk.model.requests[-1]) == [("user", "hello"), ("assistant", "answer 1"), ("user", "words")]
    assert [event for event in events if event["type"] == "CUSTOM"] == []


@pytest.mark.fault("F-03c")
@pytest.mark.parametrize(("kind", "speaks"), [("whole", "1.0"), ("without ids", None)])
def test_photos_do_not_add_up_in_what_a_client_resends(kind: str, speaks: str | None) -> None:
    talk = Talk(kind)
    size = 2_000_000
    for turn in range(3):
        photo = png(1 + turn, 1)
        photo += b"\0" * (size - len(photo))
        talk.client.message("user", content=[{"type": "text", "text": f"photo {turn}"}, image(b64(photo))])
        body = {**talk.client.request(), "protocolVersion": speaks}
        assert len(orjson.dumps(body)) <= MAX_BODY_BYTES
        events = talk.run(body)
        apply(talk, events, snapshots=True)
        assert events[1]["type"] == "MESSAGES_SNAPSHOT"
        shown = [each.content for each in talk.model.requests[-1].messages if each.role == "user"]
        assert len(shown) == turn + 1
        newest: Any = shown[-1][1]
        assert newest["source"]["value"] == b64(photo)
        kinds = [[part["type"] for part in each["content"]] for each in talk.client.screen if each["role"] == "user"]
        assert kinds == [["text", "image"]] * (turn + 1)

    events = say(talk, "thanks")
    assert events[-1]["type"] == "RUN_FINISHED"
    assert len(orjson.dumps(talk.client.screen)) < 4096
    assert "MESSAGES_SNAPSHOT" not in [event["type"] for event in events]


@pytest.mark.fault("F-03c")
def test_many_small_images_do_not_add_up_either() -> None:
    talk = Talk("whole")
    raw = png() + b"\0" * INLINE_CHARS
    apply(talk, say(talk, [image(b64(raw))]), snapshots=True)

    assert len(orjson.dumps(talk.client.screen)) < 1024
