"""Store of the points of runs for their owners, in the table `agents`; items.py has the keys, points.py the terms."""

from __future__ import annotations

from datetime import datetime

import orjson

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get, query
from karma.core.dynamo.items import Key
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists, AppError, Conflict, NotFound
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import require_account
from karma.runs.domain import CheckpointKind, RunKey, RunStatus
from karma.runs.items import (
    CHECKPOINT,
    HEAD,
    LABEL,
    CheckpointItem,
    CheckpointLabelItem,
    CheckpointRequestItem,
    RunItem,
    RunsItem,
    checkpoint_sk,
    label_sk,
    run_pk,
)
from karma.runs.points import MAX_LABELS, PointId, RunPoint, point_of, too_many_labels
from karma.runs.stored import as_json, checkpoint_of, whole

_NO_LABEL_BEFORE = "~"
"""Sorts behind every label of a segment."""


class CheckpointRepository:
    """Checkpoints and labels over DynamoDB."""

    def points(self, key: RunKey, *, limit: int, after: tuple[int, str] | None = None) -> list[RunPoint]:
        """See Checkpoints; two Queries."""
        n, label = after or (0, "")
        pk = run_pk(key)
        # A label behind which the page begins may be followed by others of its segment, never by the checkpoint.
        checkpoints = query(
            RunsItem,
            pk,
            RunsItem.sk.between(checkpoint_sk(n + 1), f"{CHECKPOINT}{_NO_LABEL_BEFORE}"),
            limit=limit,
            consistent=True,
        )
        labels = query(
            RunsItem,
            pk,
            RunsItem.sk.between(f"{label_sk(n, label)}{_NO_LABEL_BEFORE}" if label else label_sk(n, ""), f"{LABEL}~"),
            limit=limit,
            consistent=True,
        )
        found = [
            point_of(key.run_id, checkpoint_of(item)) for item in checkpoints.items if isinstance(item, CheckpointItem)
        ]
        found += [_labelled(key, item) for item in labels.items if isinstance(item, CheckpointLabelItem)]
        return sorted(found, key=lambda point: point.id.place)[:limit]

    def point(self, key: RunKey, point: PointId) -> RunPoint | None:
        """See Checkpoints; one Get."""
        if point.label:
            label = get(CheckpointLabelItem, Key(run_pk(key), label_sk(point.n, point.label)), consistent=True)
            return None if label is None else _labelled(key, label)
        item = get(CheckpointItem, Key(run_pk(key), checkpoint_sk(point.n)), consistent=True)
        return None if item is None else point_of(key.run_id, checkpoint_of(item))

    def labelled_by(self, key: RunKey, request: RepeatableRequest) -> PointId | None:
        """See Checkpoints; one Get."""
        made = noted(CheckpointRequestItem, request_key(run_pk(key), request), request)
        if made is None:
            return None
        n, label = orjson.loads(made)
        return PointId(key.run_id, n, label)

    def label(self, key: RunKey, point: RunPoint, *, at: datetime, request: RepeatableRequest | None) -> None:
        """See Checkpoints; one transaction: a check, the run's count and one item, two for a key."""
        tx = Transaction()
        require_account(tx, key.user_id)
        refused = Conflict("")
        is_free = RunItem.pk.exists() & RunItem.deleted_at.does_not_exist()
        is_free &= RunItem.labels.does_not_exist() | (RunItem.labels < MAX_LABELS)
        tx.update(RunItem(run_pk(key), HEAD), [RunItem.labels.add(1)], is_free, on_fail=refused)
        if request is not None:
            record = CheckpointRequestItem(*request_key(run_pk(key), request))
            note_request(tx, record, request, as_json([point.id.n, point.id.label]))
        item = CheckpointLabelItem(
            run_pk(key),
            label_sk(point.id.n, point.id.label),
            position=point.position,
            steps=point.steps,
            messages=point.messages,
            total_tokens=point.total_tokens,
            cost_micros=point.cost_micros,
            status=point.status.value,
            description=point.description or "",
            tags=as_json(list(point.tags)),
            created_at=iso(at),
        )
        tx.put(item, on_fail=AlreadyExists("This point has this label already"))
        try:
            tx.commit()
        except Conflict as exc:
            if exc is refused:
                raise self._why_refused(key) from None
            raise

    def _why_refused(self, key: RunKey) -> AppError:
        run = get(RunItem, Key(run_pk(key), HEAD), consistent=True)
        if run is None or run.deleted_at:
            return NotFound(f"Run '{key.run_id}' not found")
        return too_many_labels()


def _labelled(key: RunKey, item: CheckpointLabelItem) -> RunPoint:
    n, label = item.sk.removeprefix(LABEL).split("#")
    return RunPoint(
        id=PointId(key.run_id, int(n), label),
        kind=CheckpointKind.MANUAL,
        position=int(item.position),
        steps=int(item.steps),
        messages=int(item.messages),
        total_tokens=whole(item.total_tokens),
        cost_micros=whole(item.cost_micros),
        status=RunStatus(item.status),
        at=parse_iso(item.created_at or ""),
        description=item.description,
        tags=tuple(orjson.loads(item.tags)),
    )
