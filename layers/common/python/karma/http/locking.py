"""Optimistic locking over HTTP: ETag on what is read, If-Match or `version` on what is changed.

If-Match is a list of entity tags (RFC 9110, 13.1.1). Ours are versions, so a tag of another form matches nothing, and
one that a compressing proxy has made weak still names the version: the object's, not the bytes'. Several versions of
ours are refused, since a change is meant for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import Header

from karma.core.errors import StaleVersion, ValidationFailed

IfMatch = Annotated[str | None, Header(max_length=256)]
"""Type of a route's parameter, written as `if_match: IfMatch = None`. Changing routes without it refuse the header."""
IF_MATCH = "if-match"

_TAG = re.compile(r"""(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"|([0-9]{1,18})""")
_BETWEEN = re.compile(r"[ \t]*(?:,[ \t]*)*")
_VERSION = re.compile(r"[0-9]{1,18}")


def etag(version: int) -> Mapping[str, str]:
    """Return the ETag header of a version."""
    return {"ETag": f'"{version}"'}


def expected_version(if_match: str | None, otherwise: int | None = None) -> int | None:
    """Return the version that a change is meant for: If-Match, else the body's; None: any.

    Raises:
        StaleVersion: If-Match names no version of ours.
        ValidationFailed: If-Match is no list of entity tags, or names several versions.
    """
    if if_match is None or if_match.strip() == "*":
        return otherwise
    tags = _tags(if_match)
    versions = {int(tag) for tag in tags if _VERSION.fullmatch(tag)}
    if len(versions) > 1:
        raise ValidationFailed.of("If-Match", "names several versions; a change is meant for one")
    if not versions:
        raise StaleVersion("If-Match names no version")
    return versions.pop()


def _tags(text: str) -> list[str]:
    """Return the opaque parts of a list of entity tags; a bare number, which some clients send, is one."""
    tags: list[str] = []
    start = _end(_BETWEEN, text, 0)
    while start < len(text):
        found = _TAG.match(text, start)
        end = _end(_BETWEEN, text, found.end()) if found else start
        if found is None or (end < len(text) and "," not in text[found.end() : end]):
            raise ValidationFailed.of("If-Match", 'must be entity tags such as "3", or *')
        tags.append(found[2] if found[1] is None else found[1])
        start = end
    if not tags:
        raise ValidationFailed.of("If-Match", 'must be entity tags such as "3", or *')
    return tags


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start
