"""Base of request bodies: a trust boundary refuses what it does not know."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field


def _written_out(value: object) -> object:
    # Pydantic also reads numbers, as seconds or milliseconds by their size: not what the description says.
    if not (isinstance(value, str) and "-" in value.lstrip("-")):
        raise ValueError("a date is text as ISO 8601 writes it: 2026-01-31, 2026-01-31T12:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]
"""ISO 8601 with an offset or `Z`."""
Day = Annotated[date, BeforeValidator(_written_out)]
"""ISO 8601, `2026-01-31`."""
Whole = Annotated[int, Field(strict=True)]
"""A JSON number without a fraction; pydantic alone would also read text and booleans."""
Number = Annotated[float, Field(strict=True)]
"""A JSON number."""
Version = Annotated[Whole, Field(ge=1, examples=[3])]
"""Of the object that was read, so that nobody else's change is written over; `If-Match` says the same."""


class Body(BaseModel):
    """A request body; its validator is built when the first such body arrives, not at import."""

    model_config = ConfigDict(extra="forbid", defer_build=True, frozen=True)


class Data(BaseModel):
    """What the API answers, for the OpenAPI document only: answers are rendered from plain dicts."""

    model_config = ConfigDict(extra="forbid", defer_build=True)
