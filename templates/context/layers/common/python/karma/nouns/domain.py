"""Nouns: what a person keeps under a name, with a note."""

from __future__ import annotations

from karma.core.records import Record

from datetime import datetime
from typing import Final, NewType

from karma.core.errors import StaleVersion
from karma.core.ids import UserId

NounId = NewType("NounId", str)

MAX_NAME_CHARS: Final = 255
MAX_NOTE_CHARS: Final = 2_000


class NounChanged(StaleVersion):
    """Another request changed the noun between our reading of it and our write: read again."""


class Noun(Record, kw_only=True):
    """One noun; lengths are checked by schemas.py."""

    id: NounId
    user_id: UserId
    name: str
    note: str
    created_at: datetime
    updated_at: datetime
    version: int
