"""Examples of the OpenAPI document for the live channel: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from karma.core.examples import TOKEN

FIELDS: Mapping[str, Any] = {
    "ticket": TOKEN,
    "TicketData.expires_in": 30,
    "TicketData.url": "wss://live.example.com/prod",
}
