"""Requests that a tool makes of its user before it goes on: their form, valid answers, and their way to the tool.

    call ──> InputRequired      the call has no result; its run ends with the tool's forms as a question (karma.runs)
    answer ─> GivenInput        the run that answers makes the call again, with the answer and what the tool wants back

A form is a tool's own text: data, as its results are. What it may hold is bounded where the tool asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from karma.conversations.domain import Json
from karma.core import freeform
from karma.core.errors import ValidationFailed
from karma.core.records import Record
from karma.tools.failures import BadArguments
from karma.tools.json_arguments import JsonArguments

MAX_ROUNDS: Final = 5
"""Times that one call may ask, each time after an answer."""
MAX_CONTENT_CHARS: Final = 16_000
"""Characters of JSON of the content that is given for one form."""
ACTIONS: Final = ("accept", "decline", "cancel")
_FORMATS: Final = {"email": "idn-email", "uri": "iri", "date": "date", "date-time": "date-time"}
"""Formats of forms, by the one of JSON Schema that is checked: addresses may have letters of all scripts."""
_NAME_CHARS: Final = 64
"""Characters of a field's name in the error that names it."""


class Form(Record, kw_only=True):
    """One thing that a tool asks for."""

    message: str
    schema: Json
    """JSON Schema of the content, an object without references."""


class InputRequest(Record, kw_only=True):
    """All that a tool asks for at once."""

    message: str
    forms: Mapping[str, Form]
    """At least one, by the tool's own name for it."""
    kept: Json
    """State that the tool wants back with the answer; nobody is shown it, and no log has it."""


class InputRequired(Exception):
    """The tool goes on when its user has answered; it has been told that the user can be asked."""

    def __init__(self, request: InputRequest) -> None:
        super().__init__("the tool asks for input")
        self.request = request


def answer_schema(forms: Mapping[str, Form]) -> Json:
    """Return the schema of an answer to forms: one property for each."""
    return {
        "type": "object",
        "properties": {
            name: {
                "type": "object",
                "description": form.message,
                "properties": {"action": {"type": "string", "enum": list(ACTIONS)}, "content": form.schema},
                "required": ["action"],
                "additionalProperties": False,
            }
            for name, form in forms.items()
        },
        "required": list(forms),
        "additionalProperties": False,
    }


def checked_answers(schema: Mapping[str, Any], payload: Mapping[str, Any], *, at: str) -> Json:
    """Return answers as the tool is told them; `schema` is what `answer_schema` made, `at` their place in the request.

    Raises:
        ValidationFailed: they are not what the forms ask for; one entry a field.
    """
    wrong: list[object] = []
    for name, form in schema["properties"].items():
        wrong += _wrong(form["properties"]["content"], payload.get(name), f"{at}.{name[:_NAME_CHARS]}")
    if wrong:
        raise ValidationFailed("Request validation failed", details=wrong)
    return {name: {key: each for key, each in answer.items() if each is not None} for name, answer in payload.items()}


def _wrong(form: Mapping[str, Any], answer: object, at: str) -> list[object]:
    if not isinstance(answer, dict):
        return _entry(at, "must be an object of an action, and the content where that is 'accept'")
    unknown = [name for name in answer if name not in {"action", "content"}]
    if unknown:
        return _entry(f"{at}.{str(unknown[0])[:_NAME_CHARS]}", "is not a field of the answer")
    if answer.get("action") not in ACTIONS:
        return _entry(f"{at}.action", "must be 'accept', 'decline' or 'cancel'")
    content = answer.get("content")
    if answer["action"] != "accept":
        return [] if content is None else _entry(f"{at}.content", "is given where the action is 'accept'")
    if not isinstance(content, dict):
        return _entry(f"{at}.content", "must be an object with what is asked for")
    if freeform.is_deeper(content):
        return _entry(f"{at}.content", freeform.TOO_DEEP)
    if len(orjson.dumps(content).decode()) > MAX_CONTENT_CHARS:
        return _entry(f"{at}.content", f"must be at most {MAX_CONTENT_CHARS} characters of JSON")
    return _wrong_content(form, content, f"{at}.content")


def _wrong_content(form: Mapping[str, Any], content: dict[str, Any], at: str) -> list[object]:
    fields = form["properties"]
    found: list[object] = []
    for name in form.get("required", ()):
        if name not in content:
            found += _entry(f"{at}.{name[:_NAME_CHARS]}", "is required")
    for name, value in content.items():
        if name not in fields:
            found += _entry(f"{at}.{name[:_NAME_CHARS]}", "is not asked for")
            continue
        try:
            JsonArguments({"type": "object", "properties": {name: fields[name]}}).checked({name: value})
        except BadArguments as exc:
            found += _entry(f"{at}.{name[:_NAME_CHARS]}", f"does not fit: {str(exc).removeprefix(f'{name}: ')}")
            continue
        if not _has_format(fields[name].get("format"), value):
            found += _entry(
                f"{at}.{name[:_NAME_CHARS]}", f"does not fit: must be of the format '{fields[name]['format']}'"
            )
    return found


def _has_format(asked: object, value: object) -> bool:
    """Tell whether a text has the format that a form asks for; others than the protocol names are the tool's to check.

    The tool is called only once with an answer, so that what it would refuse has to be told before.
    """
    checked = _FORMATS.get(asked) if isinstance(asked, str) else None
    if checked is None or not isinstance(value, str):
        return True
    try:
        JsonArguments({"type": "object", "properties": {"it": {"format": checked}}}, has_formats=True).checked(
            {"it": value}
        )
    except BadArguments:
        return False
    return True


def _entry(field: str, message: str) -> list[object]:
    return list(ValidationFailed.of(field, message).details or [])
