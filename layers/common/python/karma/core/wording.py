"""Messages about wrong fields, in words for senders of JSON, by kind of error and without patterns and types.

Pydantic describes errors in terms of Python: `Input should be a valid dictionary`, `Value error, …`, patterns.
Callers send JSON, so their messages speak of JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_BY_TYPE: Final[Mapping[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "string_type": "must be text",
    "string_sub_type": "must be text",
    "string_unicode": "must be text in UTF-8",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} character(s)",
    "too_short": "must have at least {min_length} item(s)",
    "too_long": "must have at most {max_length} item(s)",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "dict_type": "must be a JSON object",
    "mapping_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "dataclass_type": "must be a JSON object",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "iterable_type": "must be a list",
    "none_required": "must be null",
    "null": "must not be null",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "enum": "must be one of {expected}",
    "literal_error": "must be one of {expected}",
    "union_tag_invalid": "must have one of the kinds {expected_tags}",
    "union_tag_not_found": "must say its kind",
    "json_invalid": "is not JSON",
    "json_type": "is not JSON",
    **dict.fromkeys(
        ("datetime_type", "datetime_parsing", "datetime_from_date_parsing", "datetime_object_invalid"),
        "must be a moment as ISO 8601 writes it, with an offset: 2026-01-31T12:00:00Z",
    ),
    "timezone_aware": "must name an offset from UTC: 2026-01-31T12:00:00Z, 2026-01-31T12:00:00+02:00",
    **dict.fromkeys(
        ("date_type", "date_parsing", "date_from_datetime_parsing", "date_from_datetime_inexact"),
        "must be a day as ISO 8601 writes it: 2026-01-31",
    ),
    "url_syntax_violation": "must be an address in its strict form",
    "value_error": "{error}",
    "assertion_error": "{error}",
}
_PYTHON_S_WORDS: Final = re.compile(r"^[A-Z][\w ]*? should ")
_URL: Final = re.compile(r"\^\(?https://")
_NOT_CONTROL: Final = re.compile(r"\^(?:\(\?![^)]*\))?\[\^\\x00")
_FORMS: Final[dict[str, str]] = {}
OTHER_FORM: Final = "does not have the form that the description of this route shows for it"


def form(pattern: str, words: str) -> str:
    """Return a pattern for a field, and have `words` said of what does not match it: they begin with `must`."""
    _FORMS[pattern] = words
    return pattern


def worded(error: Mapping[str, Any]) -> str:
    """Describe an error as pydantic lists it, `ctx` included."""
    kind, given = str(error["type"]), error.get("ctx") or {}
    if kind == "string_pattern_mismatch":
        return _pattern(str(given.get("pattern", "")))
    template = _BY_TYPE.get(kind)
    if template is not None:
        try:
            return template.format(**{name: _shown(value) for name, value in given.items()})
        except KeyError:
            pass  # whoever made the error by hand left out what it is about
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return _PYTHON_S_WORDS.sub("must ", text).removeprefix("Input ")


def _shown(value: object) -> str:
    """Write a limit as JSON would: 1, not 1.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _pattern(pattern: str) -> str:
    if pattern in _FORMS:
        return _FORMS[pattern]
    if _URL.match(pattern):
        return "must be an https:// address without blanks"
    if _NOT_CONTROL.match(pattern):
        return "must not have control characters, such as line breaks"
    return OTHER_FORM
