"""Prices of models, and the upper bound of a call."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.agents.domain import MODELS
from karma.conversations.domain import Message, ToolCall
from karma.models.domain import Target, Usage
from karma.models.ports import ModelRequest, ToolSpec
from karma.models.prices import DOCUMENT_TOKENS, IMAGE_TOKENS, MAX_INPUT_TOKENS, PRICES, cost, estimate, input_tokens

NOW = datetime(2026, 11, 21, tzinfo=UTC)
UNLISTED = {"claude-fable-5-2", "claude-mythos-5-2"}
A_MILLION = 1_000_000

pytestmark = pytest.mark.fault("F-19a")


def request(*messages: Message, model: str = "claude-haiku-5-5", max_tokens: int = 8192) -> ModelRequest:
    target = Target(model=model)
    return ModelRequest(target=target, system=("Be brief",), messages=messages, tools=(), max_tokens=max_tokens)


def user(content: object) -> Message:
    return Message(id="u", role="user", content=content)  # type: ignore[arg-type]


def test_every_model_of_the_catalogue_has_its_price_but_those_that_are_named() -> None:
    assert set(MODELS) - set(PRICES) == UNLISTED


@pytest.mark.parametrize(
    ("model", "usage", "micros"),
    [
        ("claude-opus-5", Usage(A_MILLION, 0), 5_000_000),
        ("claude-opus-5", Usage(0, A_MILLION), 25_000_000),
        ("claude-opus-5", Usage(A_MILLION, 0, A_MILLION), 500_000),
        ("claude-opus-5", Usage(A_MILLION, 0, None, A_MILLION), 6_250_000),
        ("claude-opus-5", Usage(1_000_000, 10, 600_000, 300_000), 500_000 + 300_000 + 1_875_000 + 250),
        ("claude-haiku-5-5", Usage(100_000, 1_000), 10_000 + 500),
        ("claude-haiku-5-5", Usage(100_001, 1_000), 50_001 + 2_500),
        ("claude-haiku-5-5", Usage(100_001, 0, 100_001), 5_001),
        ("claude-haiku-4-5-20251001", Usage(A_MILLION, 0), 1_000_000),
        ("claude-mythos-5-2", Usage(A_MILLION, A_MILLION), 60_000_000),
        ("somebody-elses", Usage(A_MILLION, 0, A_MILLION), 1_000_000),
        ("claude-opus-5", Usage(), 0),
        ("claude-haiku-5-5", Usage(1, 0), 1),
    ],
)
def test_a_call_costs_what_is_published(model: str, usage: Usage, micros: int) -> None:
    assert cost(usage, Target(model=model), NOW) == micros


def test_a_price_holds_from_its_day_on() -> None:
    reads = Usage(A_MILLION, 0, A_MILLION)
    days = [datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 10, 6, 23, tzinfo=UTC), datetime(2026, 10, 7, tzinfo=UTC)]
    assert [cost(reads, Target(model="claude-sonnet-5-5"), day) for day in days] == [200_000, 200_000, 100_000]


@given(
    model=st.sampled_from([*MODELS, "another"]),
    texts=st.lists(st.text(max_size=60), max_size=5),
    repeated=st.sampled_from([1, 30_000]),
    share=st.floats(0, 1),
    cached=st.sampled_from(["plain", "read", "written"]),
    output=st.integers(0, 8192),
)
def test_no_call_costs_more_than_its_estimate(
    model: str, texts: list[str], repeated: int, share: float, cached: str, output: int
) -> None:
    """A tokenizer makes at most one token of a byte; how few it makes of them is its own affair."""
    asked = request(*(user(text * repeated) for text in texts), model=model)
    tokens = int(share * sum(len(text.encode(errors="replace")) * repeated for text in texts))
    usage = Usage(tokens, output, tokens if cached == "read" else None, tokens if cached == "written" else None)
    if tokens <= A_MILLION:
        assert cost(usage, Target(model=model), NOW) <= estimate(asked, NOW)


def test_everything_that_is_sent_counts() -> None:
    bare = input_tokens(request())
    call = ToolCall("c1", "echo", "x" * 1_000)
    thought = {"type": "thinking", "thinking": "x" * 1_000, "signature": "s"}
    tool = ToolSpec("echo", "x" * 1_000, {"type": "object"})
    for message in (
        user("x" * 1_000),
        user([{"type": "text", "text": "x" * 1_000}]),
        Message(id="a", role="assistant", tool_calls=(call,)),
        Message(id="a", role="assistant", blocks=(thought,)),
        Message(id="t", role="tool", content="x" * 1_000, tool_call_id="c1"),
    ):
        assert input_tokens(request(message)) >= bare + 1_000
    assert (
        input_tokens(ModelRequest(target=Target(model="m"), system=(), messages=(), tools=(tool,), max_tokens=1))
        > 1_000
    )


def test_media_count_as_fixed_amounts_until_they_are_loaded() -> None:
    bare = input_tokens(request(user([])))

    def part(kind: str, source: str, value: str, mime: str) -> int:
        shown = {"type": kind, "source": {"type": source, "value": value, "mimeType": mime}}
        return input_tokens(request(user([shown]))) - bare

    assert part("image", "data", "A" * 4_000_000, "image/png") == IMAGE_TOKENS == part("image", "file", "f", "")
    assert part("document", "file", "f", "application/pdf") == DOCUMENT_TOKENS
    assert part("document", "data", "A" * 4_000_000, "application/pdf") == MAX_INPUT_TOKENS
    assert part("document", "data", "A" * 400_000, "text/plain") == 300_000
