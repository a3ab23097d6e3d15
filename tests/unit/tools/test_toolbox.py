"""Results of a tool, of any kind, are told to the model; they never end the run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from karma.conversations.domain import CallEffect, ToolCall
from karma.core.errors import Conflict, StorageThrottled
from karma.core.freeform import MAX_LEVELS
from karma.core.ids import RunId
from karma.tools.failures import BadArguments, NotMade, OutcomeUnknown, ToolFailed
from karma.tools.toolbox import Tool, Toolbox, ToolContext, ToolOutcome, WhenLost, described
from tests.fakes.runs import caller


@dataclass(frozen=True)
class Nothing:
    pass


@dataclass(frozen=True)
class Anything:
    value: dict[str, object] = described("Anything")  # noqa: RUF009  a field()


def outcome_of(result: object) -> ToolOutcome:
    async def run(asked: Nothing, context: ToolContext) -> object:
        if isinstance(result, Exception):
            raise result
        return result

    return _called(run, ToolCall("c1", "give", "{}"))


def _called(run: Any, call: ToolCall) -> ToolOutcome:
    tool = Tool(
        name="give",
        description="",
        parameters=Nothing,
        permission="device:read",
        when_lost=WhenLost.CALL_AGAIN,
        timeout_s=5,
        run=run,
    )
    return asyncio.run(Toolbox([tool], caller(), shorten=str).call(call, run_id=RunId("r1")))


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE


@pytest.mark.fault("F-07c")
@pytest.mark.parametrize(
    "result",
    [object(), {1, 2}, b"bytes", "\ud800", {"k": "\udfff"}, 2**70, {1: "a"}, 1j, nested(300), nested(5_000), CYCLE],
    ids=lambda value: type(value).__name__,
)
def test_a_result_that_cannot_be_rendered_fails_the_tool(result: object) -> None:
    content, failed, *_ = outcome_of(result)

    assert failed
    assert orjson.loads(content) == {"error": "give was carried out, but its result cannot be shown"}


@pytest.mark.fault("F-07c")
@pytest.mark.parametrize("error", [ToolFailed("half \ud83d a face"), TypeError("\ud800"), RecursionError()])
def test_a_failure_is_told_in_readable_text(error: Exception) -> None:
    content, failed, *_ = outcome_of(error)

    assert failed
    assert orjson.loads(content)["error"] in {"half \ufffd a face", "give failed unexpectedly"}


@pytest.mark.fault("F-29za")
@pytest.mark.parametrize(
    ("result", "effect"),
    [
        (ToolFailed("no"), "told"),
        (Conflict("no"), "told"),
        (BadArguments("no"), "none"),
        (NotMade("no"), "none"),
        (OutcomeUnknown("no"), "unknown"),
        (StorageThrottled("busy"), "unknown"),
        (TimeoutError(), "unknown"),
        (TypeError(), "unknown"),
        (object(), "done"),
        (nested(250), "done"),
        ({"x": 1}, "told"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_known_of_a_call_s_effect_is_told_beside_its_failure(result: object, effect: CallEffect) -> None:
    assert outcome_of(result).effect == effect


@pytest.mark.fault("F-29za")
@pytest.mark.parametrize(("name", "arguments"), [("take", "{}"), ("give", '{"x":1}')], ids=["name", "arguments"])
def test_a_call_that_no_tool_takes_is_not_made(name: str, arguments: str) -> None:
    async def run(asked: Nothing, context: ToolContext) -> object:
        raise AssertionError

    outcome = _called(run, ToolCall("c1", name, arguments))
    assert (outcome.failed, outcome.effect) == (True, "none")


def test_a_time_is_shown_as_text() -> None:
    found = outcome_of({"at": datetime(2026, 1, 1, tzinfo=UTC)})
    assert found == ToolOutcome('{"at":"2026-01-01T00:00:00+00:00"}')


@pytest.mark.fault("F-08a")
@pytest.mark.parametrize("levels", [MAX_LEVELS, MAX_LEVELS + 1, 250])
def test_what_a_tool_finds_has_at_most_64_levels(levels: int) -> None:
    content, failed, *_ = outcome_of(nested(levels))

    found = {"error": "give found what is nested deeper than 64 levels"} if failed else nested(levels)
    assert failed == (levels > MAX_LEVELS)
    assert orjson.loads(content) == found


@pytest.mark.fault("F-08a")
@pytest.mark.parametrize("levels", [MAX_LEVELS, MAX_LEVELS + 1, 1_000, 2_000])
def test_an_argument_has_at_most_64_levels(levels: int) -> None:
    given: list[object] = []

    async def run(asked: Anything, context: ToolContext) -> object:
        given.append(asked.value)
        return None

    tool = Tool(
        name="take",
        description="",
        parameters=Anything,
        permission="device:read",
        when_lost=WhenLost.CALL_AGAIN,
        timeout_s=5,
        run=run,
    )
    call = ToolCall("c1", "take", '{"value":{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}}")
    content, failed, *_ = asyncio.run(Toolbox([tool], caller(), shorten=str).call(call, run_id=RunId("r1")))

    assert (failed, len(given)) == ((False, 1) if levels <= MAX_LEVELS else (True, 0))
    if failed:
        assert orjson.loads(content) == {"error": "value: nested deeper than 64 levels"}
