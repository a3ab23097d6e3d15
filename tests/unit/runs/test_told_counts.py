"""Counts of tokens that a server tells: those that cannot be of what it was sent are none, for money and for room."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.domain import Message, ToolCall
from karma.integrations.openai_turn import ChatTurn
from karma.models.domain import Target
from karma.models.ports import ModelEvent, ModelRequest
from karma.models.prices import estimated_usage, input_tokens, least_input_tokens
from tests.support.chat_stream import chunks
from tests.support.windowed import WindowedModel, is_record
from tests.unit.runs.test_compaction import WINDOW, named, until_record
from tests.unit.runs.test_compaction import world as windowed_world

pytestmark = pytest.mark.fault("F-33g")


def request(*messages: Message, system: Sequence[str] = ()) -> ModelRequest:
    return ModelRequest(target=Target(model="m"), system=system, messages=messages, tools=(), max_tokens=100)


def told(prompt: int, asked: ModelRequest, *, words: str = "Yes.") -> ChatTurn:
    turn = ChatTurn()
    turn.feed(b"".join(chunks(words, usage={"prompt_tokens": prompt, "completion_tokens": 3})))
    return turn


LONG = request(Message(id="u", role="user", content="a word of it " * 20_000))


@pytest.mark.parametrize("prompt", [1, 10, 8_124])
def test_a_count_that_cannot_be_all_of_it_is_estimated(prompt: int) -> None:
    turn = told(prompt, LONG)

    assert turn.ended(LONG).usage == replace(estimated_usage(LONG, 4), output_tokens=3)
    assert turn.counted(LONG).input_tokens is None
    assert turn.spent(LONG).input_tokens == input_tokens(LONG), "of an answer that broke off, the bound"


@pytest.mark.parametrize("prompt", [8_125, 65_000, 300_000])
def test_any_other_count_is_the_server_s(prompt: int) -> None:
    turn = told(prompt, LONG)

    assert {each.input_tokens for each in (turn.ended(LONG).usage, turn.counted(LONG), turn.spent(LONG))} == {prompt}


texts = st.text(st.sampled_from("a é😀\n"), max_size=200)
said = st.builds(
    Message,
    id=st.just("m"),
    role=st.sampled_from(["user", "assistant"]),
    content=texts | texts.map(lambda each: [{"type": "text", "text": each}]),
    tool_calls=st.lists(st.builds(ToolCall, st.just("c"), st.just("f"), texts), max_size=2).map(tuple),
)


@given(messages=st.lists(said, max_size=4), system=st.lists(texts, max_size=2))
def test_the_least_is_far_below_what_is_estimated_and_grows_with_each_text(
    messages: Sequence[Message], system: Sequence[str]
) -> None:
    asked = request(*messages, system=system)
    least = least_input_tokens(asked)

    assert least * 8 <= (estimated_usage(asked, 0).input_tokens or 0)
    longer = request(*messages, Message(id="n", role="user", content="x" * 3200), system=system)
    assert least_input_tokens(longer) - least in (100, 101)


class Understated(WindowedModel):
    """Answers as a server of Chat Completions that tells of ten tokens, whatever it is sent."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        async for batch in super().stream(request):
            if is_record(request):
                yield batch
        if not is_record(request):
            turn = told(10, request)
            yield [*ChatTurn().feed(b"".join(chunks("Yes."))), turn.ended(request)]


def test_a_conversation_is_summarised_before_it_meets_its_window_though_its_server_tells_of_ten_tokens() -> None:
    model = Understated(WINDOW)
    made = windowed_world(model)

    _, events = until_record(made, model)

    assert events[-1]["type"] == "RUN_FINISHED"
    assert named(events, "karma.compacted")
    assert model.refused == 0
