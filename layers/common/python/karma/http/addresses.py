"""The two addresses of a stage: the API's, and that of the stream, whose routes answer piece by piece.

Behind CloudFront both are one host, and it picks by these paths. Without it, or for who calls an origin itself, a path
of the one is not found at the other: the refusal says by which address it is served, by the name that a stage's outputs
give it (`api_url`, `stream_url`), and never by a host. A function's own host is not known to it where CloudFront or a
domain stands before it, must not be told to who came past these, and the `Host` of a request is its sender's word.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from karma.core.errors import NotFound

STREAM_PATHS: Final = (
    "/api/agent",
    "/api/v1/agent",
    "/api/chat",
    "/api/v1/chat",
    "/api/v1/llm/messages",
    "/api/v1/runs/*/events",
    "/api/v1/realtime/stream",
)
"""Paths of the stream's routes; `*` is one segment."""
_API_ALONE: Final = ("/docs", "/redoc")


class Address(StrEnum):
    """One of them, by the name that a stage's outputs give it."""

    API = "api_url"
    STREAM = "stream_url"


def no_route(path: str, *, at: Address) -> NotFound:
    """Return the refusal of a path that no route has; `details.served_at` names the other address where that has it."""
    other = address_of(path)
    if other is at or other is None:
        return NotFound("No such route")
    told = "the stream has it" if other is Address.STREAM else "the API has it, if any"
    return NotFound(f"No such route at this address: {told}, at its {other}", details={"served_at": other.value})


def address_of(path: str) -> Address | None:
    """Return the address at which a path is served, if any route has it; None: neither has such paths."""
    segments = path.split("/")
    if any(_is_like(segments, each.split("/")) for each in STREAM_PATHS):
        return Address.STREAM
    is_api_s = path.startswith(("/api/", "/docs/")) or path in _API_ALONE
    return Address.API if is_api_s else None


def _is_like(segments: list[str], pattern: list[str]) -> bool:
    return len(segments) == len(pattern) and all(
        each == known or (known == "*" and each != "") for each, known in zip(segments, pattern, strict=True)
    )
