"""Field types of bodies that name conversations."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from karma.conversations.domain import is_readable_id


def _readable(text: str) -> str:
    if not is_readable_id(text):
        raise ValueError("must be 1 to 128 printable ASCII characters without spaces and '#'")
    return text


ClientId = Annotated[
    str,
    Field(min_length=1, max_length=128, json_schema_extra={"pattern": r"^[!\x22$-~]{1,128}$"}),
    AfterValidator(_readable),
]
"""An id that a client may choose, of a thread or a message."""
