"""Goes back to a point in the thread itself, by no run; its record is that of a request which begins one, too.

The record of a request with an Idempotency-Key is written in the transaction that restores the thread, in its owner's
partition, and holds how many messages the thread had. So a repeat restores nothing, and names the effects that the
first request named: what was said since came behind those messages. It outlives the thread: a repeat is 410 by then,
also of a request that began a run instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple

from karma.conversations.domain import Thread, ThreadChanged, ThreadKey
from karma.conversations.state import EMPTY, State, with_user, without_user
from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, NotFound, ValidationFailed
from karma.core.ids import UserId
from karma.core.json_patch import is_same
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, IdempotencyKeyReused, no_longer, repeatable
from karma.identity.domain import Caller
from karma.runs.checkpoints import CheckpointService, FoundPoint
from karma.runs.domain import Run, RunKey, ThreadBusy
from karma.runs.effects import Effect
from karma.runs.fork_repeats import run_key_of
from karma.runs.modifications import Modifications
from karma.runs.points import Earlier, Noted, PointId, read_point_id
from karma.runs.ports import Runs
from karma.runs.rollback import effects_behind
from karma.runs.setup import RunSetup, user_of
from karma.runs.withdrawing import withdraw_left
from karma.tools.toolbox import Tool

_TRIES: Final = 3


class Restored(Record):
    """Result of going back to a point."""

    thread: ThreadKey
    run: Run | None
    """The new run; None: the thread itself was restored."""
    effects: tuple[Effect, ...]


class FoundRequest(NamedTuple):
    """A request to go back to a point, and what is known of it."""

    point: FoundPoint
    by: Noted | None
    """The request as it is noted; None: it has no key."""
    done: Earlier | None
    """The work that it did before; None: nothing."""


class Restorer:
    """Lets threads go on behind points of their runs."""

    def __init__(self, store: Runs, points: CheckpointService, *, tools: Sequence[Tool], clock: Clock) -> None:
        """Build it; `tools` are the server's, of which some act."""
        self._store = store
        self._points = points
        self._tools = tools
        self._clock = clock

    def restore(
        self, caller: Caller, checkpoint_id: str, wanted: Modifications, *, key: IdempotencyKey | None = None
    ) -> Restored:
        """Let the thread of a point go on behind it, with its state, until messages are added.

        A repeat with the key changes nothing: it returns what the first request did, whatever came since.

        Raises:
            NotFound: the caller has no such point, or its thread was deleted.
            Gone: the thread that the key's first request restored was deleted.
            ThreadBusy: the thread has an active run.
            ValidationFailed: changes are wanted, which only a new run can have.
            IdempotencyKeyReused: the key belongs to another request.
        """
        if not wanted.are_none:
            raise ValidationFailed.of("modifications", "must be absent without create_new_run")
        for _ in range(_TRIES):
            found, by, done = self.find(caller.user_id, checkpoint_id, key=key, as_run=False)
            if done is not None:
                if found.thread.active_run_id is None:
                    withdraw_left(self._store, found.thread, found.thread.latest, at=self._clock.now())
                return restored_in_place(self._store, found, done.size, self._tools)
            if key is not None and self._store.run(run_key_of(caller, key)) is not None:
                raise IdempotencyKeyReused
            position, state = require_free(found).point.position, kept_state(found)
            if by is not None or found.thread.latest != position or state is not None:
                try:
                    self._store.restore(found.thread, position=position, state=state, at=self._clock.now(), by=by)
                except (ThreadChanged, AlreadyExists):
                    continue
            withdraw_left(self._store, found.thread, position, at=self._clock.now())
            return restored_in_place(self._store, found, found.thread.next_message, self._tools)
        raise ThreadChanged

    def find(self, user_id: UserId, checkpoint_id: str, *, key: IdempotencyKey | None, as_run: bool) -> FoundRequest:
        """Read the point to which a request goes back, in the thread itself or by a run, and what it did before.

        Raises:
            NotFound: the owner has no such point, or its thread was deleted.
            Gone: it was deleted since the request went back to it.
            IdempotencyKeyReused: the key belongs to another request.
        """
        by = _noted(user_id, key, read_point_id(checkpoint_id), at=self._clock.now(), as_run=as_run)
        done = self._store.restored_by(by) if by is not None else None
        try:
            return FoundRequest(self._points.find(user_id, checkpoint_id), by, done)
        except NotFound:
            if done is None:
                raise
            raise no_longer(done.made_id or None) from None


def restored_in_place(store: Runs, found: FoundPoint, size: int, tools: Sequence[Tool]) -> Restored:
    """Return what restoring a thread of `size` messages to a point has done; it may have more of them by now."""
    then = as_it_was(found, size)
    return Restored(then.thread.key, None, effects_behind(store, then, then.thread, tools))


def as_it_was(found: FoundPoint, size: int) -> FoundPoint:
    """Return a point as it was when its thread had so many messages: a repeat names what its first request named."""
    thread = found.thread
    forks = {position: after for position, after in thread.forks.items() if position < size}
    return replace(found, thread=replace(thread, messages=thread.messages[:size], next_message=size, forks=forks))


def require_free(found: FoundPoint) -> FoundPoint:
    """Return a point whose thread has no active run, and none that waits for its turn.

    Raises:
        ThreadBusy: it has one.
    """
    thread = found.thread
    if thread.active_run_id is not None:
        raise ThreadBusy(thread.active_run_id)
    if thread.queue:
        raise ThreadBusy(thread.queue[0], waits=True)
    return found


def kept_state(found: FoundPoint) -> State | None:
    """Return the state that a thread keeps when it goes back to a point; None: it has that, or the point has none."""
    if found.state is None or found.setup is None:
        return None
    return unless_held(State(without_user(found.state, user_of(found.setup.caller))), found.thread)


def states_from(found: FoundPoint, setup: RunSetup, thread: Thread) -> tuple[object, State | None]:
    """Return the state with which a run from a point begins, and the part that its thread keeps; None: it has that.

    The account may have another name by now than when the state of the point was told.
    """
    then = user_of((found.setup or setup).caller)
    kept = without_user({} if found.state is None else found.state, then)
    return with_user(kept, user_of(setup.caller)), unless_held(State(kept), thread)


def unless_held(state: State, thread: Thread) -> State | None:
    """Return a state, or None where the thread has an equal one."""
    return None if is_same(state.value, (thread.state or EMPTY).value) else state


def _noted(
    user_id: UserId, key: IdempotencyKey | None, place: PointId | None, *, at: datetime, as_run: bool
) -> Noted | None:
    """Return a request to go back to a point as it is noted; None: it has no key, or names no point."""
    if place is None:
        return None
    request = repeatable(key, list(place), as_run, at=at)
    return Noted(RunKey(user_id, place.run_id), request) if request else None
