"""The step of search in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import PurgeStep
from karma.search.repository import SearchRepository


def purge() -> PurgeStep:
    """Return the step that deletes an account's rows."""
    return SearchRepository()
