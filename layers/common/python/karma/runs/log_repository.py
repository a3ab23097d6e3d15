"""Reads runs with all that is stored of them; their items and keys: items.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from karma.billing.transactional import adjust_usage
from karma.core.dynamo.access import query
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import RunId
from karma.runs.active_repository import list_work, unlist_work
from karma.runs.domain import Run, RunKey, Segment
from karma.runs.items import (
    DELEGATED,
    HEAD,
    DelegatedItem,
    RunItem,
    RunsItem,
    SegmentItem,
    SetupItem,
    delegated_sk,
    parse_delegated_sk,
    run_pk,
)
from karma.runs.ports import DelegatedWork, StoredRun, StoredStep
from karma.runs.stored import run_of, segment_of

_PAGE: Final = 1000
"""Items of one call at the most; a megabyte of a log has fewer."""


class RunLogRepository:
    """Reads of a run with its log, and of what its subagents have done."""

    def whole(self, key: RunKey) -> StoredRun | None:
        """See Runs; one Query a megabyte."""
        return _read_whole(key)

    def delegated(self, key: RunKey) -> list[StoredStep]:
        """See Runs; one Query a megabyte."""
        return _read_delegated(key)


def _read_whole(key: RunKey) -> StoredRun | None:
    """Read a run, its setup and its log, consistently; one Query a megabyte. None: there is no such run.

    They stand in this order behind the run's checkpoints and wishes, which are not read.
    """
    run: Run | None = None
    parts: list[bytes] = []
    log: list[Segment] = []
    start = None
    while True:
        page = query(RunsItem, run_pk(key), RunsItem.sk >= HEAD, limit=_PAGE, start=start, consistent=True)
        for item in page.items:
            if isinstance(item, RunItem):
                run = None if item.deleted_at else run_of(item)
            elif isinstance(item, SetupItem):
                parts.append(item.data)
            elif isinstance(item, SegmentItem):
                log.append(segment_of(item))
        start = page.last
        if run is None:
            return None
        if start is None:
            return StoredRun(run, b"".join(parts) or None, log)


def _read_delegated(key: RunKey) -> list[StoredStep]:
    found: list[StoredStep] = []
    start = None
    while True:
        of_subagents = RunsItem.sk.startswith(DELEGATED)
        page = query(RunsItem, run_pk(key), of_subagents, limit=_PAGE, start=start, consistent=True)
        for item in page.items:
            if isinstance(item, DelegatedItem):
                subagent, at = parse_delegated_sk(item.sk)
                found.append(
                    StoredStep(
                        key.run_id,
                        subagent,
                        at,
                        item.data,
                        RunId(item.by),
                        int(item.n),
                        int(item.epoch),
                        tuple(sorted(item.attachments or ())),
                    )
                )
        start = page.last
        if start is None:
            return found


def put_steps(tx: Transaction, segment: Segment, steps: Iterable[StoredStep]) -> None:
    """Add to a segment's transaction records of subagents, each once."""
    for step in steps:
        pk, sk = run_pk(RunKey(segment.key.user_id, step.run_id)), delegated_sk(step.subagent, step.at)
        names = set(step.attachments) or None
        tx.put(DelegatedItem(pk, sk, data=step.data, by=step.by, n=segment.n, epoch=segment.epoch, attachments=names))


def put_delegated(tx: Transaction, segment: Segment, delegated: DelegatedWork) -> None:
    """Add to a segment's transaction what a subagent has done, each step once."""
    put_steps(tx, segment, delegated.steps)
    if delegated.begun is not None:
        list_work(tx, segment, delegated.begun)
    unlist_work(tx, segment.key, [delegated.ended] if delegated.ended else ())
    if delegated.spent is not None:
        adjust_usage(tx, [delegated.spent])
