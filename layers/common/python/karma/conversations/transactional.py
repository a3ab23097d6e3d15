"""Writes of threads in the transactions of runs: a run takes its thread, adds messages to it, and frees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from karma.conversations.domain import History, Thread, ThreadKey, TitleSource, first_words
from karma.conversations.items import (
    HEAD,
    PART_BYTES,
    STATE,
    SWEEP_PARTITION,
    MessagesItem,
    ThreadDeletionItem,
    ThreadItem,
    ThreadStateItem,
    deleted_pk,
    deletion_key,
    due_sk,
    head_key,
    listed_sk,
    messages_sk,
    thread_pk,
    threads_pk,
)
from karma.conversations.state import State, dump_state
from karma.conversations.stored import dump_messages
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import AgentId, RunId

_NOT_BEGUN = ThreadDeletionItem.attempts == 0
"""Condition on a deletion: nobody has begun with it."""
_WAY_MADE = (ThreadItem.making_way_run_id.remove(), ThreadItem.making_way_at.remove())
"""Another run has begun since one made way."""


def occupy_thread(
    tx: Transaction,
    thread: Thread,
    *,
    run_id: RunId,
    agent_id: AgentId | None,
    history: History,
    interrupts: Sequence[str] = (),
    restores: bool = False,
    at: str,
    on_fail: AppError,
) -> None:
    """Make a run its thread's active one, and list the thread; one item, and its entry in the index.

    The transaction fails with `on_fail` if the thread is not as it was read, has an active run, or is deleted. A thread
    without a title gets the first words of `history`, the messages with which the run begins. Of its open questions
    those of `interrupts` stay open. `at` is the moment in ISO 8601. A draft becomes a thread: an item more, and the
    transaction fails also if its removal has begun. With `restores` the thread goes on where the run begins, though
    that adds no message.
    """
    key = thread.key
    item = ThreadItem(thread_pk(key), HEAD, user_id=key.user_id, thread_id=key.thread_id)
    item.active_run_id = run_id
    item.created_at = item.updated_at = at
    item.gsi1pk, item.gsi1sk = threads_pk(key.user_id), listed_sk(key, at)
    item.messages_begun = history.n + len(history.messages)
    item.agent_id, item.last_run_id = agent_id, run_id
    words = first_words([*thread.messages, *history.messages])
    if words:
        item.title, item.title_from = words, TitleSource.WORDS
    if not thread.version:
        tx.put(item, on_fail=on_fail)
        return
    item.version = thread.version
    actions: list[Any] = [
        ThreadItem.active_run_id.set(run_id),
        ThreadItem.updated_at.set(at),
        ThreadItem.gsi1pk.set(item.gsi1pk),
        ThreadItem.gsi1sk.set(item.gsi1sk),
        ThreadItem.messages_begun.set(item.messages_begun),
        ThreadItem.last_run_id.set(run_id),
        ThreadItem.expires_at.remove(),
        *_WAY_MADE,
    ]
    if restores and not history.messages and history.after is not None:
        actions += _goes_on(thread, history.after)
    actions += _left_open(thread, interrupts)
    if agent_id is not None:
        actions.append(ThreadItem.agent_id.set(agent_id))
    if words:
        actions.append(ThreadItem.title.set(ThreadItem.title | words))
        actions.append(ThreadItem.title_from.set(ThreadItem.title_from | TitleSource.WORDS.value))
    if thread.is_draft:
        actions.append(ThreadItem.deleted_at.remove())
        tx.delete(ThreadDeletionItem(*deletion_key(key)), _NOT_BEGUN, on_fail=on_fail)
        tx.update(item, actions, ThreadItem.deleted_at.exists(), locked=True, on_fail=on_fail)
        return
    is_free = ThreadItem.active_run_id.does_not_exist() & ThreadItem.deleted_at.does_not_exist()
    tx.update(item, actions, is_free, locked=True, on_fail=on_fail)


def draft_thread(tx: Transaction, key: ThreadKey, *, at: str, removed_at: str, on_fail: AppError) -> None:
    """Store an empty thread as one that is being deleted, until a run begins in it; two items.

    The transaction fails with `on_fail` if there is, or was, a thread of this id. The deletion begins at `removed_at`,
    a moment in ISO 8601, as is `at`.
    """
    item = ThreadItem(*head_key(key), user_id=key.user_id, thread_id=key.thread_id, last_run_id=RunId(""))
    item.created_at = item.updated_at = item.deleted_at = at
    item.gsi1pk, item.gsi1sk = deleted_pk(key.user_id), listed_sk(key, at)
    tx.put(item, on_fail=on_fail)
    deletion = ThreadDeletionItem(*deletion_key(key), user_id=key.user_id, thread_id=key.thread_id)
    deletion.created_at = deletion.updated_at = at
    deletion.gsi1pk, deletion.gsi1sk = SWEEP_PARTITION, due_sk(removed_at, key)
    tx.put(deletion, on_fail=on_fail)


def require_draft(tx: Transaction, key: ThreadKey, *, on_fail: AppError) -> None:
    """Let a transaction fail with `on_fail` unless a thread is a draft whose removal has not begun; one check."""
    tx.check(ThreadDeletionItem, deletion_key(key), _NOT_BEGUN, on_fail=on_fail)


def queue_run(tx: Transaction, thread: Thread, *, run_id: RunId, at: str, on_fail: AppError) -> None:
    """Put a run at the end of its thread's queue; one item.

    The transaction fails with `on_fail` if the thread is not as it was read, or is deleted. Its newest run is this one,
    though it has not begun: runs name the one before them, by which a deletion finds them.
    """
    item = ThreadItem(thread_pk(thread.key), HEAD)
    item.version = thread.version
    actions = [
        ThreadItem.queue.set([str(each) for each in (*thread.queue, run_id)]),
        ThreadItem.last_run_id.set(run_id),
        ThreadItem.updated_at.set(at),
        ThreadItem.gsi1sk.set(listed_sk(thread.key, at)),
    ]
    tx.update(item, actions, ThreadItem.deleted_at.does_not_exist(), locked=True, on_fail=on_fail)


def make_way(tx: Transaction, key: ThreadKey, run_id: RunId, *, at: str, on_fail: AppError) -> None:
    """Note that a request wants to begin in the place of a thread's active run; one item.

    The transaction fails with `on_fail` if that run is not the thread's active one, or the thread is gone.
    """
    actions = [ThreadItem.making_way_run_id.set(run_id), ThreadItem.making_way_at.set(at)]
    is_active = (ThreadItem.active_run_id == run_id) & ThreadItem.deleted_at.does_not_exist()
    tx.update(ThreadItem(*head_key(key)), actions, is_active, on_fail=on_fail)


def take_turn(
    tx: Transaction,
    thread: Thread,
    *,
    run_id: RunId,
    history: History,
    interrupts: Sequence[str],
    at: str,
    on_fail: AppError,
) -> None:
    """Make a run of a thread's queue its active one, and take it and those before it off the queue; one item.

    The transaction fails with `on_fail` if the thread is not as it was read, has an active run, or is deleted. Of its
    open questions those of `interrupts` stay open.
    """
    item = ThreadItem(thread_pk(thread.key), HEAD)
    item.version = thread.version
    rest = [str(each) for each in thread.queue[thread.queue.index(run_id) + 1 :]]
    actions: list[Any] = [
        ThreadItem.active_run_id.set(run_id),
        ThreadItem.queue.set(rest) if rest else ThreadItem.queue.remove(),
        ThreadItem.updated_at.set(at),
        ThreadItem.gsi1sk.set(listed_sk(thread.key, at)),
        ThreadItem.messages_begun.set(history.n + len(history.messages)),
        *_WAY_MADE,
    ]
    actions += _left_open(thread, interrupts)
    is_free = ThreadItem.active_run_id.does_not_exist() & ThreadItem.deleted_at.does_not_exist()
    tx.update(item, actions, is_free, locked=True, on_fail=on_fail)


def restore_thread(
    tx: Transaction, thread: Thread, *, position: int, state: State | None, at: str, on_fail: AppError
) -> None:
    """Let a thread go on behind the message at a position, until messages are added; one item, two with a state.

    The transaction fails with `on_fail` if the thread is not as it was read, has an active run, or is deleted.
    """
    item = ThreadItem(thread_pk(thread.key), HEAD)
    item.version = thread.version
    actions = [
        *_goes_on(thread, position),
        ThreadItem.updated_at.set(at),
        ThreadItem.gsi1sk.set(listed_sk(thread.key, at)),
    ]
    is_free = ThreadItem.active_run_id.does_not_exist() & ThreadItem.deleted_at.does_not_exist()
    tx.update(item, actions, is_free, locked=True, on_fail=on_fail)
    if state is not None:
        _keep_state(tx, thread.key, state, at=at)


def _left_open(thread: Thread, interrupts: Sequence[str]) -> list[Any]:
    if interrupts:
        return [ThreadItem.interrupts.set(_named(interrupts))]
    return [ThreadItem.interrupts.remove()] if thread.interrupts else []


def _goes_on(thread: Thread, position: int) -> list[Any]:
    return [ThreadItem.restored_to.set(position), ThreadItem.restored_size.set(thread.next_message)]


def run_before(thread: Thread) -> RunId | None:
    """Return the run of a thread that came before the one that begins now; as `Thread.last_run_id`."""
    return thread.last_run_id if thread.version else RunId("")


def release_thread(
    tx: Transaction,
    key: ThreadKey,
    *,
    run_id: RunId,
    last_message: int,
    spent: tuple[int, int],
    interrupts: Sequence[str] | None = None,
    at: str,
) -> None:
    """Free a thread of its active run, and count what that has spent; one item, and its entry in the index.

    The transaction fails with ConditionFailed if the run is not the active one. `last_message` is the position of the
    last message of the run's branch, -1 if it is not known. `spent` are its tokens and micro-dollars. `interrupts` are
    the questions that are open then; None: those that were.
    """
    actions = [
        ThreadItem.active_run_id.remove(),
        ThreadItem.updated_at.set(at),
        ThreadItem.gsi1sk.set(listed_sk(key, at)),
    ]
    tokens, cost_micros = spent
    spending = [ThreadItem.spent_tokens.add(tokens), ThreadItem.spent_micros.add(cost_micros)] if any(spent) else []
    if interrupts:
        actions.append(ThreadItem.interrupts.set(_named(interrupts)))
    elif interrupts is not None:
        actions.append(ThreadItem.interrupts.remove())
    if last_message >= 0:
        actions.append(ThreadItem.last_message.set(last_message))
    tx.update(ThreadItem(thread_pk(key), HEAD), [*actions, *spending], ThreadItem.active_run_id == run_id)


def add_messages(tx: Transaction, history: History, *, at: str, on_fail: AppError | None = None) -> None:
    """Add messages to a thread, in as few items as hold them; each has their number; and its new state, if any."""
    if history.state is not None:
        _keep_state(tx, history.thread, history.state, at=at)
    if not history.messages:
        return
    body = dump_messages(history.messages)
    pieces = [body[start : start + PART_BYTES] for start in range(0, len(body), PART_BYTES)]
    for part, piece in enumerate(pieces):
        item = MessagesItem(
            thread_pk(history.thread),
            messages_sk(history.n, part=part),
            messages=piece,
            after=history.fork,
            parts=len(pieces),
            created_at=at,
        )
        tx.put(item, on_fail=on_fail)


def _keep_state(tx: Transaction, key: ThreadKey, state: State, *, at: str) -> None:
    kept = ThreadStateItem(thread_pk(key), STATE)
    tx.upsert(kept, [ThreadStateItem.data.set(dump_state(state)), ThreadStateItem.updated_at.set(at)])


def _named(interrupts: Sequence[str]) -> str:
    return orjson.dumps(list(interrupts)).decode()
