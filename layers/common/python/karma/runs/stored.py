"""Runs, segments and checkpoints as items of the table, and back."""

from __future__ import annotations

from dataclasses import astuple
from datetime import datetime

import orjson

from karma.core.clock import epoch_ms, from_epoch_ms, iso, parse_iso
from karma.core.ids import AgentId, RunId, ThreadId, UserId
from karma.models.domain import UNNAMED, Usage, Usages
from karma.runs.domain import Checkpoint, Progress, Run, RunKey, RunStatus, Segment
from karma.runs.items import (
    HEAD,
    PART_BYTES,
    CheckpointItem,
    RunItem,
    SegmentItem,
    checkpoint_sk,
    list_sk,
    parse_checkpoint_sk,
    parse_run_pk,
    parse_segment_sk,
    run_pk,
    segment_sk,
    user_pk,
)


def run_item(run: Run) -> RunItem:
    """Return the item of a run that begins."""
    created_at = iso(run.created_at)
    return RunItem(
        run_pk(run.key),
        HEAD,
        gsi1pk=user_pk(run.key.user_id),
        gsi1sk=list_sk(run),
        user_id=run.key.user_id,
        run_id=run.key.run_id,
        thread_id=run.thread_id,
        status=run.status.value,
        model=run.model,
        agent_id=run.agent_id,
        agent_version=run.agent_version,
        parent_run_id=run.parent_run_id,
        asked_hash=run.asked_hash,
        answers=run.answers,
        begins_at=run.begins_at,
        reserved_micros=run.reserved_micros,
        engine_schema=run.engine_schema,
        created_at=created_at,
        updated_at=created_at,
    )


def run_of(item: RunItem) -> Run:
    """Read a run."""
    return Run(
        key=RunKey(UserId(item.user_id), RunId(item.run_id)),
        thread_id=ThreadId(item.thread_id),
        status=RunStatus(item.status),
        model=item.model,
        created_at=_when(item.created_at),
        agent_id=AgentId(item.agent_id) if item.agent_id else None,
        agent_version=int(item.agent_version) if item.agent_version else None,
        parent_run_id=item.parent_run_id,
        finished_at=_when(item.finished_at) if item.finished_at else None,
        error_code=item.error_code,
        cancel_reason=item.cancel_reason,
        turns=int(item.turns),
        usages=_run_usages(item),
        cost_micros=_whole(item.cost_micros),
        pending_tool_call_ids=tuple(orjson.loads(item.pending_tool_call_ids)),
        asked_hash=item.asked_hash,
        answers=int(item.answers),
        begins_at=int(item.begins_at),
        last_message=int(item.last_message),
        paused_at=_when(item.paused_at) if item.paused_at else None,
        paused_ms=int(item.paused_ms),
        resumed_epoch=int(item.resumed_epoch),
        reserved_micros=int(item.reserved_micros),
        engine_schema=int(item.engine_schema),
    )


def segment_item(segment: Segment) -> SegmentItem:
    """Return the item of a segment."""
    return SegmentItem(
        run_pk(segment.key),
        segment_sk(segment.n),
        writer=segment.writer,
        epoch=segment.epoch,
        lease_until_ms=epoch_ms(segment.lease_until),
        events=b"\n".join(segment.events) or None,
        shows=segment.shows,
        terminal=segment.terminal,
    )


def segment_of(item: SegmentItem) -> Segment:
    """Read a segment."""
    return Segment(
        key=parse_run_pk(item.pk),
        n=parse_segment_sk(item.sk),
        writer=item.writer,
        epoch=int(item.epoch),
        lease_until=from_epoch_ms(int(item.lease_until_ms)),
        events=tuple(item.events.split(b"\n")) if item.events else (),
        shows=_whole(item.shows),
        terminal=bool(item.terminal),
    )


def checkpoint_item(key: RunKey, checkpoint: Checkpoint) -> CheckpointItem:
    """Return the item of a checkpoint."""
    return CheckpointItem(
        run_pk(key),
        checkpoint_sk(checkpoint.n),
        epoch=checkpoint.epoch,
        position=checkpoint.position,
        turns=checkpoint.progress.turns,
        usage=as_json(list(astuple(checkpoint.progress.usages.total))),
        usages=as_json(checkpoint.progress.usages.dump()),
        spent_micros=checkpoint.progress.spent_micros,
    )


def checkpoint_of(item: CheckpointItem) -> Checkpoint:
    """Read a checkpoint."""
    return Checkpoint(
        n=parse_checkpoint_sk(item.sk),
        epoch=int(item.epoch),
        position=int(item.position),
        progress=Progress(
            turns=int(item.turns),
            usages=_usages(item),
            spent_micros=int(item.spent_micros),
        ),
    )


def pieces(body: bytes) -> list[bytes]:
    """Cut bytes into parts, each small enough for an item."""
    return [body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)]


def as_json(value: object) -> str:
    """Return a value as JSON text."""
    return orjson.dumps(value).decode()


def _run_usages(item: RunItem) -> tuple[dict[str, object], ...]:
    if item.usages:
        return tuple(orjson.loads(item.usages))
    return (orjson.loads(item.usage),) if item.usage else ()


def _usages(item: CheckpointItem) -> Usages:
    if item.usages:
        return Usages.load(orjson.loads(item.usages))
    return Usages({UNNAMED: Usage(*orjson.loads(item.usage))})


def _when(text: str | None) -> datetime:
    return parse_iso(text or "")


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)
