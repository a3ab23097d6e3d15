"""Runs, live: how a run stands, and its log as it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from karma.core.happenings import ItemChange, text_in
from karma.core.ids import RunId, UserId
from karma.core.live import MOST_PIECES, Channel, LiveSource, ObjectState, OwnersAlone, Update

if TYPE_CHECKING:
    from karma.runs.domain import Run, RunKey, Segment


class LiveRuns(OwnersAlone):
    """Channels `run:<id>`: the run, and `log:<id>`, its committed AG-UI events."""

    permissions: Mapping[str, str] = {"run": "run:read"}

    def updates(self, change: ItemChange) -> Sequence[Update]:
        """See LiveSource. The list in `user:<id>` is told of the run, not of its log."""
        match text_in(change.new, "type"):
            case "run":
                return _run_in(change)
            case "segment" if change.old is None:
                return _segment_in(change)
        return ()

    def states(self, channel: Channel, viewer: UserId, held: Mapping[str, int]) -> Sequence[ObjectState] | None:
        """See LiveSource; a Get and a Query."""
        from karma.runs.domain import RunKey
        from karma.runs.repository import RunRepository

        key = RunKey(viewer, RunId(channel.object_id))
        read = RunRepository().versioned(key)
        if read is None:
            return None
        run, version = read
        after = held.get(f"log:{key.run_id}", 0)
        pieces = RunRepository().segments(key, after=after, limit=MOST_PIECES)
        states = [_run_state(run, version), *map(_segment_state, pieces)]
        last = RunRepository().tail(key) if len(pieces) == MOST_PIECES else None
        if last is None or last.n == pieces[-1].n:
            return states
        # All of it by reference: whoever is so far behind reads it by the API.
        return [states[0], replace(_segment_state(last), prev=after, ref=_log_ref(key, after), data=None)]


def source() -> LiveSource:
    """Return what runs declare."""
    return LiveRuns()


def _run_in(change: ItemChange) -> Sequence[Update]:
    from karma.core.dynamo.items import Item
    from karma.runs.items import RunItem
    from karma.runs.stored import run_of

    item = Item.from_raw_data(dict(change.new or {}))
    if not isinstance(item, RunItem):
        return ()
    run = run_of(item)
    key = run.key
    channels = (Channel(key.user_id, "run", key.run_id), Channel(key.user_id, "user", key.user_id))
    state = _run_state(run, int(item.version), deleted=item.deleted_at is not None)
    return (Update(channels=channels, state=state),)


def _run_state(run: Run, version: int, *, deleted: bool = False) -> ObjectState:
    from karma.core.clock import iso
    from karma.runs.answers import run_view

    return ObjectState(
        name=f"run:{run.key.run_id}",
        version=version,
        at=iso(run.finished_at or run.created_at),
        ref=f"/runs/{run.key.run_id}",
        data=None if deleted else {**run_view(run)},
        deleted=deleted,
    )


def _log_ref(key: RunKey, after: int) -> str:
    return f"/runs/{key.run_id}/events?after={after}"


def _segment_in(change: ItemChange) -> Sequence[Update]:
    from karma.core.dynamo.items import Item
    from karma.runs.items import SegmentItem
    from karma.runs.stored import segment_of

    item = Item.from_raw_data(dict(change.new or {}))
    if not isinstance(item, SegmentItem):
        return ()
    segment = segment_of(item)
    channel = Channel(segment.key.user_id, "run", segment.key.run_id)
    return (Update(channels=(channel,), state=_segment_state(segment)),)


def _segment_state(segment: Segment) -> ObjectState:
    from karma.runs.answers import logged_segment

    return ObjectState(
        name=f"log:{segment.key.run_id}",
        version=segment.n,
        prev=segment.n - 1,
        at="",
        ref=_log_ref(segment.key, segment.n - 1),
        data={**logged_segment(segment)},
    )
