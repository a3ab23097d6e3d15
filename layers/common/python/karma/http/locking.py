"""Optimistic locking over HTTP: ETag on what is read, If-Match or `version` on what is changed.

If-Match is a list of entity tags (RFC 9110, 13.1.1). Ours are versions, so a tag of another form matches nothing, and
one that a compressing proxy has made weak still names the version: the object's, not the bytes'. Several versions of
ours are refused, since a change is meant for one. A route that would make what is not there takes `If-None-Match: *`
and `If-Match: *`, too. A changing route refuses the conditions that it does not take (karma.http.routing).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import Header

from karma.core.errors import StaleVersion, ValidationFailed

IfMatch = Annotated[str | None, Header(max_length=256)]
"""Type of a route's parameter, written as `if_match: IfMatch = None`. Changing routes without it refuse the header."""
IfNoneMatch = Annotated[str | None, Header(max_length=256)]
"""Type of a parameter `if_none_match: IfNoneMatch = None` of a route that makes what is not there."""
IF_MATCH = "if-match"
IF_NONE_MATCH = "if-none-match"

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
        ValidationFailed: If-Match is no list of entity tags, or names several versions, or another than the body.
    """
    if if_match is None or if_match.strip() == "*":
        return otherwise
    tags = _tags(if_match)
    versions = {int(tag) for tag in tags if _VERSION.fullmatch(tag)}
    if len(versions) > 1:
        raise ValidationFailed.of(IF_MATCH, "names several versions; a change is meant for one")
    if not versions:
        raise StaleVersion("If-Match names no version")
    version = versions.pop()
    if otherwise not in {None, version}:
        raise ValidationFailed.of(IF_MATCH, f"names version {version}, the body {otherwise}; a change is meant for one")
    return version


def expected_existence(if_match: str | None, if_none_match: str | None) -> bool | None:
    """Tell whether what a route may make or change has to be there: True by `If-Match: *`, False by `If-None-Match: *`.

    None: either is fine.

    Raises:
        ValidationFailed: If-None-Match is not `*`, or stands beside If-Match.
    """
    if if_none_match is None:
        return True if if_match is not None and if_match.strip() == "*" else None
    if if_none_match.strip() != "*":
        raise ValidationFailed.of(IF_NONE_MATCH, "must be *: nothing is changed, only made where there is none")
    if if_match is not None:
        raise ValidationFailed.of(IF_NONE_MATCH, "contradicts If-Match: only one of them can hold")
    return False


def _tags(text: str) -> list[str]:
    """Return the opaque parts of a list of entity tags; a bare number, which some clients send, is one."""
    tags: list[str] = []
    start = _end(_BETWEEN, text, 0)
    while start < len(text):
        found = _TAG.match(text, start)
        end = _end(_BETWEEN, text, found.end()) if found else start
        if found is None or (end < len(text) and "," not in text[found.end() : end]):
            raise ValidationFailed.of(IF_MATCH, 'must be entity tags such as "3", or *')
        tags.append(found[2] if found[1] is None else found[1])
        start = end
    if not tags:
        raise ValidationFailed.of(IF_MATCH, 'must be entity tags such as "3", or *')
    return tags


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start
