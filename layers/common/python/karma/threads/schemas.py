"""Bodies of the thread routes."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from karma.conversations.domain import MAX_TITLE_CHARS, is_readable_id
from karma.core.schemas import Body, Version, left_out, line


def _readable(text: str) -> str:
    if not is_readable_id(text):
        raise ValueError("must be 1 to 128 printable ASCII characters without spaces and '#'")
    return text


Title = Annotated[str, line(MAX_TITLE_CHARS)]
ClientId = Annotated[
    str,
    Field(min_length=1, max_length=128, json_schema_extra={"pattern": r"^[!-\"$-~]{1,128}$"}),
    AfterValidator(_readable),
]


class CreateThreadBody(Body):
    """`POST /threads`."""

    title: Title
    id: ClientId | None = None
    """Id that the client chooses, as `threadId` of a run: 1 to 128 printable ASCII characters, no space and no `#`."""


class ChangeThreadBody(Body):
    """`PATCH /threads/{name}`."""

    title: Title
    version: Version = left_out()
