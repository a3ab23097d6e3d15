"""Base and field types of request bodies, which refuse unknown fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from karma.core.clock import in_utc
from karma.core.errors import ValidationFailed
from karma.core.freeform import TOO_DEEP, is_deeper
from karma.core.lines import LINE, WORDS, composed, shows
from karma.core.wording import form

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _written_out(value: object) -> object:
    # Pydantic also reads numbers, as seconds or milliseconds by their size: not what the description says.
    if not (isinstance(value, str) and _DATE.match(value)):
        raise ValueError("a moment is text as ISO 8601 writes it: 2026-01-31T12:00:00Z")
    return value


def _day_alone(value: object) -> object:
    # Pydantic also reads a moment at midnight as a date, whatever its offset.
    if not (isinstance(value, str) and _DATE.fullmatch(value)):
        raise ValueError("a day is text as ISO 8601 writes it: 2026-01-31")
    return value


HTTPS_URL = (
    r"https://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?([/?#][A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*)?"
)
"""Pattern of an https:// URL: a host without a user, and characters that RFC 3986 allows: no quote or bracket that
would end an attribute of HTML.

Other characters must be percent-encoded, names of hosts in IDNA's form.
"""

SERVER_URL = form(
    r"^https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]{1,5})?"
    r"([/?][A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]*)?$",
    "must be an http: or https: URL without a user and without a fragment",
)
"""Form of the URL of a server that an account names; karma.core.addresses says which of them can be."""

Moment = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(in_utc)]
"""A moment, ISO 8601 with an offset or `Z`, converted to UTC, in which it is in the years 1 to 9999."""
ShownMoment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""A moment as answers show it (karma.core.clock.iso)."""
Day = Annotated[date, BeforeValidator(_day_alone)]
"""A date, ISO 8601: `2026-01-31`."""
Whole = Annotated[int, Field(strict=True)]
"""A JSON number without a fraction; pydantic alone would also read text and booleans."""
Number = Annotated[float, Field(strict=True)]
"""A JSON number."""
Version = Annotated[Whole, Field(ge=1, examples=[3])]
"""Version of the object that the caller read, so that another's change is not overwritten; same as `If-Match`."""


def _shallow(value: dict[str, Any]) -> dict[str, Any]:
    if is_deeper(value):
        raise ValueError(TOO_DEEP)
    return value


FreeForm = Annotated[dict[str, Any], AfterValidator(_shallow)]
"""An object whose members its sender chooses, nested no deeper than `karma.core.freeform.MAX_LEVELS`."""


def json_of_at_most(limit: int) -> Any:
    """Refuse a value that is no JSON or has more than `limit` bytes as such; for `Annotated[FreeForm, ...]`."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        try:
            size = len(orjson.dumps(value))
        except TypeError as exc:
            raise ValueError("numbers must fit into 64 bits") from exc
        if size > limit:
            raise ValueError(f"at most {limit} bytes as JSON")
        return value

    return AfterValidator(check)


_LINE = form(LINE, WORDS)
_MOST_COMPOSED: Final = 1_000


class _Line(StringConstraints):
    """Constraints of a name, with the part of the rule that no pattern can say."""

    def __iter__(self) -> Iterator[Any]:
        yield from super().__iter__()
        yield AfterValidator(_shown)


def _shown(value: str) -> str:
    if not shows(value):
        raise ValueError(WORDS)
    return value


def line(max_chars: int, *, strips: bool = True) -> Any:
    """Return the form of a name or title (karma.core.lines); for `Annotated[str, ...]`.

    Args:
        max_chars: characters at the most.
        strips: take blanks away from both ends before anything is checked.
    """
    return _Line(strip_whitespace=strips, min_length=1, max_length=max_chars, pattern=_LINE)


def _composed(value: object) -> object:
    # Composing takes time by the square of the marks on one letter; what is longer is refused by its length.
    return composed(value) if isinstance(value, str) and len(value) <= _MOST_COMPOSED else value


COMPOSED: Final = BeforeValidator(_composed)
"""Brings a tag into the one form of tags (karma.core.lines); the last of `Annotated[str, ..., COMPOSED]`."""


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
    """Return the default of a field that may be left out, but not be null.

    A field left out is None, which its type does not say: `model_fields_set` tells whether it was given. The
    description of the API shows neither null nor a default.
    """
    return Field(default_factory=_nothing)


def _nothing() -> None:
    return None


class Body(BaseModel):
    """A request body; its validator is built when the first such body arrives, not at import.

    One is called `<Verb><Noun>Body`. Those called `...Request` stay so: generated clients have types of these names.
    """

    model_config = ConfigDict(extra="forbid", defer_build=True, frozen=True)

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:  # noqa: ARG003  overridden
        """Return the broken rules that concern several fields, as pairs of field and message.

        The edge asks for them of each body as it was sent, also of one with wrong fields, so that all that is wrong is
        told at once. Whoever overrides this must expect members of any type, form and length, whose own rules are told
        anyway.
        A validator of the whole model is not asked once a field is wrong.
        """
        return ()
