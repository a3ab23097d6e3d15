"""Ports of exports."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from karma.core.ids import UserId
from karma.telemetry.exports.domain import StoredTablePart
from karma.telemetry.tables import TableKind


class TableUploadGone(Exception):
    """The upload was ended by somebody."""


class ExportQueue(Protocol):
    """The queue of telemetry."""

    def send(self, body: str, *, delay_s: int = 0) -> None:
        """Enqueue one message. Raises Upstream."""


class ExportObjects(Protocol):
    """Tables and checkpoints; implemented by integrations.s3_exports.S3ExportObjects.

    Names are `<user>/<export>/...`. Each method raises Upstream when the storage does not answer.
    """

    def put(self, name: str, data: bytes, *, kind: TableKind | None = None) -> None:
        """Store a table, or without `kind` a checkpoint."""

    def read(self, name: str) -> bytes | None:
        """Read a checkpoint; None: it is gone."""

    def begin(self, name: str, kind: TableKind) -> str:
        """Begin the upload of a table in parts, and return its id."""

    def put_part(self, name: str, upload_id: str, number: int, data: bytes) -> StoredTablePart:
        """Store a part; all but the last have 5 MB at least. Raises TableUploadGone."""

    def complete(self, name: str, upload_id: str, parts: Sequence[StoredTablePart]) -> None:
        """Make the table of its parts. Raises TableUploadGone."""

    def abort(self, name: str, upload_id: str) -> None:
        """End an upload, and remove its parts; an absent one counts as ended."""

    def link(self, name: str, *, filename: str, now: datetime) -> tuple[str, datetime]:
        """Return a link that downloads a table, and the end of the link."""

    def remove_all(self, user_id: UserId, *, limit: int) -> int:
        """Remove up to `limit` objects and uploads of an account; return how many, fewer than `limit`: none is left."""
