"""Messages written down and read back: nothing is lost, no text is written twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.domain import CallEffect, Message, ToolCall
from karma.conversations.stored import dump_messages, load_messages
from karma.core.texts import GrowingText

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_BLOCKS = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, _TEXTS),
        st.builds(lambda text: {"type": "thinking", "thinking": text, "signature": "s"}, _TEXTS),
    ),
    max_size=3,
)
_MESSAGES = st.builds(
    lambda blocks, **more: Message(blocks=tuple(blocks), **more),
    blocks=_BLOCKS,
    id=_TEXTS,
    role=st.sampled_from(["user", "assistant", "tool"]),
    content=_TEXTS,
    tool_calls=st.lists(st.builds(ToolCall, _TEXTS, _TEXTS, _TEXTS), max_size=2).map(tuple),
    tool_call_id=_TEXTS,
    failed=st.booleans(),
    model=_TEXTS,
)


@given(st.lists(_MESSAGES, max_size=3))
def test_messages_are_read_as_they_were_written(messages: list[Message]) -> None:
    assert load_messages(dump_messages(messages)) == messages


def test_an_answer_s_text_is_written_once() -> None:
    blocks = ({"type": "text", "text": "a" * 500}, {"type": "text", "text": "b" * 500})
    message = Message(id="m", role="assistant", content="a" * 500 + "b" * 500, blocks=blocks, model="m")

    assert len(dump_messages([message])) < 1_200
    assert load_messages(dump_messages([message])) == [message]


def test_messages_that_an_earlier_release_wrote_are_read() -> None:
    data = b'[{"id":"m","role":"assistant","content":"hi","blocks":[{"type":"text","text":"hi"}],"model":"x"}]'

    (message,) = load_messages(data)

    assert message.content == "hi"


@pytest.mark.fault("F-29za")
@pytest.mark.parametrize(
    ("stored", "read"),
    [("none", "none"), ("unknown", "unknown"), ("done", "done"), ("told", "told"), ("later", "told"), ("", "told")],
    ids=["not made", "unknown", "done", "told", "of a later release", "of an earlier release"],
)
def test_what_is_known_of_a_call_s_effect_is_kept(stored: str, read: CallEffect) -> None:
    named = f',"effect":"{stored}"' if stored else ""
    data = f'[{{"id":"m","role":"tool","content":"x","tool_call_id":"c1"{named}}}]'.encode()

    (message,) = load_messages(data)

    assert message.effect == read
    assert (b'"effect"' in dump_messages([message])) == (read != "told")
    assert load_messages(dump_messages([message]))[0].effect == read


@given(st.lists(_TEXTS, max_size=20), st.integers(0, 600))
def test_a_growing_text_is_its_pieces_joined(pieces: list[str], more: int) -> None:
    text = GrowingText()
    for piece in (*pieces, *["x"] * more):
        text.add(piece)

    assert str(text) == "".join(pieces) + "x" * more
    assert text.size == len(str(text))
