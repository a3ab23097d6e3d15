"""Removal of the runs of a deleted thread from the table `agents`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from karma.conversations.domain import ThreadKey
from karma.core.clock import iso
from karma.core.dynamo.access import get, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import delete_keys, empty, pages
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import RunId
from karma.core.purge import PurgeAttempt
from karma.runs.domain import Run, RunKey
from karma.runs.items import (
    DELEGATED,
    HEAD,
    LISTED,
    SEGMENT,
    DelegatedItem,
    RunCounterItem,
    RunItem,
    RunOwnerItem,
    RunsItem,
    SegmentItem,
    parse_run_pk,
    run_id_pk,
    run_pk,
    unlisted_pk,
    user_pk,
)
from karma.runs.stored import run_of


class RemovedRun(NamedTuple):
    """A run of a deleted thread."""

    run: Run
    is_unlisted: bool
    """It is neither listed nor found any more."""


class RunRemovalRepository:
    """Removal of runs over DynamoDB."""

    def runs(self, thread: ThreadKey, *, newest: RunId | None) -> Iterator[RemovedRun]:
        """Yield a thread's runs, the newest first, one Get each; of which some may be removed meanwhile.

        A run names the one before it. Where none is named, since they are older than that, the rest is found in the
        list of all the user's runs, a Query a hundred of them. `newest` is as `Thread.last_run_id`.
        """
        following = newest
        while following:
            item = get(RunItem, Key(run_pk(RunKey(thread.user_id, following)), HEAD), consistent=True)
            if item is None:
                return
            yield RemovedRun(run_of(item), bool(item.deleted_at))
            following = _named(item.previous_run_id)
        if following is None:
            yield from self._listed(thread)

    def _listed(self, thread: ThreadKey) -> Iterator[RemovedRun]:
        start: dict[str, str] | None = None
        while True:
            listed = RunsItem.gsi1sk.startswith(LISTED)
            page = query(
                RunsItem, user_pk(thread.user_id), listed, limit=100, forward=False, start=start, index=RunsItem.gsi1
            )
            for item in page.items:
                if isinstance(item, RunItem) and item.thread_id == thread.thread_id:
                    yield RemovedRun(run_of(item), is_unlisted=False)
            start = page.last
            if start is None:
                return

    def unlist(self, run: Run, *, at: datetime) -> None:
        """Take a run that has ended off all lists, and off its owner's count; one transaction of three items.

        Its item stays and says so, and refuses the id to another run. May be repeated.
        """
        thread = ThreadKey(run.key.user_id, run.thread_id)
        tx = Transaction()
        actions = [
            RunItem.deleted_at.set(iso(at)),
            RunItem.gsi1pk.set(unlisted_pk(thread)),
            RunItem.input_query.remove(),
            RunItem.response.remove(),
        ]
        tx.update(RunItem(run_pk(run.key), HEAD), actions, RunItem.pk.exists() & RunItem.deleted_at.does_not_exist())
        tx.delete(RunOwnerItem(run_id_pk(run.key.run_id), user_pk(run.key.user_id)))
        tx.upsert(RunCounterItem(user_pk(run.key.user_id), "COUNTER#runs"), [RunCounterItem.value.add(-1)])
        try:
            tx.commit()
        except ConditionFailed:
            return  # it is unlisted, or removed

    def attachments(self, key: RunKey) -> Iterator[str]:
        """Yield the ids of attachments that a run's subagents name; one Query a megabyte of their steps."""
        start = None
        while True:
            steps = RunsItem.sk.startswith(DELEGATED)
            page = query(RunsItem, run_pk(key), steps, limit=1000, start=start, consistent=True)
            for item in page.items:
                if isinstance(item, DelegatedItem):
                    yield from sorted(item.attachments or ())
            start = page.last
            if start is None:
                return

    def empty(self, key: RunKey, purge: PurgeAttempt, *, keep_last: bool) -> bool:
        """Delete a run's log and all else of it except its item; False when the time of `purge` ended before.

        With `keep_last` the last segment stays: a writer that does not know of the end yet fails on it.
        """
        kept = {HEAD}
        if keep_last:
            page = query(
                RunsItem, run_pk(key), RunsItem.sk.startswith(SEGMENT), limit=1, forward=False, consistent=True
            )
            kept |= {item.sk for item in page.items if isinstance(item, SegmentItem)}
        return empty(RunsItem, run_pk(key), purge, keep=kept)

    def unlisted(self, thread: ThreadKey) -> Iterator[Sequence[RunKey]]:
        """Yield the unlisted runs of a thread; one Query of the index a hundred of them, eventually consistent."""
        for page in pages(RunsItem, unlisted_pk(thread), index=RunsItem.gsi1):
            yield [parse_run_pk(each.pk) for each in page]

    def forget(self, keys: Sequence[RunKey]) -> None:
        """Delete the items of unlisted runs, the last that there is of them; one BatchWriteItem for 25."""
        delete_keys(RunsItem, [Key(run_pk(key), HEAD) for key in keys])


def _named(text: str | None) -> RunId | None:
    return None if text is None else RunId(text)
