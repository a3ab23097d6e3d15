"""Deletes threads: a tombstone first, then what is left, in the background, until nothing can write to it again.

request    one transaction makes the thread's item its tombstone and writes what is to be done. From here on it is
           nowhere to be found, and no run begins in it. Its active run is asked to end.
goes       each removes what is left for a bounded time; no progress is stored but what is gone (karma.runs.removal).
settling   the last go comes `SETTLES_AFTER` the request, as an account's (karma.identity.accounts.deletion).

docs/adr/0045-threads.md says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

from karma.conversations.domain import ThreadDeletion, ThreadHead, ThreadKey
from karma.core.clock import Clock, monotonic
from karma.core.errors import NotFound, StaleVersion, StorageThrottled, Upstream
from karma.core.ids import RunId
from karma.core.observability import count, logger
from karma.core.purge import PurgeAttempt
from karma.core.repeat import repeat
from karma.identity.accounts.deletion import DUE_AFTER, SETTLES_AFTER, Queue
from karma.runs.domain import RunKey
from karma.runs.wishes import Wish
from karma.threads.messages import thread_message

FORGET_AFTER: Final = timedelta(days=90)
"""Time for which the id of a deleted thread is refused: a screen that still shows the thread would bring it back."""
_GO_S: Final = 20.0
_FIRST_DELAY: Final = timedelta(seconds=6)
"""Time until the second go; longer than the owner of a run has to end it by itself."""
_LONGEST_DELAY: Final = timedelta(minutes=15)
_LONGEST_PAUSE: Final = timedelta(hours=6)
_SWEEP_LIMIT: Final = 100
_REASON: Final = "Its thread was deleted"


class ThreadDeletions(Protocol):
    """Deletions that are not finished: conversations.deletion_repository.ThreadDeletionRepository. All calls block."""

    def begin(self, head: ThreadHead, *, at: datetime, due_at: datetime) -> None:
        """Make a thread its tombstone and write its deletion, all or nothing.

        Raises:
            StaleVersion: the thread is not as it was read.
        """

    def get(self, key: ThreadKey) -> ThreadDeletion | None:
        """Read the deletion of a thread, consistently; None: there is none, or it is finished."""

    def is_deleted(self, key: ThreadKey) -> bool:
        """Tell whether a thread was deleted, consistently."""

    def due(self, before: datetime, *, limit: int) -> list[ThreadDeletion]:
        """List deletions that are due before a moment, the oldest first."""

    def postpone(self, key: ThreadKey, *, due_at: datetime) -> bool:
        """Count a go and say when the next is due; False: the deletion is finished."""

    def finish(self, key: ThreadKey, *, forget_at: datetime) -> None:
        """Forget the deletion, and let the tombstone end at `forget_at`. May be repeated."""


class Heads(Protocol):
    """Threads without their messages, as `ports.Threads`."""

    def get(self, key: ThreadKey) -> ThreadHead | None: ...  # noqa: D102


class WishStore(Protocol):
    """The way to ask the owner of a run to end it, as `karma.runs.ports.Runs`."""

    def wish(self, key: RunKey, wish: Wish, *, at: datetime, reason: str = "") -> bool: ...  # noqa: D102


class Removal(Protocol):
    """Removes the runs of a thread: karma.runs.removal.RunsRemoval."""

    def remove(self, thread: ThreadKey, *, newest: RunId | None, purge: PurgeAttempt) -> bool: ...  # noqa: D102


class AttachmentRemoval(Protocol):
    """Removes the attachments of a thread: karma.runs.attachment_removal.AttachmentsRemoval."""

    def release(self, thread: ThreadKey, purge: PurgeAttempt) -> bool: ...  # noqa: D102
    def remove(self, thread: ThreadKey, purge: PurgeAttempt) -> bool: ...  # noqa: D102


class _Raced(StaleVersion):
    """A run began or ended between the read and the write."""


class ThreadRemover:
    """Use case of an owner who deletes a thread."""

    def __init__(
        self, *, threads: Heads, deletions: ThreadDeletions, wishes: WishStore, queue: Queue, clock: Clock
    ) -> None:
        self._threads = threads
        self._deletions = deletions
        self._wishes = wishes
        self._queue = queue
        self._clock = clock

    def delete(self, key: ThreadKey, *, version: int | None = None) -> None:
        """Delete a thread; the rest of it is removed in the background. May be repeated.

        If the message cannot be enqueued, the thread is deleted all the same, and the sweep enqueues it.

        Raises:
            NotFound: there is no such thread.
            StaleVersion: `version` is not the stored one.
        """

        def once() -> ThreadHead | None:
            head, now = self._threads.get(key), self._clock.now()
            if head is None or head.is_over(now):
                if self._deletions.is_deleted(key):
                    return None
                raise NotFound("Thread not found")
            if version is not None and head.version != version:
                raise StaleVersion(f"Thread has version {head.version}")
            try:
                self._deletions.begin(head, at=now, due_at=now + DUE_AFTER)
            except StaleVersion as exc:
                raise _Raced(exc.message) from exc
            count("ThreadDeleted")
            return head

        head = repeat(once, on=(StorageThrottled, _Raced))
        try:
            self._queue.send(thread_message(key))
            if head is not None and head.active_run_id is not None:
                run = RunKey(key.user_id, head.active_run_id)
                self._wishes.wish(run, Wish.CANCEL, at=self._clock.now(), reason=_REASON)
        except Upstream as exc:
            # The sweep enqueues it, and a run that was not asked is ended by a go.
            logger.warning("thread.deletion_left_for_sweep", code=exc.code)


class ThreadCascade:
    """Removes what is left of deleted threads."""

    def __init__(
        self,
        *,
        deletions: ThreadDeletions,
        runs: Removal,
        attachments: AttachmentRemoval,
        messages: Callable[[ThreadKey, PurgeAttempt], bool],
        queue: Queue,
        clock: Clock,
    ) -> None:
        """Build the worker; `messages` removes a thread's messages, and returns whether none is left."""
        self._deletions = deletions
        self._runs = runs
        self._attachments = attachments
        self._messages = messages
        self._queue = queue
        self._clock = clock

    def advance(self, key: ThreadKey) -> bool:
        """Remove what is left of a thread for up to 20 seconds; True when its deletion is finished.

        If it is not, it is enqueued again.
        """
        deletion = self._deletions.get(key)
        if deletion is None:
            return True
        settles_at = deletion.requested_at + SETTLES_AFTER
        settled = self._clock.now() >= settles_at
        purge = PurgeAttempt(
            user_id=key.user_id, requested_at=deletion.requested_at, ends_at=monotonic() + _GO_S, settled=settled
        )
        done = self._remove(key, deletion.last_run_id, purge)
        if settled and done:
            self._deletions.finish(key, forget_at=deletion.requested_at + FORGET_AFTER)
            logger.info("thread.deletion_finished", goes=deletion.attempts + 1)
            return True
        now = self._clock.now()
        delay = timedelta()
        if not purge.over():
            delay = min(_FIRST_DELAY * 2 ** min(deletion.attempts, 10), _LONGEST_DELAY)
            if now < settles_at:
                delay = min(delay, settles_at - now) if not done else min(settles_at - now, _LONGEST_DELAY)
        # Due before it is sent: a crash in between costs a pause, not the deletion.
        if self._deletions.postpone(key, due_at=now + delay + DUE_AFTER):
            self._queue.send(thread_message(key), delay_s=math.ceil(delay.total_seconds()))
        return False

    def _remove(self, key: ThreadKey, newest: RunId | None, purge: PurgeAttempt) -> bool:
        return (
            # Until they have ended, runs add messages; and messages tell which attachments there are.
            self._runs.remove(key, newest=newest, purge=purge)
            and self._attachments.release(key, purge)
            and self._messages(key, purge)
            and (not purge.settled or self._attachments.remove(key, purge))
        )


def requeue_due(deletions: ThreadDeletions, queue: Queue, clock: Clock) -> int:
    """Enqueue deletions that are due; the pause between goes doubles each time, up to 6 h. Return how many."""
    from karma.core.sweeping import sweep_each  # local: those who do no sweep do without

    now = clock.now()

    def send(deletion: ThreadDeletion) -> int:
        pause = min(DUE_AFTER * 2 ** min(deletion.attempts, 10), _LONGEST_PAUSE)
        if not deletions.postpone(deletion.key, due_at=now + pause):
            return 0
        queue.send(thread_message(deletion.key))
        return 1

    due = deletions.due(now, limit=_SWEEP_LIMIT)
    sent = sweep_each("threads", due, send, name=lambda deletion: deletion.key.thread_id, clock=clock)
    if sent:
        count("ThreadDeletionRequeued", sent)
    return sent
