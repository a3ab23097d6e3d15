"""Verifying a stored file: one read of its bytes decides whether it is listed or rejected."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import orjson

from karma.core.clock import Clock
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import NotFound
from karma.core.ids import DeviceId, FileId, is_id
from karma.core.observability import count
from karma.files.domain import DeviceFile, Digests, FileStatus, Rejection, extension_of
from karma.files.entries import TRIES
from karma.files.media import HEAD_BYTES, mime_type_of
from karma.files.ports import ObjectGone, ObjectStore
from karma.files.removal import finish_removal
from karma.files.repository.files import FileRepository
from karma.files.uploads import GRACE


class NotAMessage(ValueError):
    """A body of a message that no function of ours has sent."""


def read_message(body: str) -> tuple[DeviceId, FileId]:
    """Read a message that `uploads.message` made.

    Raises:
        NotAMessage: the body is something else.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise NotAMessage("not JSON") from exc
    match found:
        case {"device_id": str(device_id), "file_id": str(file_id)} if is_id(device_id) and is_id(file_id):
            return DeviceId(device_id), FileId(file_id)
    raise NotAMessage("names no file")


class UploadVerifier:
    """Lists or rejects files whose uploads are complete."""

    def __init__(self, files: FileRepository, store: ObjectStore, clock: Clock) -> None:
        self._files = files
        self._store = store
        self._clock = clock

    def verify(self, device_id: DeviceId, file_id: FileId) -> str:
        """Read a file's bytes once, then list it, or reject it and remove them; return what was done.

        May be repeated, and may run beside itself: the first to write decides. The object of a file that was already
        rejected is removed.

        Raises:
            Upstream: the store or the database did not answer.
        """
        file = self._files.unlisted(device_id, file_id)
        if file is None:
            return "not waiting"
        if file.status is FileStatus.VERIFYING:
            return self._decide(file)
        if file.status in (FileStatus.REJECTED, FileStatus.DELETING):
            return self._remove(file)
        return "not complete"

    def _remove(self, file: DeviceFile) -> str:
        try:
            finish_removal(self._files, self._store, file, now=self._clock.now())
        except ConditionFailed:
            # Its owner deletes a rejected one, or a sweep was quicker.
            return "removed by another"
        return "removed"

    def _decide(self, file: DeviceFile) -> str:
        try:
            found = digest(self._store.read(file.device_id, file.id), extension=extension_of(file.name))
            reason = file.rejection_of(found)
        except ObjectGone:
            found, reason = None, Rejection.LOST
        for _ in range(TRIES):
            try:
                return self._write(file, found, reason)
            except ConditionFailed:
                # Another has decided, or the directory that it is in was moved.
                current = self._files.unlisted(file.device_id, file.id)
                if current is None or current.status is not FileStatus.VERIFYING or current.path == file.path:
                    break
                file = current
            except NotFound:
                # The device is being deleted; its sweep removes rows and objects.
                return "device gone"
        return "decided by another"

    def _write(self, file: DeviceFile, found: Digests | None, reason: Rejection | None) -> str:
        if found is not None and reason is None:
            self._files.publish(file, found, now=self._clock.now())
            count("FileReady")
            return "ready"
        reject(self._files, self._store, file, reason or Rejection.LOST, clock=self._clock)
        return "rejected"


def reject(files: FileRepository, store: ObjectStore, file: DeviceFile, reason: Rejection, *, clock: Clock) -> None:
    """Mark a file as rejected, then remove its object.

    Raises:
        ConditionFailed: the file's state has changed.
        Upstream: the store or the database did not answer.
    """
    now = clock.now()
    files.reject(file, reason, now=now, due=now + GRACE)
    count("FileRejected", reason=reason)
    finish_removal(files, store, replace(file, status=FileStatus.REJECTED), now=now)


def digest(chunks: Iterable[bytes], *, extension: str | None) -> Digests:
    """Read a stream once and compute its size, digests and MIME type."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    size, head = 0, b""
    for chunk in chunks:
        sha256.update(chunk)
        md5.update(chunk)
        size += len(chunk)
        if len(head) < HEAD_BYTES:
            head += chunk[: HEAD_BYTES - len(head)]
    return Digests(size, sha256.hexdigest(), md5.hexdigest(), mime_type_of(head, extension))
