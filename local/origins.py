"""Decides which web pages may call the local environment: those of this machine, on any port."""

from __future__ import annotations

import re
from collections.abc import Collection

from infra.config import LOCAL_ORIGINS, LOOPBACK_ORIGINS

KNOWN_ORIGIN = LOCAL_ORIGINS[0]
"""An origin that the deployed CORS settings allow by name."""


def is_allowed(origin: str, allowed: Collection[str]) -> bool:
    """Tell whether an origin is one of those allowed; an allowed one that ends in `:*` stands for every port."""
    return "*" not in origin and (origin in allowed or re.sub(r":[0-9]{1,5}\Z", ":*", origin) in allowed)


def is_loopback(origin: str) -> bool:
    """Tell whether an origin is a page that this machine itself serves."""
    return is_allowed(origin, LOOPBACK_ORIGINS)
