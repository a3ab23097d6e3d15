"""Exports over DynamoDB; items.py has the keys, docs/adr/0060 the access patterns."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import Final

from pynamodb.expressions.update import Action

from karma.core.clock import epoch_ms, from_epoch_ms, iso
from karma.core.dynamo.access import get, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.newest import newest_kept
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.dynamo.work import due_sk, query_work
from karma.core.ids import UserId
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import require_account
from karma.telemetry.exports.domain import (
    GIVEN_UP_AFTER,
    MAX_OPEN,
    OPEN,
    RETENTION,
    ExportChanged,
    ExportFailure,
    ExportId,
    ExportKey,
    ExportState,
    TelemetryExport,
    TooManyExports,
)
from karma.telemetry.exports.items import (
    DUE_PARTITION,
    EXPORT_PREFIX,
    ExportItem,
    ExportRequestItem,
    OpenExportsItem,
    export_key,
    export_of,
    open_key,
    owner_pk,
    stored_order,
)

_FORGOTTEN_AFTER: Final = GIVEN_UP_AFTER + timedelta(days=2)
"""Time after its beginning at which an item may be deleted whose export nobody could end."""


class ExportRepository:
    """Exports over DynamoDB."""

    def add(
        self, export: TelemetryExport, *, due: datetime, request: RepeatableRequest | None = None, most: int = MAX_OPEN
    ) -> None:
        """Store a new export and the record of `request`; `due` is when the sweep looks after it.

        Raises:
            AlreadyExists: a request with this key made one within the last 25 hours; `made_by` names it.
            TooManyExports: `most` of the account are not over.
            AccountGone: the account is deleted.
        """
        made_at = from_epoch_ms(export.created_ms)
        tx = Transaction()
        require_account(tx, export.key.user_id)
        if request is not None:
            item = ExportRequestItem(*request_key(owner_pk(export.key.user_id), request))
            note_request(tx, item, request, export.key.export_id)
        pk, sk = export_key(export.key)
        tx.put(
            ExportItem(
                pk,
                sk,
                user_id=export.key.user_id,
                export_id=export.key.export_id,
                order=stored_order(export.order),
                state=export.state.value,
                created_ms=export.created_ms,
                reached_ms=export.place.reached_ms,
                skip=export.place.skip,
                created_at=iso(made_at),
                updated_at=iso(made_at),
                expires_at=epoch_ms(made_at + _FORGOTTEN_AFTER) // 1000,
                gsi1pk=DUE_PARTITION,
                gsi1sk=due_sk(due, export.key.export_id),
            )
        )
        has_room = OpenExportsItem.value.does_not_exist() | (OpenExportsItem.value < most)
        tx.upsert(_open(export.key), [OpenExportsItem.value.add(1)], has_room, on_fail=TooManyExports())
        tx.commit()

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ExportId | None:
        """Return the id of the export that a request made: one Get; None: it made none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that made it asked for something else.
        """
        made = noted(ExportRequestItem, request_key(owner_pk(user_id), request), request)
        return ExportId(made) if made else None

    def get(self, key: ExportKey) -> TelemetryExport | None:
        """Read an export, strongly consistent: one Get."""
        item = get(ExportItem, export_key(key), consistent=True)
        return export_of(item) if item is not None else None

    def page(
        self, user_id: UserId, *, limit: int, now: datetime, after: str = ""
    ) -> tuple[list[TelemetryExport], str | None]:
        """Read an account's exports, newest first, without forgotten ones; one Query.

        Return also where the next page goes on, its `after`; None: nothing follows.
        """
        at = now.timestamp()
        found = newest_kept(ExportItem, owner_pk(user_id), limit=limit, prefix=EXPORT_PREFIX, after=after, now_s=at)
        return [export_of(item) for item in found.items], found.below

    def take(self, export: TelemetryExport, *, until: datetime) -> TelemetryExport:
        """Hold an export that was read until a moment, and leave out a part's number; one Update.

        Raises:
            ExportChanged: it is not as it was read.
        """
        return self._write(
            export,
            [
                ExportItem.state.set(ExportState.RUNNING.value),
                ExportItem.held_until_ms.set(epoch_ms(until)),
                ExportItem.next_part.set(export.next_part + 1),
                ExportItem.attempts.set(export.attempts + 1),
                ExportItem.gsi1sk.set(due_sk(until, export.key.export_id)),
            ],
        )

    def save(self, export: TelemetryExport, *, due: datetime) -> TelemetryExport:
        """Record how far a held export has come, and until when it is held; one Update.

        Args:
            export: with what is to be stored, and the version that was read.
            due: when the sweep looks after it.

        Raises:
            ExportChanged: it is not as it was read.
        """
        return self._write(
            export,
            [
                ExportItem.reached_ms.set(export.place.reached_ms),
                ExportItem.skip.set(export.place.skip),
                ExportItem.rows.set(export.rows),
                ExportItem.table.set(export.table),
                ExportItem.upload_id.set(export.upload_id),
                ExportItem.checkpoint.set(export.checkpoint),
                ExportItem.next_part.set(export.next_part),
                ExportItem.attempts.set(export.attempts),
                ExportItem.held_until_ms.set(export.held_until_ms),
                ExportItem.gsi1sk.set(due_sk(due, export.key.export_id)),
            ],
        )

    def _write(self, export: TelemetryExport, actions: list[Action]) -> TelemetryExport:
        try:
            item = update(ExportItem(*export_key(export.key)), actions, ExportItem.version == export.version)
        except ConditionFailed:
            raise ExportChanged from None
        return export_of(item)

    def succeed(self, export: TelemetryExport, *, at: datetime) -> None:
        """Record that a held export has its whole table; a transaction of two items.

        Raises:
            ExportChanged: it is not as it was read.
        """
        self._end(
            export,
            ExportState.SUCCEEDED,
            [
                ExportItem.table.set(export.table),
                ExportItem.size.set(export.size),
                ExportItem.rows.set(export.rows),
                ExportItem.reached_ms.set(export.order.to_ms),
            ],
            at=at,
        )

    def fail(self, export: TelemetryExport, failure: ExportFailure, *, at: datetime) -> None:
        """Record that an export failed; a transaction of two items.

        Raises:
            ExportChanged: it is not as it was read.
        """
        self._end(export, ExportState.FAILED, [ExportItem.failure.set(list(failure))], at=at)

    def cancel(self, export: TelemetryExport, *, at: datetime) -> None:
        """Record that an export is cancelled; a transaction of two items.

        Raises:
            ExportChanged: it is over, or removed.
        """
        self._end(export, ExportState.CANCELLED, [], at=at, whatever_version=True)

    def _end(
        self,
        export: TelemetryExport,
        state: ExportState,
        actions: list[Action],
        *,
        at: datetime,
        whatever_version: bool = False,
    ) -> None:
        tx = Transaction()
        is_as_read = ExportItem.version == export.version
        tx.update(
            ExportItem(*export_key(export.key)),
            [
                ExportItem.state.set(state.value),
                ExportItem.ended_ms.set(epoch_ms(at)),
                ExportItem.updated_at.set(iso(at)),
                ExportItem.expires_at.set(epoch_ms(at + RETENTION) // 1000),
                ExportItem.gsi1pk.remove(),
                ExportItem.gsi1sk.remove(),
                *actions,
            ],
            ExportItem.state.is_in(*sorted(OPEN)) if whatever_version else is_as_read,
        )
        tx.update(_open(export.key), [OpenExportsItem.value.add(-1)], OpenExportsItem.value > 0)
        try:
            tx.commit()
        except ConditionFailed:
            raise ExportChanged from None

    def due(self, *, before: datetime, limit: int) -> list[ExportKey]:
        """Read exports that no worker holds, though they are not over, the longest due first; one Query."""
        return query_work(
            ExportItem,
            DUE_PARTITION,
            ExportItem.gsi1sk < iso(before),
            lambda item: ExportKey(UserId(item.user_id), ExportId(item.export_id)),
            limit=limit,
        ).items

    def put_off(self, key: ExportKey, *, before: datetime, until: datetime) -> None:
        """Let the sweep look after an export again at `until`, if it was due `before`; one Update."""
        with contextlib.suppress(ConditionFailed):
            update(
                ExportItem(*export_key(key)),
                [ExportItem.gsi1sk.set(due_sk(until, key.export_id))],
                ExportItem.gsi1sk < iso(before),
            )


def _open(key: ExportKey) -> OpenExportsItem:
    return OpenExportsItem(*open_key(key.user_id))
