"""The step of avatars in the deletion of an account: functions/background/deletion.py."""

from __future__ import annotations

from karma.avatars.repository import AvatarRepository
from karma.core.purge import PurgeStep


def purge() -> PurgeStep:
    """Return the step that deletes an account's counter and request records of avatars."""
    return AvatarRepository()
