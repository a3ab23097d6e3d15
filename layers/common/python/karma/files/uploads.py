"""Uploading a file: its name is reserved, its parts go straight to the store, then it is verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from datetime import timedelta
from typing import Any

import orjson

from karma.billing.allowances import Allowance, Metric
from karma.core.clock import Clock, epoch_ms, iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.errors import AlreadyExists, Conflict, InvalidTransition, Upstream, ValidationFailed
from karma.core.ids import DeviceId, FileId, UserId, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, RepeatableRequest, no_longer, repeatable
from karma.files.domain import UPLOAD_TIME, URL_TIME, DeviceFile, FileStatus
from karma.files.entries import Entries
from karma.files.marks import TreeMarks
from karma.files.media import type_of
from karma.files.ports import Devices, ObjectStore, Queue, StoredPart, UploadGone
from karma.files.repository.files import FileRepository

GRACE = timedelta(minutes=2)
"""Time before a sweep finishes what a request has begun."""


class NewFile(Record, kw_only=True):
    """A new file as its owner declares it; validated by schemas.CreateFileRequest."""

    name: str
    path: str
    size: int
    type: str | None = None
    category: str = "other"
    sha256: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    permissions: Mapping[str, Any] = field(default_factory=dict)


class PartUrl(Record):
    """URL of one part: takes a PUT of exactly `size` bytes with exactly these headers."""

    number: int
    size: int
    url: str
    headers: Mapping[str, str]


class PartsLeft(Record):
    """Parts of an upload that have not arrived: URLs of the first of them, and the number of all."""

    urls: Sequence[PartUrl]
    missing: int


class UploadService:
    """Use cases of an owner with files that are being uploaded."""

    def __init__(self, files: FileRepository, store: ObjectStore, devices: Devices, queue: Queue, clock: Clock) -> None:
        self._files = files
        self._store = store
        self._devices = devices
        self._queue = queue
        self._clock = clock
        self._entries = Entries(files, devices, clock)

    def create(
        self,
        user_id: UserId,
        device_id: str,
        new: NewFile,
        *,
        allowance: Allowance,
        idempotency_key: IdempotencyKey | None = None,
        by_device: bool = False,
    ) -> DeviceFile:
        """Begin an upload: reserve the name and the bytes, and make missing directories above it.

        Args:
            user_id: owner.
            device_id: the device.
            new: the file as its owner declares it.
            allowance: of the owner's plan, from which the declared size is reserved.
            idempotency_key: a repeat for the same device returns the file of the first one.
            by_device: the device asks, not its owner. An unfinished upload of its own then makes room: the new one
                takes the name in the same step in which that one ends.

        Raises:
            NotFound: the device does not exist or has another owner.
            AlreadyExists: the directory has an entry of this name; `details.id` names it.
            AlreadyCreated: the first request's file was deleted meanwhile.
            IdempotencyKeyReused: the first request asked for another file.
            QuotaExceeded: the owner's plan has no room for so many bytes.
            TreeBusy: the place is in a directory that is being moved or deleted.
        """
        owned = self._devices.require(user_id, device_id)
        now = self._clock.now()
        file = replace(self._new(user_id, owned, new), is_by_device=by_device)
        request = repeatable(idempotency_key, new, at=now)
        room, due = allowance.reserve(Metric.STORAGE, new.size), now + UPLOAD_TIME
        replaced: list[DeviceFile] = []

        def add(above: list[DeviceFile], marks: TreeMarks) -> None:
            try:
                self._files.add(file, reservation=room, directories=above, due=due, request=request, seen=marks.version)
            except AlreadyExists:
                held = self._unfinished_of_device(file, request) if by_device else None
                if held is None:
                    raise
                from karma.files.repository.replacing import take_over  # local: sweeps import this module, too

                take_over(held, file, reservation=room, now=now, due=due, request=request, seen=marks.version)
                replaced.append(held)

        try:
            self._entries.write(file, add)
        except AlreadyExists:
            made = self._files.made_by(owned, request) if request else None
            if made is None:
                raise
            return self._made_before(owned, made)
        count("FileUploadBegun")
        for held in replaced:
            count("FileUploadReplaced")
            self._abort(held)
        return file

    def _abort(self, held: DeviceFile) -> None:
        """Abort the store's upload of a file that has ended; the sweep removes its row, and what else there is."""
        if held.upload_id is None:
            return
        try:
            self._store.abort_upload(held.device_id, held.id, held.upload_id)
        except Upstream as exc:
            logger.warning("file.left_for_sweep", file_id=held.id, cause=type(exc).__name__)

    def _unfinished_of_device(self, file: DeviceFile, request: RepeatableRequest | None) -> DeviceFile | None:
        """Return the upload of the device itself that has a new file's name; None: another's, or of this request."""
        if request is not None and self._files.made_by(file.device_id, request) is not None:
            return None
        holder = self._files.holder(file.device_id, file.path, file.name)
        held = self._files.unlisted(file.device_id, holder) if holder is not None else None
        is_unfinished = held is not None and held.status is FileStatus.UPLOADING and held.is_by_device
        return held if is_unfinished else None

    def _new(self, user_id: UserId, device_id: DeviceId, new: NewFile) -> DeviceFile:
        now, file_id = self._clock.now(), FileId(new_id())
        return DeviceFile(
            id=file_id,
            device_id=device_id,
            user_id=user_id,
            name=new.name,
            path=new.path,
            type=new.type or type_of(new.name),
            category=new.category,
            size=new.size,
            status=FileStatus.UPLOADING,
            storage_url=self._store.address(device_id, file_id),
            declared_sha256=new.sha256,
            metadata=new.metadata,
            permissions=new.permissions,
            upload_expires_ms=epoch_ms(now + UPLOAD_TIME),
            created_at=iso(now),
            modified_at=iso(now),
        )

    def _made_before(self, device_id: DeviceId, made: FileId) -> DeviceFile:
        found = self._entries.made(device_id, made)
        if found is None or found.status is FileStatus.DELETING:
            raise no_longer(made)
        return found

    def parts(
        self, user_id: UserId, device_id: str, file_id: str, numbers: Sequence[int], checksums: Mapping[int, str]
    ) -> list[PartUrl]:
        """Sign a URL for each part; each accepts exactly that part, for 15 minutes.

        An upload that the store has lost begins anew, so its earlier parts must be put again.

        Args:
            user_id: owner.
            device_id: the device.
            file_id: a file that is being uploaded.
            numbers: of the parts, counted from 1.
            checksums: SHA-256 of each part in base64, or none at all; the first request decides for the whole upload.

        Raises:
            NotFound: the file does not exist or has another owner.
            InvalidTransition: the file is not being uploaded any more, or all its bytes have arrived.
            ValidationFailed: the file has no such part, or checksums are given for some parts only.
        """
        file = self._uploading(user_id, device_id, file_id)
        ValidationFailed.together(lambda: _require_parts(file, numbers), lambda: _require_all(checksums, numbers))
        file, _ = self._begun(file, checksums=bool(checksums))
        if file.part_checksums != bool(checksums):
            said = "with" if file.part_checksums else "without"
            raise ValidationFailed.of("checksums", f"this upload was begun {said} checksums of its parts")
        return [self._part_url(file, number, checksums.get(number)) for number in numbers]

    def parts_left(self, file: DeviceFile, *, most: int) -> PartsLeft:
        """Sign a URL for each of the first `most` parts that have not arrived, without checksums, for 15 minutes.

        An upload that the store has lost begins anew, so all of its parts are missing.

        Raises:
            InvalidTransition: the file is not being uploaded any more, or all its bytes have arrived.
            Conflict: UPLOAD_HAS_CHECKSUMS, the upload was begun with checksums of its parts.
        """
        _require_uploading(file)
        file, arrived = self._begun(file, checksums=False)
        if file.part_checksums:
            raise Conflict(f"The upload of file {file.id} wants checksums of parts", code="UPLOAD_HAS_CHECKSUMS")
        missing = _missing(file, arrived)
        return PartsLeft([self._part_url(file, number, None) for number in missing[:most]], len(missing))

    def _begun(self, file: DeviceFile, *, checksums: bool) -> tuple[DeviceFile, Sequence[StoredPart]]:
        """Return a file whose upload the store has begun, and the parts of it that have arrived."""
        if file.upload_id is not None:
            arrived = self._arrived(file, file.upload_id)
            if arrived is not None:
                return file, arrived
        upload_id = self._store.begin_upload(file.device_id, file.id, checksums=checksums)
        try:
            self._files.begin_upload(file, upload_id, checksums=checksums)
        except ConditionFailed:
            self._store.abort_upload(file.device_id, file.id, upload_id)
            current = self._files.unlisted(file.device_id, file.id)
            if (
                current is None
                or current.status is not FileStatus.UPLOADING
                or current.upload_id in (None, file.upload_id)
            ):
                raise InvalidTransition(f"File {file.id} is not being uploaded any more") from None
            return current, ()
        return replace(file, upload_id=upload_id, part_checksums=checksums), ()

    def _arrived(self, file: DeviceFile, upload_id: str) -> Sequence[StoredPart] | None:
        """Ask the store, which may have lost an unfinished upload: by a rule of its bucket, or as a local one stops.

        None: it has.
        """
        try:
            return self._store.parts(file.device_id, file.id, upload_id)
        except UploadGone:
            if self._store.exists(file.device_id, file.id):
                raise InvalidTransition(f"All bytes of file {file.id} have arrived; complete its upload") from None
            logger.warning("files.upload_lost", file_id=file.id)
            count("FileUploadLost")
            return None

    def _part_url(self, file: DeviceFile, number: int, sha256: str | None) -> PartUrl:
        size = file.part_bytes(number)
        url = self._store.part_url(file.device_id, file.id, file.upload_id or "", number, size=size, sha256=sha256)
        return PartUrl(number, size, url, {"x-amz-checksum-sha256": sha256} if sha256 is not None else {})

    def complete(self, user_id: UserId, device_id: str, file_id: str) -> DeviceFile:
        """Make one object of the parts and enqueue its verification; the file is listed once its bytes are verified.

        May be repeated after a crash at any point.

        Raises:
            NotFound: the file does not exist or has another owner.
            Conflict: UPLOAD_INCOMPLETE, parts are missing or of the wrong size; `details` names them.
            InvalidTransition: the file was rejected.
            Upstream: the store, the database or the queue did not answer; what is stored will be verified all the same.
        """
        file = self._entries.get(user_id, device_id, file_id)
        if file.status is FileStatus.UPLOADING:
            file = self._join(file)
        if file.status is FileStatus.REJECTED:
            raise InvalidTransition(f"File {file_id} was rejected: {file.rejection}")
        if file.status is FileStatus.VERIFYING:
            self._queue.send(message(file))
        return file

    def _join(self, file: DeviceFile) -> DeviceFile:
        upload_id = file.upload_id
        if upload_id is None:
            raise _incomplete(file, [])
        try:
            parts = self._store.parts(file.device_id, file.id, upload_id)
            _check(file, parts)
            self._store.complete_upload(file.device_id, file.id, upload_id, parts)
        except UploadGone:
            # An earlier call has completed it, somebody deletes the file, or the store has lost the upload.
            if not self._store.exists(file.device_id, file.id):
                current = self._files.unlisted(file.device_id, file.id)
                if current is None or current.status is not FileStatus.UPLOADING:
                    raise InvalidTransition(f"File {file.id} is not being uploaded any more") from None
                raise _incomplete(file, []) from None
        now = self._clock.now()
        try:
            completed = self._files.completed(file, now=now, due=now + GRACE)
            return replace(completed, path=file.path, revision=file.revision)
        except ConditionFailed:
            return self._entries.get(file.user_id, file.device_id, file.id)

    def _uploading(self, user_id: UserId, device_id: str, file_id: str) -> DeviceFile:
        file = self._entries.get(user_id, device_id, file_id)
        _require_uploading(file)
        return file


