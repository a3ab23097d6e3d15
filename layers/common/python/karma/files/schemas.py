"""Bodies of the file routes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from karma.core.schemas import Body, FreeForm, Moment, Version, Whole, json_of_at_most, left_out
from karma.core.wording import form
from karma.files.domain import (
    LABEL_PATTERN,
    LABEL_WORDS,
    MAX_FILE_BYTES,
    MAX_LABEL_CHARS,
    MAX_OBJECT_BYTES,
    MAX_PARTS_A_REQUEST,
    NAME_PATTERN,
    PATH_PATTERN,
    ROOT,
    child_of,
    clean_name,
    clean_path,
    new_name,
    new_path,
    split_path,
)

_MAX_TEXT = 4096
_PART_NUMBERS = 10_000
_LABEL = form(LABEL_PATTERN, LABEL_WORDS)
_SHA256 = form(r"^[0-9A-Fa-f]{64}$", "must be a SHA-256 in hexadecimal: 64 digits")


def _sha256_base64(text: str) -> str:
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError("a SHA-256 in base64") from exc
    if len(digest) != 32:
        raise ValueError("a SHA-256 in base64")
    return text


def _distinct(numbers: list[int]) -> list[int]:
    if len(set(numbers)) != len(numbers):
        raise ValueError("each part once")
    return numbers


Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=_MAX_TEXT),
    AfterValidator(new_name),
    Field(json_schema_extra={"pattern": NAME_PATTERN}),
]
Path = Annotated[
    str,
    StringConstraints(max_length=_MAX_TEXT),
    AfterValidator(new_path),
    Field(json_schema_extra={"pattern": PATH_PATTERN}),
]
Label = Annotated[str, StringConstraints(max_length=MAX_LABEL_CHARS, pattern=_LABEL)]
Object = Annotated[FreeForm, json_of_at_most(MAX_OBJECT_BYTES)]
PartNumber = Annotated[Whole, Field(ge=1, le=_PART_NUMBERS)]
PartKey = Annotated[int, Field(ge=1, le=_PART_NUMBERS)]
"""Number of a part as a member's name in JSON."""


class CreateFileRequest(Body):
    """A file that will be uploaded in parts."""

    name: Name
    path: Path = ROOT
    """Path of the directory that will hold it; missing ones are made."""
    size: Annotated[Whole, Field(ge=0, le=MAX_FILE_BYTES)]
    """Bytes."""
    type: Label | None = None
    """Kind of file; guessed from the name when absent."""
    category: Label = "other"
    sha256: Annotated[str, StringConstraints(to_lower=True, pattern=_SHA256)] | None = None
    """Of the whole file, in hexadecimal: a file with other bytes is rejected."""
    metadata: Object = Field(default_factory=dict)
    permissions: Object = Field(default_factory=dict)


class PartsRequest(Body):
    """Parts that will be sent within 15 minutes."""

    part_numbers: Annotated[
        list[PartNumber], Field(min_length=1, max_length=MAX_PARTS_A_REQUEST), AfterValidator(_distinct)
    ]
    checksums: (
        dict[PartKey, Annotated[str, StringConstraints(max_length=64), AfterValidator(_sha256_base64)]] | None
    ) = None
    """SHA-256 of each part, in base64, by part number; for all parts of a file or for none."""


class ChangeFileRequest(Body):
    """Changes of a listed file by its owner; absent fields stay as they are."""

    name: Name = left_out()
    path: Path = left_out()
    type: Label = left_out()
    category: Label = left_out()
    metadata: Object = left_out()
    permissions: Object = left_out()
    version: Version | None = None


class CreateDirectoryRequest(Body):
    """A directory; without `name` the last segment of `path` is its name."""

    path: Path = ROOT
    name: Name | None = None

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return what is wrong with path and name together: the root needs no making, and both make one path."""
        path, name = given.get("path", ROOT), given.get("name")
        # Composing takes time by the square of the marks on one letter, and the lengths were not checked yet.
        if any(isinstance(each, str) and len(each) > _MAX_TEXT for each in (path, name)):
            return ()
        try:
            path, name = clean_path(path), None if name is None else clean_name(name)
        except (TypeError, ValueError):
            return ()
        if name is None:
            is_root = path == ROOT
            return [("name", "the root exists; give a name, or a path of at least one segment")] if is_root else ()
        try:
            clean_path(child_of(path, name))  # its own path is the one that its entries will have
        except ValueError as exc:
            return [("path", f"with the name: {exc}")]
        return ()

    def place(self) -> tuple[str, str]:
        """Return the directory's own path and name."""
        return (self.path, self.name) if self.name is not None else split_path(self.path)


class MoveDirectoryRequest(Body):
    """The new place of a directory: another path, another name, or both."""

    path: Path | None = None
    """Path of the directory that will hold it, whose missing parts are made; its own one when absent."""
    name: Name | None = None
    """Its new name; the one that it has when absent."""
    version: Version | None = None

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return what is wrong when neither is given."""
        return [("path", "give path, name or both")] if given.get("path") is given.get("name") is None else ()


class ShareRequest(Body):
    """A link to a file."""

    expires_at: Moment | None = None
    """End of the link, at most 30 days from now; a week from now when absent."""
    max_downloads: Annotated[Whole, Field(ge=1, le=1_000_000)] | None = None
