"""Removes the attachments that nothing names since a thread was deleted."""

from __future__ import annotations

from typing import Protocol

from karma.conversations.attachments import attachments_within
from karma.conversations.domain import ThreadKey
from karma.conversations.reading import pieces_of
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from karma.runs.attachment_repository import AttachmentRepository


class StoredAttachments(Protocol):
    """The store of attachments; integrations.s3.S3Attachments implements it."""

    def remove(self, user_id: UserId, attachment_id: str) -> None:
        """Remove an attachment; an absent one counts as removed."""
        ...


class AttachmentsRemoval:
    """Removes attachments of deleted threads."""

    def __init__(self, items: AttachmentRepository, store: StoredAttachments) -> None:
        self._items = items
        self._store = store

    def release(self, thread: ThreadKey, purge: PurgeAttempt) -> bool:
        """Release what a thread's messages name, before these are deleted; False when the time of `purge` ended."""
        for attachment_id in attachments_within(pieces_of(thread)):
            if purge.over():
                return False
            self._items.release(thread, attachment_id)
        return True

    def remove(self, thread: ThreadKey, purge: PurgeAttempt) -> bool:
        """Remove what nothing has named since; False when the time of `purge` ended before.

        Called when no process of the deletion's moment can store bytes any more.
        """
        for each in self._items.released(thread):
            if purge.over():
                return False
            if self._items.begin_removal(each):
                self._store.remove(each.user_id, each.id)
                self._items.finish_removal(each)
        return True
