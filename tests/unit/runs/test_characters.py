"""No character is broken on its way from the model to the client and to storage, however its text comes in pieces."""

import json
from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.conversations.attachments import MAX_RESULT_BYTES, Library
from karma.core import surrogates
from karma.core.ids import UserId
from karma.integrations.anthropic_turn import Turn
from karma.models.ports import ModelEvent, ModelRequest, TextDelta
from tests.fakes.attachments import MemoryAttachments, MemoryDeviceFiles, ScriptedFetch
from tests.fakes.runs import ScriptedModel
from tests.support import model_server
from tests.support.model_server import message
from tests.support.run_world import FIND_TOOL, World, asked, merged, user

pytestmark = pytest.mark.fault("F-03d")

ANY_TEXT = st.text(st.characters(codec=None, categories=None) | st.sampled_from("🇩🇪😀👍"), min_size=1, max_size=12)
"""Texts, also with halves of characters."""


@st.composite
def pieces(draw: st.DrawFn) -> list[str]:
    """Draw a text, cut into deltas anywhere, as programs do whose characters are UTF-16's halves."""
    text = draw(ANY_TEXT)
    units = list(map(chr, memoryview(text.encode("utf-16", "surrogatepass")[2:]).cast("H")))
    places = draw(st.lists(st.integers(0, len(units)), max_size=6).map(sorted))
    return ["".join(units[a:b]) for a, b in pairwise([0, *places, len(units)])]


class StreamedModel(ScriptedModel):
    """Answers with the API's own bytes, as our reading of them finds."""

    def __init__(self, *answers: Sequence[bytes]) -> None:
        super().__init__()
        self.answers = list(answers)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        turn = Turn()
        for chunk in self.answers.pop(0):
            yield turn.feed(chunk)


def text(parts: list[str]) -> list[dict[str, Any]]:
    """Return the events of a text block that begins with the first piece, as the API may."""
    return [{"content_block": {"type": "text", "text": parts[0]}}, *model_server.text(*parts[1:])[1:]]


def thinking(thoughts: list[str], signature: list[str]) -> list[dict[str, Any]]:
    deltas = [{"delta": {"type": "signature_delta", "signature": each}} for each in signature]
    first = {"content_block": {"type": "thinking", "thinking": thoughts[0], "signature": ""}}
    return [first, *model_server.thinking(*thoughts[1:], signature="")[1:], *deltas]


def call(name: str, parts: list[str]) -> list[dict[str, Any]]:
    """Return the events of a call whose argument is the text, with only the escapes in its JSON that are required."""
    escaped = [json.dumps(part, ensure_ascii=False)[1:-1] for part in parts]
    return model_server.tool_use("toolu_1", name, '{"word": "', *escaped, '"}')


@given(pieces(), pieces(), pieces(), pieces())
def test_what_the_model_says_in_pieces_is_streamed_and_stored_whole(
    thought: list[str], signature: list[str], said: list[str], word: list[str]
) -> None:
    answer = message(thinking(thought, signature), text(said), call("askUser", word), stop_reason="tool_use")
    world = World()
    world.model = StreamedModel(answer)

    events = merged(world.run(asked(user("hi"), tools=[FIND_TOOL])))

    whole = {name: surrogates.whole("".join(parts)) for name, parts in (("said", said), ("word", word))}
    deltas = {event["type"]: event["delta"] for event in events if "delta" in event}
    assert deltas["TEXT_MESSAGE_CONTENT"] == whole["said"]
    assert json.loads(deltas["TOOL_CALL_ARGS"]) == {"word": whole["word"]}
    stored = world.thread().messages[-1]
    assert stored.content == whole["said"]
    assert json.loads(stored.tool_calls[0].arguments) == {"word": whole["word"]}
    thinks, says, calls = stored.blocks
    assert thinks["thinking"] == surrogates.whole("".join(thought))
    assert thinks["signature"] == surrogates.whole("".join(signature))
    assert says["text"] == whole["said"]
    assert calls["input"] == {"word": whole["word"]}


@settings(max_examples=20)
@given(pieces())
def test_a_tool_of_ours_gets_the_text_that_the_model_meant(word: list[str]) -> None:
    world = World()
    world.model = StreamedModel(
        message(call("echo", word), stop_reason="tool_use"), message(model_server.text("Done."))
    )

    events = world.run(asked(user("hi")))

    (result,) = [json.loads(event["content"]) for event in events if event["type"] == "TOOL_CALL_RESULT"]
    assert result["said"] == surrogates.whole("".join(word))


@given(st.integers(0, 8), st.sampled_from("é€😀"))
def test_the_beginning_of_a_long_result_ends_with_a_whole_character(before: int, char: str) -> None:
    whole = "a" * before + char * MAX_RESULT_BYTES
    library = Library(MemoryAttachments(), MemoryDeviceFiles(), ScriptedFetch())

    beginning = json.loads(library.shorten(UserId("u1"), whole))["beginning"]

    assert beginning
    assert whole.startswith(beginning)


def test_a_half_that_a_failed_stream_leaves_is_not_told() -> None:
    turn = Turn()

    told = turn.feed(b"".join(message(model_server.text("Hi \ud83d"))[:4]))

    assert [event.text for event in told if isinstance(event, TextDelta)] == ["Hi "]
