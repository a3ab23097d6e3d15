"""Examples of the OpenAPI document for nouns: see karma/core/examples.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NOUN = "01994b9c-4f70-7e6b-89a0-2b3c4d5e6f70"

FIELDS: Mapping[str, Any] = {
    "noun_id": _NOUN,
    "NounView.id": _NOUN,
    **dict.fromkeys(("NounView.name", "CreateNounBody.name", "ChangeNounBody.name"), "First"),
    **dict.fromkeys(("NounView.note", "CreateNounBody.note", "ChangeNounBody.note"), "By the door"),
}
