"""Address of one of our APIs at an engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Upstream:
    """A URL, and the host by which the engine finds the API."""

    url: str
    """URL without a slash at its end."""
    host: str = ""
    """Value of the header `Host`, when the engine finds the API by it; empty: the URL's host."""
