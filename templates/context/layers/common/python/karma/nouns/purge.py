"""The step of nouns in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.core.purge import Step
from karma.nouns.repository import DynamoNounStore


def purge() -> Step:
    """Offer the removal of nouns and of the records of what made them."""
    return DynamoNounStore()
