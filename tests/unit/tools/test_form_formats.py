"""Answers to forms have the formats that the forms ask for, before the tool is called with them."""

from __future__ import annotations

from typing import Any

import pytest

from karma.core.errors import ValidationFailed
from karma.tools.inputs import Form, answer_schema, checked_answers

pytestmark = pytest.mark.fault("F-33q")

FITS = {
    "email": ["ada@example.com", "jürgen@exämple.com", "a+b@sub.example.com"],
    "uri": ["https://example.com/a?b=c", "mailto:ada@example.com", "https://exämple.com/ö"],
    "date": ["2026-02-28", "2028-02-29"],
    "date-time": ["2026-02-28T10:00:00Z", "2026-02-28T10:00:00.5+01:00"],
    "nonsense": ["anything"],
    "uuid": ["not one: the tool's own to check"],
}
WRONG = {
    "email": ["ada", "ada@", "@example.com", "", "a b@example.com"],
    "uri": ["example", "/a/b", "", "https://exa mple.com"],
    "date": ["2026-02-30", "28.02.2026", "2026-2-1", "2026-02-28T10:00:00Z", ""],
    "date-time": ["2026-02-28", "10:00", "2026-02-28T25:00:00Z", ""],
}


def checked(field: dict[str, Any], value: object) -> Any:
    form = Form(message="m", schema={"type": "object", "properties": {"it": field}, "required": ["it"]})
    answer = {"ask": {"action": "accept", "content": {"it": value}}}
    return checked_answers(answer_schema({"ask": form}), answer, at="resume.0.payload")


@pytest.mark.parametrize(("asked", "value"), [(asked, value) for asked, values in FITS.items() for value in values])
def test_one_that_fits_is_taken(asked: str, value: str) -> None:
    assert checked({"type": "string", "format": asked}, value)["ask"]["content"] == {"it": value}


@pytest.mark.parametrize(("asked", "value"), [(asked, value) for asked, values in WRONG.items() for value in values])
def test_one_that_does_not_fit_is_named_with_the_format(asked: str, value: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        checked({"type": "string", "format": asked}, value)
    (entry,) = refused.value.details or ()
    assert str(entry).count("resume.0.payload.ask.content.it") == 1
    assert f"must be of the format '{asked}'" in str(entry)


@pytest.mark.parametrize(
    "field", [{"type": "integer", "format": "date"}, {"type": ["integer", "null"], "format": ["x"]}]
)
def test_a_format_says_nothing_of_what_is_no_text(field: dict[str, Any]) -> None:
    assert checked(field, 7)["ask"]["content"] == {"it": 7}


def test_a_very_long_text_is_answered_at_once() -> None:
    with pytest.raises(ValidationFailed):
        checked({"type": "string", "format": "email"}, "a" * 15_000 + "@")
