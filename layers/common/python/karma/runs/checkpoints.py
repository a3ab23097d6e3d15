"""Reads the checkpoints of runs for their owners, and labels points of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from karma.conversations.domain import Message, Thread, ThreadKey
from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, NotFound
from karma.core.ids import RunId, UserId
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, no_longer, repeatable
from karma.runs.domain import CheckpointKind, Run, RunKey
from karma.runs.ending import read_log
from karma.runs.events import state_after
from karma.runs.points import PointId, RunPoint, label_of, latest_point, read_point_id, write_point_id
from karma.runs.ports import Checkpoints, Runs
from karma.runs.reading import RunReader
from karma.runs.setup import RunSetup, load_setup


class FoundPoint(Record):
    """A point of a run, with all that the run has stored about it."""

    run: Run
    point: RunPoint
    thread: Thread
    state: object
    """The state that the run shared with its application then."""
    setup: RunSetup | None
    """Input of the run; None in runs of releases that did not store it."""

    @property
    def messages(self) -> list[Message]:
        """Return the messages of the run's branch up to the point, in order."""
        return [self.thread.messages[each] for each in self.thread.shown_to(self.point.position)]

    def path(self, size: int) -> list[int]:
        """Return the positions of the first messages up to the point, with the summaries among them.

        A summary at the point itself is among them where all messages are.
        """
        shown = self.thread.shown_to(self.point.position)
        end = self.point.position if size == len(shown) else shown[size - 1] if size else -1
        return self.thread.path_to(end)


class CheckpointService:
    """Points of the runs of one owner at a time; another owner's are NotFound in all calls."""

    def __init__(self, store: Runs, points: Checkpoints, clock: Clock) -> None:
        self._store = store
        self._points = points
        self._clock = clock
        self._reader = RunReader(store)

    def page(
        self, user_id: UserId, run_id: RunId, *, limit: int, after: tuple[int, str] | None = None
    ) -> list[RunPoint]:
        """List points of a run in the order of its log, from behind the place `after` on.

        Raises:
            NotFound: the owner has no such run.
        """
        return self._points.points(self._reader.get(user_id, run_id).key, limit=limit, after=after)

    def find(self, user_id: UserId, checkpoint_id: str) -> FoundPoint:
        """Read a point with the messages up to it.

        Raises:
            NotFound: the owner has no such point, its run is gone, or its thread was deleted.
        """
        missing = NotFound(f"Checkpoint '{checkpoint_id[:256]}' not found")
        place = read_point_id(checkpoint_id)
        if place is None:
            raise missing
        key = RunKey(user_id, place.run_id)
        run, point = self._store.run(key), self._points.point(key, place)
        if run is None or point is None:
            raise missing
        thread = self._store.thread(ThreadKey(user_id, run.thread_id))
        if thread.is_deleted or thread.next_message <= point.position:
            raise missing
        stored = self._store.setup(key)
        log = read_log(self._store, key, until=place.n)
        state = state_after(data for segment in log for data in segment.events)
        return FoundPoint(run, point, thread, state, load_setup(stored) if stored else None)

    def label(
        self,
        user_id: UserId,
        run_id: RunId,
        *,
        description: str,
        tags: Sequence[str],
        idempotency_key: IdempotencyKey | None = None,
    ) -> RunPoint:
        """Label the latest durable point of a run, also of one that is running; the same words there are one label.

        Raises:
            NotFound: the owner has no such run, or its thread was deleted.
            Conflict: TOO_MANY_OBJECTS: the run has all the labels that it may have.
            IdempotencyKeyReused: the key belongs to a request for another label.
            Gone: the label that the key's first request gave was deleted with its run.
        """
        run = self._reader.get(user_id, run_id)
        now = self._clock.now()
        request = repeatable(idempotency_key, run_id, description, list(tags), at=now)
        if request is not None and (made := self._points.labelled_by(run.key, request)) is not None:
            return self._labelled(run.key, made)
        point = self._latest(run)
        point = replace(
            point,
            id=point.id._replace(label=label_of(description, tags)),
            kind=CheckpointKind.MANUAL,
            at=now,
            description=description,
            tags=tuple(tags),
        )
        try:
            self._points.label(run.key, point, at=now, request=request)
        except AlreadyExists:
            # By this request, when its answer was lost; or by another one, at the same point.
            made = self._points.labelled_by(run.key, request) if request is not None else None
            return self._labelled(run.key, made or point.id)
        return point

    def _latest(self, run: Run) -> RunPoint:
        tail, checkpoint = self._store.tail(run.key), self._store.last_checkpoint(run.key)
        # After the checkpoint, so that it has all messages up to that.
        thread = self._store.thread(ThreadKey(run.key.user_id, run.thread_id))
        if thread.is_deleted or tail is None:
            raise NotFound(f"Run '{run.key.run_id}' not found")
        point = latest_point(run, n=tail.n, checkpoint=checkpoint)
        held = thread.shown_to(point.position)
        return replace(point, messages=len(held))

    def _labelled(self, key: RunKey, made: PointId) -> RunPoint:
        found = self._points.point(key, made)
        if found is None:
            raise no_longer(write_point_id(made))
        return found
