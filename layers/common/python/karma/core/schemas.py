"""Base of request bodies: a trust boundary refuses what it does not know."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from karma.core.clock import in_utc
from karma.core.errors import ValidationFailed
from karma.core.freeform import TOO_DEEP, is_deeper

_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def _written_out(value: object) -> object:
    # Pydantic also reads numbers, as seconds or milliseconds by their size: not what the description says.
    if not (isinstance(value, str) and _DATE.match(value)):
        raise ValueError("a date is text as ISO 8601 writes it: 2026-01-31, 2026-01-31T12:00:00Z")
    return value


HTTPS_URL = (
    r"https://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?([/?#][A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*)?"
)
"""A host without a user, and characters that RFC 3986 allows: no quote or bracket that would end an attribute of HTML.

Others are written percent-encoded, names of hosts as IDNA writes them.
"""

Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(in_utc)]
"""ISO 8601 with an offset or `Z`, in the years 1 to 9999 of UTC, which it is converted to."""
ShownMoment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A moment as answers show it (karma.core.clock.iso)."""
Day = Annotated[date, BeforeValidator(_written_out)]
"""ISO 8601, `2026-01-31`."""
Whole = Annotated[int, Field(strict=True)]
"""A JSON number without a fraction; pydantic alone would also read text and booleans."""
Number = Annotated[float, Field(strict=True)]
"""A JSON number."""
Version = Annotated[Whole, Field(ge=1, examples=[3])]
"""Of the object that was read, so that nobody else's change is written over; `If-Match` says the same."""


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    if is_deeper(value):
        raise ValueError(TOO_DEEP)
    return value


FreeForm = Annotated[dict[str, Any], AfterValidator(_shallow)]
"""An object whose members are its sender's, nested no deeper than karma.core.freeform says."""


def json_of_at_most(limit: int) -> Any:
    """Refuse what takes more bytes as JSON, or cannot be written as such: `Annotated[FreeForm, ...]`."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        try:
            size = len(orjson.dumps(value))
        except TypeError as exc:
            raise ValueError("numbers must fit into 64 bits") from exc
        if size > limit:
            raise ValueError(f"at most {limit} bytes as JSON")
        return value

    return AfterValidator(check)


def judged(judge: Callable[[str], object]) -> Any:
    """Ask a rule of the domain as the body is read, so that what it finds is told with all else that is wrong."""

    def check(value: str) -> str:
        try:
            judge(value)
        except ValidationFailed as exc:
            raise ValueError(exc.first) from None
        return value

    return AfterValidator(check)


def left_out() -> Any:
    """Make the default of a member that may be left out, but not be null.

    The attribute is None then, which its type does not say: whether it was given, `model_fields_set` tells. The
    description of the API shows neither null nor a default.
    """
    return Field(default_factory=_nothing)


def _nothing() -> None:
    return None


class Body(BaseModel):
    """A request body; its validator is built when the first such body arrives, not at import."""

    model_config = ConfigDict(extra="forbid", defer_build=True, frozen=True)
