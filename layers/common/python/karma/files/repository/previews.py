"""Previews of listed files: what is made of them is noted once."""

from __future__ import annotations

from datetime import datetime

from karma.core.clock import iso
from karma.core.dynamo.access import update
from karma.files.domain import DeviceFile
from karma.files.previews import Previews, previews_to_json
from karma.files.repository.items import FileItem, listed_key


class PreviewRepository:
    """Conditional writes of previews in the `devices` table."""

    def previewed(self, file: DeviceFile, previews: Previews, *, now: datetime) -> None:
        """Note what was made of a listed file, whose preview is pending; its `version` stays, which is its owner's.

        Raises:
            ConditionFailed: it was noted before, or the file is not listed any more.
        """
        excerpt = [FileItem.excerpt.set(previews.excerpt)] if previews.excerpt else []
        update(
            FileItem(*listed_key(file.device_id, file.id)),
            [
                FileItem.previews.set(previews_to_json(previews)),
                FileItem.previews_pending.remove(),
                FileItem.updated_at.set(iso(now)),
                *excerpt,
            ],
            FileItem.previews_pending == True,  # noqa: E712
        )
