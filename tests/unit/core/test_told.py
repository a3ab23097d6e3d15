"""Errors in an answer, and notes in a stream, are limited in number and length, however much was wrong in a request."""

from functools import partial
from typing import Any

import orjson
import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st

from karma.configuration.domain import InvalidConfiguration
from karma.conversations.branches import merge
from karma.conversations.domain import Thread, ThreadKey
from karma.core.errors import MAX_TOLD, AppError, ValidationFailed
from karma.core.ids import ThreadId, UserId
from karma.http.envelope import failure
from karma.http.errors import as_app_error
from karma.runs.opening import opening
from karma.runs.requests import RunInput, parse_run_input

pytestmark = pytest.mark.fault("F-25c")

MANY = 3_000
LONG = "x" * 100_000

BODIES: dict[str, Any] = {
    "parts": {"messages": [{"role": "user", "content": [{"type": "zz"}] * MANY}]},
    "results": {"messages": [{"role": "tool", "toolCallId": ""}] * MANY},
    "calls": {"messages": [{"role": "assistant", "content": "", "toolCalls": [0] * MANY}]},
    "context": {"context": [0] * MANY},
    "schemas": {"tools": [{"name": "t", "parameters": {"properties": {"p": {"allOf": [0] * MANY}}}}]},
    "properties": {"tools": [{"name": "t", "parameters": {"properties": {f"{i} ": {} for i in range(MANY)}}}]},
}


def answer(error: AppError) -> bytes:
    return failure(error, path="/api/v1/x", request_id="r", now_ms=0)


@pytest.mark.parametrize("kind", BODIES)
def test_a_hundred_wrong_members_are_told_and_how_many_more_there_are(kind: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        parse_run_input(orjson.dumps(BODIES[kind]))

    details: Any = refused.value.details
    *told, last = details
    assert len(told) == MAX_TOLD
    assert last["type"] == "too_many"
    assert last["message"].endswith(" more")
    assert len(answer(refused.value)) < 40_000


def test_an_error_of_the_api_has_a_hundred_entries_at_most_each_cut_to_a_length() -> None:
    wrong = [{"loc": ("body", f"{i}{LONG}"), "msg": LONG, "type": "extra_forbidden"} for i in range(MAX_TOLD + 7)]

    error = as_app_error(RequestValidationError(wrong))

    assert isinstance(error.details, list)
    assert error.details[-1]["message"] == "and 7 more"
    assert len(answer(error)) < 200_000


def test_an_invalid_configuration_has_a_hundred_entries_at_most() -> None:
    error = InvalidConfiguration([(f"{i}{LONG}", LONG) for i in range(MANY)])

    assert len(answer(error)) < 200_000


def test_of_very_many_errors_the_answer_says_how_many_there_are_at_least() -> None:
    with pytest.raises(ValidationFailed) as refused:
        parse_run_input(orjson.dumps({"context": [0] * 20_000}))

    assert refused.value.details[-1]["message"] == "and at least 9900 more"  # type: ignore[index]


def first_events(asked: RunInput) -> list[dict[str, str]]:
    """Open a run of a thread that is not empty, and return what the client is told was passed over."""
    stored = parse_run_input(b'{"messages":[{"id":"m1","role":"user","content":"a"}]}').messages
    key = ThreadKey(UserId("u"), ThreadId("t"))
    thread = Thread(key=key, messages=stored, next_message=1, version=1)
    first = opening(asked, merge(thread, asked.sent, own=()), {}, link=list, is_lighter=False)
    (ignored,) = [event for event in map(orjson.loads, first.log) if event.get("name") == "karma.input_ignored"]
    return ignored["value"]  # type: ignore[no-any-return]


def test_what_is_passed_over_is_told_up_to_a_limit() -> None:
    answers = [{"id": f"a{i}", "role": "assistant", "content": "x"} for i in range(MANY)]
    asked = {"messages": [{"id": "m1", "role": "user"}, *answers, {"role": "user", "content": "b"}]}

    told = first_events(parse_run_input(orjson.dumps(asked)))

    assert [len(told), told[-1]["reason"]] == [MAX_TOLD + 1, f"and {MANY - MAX_TOLD} more were passed over"]


def test_unknown_members_are_dropped_and_named_up_to_a_limit() -> None:
    unknown = {f"u{i}": 0 for i in range(20_000)}

    told = first_events(parse_run_input(orjson.dumps({**unknown, "messages": [{"role": "user", "content": "b"}]})))

    assert [len(told), told[-1]["reason"]] == [21, "19980 more unknown members"]


@pytest.mark.fault("F-24h")
@given(st.lists(st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), max_size=5))
def test_errors_of_several_checks_are_told_together(found: list[list[str]]) -> None:
    def judge(fields: list[str]) -> None:
        if fields:
            details: list[object] = [{"field": field, "message": "is wrong", "type": "value_error"} for field in fields]
            raise ValidationFailed("Request validation failed", details=details)

    judges = [partial(judge, fields) for fields in found]
    everything = [field for fields in found for field in fields]
    if not everything:
        ValidationFailed.together(*judges)
        return
    with pytest.raises(ValidationFailed) as refused:
        ValidationFailed.together(*judges)
    told: Any = refused.value.details
    assert [each["field"] for each in told] == everything