def expires_at(clock: Clock) -> str:
    """Return the moment at which a URL that is signed now stops working."""
    return iso(clock.now() + URL_TIME)


def message(file: DeviceFile) -> str:
    """Return the body that makes the consumer verify a file."""
    return orjson.dumps({"device_id": file.device_id, "file_id": file.id}).decode()


def _require_uploading(file: DeviceFile) -> None:
    if file.status is not FileStatus.UPLOADING:
        raise InvalidTransition(f"File {file.id} is {file.status}; its upload is over")


def _check(file: DeviceFile, parts: Sequence[StoredPart]) -> None:
    if wrong := _missing(file, parts):
        raise _incomplete(file, wrong)


def _missing(file: DeviceFile, parts: Sequence[StoredPart]) -> list[int]:
    """Return the numbers of parts that have not arrived, or not in their size."""
    right = {part.number for part in parts if part.size == file.part_bytes(part.number)}
    return [number for number in range(1, file.part_count + 1) if number not in right]


def _incomplete(file: DeviceFile, wrong: Sequence[int]) -> Conflict:
    missing = list(wrong) or list(range(1, file.part_count + 1))
    return Conflict(
        f"File {file.id} has parts that have not arrived", code="UPLOAD_INCOMPLETE", details={"missing_parts": missing}
    )


def _require_parts(file: DeviceFile, numbers: Sequence[int]) -> None:
    if max(numbers) > file.part_count:
        raise ValidationFailed.of("part_numbers", f"this file has parts 1 to {file.part_count}")


def _require_all(checksums: Mapping[int, str], numbers: Sequence[int]) -> None:
    if checksums and checksums.keys() != set(numbers):
        raise ValidationFailed.of("checksums", "one for each of part_numbers, or none")
