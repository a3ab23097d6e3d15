"""Runs, segments and checkpoints as items of the table, and back."""

from __future__ import annotations

from dataclasses import astuple
from datetime import datetime

import orjson

from karma.core.clock import epoch_ms, from_epoch_ms, iso, parse_iso
from karma.core.ids import AgentId, RunId, ThreadId
from karma.models.budgets import dump_budgets, load_budgets
from karma.models.domain import UNNAMED, Usage, Usages
from karma.runs.domain import Checkpoint, CheckpointKind, Progress, Run, RunKey, RunStatus, Segment
from karma.runs.interrupts import AnswerStatus, Interrupt, InterruptAnswer, dump_interrupt, load_interrupt
from karma.runs.items import (
    EXPIRING_PK,
    HEAD,
    PART_BYTES,
    CheckpointItem,
    InterruptItem,
    RunItem,
    SegmentItem,
    checkpoint_sk,
    expiring_sk,
    interrupt_sk,
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
        thread_id=run.thread_id,
        status=run.status.value,
        model=run.model,
        agent_id=run.agent_id,
        agent_version=run.agent_version,
        parent_run_id=run.parent_run_id or None,
        schedule_id=run.schedule_id or None,
        webhook=run.webhook or None,
        input_query=run.input_query,
        asked_hash=run.asked_hash,
        answers=run.answers,
        begins_at=run.begins_at,
        follows=run.follows,
        reserved_micros=run.reserved_micros,
        budgets=budgets_json(run),
        steps_before=run.steps_before or None,
        unattended=run.unattended or None,
        engine_schema=run.engine_schema,
        created_at=created_at,
        updated_at=created_at,
    )


def budgets_json(run: Run) -> str | None:
    """Return a run's budgets as they are stored; None: it has none."""
    return as_json(dump_budgets(run.budgets)) if run.budgets else None


def present(item: RunItem | None) -> Run | None:
    """Read a run; None: there is no item, or its thread was deleted."""
    return run_of(item) if item is not None and not item.deleted_at else None


def run_of(item: RunItem) -> Run:
    """Read a run."""
    return Run(
        key=parse_run_pk(item.pk),
        thread_id=ThreadId(item.thread_id),
        status=RunStatus(item.status),
        model=item.model,
        created_at=_when(item.created_at),
        agent_id=AgentId(item.agent_id) if item.agent_id else None,
        agent_version=int(item.agent_version) if item.agent_version else None,
        parent_run_id=item.parent_run_id or "",
        previous_run_id=_run_id(item.previous_run_id),
        schedule_id=item.schedule_id or "",
        webhook=item.webhook or "",
        finished_at=_when(item.finished_at) if item.finished_at else None,
        error_code=item.error_code or "",
        cancel_reason=item.cancel_reason or "",
        stop_reason=item.stop_reason or "",
        turns=int(item.turns),
        steps=int(item.turns) if (steps := whole(item.steps)) is None else steps,
        usages=_run_usages(item),
        cost_micros=whole(item.cost_micros),
        delegated=tuple(orjson.loads(item.delegated or "[]")),
        pending_tool_call_ids=tuple(orjson.loads(item.pending_tool_call_ids or "[]")),
        interrupt_ids=tuple(orjson.loads(item.interrupt_ids or "[]")),
        input_query=item.input_query,
        response=item.response,
        asked_hash=item.asked_hash,
        answers=int(item.answers),
        begins_at=int(item.begins_at),
        follows=int(item.follows),
        last_message=int(item.last_message),
        paused_at=_when(item.paused_at) if item.paused_at else None,
        paused_ms=int(item.paused_ms or 0),
        resumed_epoch=int(item.resumed_epoch or 0),
        reserved_micros=int(item.reserved_micros),
        budgets=load_budgets(orjson.loads(item.budgets or "[]")),
        steps_before=int(item.steps_before or 0),
        unattended=int(item.unattended or 0),
        engine_schema=int(item.engine_schema),
    )


def _run_id(text: str | None) -> RunId | None:
    return None if text is None else RunId(text)


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
        shows=whole(item.shows),
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
        steps=checkpoint.progress.steps if checkpoint.progress.steps != checkpoint.progress.turns else None,
        usage=as_json(list(astuple(checkpoint.progress.usages.total))),
        usages=as_json(checkpoint.progress.usages.dump()),
        spent_micros=checkpoint.progress.spent_micros,
        spent_tokens=checkpoint.progress.spent_tokens,
        kind=checkpoint.kind.value if checkpoint.kind else None,
        messages=checkpoint.progress.messages,
        created_at=iso(checkpoint.at) if checkpoint.at else None,
        description=checkpoint.description or None,
    )


def checkpoint_of(item: CheckpointItem) -> Checkpoint:
    """Read a checkpoint."""
    return Checkpoint(
        n=parse_checkpoint_sk(item.sk),
        epoch=int(item.epoch),
        position=int(item.position),
        progress=Progress(
            turns=int(item.turns),
            steps=int(item.turns) if (steps := whole(item.steps)) is None else steps,
            usages=_usages(item),
            spent_micros=int(item.spent_micros),
            spent_tokens=whole(item.spent_tokens),
            messages=whole(item.messages),
        ),
        kind=CheckpointKind(item.kind) if item.kind else None,
        at=_when(item.created_at) if item.created_at else None,
        description=item.description or "",
    )


def interrupt_item(interrupt: Interrupt, *, at: str) -> InterruptItem:
    """Return the item of an open question."""
    asked = as_json(dump_interrupt(interrupt))
    item = InterruptItem(run_pk(interrupt.key), interrupt_sk(interrupt.n), asked=asked, created_at=at, updated_at=at)
    item.gsi1pk, item.gsi1sk = EXPIRING_PK, expiring_sk(interrupt.key, interrupt.n, interrupt.expires_at)
    return item


def interrupt_of(item: InterruptItem) -> Interrupt:
    """Read a question."""
    answer = None
    if item.answer_status:
        answer = InterruptAnswer(
            status=AnswerStatus(item.answer_status),
            payload=orjson.loads(item.answer_payload or "null"),
            by=RunId(item.answered_by or ""),
            at=_when(item.answered_at),
        )
    lapsed_at = _when(item.lapsed_at) if item.lapsed_at else None
    return load_interrupt(orjson.loads(item.asked), answer, lapsed_at=lapsed_at)


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


def whole(number: float | None) -> int | None:
    """Return a number of an item, which may be absent."""
    return None if number is None else int(number)
