"""Messages about wrong fields contain no word of Python, whatever kind of error pydantic reports."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import PydanticKnownError
from pydantic_core.core_schema import ErrorType

from karma.core.wording import OTHER_FORM, worded


class Colour(StrEnum):
    RED = "red"


def _odd(_: int) -> int:
    raise ValueError("six pairs of digits")


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: Annotated[str, StringConstraints(min_length=2, max_length=3)] = "ab"
    line: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    link: Annotated[str, StringConstraints(pattern=r"^https://[^\x00-\x20\x7f]+$")] = ""
    serial: Annotated[str, StringConstraints(pattern=r"^[A-Z]{1,4}$")] = ""
    number: Annotated[int, Field(ge=1, le=9)] = 1
    ratio: Annotated[float, Field(le=1.0)] = 1
    flag: bool = True
    odd: Annotated[int, AfterValidator(_odd)] = 0
    colour: Colour = Colour.RED
    order: Literal["asc", "desc"] = "asc"
    items: Annotated[list[int], Field(max_length=1)] = []
    body: dict[str, Any] = {}


def said(**wrong: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(wrong)
    [error] = caught.value.errors(include_url=False, include_input=False)
    return worded(error)


@pytest.mark.fault("F-24e")
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"text": 1}, "must be text"),
        ({"text": "a"}, "must have at least 2 character(s)"),
        ({"text": "abcd"}, "must have at most 3 character(s)"),
        ({"line": "a\n"}, "must not have control characters, such as line breaks"),
        ({"link": "http://x"}, "must be an https:// address without blanks"),
        ({"serial": "a"}, OTHER_FORM),
        ({"number": "x"}, "must be a whole number"),
        ({"number": 1.5}, "must be a whole number"),
        ({"number": 10}, "must be at most 9"),
        ({"ratio": "x"}, "must be a number"),
        ({"ratio": 2}, "must be at most 1"),
        ({"flag": "x"}, "must be true or false"),
        ({"odd": 1}, "six pairs of digits"),
        ({"colour": "x"}, "must be one of 'red'"),
        ({"order": "x"}, "must be one of 'asc' or 'desc'"),
        ({"items": {}}, "must be a list"),
        ({"items": [1, 2]}, "must have at most 1 item(s)"),
        ({"body": []}, "must be a JSON object"),
        ({"more": 1}, "is not a field of this request"),
    ],
)
def test_an_error_names_the_rule_in_the_terms_of_json(wrong: dict[str, Any], words: str) -> None:
    assert said(**wrong) == words


@pytest.mark.fault("F-24e")
def test_no_kind_of_error_names_a_type_of_python() -> None:
    names = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "actual_length")
    given: dict[str, Any] = dict.fromkeys(names, 1)
    given |= {"pattern": "^[A-Z]$", "expected": "'a'", "error": "wrong", "field_type": "List"}
    tried = 0
    for kind in get_args(ErrorType):
        if "argument" in kind:
            continue  # of functions, which no body is
        try:
            message = PydanticKnownError(kind, given).message()
        except (TypeError, KeyError):
            continue  # it needs values of another kind
        said = worded({"type": kind, "msg": message, "ctx": given})
        assert not re.match(r"(Input|Value error|String|Data|Decimal|Fraction)\b", said), kind
        assert "dictionary" not in said, kind
        assert "[A-Z]" not in said, kind
        tried += 1
    assert tried > 50
