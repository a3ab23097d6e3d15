"""Optimistic locking over HTTP: ETag on what is read, If-Match or `version` on what is changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import Header

from karma.core.errors import StaleVersion

IfMatch = Annotated[str | None, Header(max_length=64)]
"""Written as `if_match: IfMatch = None`."""

_ETAG = re.compile(r'(?:W/)?"([0-9]{1,18})"|([0-9]{1,18})')


def etag(version: int) -> Mapping[str, str]:
    """Make the header that names a version."""
    return {"ETag": f'"{version}"'}


def expected_version(if_match: str | None, otherwise: int | None = None) -> int | None:
    """Return the version that a change is meant for: If-Match, else the body's; None is any.

    Raises:
        StaleVersion: If-Match is not one that any ETag of ours had.
    """
    if if_match is None or if_match.strip() == "*":
        return otherwise
    named = _ETAG.fullmatch(if_match.strip())
    if named is None:
        raise StaleVersion("If-Match names no version")
    return int(named[1] or named[2])
