"""Deleting an account: a tombstone first, then all its data, context by context.

request    one transaction replaces the account's item, its address and its count of owned objects by a tombstone.
           From here on nothing can be written for the account (transactional.require_account), and nobody can log in.
cascade    each context removes its data of the account, in rounds of bounded time, until nothing is left. No progress
           is stored: a round that dies is followed by another that finds less.
settling   the last round comes `SETTLES_AFTER` the request, when nothing that ran at that moment runs any more.

docs/adr/0014-account-deletion.md has the order of the steps, and why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from karma.audit.domain import AuditEntry, AuditEvent, Source
from karma.core.clock import Clock, monotonic
from karma.core.errors import Conflict, NotFound, Upstream
from karma.core.ids import UserId
from karma.core.observability import count, logger
from karma.core.purge import PurgeAttempt, PurgeStep
from karma.core.ratelimit import Buckets
from karma.core.records import Record
from karma.identity.confirmation import confirm_presence
from karma.identity.domain import Caller, Credential, Role

if TYPE_CHECKING:  # the cascade goes without argon2
    from karma.identity.passwords.hashes import Passwords

SETTLES_AFTER = timedelta(minutes=20)
"""Time from a deletion's request to its last round; longer than anything that may still write runs: a run's process for
15 minutes, a request for half a minute.
"""
TOMBSTONE_TTL = timedelta(days=90)
DUE_AFTER = timedelta(minutes=2)
"""Time after which the sweep enqueues a deletion again that no worker has taken up."""
_GO_S = 20.0
_FIRST_DELAY = timedelta(seconds=30)
_LONGEST_DELAY = timedelta(minutes=15)
"""Longest delay of an SQS message."""
_LONGEST_PAUSE = timedelta(hours=6)
_SWEEP_LIMIT = 100


class AdministratorStays(Conflict):
    """An administrator cannot delete the own account: they give the role up first, so that one always remains."""

    code = "ADMINISTRATOR_STAYS"


class Leaving(Record, kw_only=True):
    """State of an account that its deletion depends on."""

    user_id: UserId
    email: str
    role: Role
    password_hash: str | None
    disabled_at: datetime | None
    sessions_from: datetime | None
    version: int


class Deletion(Record, kw_only=True):
    """A deleted account."""

    user_id: UserId
    requested_at: datetime
    finished_at: datetime | None
    attempts: int


class Deletions(Protocol):
    """Deletions of accounts and their tombstones; repository/deletions.py says what each method promises."""

    def leaving(self, user_id: UserId) -> Leaving | None: ...  # noqa: D102
    def begin(  # noqa: D102
        self, leaving: Leaving, *, by: Credential | None, entry: AuditEntry, due_at: datetime
    ) -> None: ...
    def get(self, user_id: UserId) -> Deletion | None: ...  # noqa: D102
    def due(self, before: datetime, *, limit: int) -> Sequence[Deletion]: ...  # noqa: D102
    def postpone(self, user_id: UserId, *, due_at: datetime, waits_for: str | None) -> bool: ...  # noqa: D102
    def finish(self, user_id: UserId, *, at: datetime, forget_at: datetime) -> None: ...  # noqa: D102


class Queue(Protocol):
    """The queue of accounts to be deleted."""

    def send(self, body: str, *, delay_s: int = 0) -> None:
        """Enqueue a user id; it becomes visible after the delay."""
        ...


class AccountDeletion:
    """Use case of a person who deletes their account."""

    def __init__(
        self,
        *,
        deletions: Deletions,
        passwords: Passwords,
        buckets: Buckets,
        queue: Queue,
        clock: Clock,
        on_change: Callable[[UserId], None],
    ) -> None:
        """Build the service.

        `on_change` is called with the id of each deleted account (Authenticator.forget).
        """
        self._deletions = deletions
        self._passwords = passwords
        self._buckets = buckets
        self._queue = queue
        self._clock = clock
        self._on_change = on_change

    def require_none(self, user_id: UserId) -> None:
        """Require that no account of this id was deleted within 90 days; there need not be one.

        Raises:
            NotFound: it was deleted.
        """
        if self._deletions.get(user_id) is not None:
            raise NotFound("User not found")

    def request(self, caller: Caller, *, current_password: str | None, source: Source) -> Deletion:
        """Delete the caller's account; its data is removed in the background.

        If the message cannot be enqueued, the account is deleted all the same and the sweep enqueues it.

        Raises:
            Forbidden: the caller is an API key, the password is wrong, or without a password the login is old.
            RateLimited: too many passwords were wrong.
            ValidationFailed: the password is missing.
            AdministratorStays: the caller is an administrator.
            AccountHolds: the account owns objects that must not lose their owner.
            StaleVersion: the account was changed at the same moment.
            SessionOver: the caller's session has ended meanwhile.
            NotFound: the account is deleted already.
        """
        caller.require_person()
        leaving = self._deletions.leaving(caller.user_id)
        if leaving is None:
            raise NotFound("User not found")
        if caller.credential is not None:
            caller.credential.require_outlived_by(disabled_at=leaving.disabled_at, sessions_from=leaving.sessions_from)
        now = self._clock.now()
        confirm_presence(
            caller,
            password_hash=leaving.password_hash,
            given=current_password,
            passwords=self._passwords,
            buckets=self._buckets,
            now=now,
        )
        if leaving.role is Role.ADMIN:
            raise AdministratorStays("An administrator gives the role up before the account can be deleted")
        entry = AuditEntry(
            user_id=leaving.user_id,
            event=AuditEvent.DELETION_REQUESTED,
            at=now,
            actor_id=leaving.user_id,
            source=source,
        )
        self._deletions.begin(leaving, by=caller.credential, entry=entry, due_at=now + DUE_AFTER)
        self._on_change(leaving.user_id)
        count("AccountDeletionRequested")
        try:
            self._queue.send(leaving.user_id)
        except Upstream:
            count("DeletionEnqueueFailed")
            logger.warning("deletion.left_for_sweep", user_id=leaving.user_id)
        return Deletion(user_id=leaving.user_id, requested_at=now, finished_at=None, attempts=0)


class Cascade:
    """Deletes the data of a deleted account, context by context, until nothing can write to it again."""

    def __init__(self, steps: Sequence[PurgeStep], *, deletions: Deletions, queue: Queue, clock: Clock) -> None:
        """Build the worker.

        `steps` run in their order; the one that removes the account's own data comes last.
        """
        self._steps = steps
        self._deletions = deletions
        self._queue = queue
        self._clock = clock

    def advance(self, user_id: UserId) -> bool:
        """Let every context remove data for up to 20 seconds; return True when the deletion is finished.

        If it is not, the account is enqueued again. When another system (Stripe, IoT) fails one context, the others go
        on.

        Raises:
            Exception: a step raised something other than Upstream; it is raised again after all steps ran.
        """
        deletion = self._deletions.get(user_id)
        if deletion is None or deletion.finished_at is not None:
            return True
        settles_at = deletion.requested_at + SETTLES_AFTER
        settled = self._clock.now() >= settles_at
        purge = PurgeAttempt(
            user_id=user_id, requested_at=deletion.requested_at, ends_at=monotonic() + _GO_S, settled=settled
        )
        left: list[str] = []
        bugs: list[Exception] = []
        held_up = False
        for step in self._steps:
            try:
                if not step.purge_account(purge):
                    left.append(step.name)
            except Upstream as exc:
                logger.warning("deletion.step_failed", step=step.name, user_id=user_id, code=exc.code)
                held_up = True
                left.append(step.name)
            except Exception as exc:  # noqa: BLE001  one context's bug must not hold back the others
                logger.exception("deletion.step_failed", step=step.name, user_id=user_id)
                bugs.append(exc)
                left.append(step.name)
        if settled and not left:
            now = self._clock.now()
            self._deletions.finish(user_id, at=now, forget_at=deletion.requested_at + TOMBSTONE_TTL)
            count("AccountDeleted")
            logger.info("deletion.finished", user_id=user_id, goes=deletion.attempts + 1)
            return True
        if bugs:
            raise bugs[0]
        self._again(deletion, purge, left, held_up=held_up, settles_at=settles_at)
        return False

    def _again(
        self, deletion: Deletion, purge: PurgeAttempt, left: Sequence[str], *, held_up: bool, settles_at: datetime
    ) -> None:
        now = self._clock.now()
        delay = timedelta()
        if held_up or not purge.over():
            delay = min(_FIRST_DELAY * 2 ** min(deletion.attempts, 10), _LONGEST_DELAY)
            if now < settles_at:
                delay = min(delay, settles_at - now)
        # Due before it is sent: a crash in between costs a pause, not the deletion.
        waits_for = ", ".join(left) or "settling"
        if self._deletions.postpone(deletion.user_id, due_at=now + delay + DUE_AFTER, waits_for=waits_for):
            self._queue.send(deletion.user_id, delay_s=math.ceil(delay.total_seconds()))


def requeue_due(deletions: Deletions, queue: Queue, clock: Clock) -> int:
    """Enqueue deletions that are due; the pause between rounds doubles each time, up to 6 h. Return how many."""
    from karma.core.sweeping import sweep_each  # local: those who do no sweep do without

    now = clock.now()

    def send(deletion: Deletion) -> int:
        pause = min(DUE_AFTER * 2 ** min(deletion.attempts, 10), _LONGEST_PAUSE)
        if not deletions.postpone(deletion.user_id, due_at=now + pause, waits_for=None):
            return 0
        queue.send(deletion.user_id)
        return 1

    due = deletions.due(now, limit=_SWEEP_LIMIT)
    sent = sweep_each("deletions", due, send, name=lambda deletion: deletion.user_id, clock=clock)
    if sent:
        count("DeletionRequeued", sent)
    return sent
