"""Which web pages may call the local environment: those of this machine, whatever port a development server chose."""

from __future__ import annotations

import re
from collections.abc import Collection

from infra.config import LOCAL_ORIGINS, LOOPBACK_ORIGINS

KNOWN_ORIGIN = LOCAL_ORIGINS[0]
"""An origin that the deployed CORS settings allow by name."""
_ANY_PORT = ":*"


def is_allowed(origin: str, allowed: Collection[str]) -> bool:
    """Tell whether an origin is among those allowed; one that ends in `:*` stands for every port, and for none."""
    if "*" in origin:
        return False
    if origin in allowed:
        return True
    without_port = re.sub(r":[0-9]{1,5}\Z", "", origin)
    return without_port + _ANY_PORT in allowed


def is_loopback(origin: str) -> bool:
    """Tell whether an origin is a page that this machine itself serves."""
    return is_allowed(origin, LOOPBACK_ORIGINS)
