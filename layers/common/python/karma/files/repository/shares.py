"""Links to files: `SHARE#<file>#<share>` in their device's partition, removed with it, or when they have ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from karma.core.dynamo.access import delete, get, query, update
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyCreated, NotFound
from karma.core.ids import DeviceId, FileId, UserId
from karma.core.requests import RepeatableRequest
from karma.devices.transactional import require_device
from karma.files.domain import FileShare, ShareId
from karma.files.repository.items import (
    FileItem,
    FileRequestItem,
    FileShareItem,
    files_pk,
    listed_key,
    share_key,
    shares_prefix,
)

_MOST_READ = 200


class ShareRepository:
    """Reads and conditional writes of links in the `devices` table."""

    def add(self, share: FileShare, *, request: RepeatableRequest | None = None) -> None:
        """Write a new link of a listed file, once for each `request`.

        Raises:
            AlreadyCreated: this request made a link within the last 25 hours; `details.id` names it.
            IdempotencyKeyReused: the request that made it asked for another one.
            NotFound: the file is not listed any more, or its device does not exist.
        """
        gone = NotFound(f"File {share.file_id} not found")
        tx = Transaction()
        require_device(tx, share.user_id, share.device_id)
        tx.check(FileItem, listed_key(share.device_id, share.file_id), FileItem.pk.exists(), on_fail=gone)
        item = FileShareItem(
            *share_key(share.device_id, share.file_id, share.id),
            share_id=share.id,
            file_id=share.file_id,
            device_id=share.device_id,
            user_id=share.user_id,
            secret_hash=share.secret_hash,
            downloads=0,
            max_downloads=share.max_downloads,
            created_at=share.created_at,
            expires_at=int(share.expires_at.timestamp()),
        )
        tx.put(item)
        record = request_key(files_pk(share.device_id), request) if request is not None else None
        if request is not None and record is not None:
            repeated = AlreadyCreated("This request was carried out; its link was shown once")
            note_request(tx, FileRequestItem(*record), request, share.id, repeated=repeated)
        try:
            tx.commit()
        except AlreadyCreated as exc:
            made = noted(FileRequestItem, record, request) if request is not None and record is not None else None
            exc.details = {"id": made} if made else None
            raise

    def of_file(self, device_id: DeviceId, file_id: FileId) -> Sequence[FileShare]:
        """Read the links of a file, newest first, also those that have ended: one strongly consistent query."""
        pk, prefix = share_key(device_id, file_id, "").pk, shares_prefix(file_id)
        begins = FileShareItem.sk.startswith(prefix)
        page = query(FileShareItem, pk, begins, limit=_MOST_READ, forward=False, consistent=True)
        return [_share_of(item) for item in page.items]

    def find(self, device_id: DeviceId, file_id: FileId, share_id: ShareId) -> FileShare | None:
        """Read a link, strongly consistent; None: it was revoked, or never was."""
        item = get(FileShareItem, share_key(device_id, file_id, share_id), consistent=True)
        return _share_of(item) if item is not None else None

    def opened(self, share: FileShare, *, now: datetime) -> None:
        """Count a download.

        Raises:
            ConditionFailed: the link has ended, was revoked, or was used as often as it may be.
        """
        room = FileShareItem.expires_at > int(now.timestamp())
        if share.max_downloads is not None:
            room &= FileShareItem.downloads < share.max_downloads
        key = share_key(share.device_id, share.file_id, share.id)
        update(FileShareItem(*key), [FileShareItem.downloads.add(1)], room)

    def remove(self, device_id: DeviceId, file_id: FileId, share_id: ShareId) -> None:
        """Remove a link.

        Raises:
            ConditionFailed: there is none.
        """
        delete(FileShareItem(*share_key(device_id, file_id, share_id)), FileShareItem.pk.exists())


def _share_of(item: FileShareItem) -> FileShare:
    return FileShare(
        id=ShareId(item.share_id),
        file_id=FileId(item.file_id),
        device_id=DeviceId(item.device_id),
        user_id=UserId(item.user_id),
        secret_hash=item.secret_hash,
        expires_at=datetime.fromtimestamp(int(item.expires_at or 0), UTC),
        created_at=item.created_at or "",
        downloads=int(item.downloads),
        max_downloads=int(item.max_downloads) if item.max_downloads else None,
    )
