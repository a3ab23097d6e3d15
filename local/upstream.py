"""Where an engine serves one of our APIs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Upstream:
    """An address, and the name by which the engine knows what is asked for."""

    url: str
    """Without a slash at its end."""
    host: str = ""
    """What stands in the header `Host`, where the engine finds the API by it; empty: the URL's own."""
