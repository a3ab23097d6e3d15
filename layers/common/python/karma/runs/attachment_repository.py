"""Links between threads and the attachments they name, in the table `agents`: an attachment goes with its last thread.

The transactions that add messages to a thread note the attachments that these name, at the attachment's own item. An
attachment from before that is kept until its account is deleted, since nobody knows which threads name it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.billing.allowances import Metric, given_back
from karma.billing.transactional import adjust_usage
from karma.conversations.attachments import attachments_in
from karma.conversations.domain import History, Message, ThreadKey
from karma.core.dynamo.access import get, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import pages
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import UserId
from karma.runs.items import ATTACHMENT, AttachmentItem, RunsItem, released_pk, user_pk
from karma.runs.ports import DelegatedWork, StoredStep

_MOST: Final = 40
"""Attachments that one write notes; what its messages name beyond that is kept with the account."""
_TRIES: Final = 5


class Attached(NamedTuple):
    """An attachment of an account."""

    user_id: UserId
    id: str


def _key(user_id: UserId, attachment_id: str) -> Key:
    return Key(user_pk(user_id), f"{ATTACHMENT}{attachment_id}")


def note_attachments(
    tx: Transaction,
    thread: ThreadKey,
    messages: Sequence[Message],
    *,
    new: Mapping[str, int],
    steps: Sequence[StoredStep] = (),
    at: str,
    on_fail: AppError,
) -> None:
    """Note the attachments of a run's first messages, and of the steps of subagents that it begins with; one item each.

    The transaction fails with `on_fail` if one of those that are new in the account, sizes by id, is there, or one of
    the others is being removed.
    """
    for name, size in new.items():
        item = AttachmentItem(
            *_key(thread.user_id, name), size=size, threads={thread.thread_id}, is_tracked=True, created_at=at
        )
        tx.put(item, on_fail=on_fail)
    for name in _named(messages, steps):
        if name not in new:
            free = AttachmentItem.is_removed.does_not_exist()
            tx.upsert(AttachmentItem(*_key(thread.user_id, name)), _named_by(thread), free, on_fail=on_fail)


def require_attachments(
    tx: Transaction, thread: ThreadKey, messages: Sequence[Message], *, new: Mapping[str, int], on_fail: AppError
) -> None:
    """Let a transaction fail as `note_attachments` would now, and note nothing; a check for each attachment."""
    for name in new:
        tx.check(AttachmentItem, _key(thread.user_id, name), AttachmentItem.pk.does_not_exist(), on_fail=on_fail)
    for name in _named(messages, ()):
        if name not in new:
            free = AttachmentItem.is_removed.does_not_exist()
            tx.check(AttachmentItem, _key(thread.user_id, name), free, on_fail=on_fail)


def name_results(tx: Transaction, history: History | None, delegated: DelegatedWork | None = None, *, at: str) -> None:
    """Note the long results of tools that a run or its subagents add, at its thread; one Get and one item each."""
    messages, steps = (history.messages if history else ()), (delegated.steps if delegated else ())
    thread = history.thread if history else delegated.thread if delegated else None
    if thread is None:
        return
    for name in _named(messages, steps):
        key = _key(thread.user_id, name)
        if get(AttachmentItem, key, consistent=True) is None:
            tx.put(AttachmentItem(*key, threads={thread.thread_id}, is_tracked=True, created_at=at))
        else:
            tx.upsert(AttachmentItem(*key), _named_by(thread))


def _named(messages: Sequence[Message], steps: Sequence[StoredStep]) -> list[str]:
    names = [*attachments_in(messages), *(name for step in steps for name in step.attachments)]
    return list(dict.fromkeys(names))[:_MOST]


def _named_by(thread: ThreadKey) -> list[Action]:
    return [
        AttachmentItem.threads.add({thread.thread_id}),
        AttachmentItem.gsi1pk.remove(),
        AttachmentItem.gsi1sk.remove(),
    ]


class AttachmentRepository:
    """Attachments of deleted threads over DynamoDB."""

    def release(self, thread: ThreadKey, attachment_id: str) -> None:
        """Note that a thread does not name an attachment any more, and list it if no other does. May be repeated."""
        key, mine = _key(thread.user_id, attachment_id), thread.thread_id
        for _ in range(_TRIES):
            item = get(AttachmentItem, key, consistent=True)
            threads: set[str] = set(item.threads or ()) if item else set()
            if item is None or mine not in threads:
                return
            is_last = threads == {mine} and bool(item.is_tracked)
            actions: list[Action] = [AttachmentItem.threads.delete({mine})]
            if is_last:
                actions += [
                    AttachmentItem.gsi1pk.set(released_pk(thread)),
                    AttachmentItem.gsi1sk.set(key.sk),
                ]
            try:
                update(AttachmentItem(*key), actions, AttachmentItem.threads == threads)
            except ConditionFailed:
                continue  # another thread names it since, or does not any more
            return

    def released(self, thread: ThreadKey) -> Iterator[Attached]:
        """Yield the attachments that nothing names since a thread was deleted; by the index, eventually consistent."""
        for page in pages(RunsItem, released_pk(thread), index=RunsItem.gsi1):
            yield from (Attached(thread.user_id, key.sk.removeprefix(ATTACHMENT)) for key in page)

    def begin_removal(self, of: Attached) -> bool:
        """Keep threads from naming an attachment while its bytes are removed; False: one names it, or it is gone."""
        actions = [AttachmentItem.is_removed.set(True)]
        try:
            update(AttachmentItem(*_key(*of)), actions, AttachmentItem.pk.exists() & _is_unnamed())
        except ConditionFailed:
            return False
        return True

    def finish_removal(self, of: Attached) -> None:
        """Delete the item of an attachment whose bytes are removed, and give back the storage that it took."""
        item = get(AttachmentItem, _key(*of), consistent=True)
        if item is None or not item.is_removed:
            return
        tx = Transaction()
        tx.delete(AttachmentItem(*_key(*of)), AttachmentItem.is_removed.exists() & _is_unnamed())
        adjust_usage(tx, [given_back(of.user_id, Metric.STORAGE, int(item.size))] if item.size else [])
        try:
            tx.commit()
        except ConditionFailed:
            # A run that goes on has named it, and stored its bytes before.
            with suppress(ConditionFailed):  # or another process has finished this
                update(AttachmentItem(*_key(*of)), [AttachmentItem.is_removed.remove()])


def _is_unnamed() -> Condition:
    condition: Condition = AttachmentItem.threads.does_not_exist() & AttachmentItem.is_tracked.exists()
    return condition
