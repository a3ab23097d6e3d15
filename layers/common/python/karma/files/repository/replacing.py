"""Write by which a device's new upload takes the name of one that it has not finished, in one transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from karma.billing.allowances import Metric, Reservation, given_back
from karma.billing.transactional import adjust_usage, reserve_usage
from karma.core.clock import iso
from karma.core.dynamo.requests import note_request, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.requests import RepeatableRequest
from karma.devices.transactional import require_device
from karma.files.domain import DeviceFile, FileStatus
from karma.files.repository.items import (
    SWEEP_PARTITION,
    FileItem,
    FileNameItem,
    FileRequestItem,
    files_pk,
    name_key,
    upload_key,
)
from karma.files.repository.mapping import due_key, unlisted_item
from karma.files.repository.names import NameChanges


def take_over(
    held: DeviceFile,
    file: DeviceFile,
    *,
    reservation: Reservation,
    now: datetime,
    due: datetime,
    request: RepeatableRequest | None,
    seen: int,
) -> None:
    """Write a new upload in the place of `held`, which has its name: that one becomes a tombstone, all or none.

    Of the plan the difference of both sizes is taken, or given back.

    Args:
        held: an upload that its device has not finished.
        file: the new one, in the same directory under the same name.
        reservation: of its bytes, as if there were no other.
        now: moment of the request; the tombstone is due at once.
        due: moment at which a sweep must look at the new file.
        request: the request that asks for it, whose record is written, too.
        seen: version of the device's marks.

    Raises:
        AlreadyExists: `request` has made a file before.
        QuotaExceeded: the owner's plan has no room for the difference.
        NotFound: the device does not exist any more.
        ConditionFailed: `held` is not being uploaded any more, or has lost the name.
        TreeMarksChanged: the marks are others by now.
    """
    tx = Transaction()
    require_device(tx, file.user_id, file.device_id)
    NameChanges(tx, file.device_id, seen).write()
    tx.update(
        FileNameItem(*name_key(file.device_id, file.path, file.name)),
        [FileNameItem.file_id.set(file.id)],
        FileNameItem.file_id == held.id,
    )
    tx.update(
        FileItem(*upload_key(held.device_id, held.id)),
        [
            FileItem.status.set(FileStatus.DELETING),
            FileItem.updated_at.set(iso(now)),
            FileItem.gsi1pk.set(SWEEP_PARTITION),
            FileItem.gsi1sk.set(due_key(now, held.id)),
        ],
        (FileItem.status == FileStatus.UPLOADING) & (FileItem.is_by_device == True),  # noqa: E712
    )
    tx.put(unlisted_item(file, due=due))
    if request is not None:
        note_request(tx, FileRequestItem(*request_key(files_pk(file.device_id), request)), request, file.id)
    more = file.size - held.size
    if more > 0:
        reserve_usage(tx, [replace(reservation, amount=more)])
    else:
        adjust_usage(tx, [given_back(held.user_id, Metric.STORAGE, -more)])
    tx.commit()
