"""The part of the store of runs by which a thread goes back to a point; repository.py has the rest."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from karma.conversations.domain import Thread, ThreadChanged
from karma.conversations.state import State
from karma.conversations.transactional import restore_thread
from karma.core.clock import iso
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.identity.transactional import require_account
from karma.runs.items import RestoreRequestItem, run_pk, user_pk

if TYPE_CHECKING:
    from karma.runs.points import Earlier, Noted
    from karma.runs.ports import Also


class RunRestoreRepository:
    """Threads that go back to points of runs, over DynamoDB."""

    def restore(
        self, thread: Thread, *, position: int, state: State | None = None, at: datetime, by: Noted | None = None
    ) -> None:
        """See Runs; one transaction."""
        tx = Transaction()
        require_account(tx, thread.key.user_id)
        if by is not None:
            from karma.runs.points import Earlier  # few processes restore anything

            _note(tx, by, Earlier(thread.next_message, thread.key.thread_id))
        restore_thread(tx, thread, position=position, state=state, at=iso(at), on_fail=ThreadChanged())
        tx.commit()

    def restored_by(self, by: Noted) -> Earlier | None:
        """See Runs; one Get, or two: earlier releases noted it with the run."""
        from karma.runs.points import Earlier

        for pk in (user_pk(by.run.user_id), run_pk(by.run)):
            done = noted(RestoreRequestItem, request_key(pk, by.request), by.request)
            if done is not None:
                size, _, made_id = done.partition("#")
                return Earlier(int(size), made_id)
        return None

    def noting(self, by: Noted, done: Earlier) -> Also:
        """See Runs."""
        return lambda tx: _note(tx, by, done)


def _note(tx: Transaction, by: Noted, done: Earlier) -> None:
    """Note a request in its owner's partition, which a deletion of its thread leaves alone."""
    record = RestoreRequestItem(*request_key(user_pk(by.run.user_id), by.request))
    note_request(tx, record, by.request, f"{done.size}#{done.made_id}")
