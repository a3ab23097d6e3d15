"""Reads single members of a request's body, and collects what is wrong about them."""

from __future__ import annotations

from dataclasses import dataclass, field

from karma.conversations.domain import is_readable_id
from karma.core.errors import MAX_FOUND

MAX_TEXT_CHARS = 256 * 1024
"""Characters of instructions, context, errors and descriptions of tools."""


def problem(name: str, message: str) -> dict[str, str]:
    """Make one entry of a 422's details."""
    return {"field": name, "message": message, "type": "value_error"}


@dataclass
class FieldReader:
    """Checks values by their members' names."""

    errors: list[dict[str, str]] = field(default_factory=list, kw_only=True)
    """Details of the 422 that refuses the request, up to a number."""

    def wrong(self, name: str, message: str) -> None:
        """Record an error."""
        if len(self.errors) < MAX_FOUND:
            self.errors.append(problem(name, message))

    def is_id(self, name: str, value: object) -> bool:
        """Tell whether a value is an id that clients may use; record an error if it is not."""
        if isinstance(value, str) and is_readable_id(value):
            return True
        self.wrong(name, "must be 1 to 128 printable ASCII characters without spaces and '#'")
        return False

    def text(self, value: object, name: str) -> str:
        """Return a value that is a text and not too long; record an error and return "" for any other."""
        if isinstance(value, str) and len(value) <= MAX_TEXT_CHARS:
            return value
        self.wrong(name, f"must be a string of at most {MAX_TEXT_CHARS} characters")
        return ""
