"""Optimistic locking over HTTP: ETag on what is read, If-Match or `version` on what is changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from fastapi import Header

from karma.core.errors import StaleVersion

IfMatch = Annotated[str | None, Header(max_length=64)]
"""Type of a route's parameter, written as `if_match: IfMatch = None`."""

_ETAG = re.compile(r'(?:W/)?"([0-9]{1,18})"|([0-9]{1,18})')


def etag(version: int) -> Mapping[str, str]:
    """Return the ETag header of a version."""
    return {"ETag": f'"{version}"'}


def expected_version(if_match: str | None, otherwise: int | None = None) -> int | None:
    """Return the version that a change is meant for: If-Match, else the body's; None: any.

    Raises:
        StaleVersion: If-Match is no ETag of ours.
    """
    if if_match is None or if_match.strip() == "*":
        return otherwise
    named = _ETAG.fullmatch(if_match.strip())
    if named is None:
        raise StaleVersion("If-Match names no version")
    return int(named[1] or named[2])
