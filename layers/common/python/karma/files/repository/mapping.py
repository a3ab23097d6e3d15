"""Entries as items, and back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from karma.core.clock import iso
from karma.core.dynamo.items import Key
from karma.core.ids import DeviceId, FileId, UserId
from karma.files.domain import DeviceFile, FileStatus, Rejection
from karma.files.marks import TreeChangeId, TreeChangeKind, TreeMark, TreeMarks
from karma.files.previews import NOTHING, previews_of_json, previews_to_json
from karma.files.repository.items import (
    SWEEP_PARTITION,
    CountItem,
    FileItem,
    FileNameItem,
    directory_pk,
    directory_sk,
    listed_key,
    name_key,
    upload_key,
)


def due_key(due: datetime, file_id: FileId) -> str:
    """Return the sort key of a file in the index of those that a sweep must look at."""
    return f"{iso(due)}#{file_id}"


def name_item(entry: DeviceFile, *, names_inside: int = 0) -> FileNameItem:
    """Return the item of an entry's unique name; for a directory, with the number of names in it."""
    return FileNameItem(
        *name_key(entry.device_id, entry.path, entry.name),
        file_id=entry.id,
        is_directory=entry.is_directory,
        names_inside=names_inside,
        created_at=entry.created_at,
    )


def listed_item(entry: DeviceFile) -> FileItem:
    """Return the item of a listed entry."""
    item = _item(entry, listed_key(entry.device_id, entry.id))
    item.gsi1pk = directory_pk(entry.device_id, entry.path)
    item.gsi1sk = directory_sk(entry.name, entry.id, is_directory=entry.is_directory)
    return item


def unlisted_item(file: DeviceFile, *, due: datetime) -> FileItem:
    """Return the item of a file that is not listed, and that a sweep must look at when it is `due`."""
    item = _item(file, upload_key(file.device_id, file.id))
    item.gsi1pk, item.gsi1sk = SWEEP_PARTITION, due_key(due, file.id)
    return item


def _item(file: DeviceFile, key: Key) -> FileItem:
    return FileItem(
        *key,
        file_id=file.id,
        device_id=file.device_id,
        user_id=file.user_id,
        name=file.name,
        path=file.path,
        kind=file.type,
        category=file.category,
        size=file.size,
        status=file.status,
        is_directory=file.is_directory,
        mime_type=file.mime_type,
        storage_url=file.storage_url,
        md5=file.md5,
        sha256=file.sha256,
        declared_sha256=file.declared_sha256,
        metadata=dict(file.metadata),
        permissions=dict(file.permissions),
        rejection=file.rejection,
        created_at=file.created_at,
        updated_at=file.modified_at,
        modified_at=file.modified_at,
        accessed_at=file.accessed_at,
        revision=file.revision,
        upload_id=file.upload_id,
        part_checksums=file.part_checksums,
        is_by_device=file.is_by_device or None,
        upload_expires_ms=file.upload_expires_ms,
        completed_ms=file.completed_ms,
        previews=previews_to_json(file.previews) if file.previews != NOTHING else None,
        previews_pending=True if file.previews.is_pending else None,
        excerpt=file.previews.excerpt or None,
    )


def file_of(item: FileItem) -> DeviceFile:
    """Return the entry that an item stores."""
    return DeviceFile(
        id=FileId(item.file_id),
        device_id=DeviceId(item.device_id),
        user_id=UserId(item.user_id),
        name=item.name,
        path=item.path,
        type=item.kind,
        category=item.category,
        size=int(item.size),
        status=FileStatus(item.status),
        is_directory=bool(item.is_directory),
        mime_type=item.mime_type,
        storage_url=item.storage_url,
        md5=item.md5,
        sha256=item.sha256,
        declared_sha256=item.declared_sha256,
        metadata=cast("Mapping[str, Any]", item.metadata),
        permissions=cast("Mapping[str, Any]", item.permissions),
        rejection=Rejection(item.rejection) if item.rejection else None,
        created_at=item.created_at or "",
        modified_at=item.modified_at,
        accessed_at=item.accessed_at,
        revision=int(item.revision),
        upload_id=item.upload_id,
        part_checksums=bool(item.part_checksums),
        is_by_device=bool(item.is_by_device),
        upload_expires_ms=int(item.upload_expires_ms),
        completed_ms=int(item.completed_ms),
        forgotten_s=int(item.expires_at or 0),
        previews=previews_of_json(cast("Mapping[str, Any] | None", item.previews), item.excerpt or ""),
    )


def stored_mark(mark: TreeMark) -> list[str | bool]:
    """Return a mark as a device's count stores it."""
    return [mark.change_id, mark.kind.value, mark.directory_id, mark.source, mark.target, mark.is_begun]


def marks_of(item: CountItem) -> TreeMarks:
    """Return the marks that a device's count stores."""
    stored = cast("list[tuple[str, str, str, str, str, bool]]", item.marks or [])
    marks = (
        TreeMark(
            change_id=TreeChangeId(change),
            kind=TreeChangeKind(kind),
            directory_id=FileId(directory),
            source=source,
            target=target,
            is_begun=is_begun,
        )
        for change, kind, directory, source, target, is_begun in stored
    )
    return TreeMarks(int(item.marks_version or 0), tuple(marks))
