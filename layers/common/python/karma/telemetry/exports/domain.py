"""An export of telemetry: types and rules that need no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple, NewType

from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.errors import RateLimited
from karma.core.ids import DeviceId, UserId
from karma.core.records import Record
from karma.telemetry.domain import Resolution
from karma.telemetry.tables import TableFormat

ExportId = NewType("ExportId", str)

MAX_OPEN: Final = 3
"""Exports of an account that are queued or running at a time, so that no account takes all workers."""
RETENTION: Final = timedelta(days=1)
"""Time for which an export is shown after its end: as long as its table is kept."""
LOOKED_AFTER: Final = timedelta(minutes=1)
"""Time after which the sweep sends an export again that no worker took."""
GIVEN_UP_AFTER: Final = timedelta(hours=24)
"""Time after which an export that is not over fails."""
MAX_ATTEMPTS: Final = 5
"""Attempts one after the other that end without a checkpoint, after which an export fails."""


class ExportState(StrEnum):
    """State of an export."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN: Final = frozenset({ExportState.QUEUED, ExportState.RUNNING})


class TooManyExports(RateLimited):
    """The account has as many exports that are not over as it may have."""

    def __init__(self) -> None:
        """Build the error."""
        told = f"{MAX_OPEN} exports are being written; wait for one to end, or cancel one"
        super().__init__(told, retry_after_s=10)


class ExportChanged(Exception):
    """The export is not as it was read: somebody else took, cancelled or removed it."""


class ExportKey(NamedTuple):
    """Key of an export."""

    user_id: UserId
    export_id: ExportId


class ExportFailure(NamedTuple):
    """Reason for which an export failed."""

    code: str
    message: str


class ExportOrder(Record, kw_only=True):
    """A table as it was asked for, with what the request left out; times in milliseconds since 1970, [from, to)."""

    devices: tuple[DeviceId, ...]
    metrics: tuple[str, ...]
    """None: all of each device."""
    from_ms: int
    to_ms: int
    resolution: Resolution
    percents: tuple[float, ...]
    format: TableFormat
    most_rows: int
    """Rows that the plan allows."""


class ExportPlace(NamedTuple):
    """The point of an export up to which it is written."""

    reached_ms: int
    """All points before this moment are written."""
    skip: int
    """Points at that moment which are written, too."""


class TelemetryExport(Record, kw_only=True):
    """An export."""

    key: ExportKey
    order: ExportOrder
    state: ExportState
    created_ms: int
    place: ExportPlace
    rows: int = 0
    ended_ms: int | None = None
    size: int = 0
    """Bytes of the table; 0 until it is whole."""
    table: str = ""
    """Name of the table's object; while it is running, of the upload that is to become it."""
    upload_id: str = ""
    """Id of the upload of the table; "": it has no part yet."""
    checkpoint: str = ""
    """Name of the checkpoint's object."""
    next_part: int = 1
    """Number of the upload's next part, which no worker has used before."""
    attempts: int = 0
    """Attempts since the last checkpoint."""
    held_until_ms: int = 0
    failure: ExportFailure | None = None
    version: int = 0

    @property
    def is_open(self) -> bool:
        """Tell whether it is not over yet."""
        return self.state in OPEN

    @property
    def progress(self) -> float:
        """Return how much of its range is written, from 0 to 1."""
        if self.state is ExportState.SUCCEEDED:
            return 1.0
        span = self.order.to_ms - self.order.from_ms
        return min(1.0, max(0.0, round((self.place.reached_ms - self.order.from_ms) / span, 3)))

    @property
    def forget_at(self) -> datetime | None:
        """Return when it is forgotten with its table; None: it is not over."""
        return None if self.ended_ms is None else from_epoch_ms(self.ended_ms) + RETENTION

    def is_forgotten(self, now: datetime) -> bool:
        """Tell whether its retention is over, though the database may not have deleted it yet."""
        return self.forget_at is not None and now >= self.forget_at

    def is_held(self, now: datetime) -> bool:
        """Tell whether a worker may be writing it."""
        return epoch_ms(now) < self.held_until_ms

    def is_given_up(self, now: datetime) -> bool:
        """Tell whether it fails instead of being tried again."""
        return self.attempts >= MAX_ATTEMPTS or now >= from_epoch_ms(self.created_ms) + GIVEN_UP_AFTER


class StoredTablePart(NamedTuple):
    """A part of a table that is stored."""

    number: int
    tag: str
    size: int


class Written(Record, kw_only=True):
    """The contents of a checkpoint."""

    parts: tuple[StoredTablePart, ...]
    writer: Mapping[str, object]
    """State of the table's writer (karma.telemetry.tables)."""
    rest: bytes
    """The bytes that are written behind the parts."""
    whole: bool = False
    """True: the parts are all of the table."""

    @property
    def size(self) -> int:
        """Return how many bytes were written."""
        return sum(part.size for part in self.parts) + len(self.rest)
