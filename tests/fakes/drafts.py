"""A fake of the store of drafts; it passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from karma.billing.allowances import Reservation
from karma.conversations.domain import Message, Thread, ThreadChanged, ThreadKey
from karma.core.ids import RunId
from karma.identity.transactional import AccountGone
from tests.fakes.runs import MemoryRuns


class MemoryDrafts:
    """Drafts among the threads of a store in memory; what is to be removed is never removed by itself."""

    def __init__(self, runs: MemoryRuns) -> None:
        self.runs = runs
        self.removal: dict[ThreadKey, datetime] = {}

    def begin(
        self, key: ThreadKey, *, at: datetime, removed_at: datetime, reservations: Sequence[Reservation] = ()
    ) -> None:
        if key.user_id in self.runs.gone:
            raise AccountGone(key.user_id)
        if key in self.runs.threads:
            raise ThreadChanged
        self.runs.usage.require(reservations)
        self.runs.threads[key] = Thread(key=key, version=1, last_run_id=RunId(""), is_deleted=True, is_draft=True)
        self.removal[key] = removed_at

    def add(self, key: ThreadKey, messages: tuple[Message, ...], *, n: int, at: datetime) -> None:
        if key.user_id in self.runs.gone:
            raise AccountGone(key.user_id)
        thread = self.runs.threads.get(key)
        if thread is None or not thread.is_draft or thread.next_message != n:
            raise ThreadChanged
        self.runs.threads[key] = replace(thread, messages=(*thread.messages, *messages), next_message=n + len(messages))
