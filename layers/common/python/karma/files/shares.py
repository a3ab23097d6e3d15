"""Links by which whoever has one downloads a file, until it ends, is revoked or was used as often as it may be.

    link = <device><file><share><secret>      in base64url: it says where its record is; the secret proves it

Only the hash of the secret is stored. A link belongs to the file, so it follows the file when that is renamed or moved,
and opens nothing once the file, its device or its owner's right to the device has gone, or while its owner is disabled.
What it gives is a URL of the store that downloads an attachment: nothing that somebody uploaded is ever shown as a page
of ours.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from karma.core.clock import Clock, iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyCreated, Conflict, InvalidTransition, NotFound, ValidationFailed
from karma.core.ids import DeviceId, FileId, UserId, is_id, new_id
from karma.core.observability import count
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, no_longer, repeatable
from karma.files.domain import DeviceFile, FileShare, FileStatus, ShareId
from karma.files.entries import Entries
from karma.files.media import BINARY
from karma.files.ports import FileOwners, ObjectStore
from karma.files.repository.shares import ShareRepository

DEFAULT_TIME: Final = timedelta(days=7)
MAX_TIME: Final = timedelta(days=30)
"""Longest life of a link."""
MAX_SHARES: Final = 20
"""Links that a file has at once, before which others must end; requests at the same moment may make some more."""
_SECRET_BYTES: Final = 24
_TOKEN_BYTES: Final = 3 * 16 + _SECRET_BYTES


class MadeShare(Record):
    """A link that was just made; `token` is shown this once."""

    share: FileShare
    token: str


class ShareService:
    """Makes, lists, opens and revokes links."""

    def __init__(
        self, shares: ShareRepository, entries: Entries, owners: FileOwners, store: ObjectStore, clock: Clock
    ) -> None:
        self._shares = shares
        self._entries = entries
        self._owners = owners
        self._store = store
        self._clock = clock

    def create(
        self,
        user_id: UserId,
        device_id: str,
        file_id: str,
        *,
        expires_at: datetime | None,
        max_downloads: int | None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> MadeShare:
        """Make a link to a ready file, once for each `idempotency_key`; it ends at `expires_at`, or after a week.

        Raises:
            AlreadyCreated: this request made a link before.
            Gone: this request made a link, which was revoked or has ended.
            NotFound: the file does not exist or has another owner.
            InvalidTransition: the file is not ready, or is a directory.
            ValidationFailed: `expires_at` has passed, or is more than 30 days away.
            Conflict: TOO_MANY_OBJECTS, the file has `MAX_SHARES` links.
        """
        file = self._entries.get(user_id, device_id, file_id)
        if file.is_directory or file.status is not FileStatus.READY:
            state = "a directory" if file.is_directory else file.status
            raise InvalidTransition(f"File {file_id} is {state}; only a ready file can be shared")
        now = self._clock.now()
        ends = expires_at or now + DEFAULT_TIME
        if not now < ends <= now + MAX_TIME:
            raise ValidationFailed.of("expires_at", f"must be within the next {MAX_TIME.days} days")
        if len(self.list(user_id, device_id, file_id)) >= MAX_SHARES:
            raise Conflict(
                f"A file has at most {MAX_SHARES} links; revoke one first",
                code="TOO_MANY_OBJECTS",
                details={"kind": "share", "limit": MAX_SHARES},
            )
        secret = secrets.token_bytes(_SECRET_BYTES)
        share = FileShare(
            id=ShareId(new_id()),
            file_id=file.id,
            device_id=file.device_id,
            user_id=file.user_id,
            secret_hash=_hash(secret),
            expires_at=ends,
            created_at=iso(now),
            max_downloads=max_downloads,
        )
        request = repeatable(idempotency_key, file.id, expires_at, max_downloads, at=now)
        try:
            self._shares.add(share, request=request)
        except AlreadyCreated as exc:
            made = str(exc.details.get("id") or "") if isinstance(exc.details, Mapping) else ""
            try:
                self.require_made(user_id, device_id, file_id, made)
            except NotFound:
                raise no_longer(made) from None
            raise
        count("FileShared")
        return MadeShare(share, _token(share, secret))

    def list(self, user_id: UserId, device_id: str, file_id: str) -> Sequence[FileShare]:
        """Return the links of a file that have not ended, newest first.

        Raises:
            NotFound: the file does not exist or has another owner.
        """
        file = self._entries.get(user_id, device_id, file_id)
        now = self._clock.now()
        return [share for share in self._shares.of_file(file.device_id, file.id) if now < share.expires_at]

    def require_made(self, user_id: UserId, device_id: str, file_id: str, share_id: str) -> None:
        """Require that a link was not revoked and has not ended.

        Raises:
            NotFound: it was, or its file does not exist or has another owner.
        """
        if all(share.id != share_id for share in self.list(user_id, device_id, file_id)):
            raise NotFound(f"Share {share_id} not found")

    def revoke(self, user_id: UserId, device_id: str, file_id: str, share_id: str) -> None:
        """End a link at once; a URL that it gave before works for up to 15 minutes.

        Raises:
            NotFound: the file or the link does not exist, or has another owner.
        """
        file = self._entries.get(user_id, device_id, file_id)
        try:
            if not is_id(share_id):
                raise ConditionFailed
            self._shares.remove(file.device_id, file.id, ShareId(share_id))
        except ConditionFailed:
            raise NotFound(f"Share {share_id} not found") from None

    def open(self, token: str) -> str:
        """Count a download, and sign a URL for it.

        Raises:
            NotFound: the link is none, has ended, was revoked or used up, its file has gone, or its owner is
                disabled: all alike.
        """
        share = self._proven(token)
        try:
            file = self._ready(share)
            self._shares.opened(share, now=self._clock.now())
        except (NotFound, ConditionFailed):
            raise _no_link() from None
        count("FileShareOpened")
        return self._store.download_url(file.device_id, file.id, filename=file.name, mime_type=file.mime_type or BINARY)

    def look(self, token: str) -> None:
        """Require that a link opens a file, without counting a download; consistent up to downloads at this moment.

        Raises:
            NotFound: as `open`.
        """
        share = self._proven(token)
        is_used_up = share.max_downloads is not None and share.downloads >= share.max_downloads
        if is_used_up or share.expires_at <= self._clock.now():
            raise _no_link()
        try:
            self._ready(share)
        except NotFound:
            raise _no_link() from None

    def _proven(self, token: str) -> FileShare:
        place = _read(token)
        share = self._shares.find(*place[:3]) if place else None
        if share is None or place is None or not hmac.compare_digest(share.secret_hash, place[3]):
            raise _no_link()
        return share

    def _ready(self, share: FileShare) -> DeviceFile:
        owner = self._owners.read_user(share.user_id)
        if owner is None or owner.disabled_at is not None:
            raise _no_link()
        file = self._entries.get(share.user_id, share.device_id, share.file_id)
        if file.status is not FileStatus.READY:
            raise _no_link()
        return file


def _no_link() -> NotFound:
    return NotFound("This link does not exist, or has ended")


def _token(share: FileShare, secret: bytes) -> str:
    ids = b"".join(UUID(each).bytes for each in (share.device_id, share.file_id, share.id))
    return base64.urlsafe_b64encode(ids + secret).decode().rstrip("=")


def _read(token: str) -> tuple[DeviceId, FileId, ShareId, str] | None:
    """Return where a link's record is, and the hash of its secret; None: it is no link."""
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    if len(raw) != _TOKEN_BYTES:
        return None
    device_id, file_id, share_id = (str(UUID(bytes=raw[at : at + 16])) for at in (0, 16, 32))
    return DeviceId(device_id), FileId(file_id), ShareId(share_id), _hash(raw[48:])


def _hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()
