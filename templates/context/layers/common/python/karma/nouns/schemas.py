"""Bodies of the noun routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import StringConstraints

from karma.core.schemas import Body, Version, left_out, line
from karma.nouns.domain import MAX_NAME_CHARS, MAX_NOTE_CHARS

Name = Annotated[str, line(MAX_NAME_CHARS)]
Note = Annotated[str, StringConstraints(max_length=MAX_NOTE_CHARS)]


class CreateNounBody(Body):
    """A new noun of the caller's."""

    name: Name
    note: Note = ""


class ChangeNounBody(Body):
    """Changes of a noun; a member that is left out stays as it is."""

    name: Name = left_out()
    note: Note = left_out()
    version: Version | None = None

    def changes(self) -> Mapping[str, Any]:
        """Return what the body says, in the domain's words."""
        return {name: getattr(self, name) for name in self.model_fields_set - {"version"}}
