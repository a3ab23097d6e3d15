"""The step of nouns in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import PurgeStep
from karma.nouns.repository import NounRepository


def purge() -> PurgeStep:
    """Return the step that deletes an account's nouns, and the records of the requests that created them."""
    return NounRepository()
