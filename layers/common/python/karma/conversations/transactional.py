"""Writes of threads in the transactions of runs: a run takes its thread, adds messages to it, and frees it."""

from __future__ import annotations

from karma.conversations.domain import History, Thread, ThreadKey, TitleSource, first_words
from karma.conversations.items import (
    HEAD,
    PART_BYTES,
    MessagesItem,
    ThreadItem,
    listed_sk,
    messages_sk,
    thread_pk,
    threads_pk,
)
from karma.conversations.stored import dump_messages
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import AgentId, RunId


def occupy_thread(
    tx: Transaction,
    thread: Thread,
    *,
    run_id: RunId,
    agent_id: AgentId | None,
    history: History,
    at: str,
    on_fail: AppError,
) -> None:
    """Make a run its thread's active one, and list the thread; one item, and its entry in the index.

    The transaction fails with `on_fail` if the thread is not as it was read, has an active run, or is deleted. A thread
    without a title gets the first words of `history`, the messages with which the run begins. `at` is the moment in ISO
    8601.
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
    actions = [
        ThreadItem.active_run_id.set(run_id),
        ThreadItem.updated_at.set(at),
        ThreadItem.gsi1pk.set(item.gsi1pk),
        ThreadItem.gsi1sk.set(item.gsi1sk),
        ThreadItem.messages_begun.set(item.messages_begun),
        ThreadItem.last_run_id.set(run_id),
        ThreadItem.expires_at.remove(),
    ]
    if agent_id is not None:
        actions.append(ThreadItem.agent_id.set(agent_id))
    if words:
        actions.append(ThreadItem.title.set(ThreadItem.title | words))
        actions.append(ThreadItem.title_from.set(ThreadItem.title_from | TitleSource.WORDS.value))
    is_free = ThreadItem.active_run_id.does_not_exist() & ThreadItem.deleted_at.does_not_exist()
    tx.update(item, actions, is_free, locked=True, on_fail=on_fail)


def run_before(thread: Thread) -> RunId | None:
    """Return the run of a thread that came before the one that begins now; as `Thread.last_run_id`."""
    return thread.last_run_id if thread.version else RunId("")


def release_thread(tx: Transaction, key: ThreadKey, *, run_id: RunId, last_message: int, at: str) -> None:
    """Free a thread of its active run; one item, and its entry in the index.

    The transaction fails with ConditionFailed if the run is not the active one. `last_message` is the position of the
    last message of the run's branch, -1 if it is not known.
    """
    actions = [
        ThreadItem.active_run_id.remove(),
        ThreadItem.updated_at.set(at),
        ThreadItem.gsi1sk.set(listed_sk(key, at)),
    ]
    if last_message >= 0:
        actions.append(ThreadItem.last_message.set(last_message))
    tx.update(ThreadItem(thread_pk(key), HEAD), actions, ThreadItem.active_run_id == run_id)


def add_messages(tx: Transaction, history: History, *, at: str, on_fail: AppError | None = None) -> None:
    """Add messages to a thread, in as few items as hold them; each has their number."""
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
