"""Use cases of owners of threads."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from karma.conversations.domain import (
    Message,
    ThreadChange,
    ThreadChanged,
    ThreadHead,
    ThreadKey,
    ThreadPlace,
    ThreadSpending,
    TitleSource,
)
from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, NotFound
from karma.core.ids import RunId, ThreadId, UserId, new_id
from karma.core.observability import count
from karma.core.records import Record
from karma.core.requests import IdempotencyKey, no_longer, repeatable
from karma.threads.domain import ALL, MAX_EXAMINED, Search, id_in_urls
from karma.threads.ports import Threads

EMPTY_FOR: Final = timedelta(days=30)
"""Life of a thread that its owner has made and in which no run begins."""
_READ = 100
"""Threads that one call of a search reads."""


class ThreadPage(Record):
    """A page of threads; a search may find few on a page, or none, and more behind it."""

    threads: tuple[ThreadHead, ...]
    last: ThreadPlace | None
    """Place of the last thread that was looked at, behind which the next page begins; None at the end."""


class ShownBranch(Record):
    """The newest branch of a thread, or the part of it before a message."""

    head: ThreadHead
    messages: tuple[tuple[int, Message], ...]
    """Positions and messages, the newest first."""


class ThreadService:
    """Operations of owners on their threads. Another owner's thread is NotFound in all of them."""

    def __init__(self, store: Threads, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def get(self, user_id: UserId, name: str) -> ThreadHead:
        """Read one thread without its messages, by its name in URLs.

        Raises:
            NotFound: the owner has no such thread.
        """
        return self._found(self._store.get(key_of(user_id, name)), name)

    def branch(self, user_id: UserId, name: str, *, before: int | None = None) -> ShownBranch:
        """Read a thread and its newest branch, or of another branch what is before the message at a position.

        Raises:
            NotFound: the owner has no such thread, or it has no message at the position.
            ThreadChanged: the thread is being written; read it again.
        """
        whole = self._store.whole(key_of(user_id, name))
        if whole is None:
            raise ThreadChanged
        head, thread = self._found(whole[0], name), whole[1]
        end = thread.latest
        if before is not None:
            if not 0 <= before < thread.next_message:
                raise NotFound(f"Thread '{name[:128]}' has no such message")
            end = thread.parent(before)
        path = thread.shown_to(end)
        return ShownBranch(head, tuple((position, thread.messages[position]) for position in reversed(path)))

    def page(
        self, user_id: UserId, *, limit: int, below: ThreadPlace | None = None, search: Search = ALL
    ) -> ThreadPage:
        """List threads, the newest activity first, from behind `below` on.

        A thread that becomes active while its owner turns pages moves to the beginning, and may be missed by them.
        A search looks at `MAX_EXAMINED` threads at the most, in calls of a hundred, none of which reads a message.
        """
        found: list[ThreadHead] = []
        examined = 0
        now = self._clock.now()
        while examined < MAX_EXAMINED:
            # One more than is shown tells whether another page follows.
            wanted = limit + 1 if search.finds_all else _READ
            heads = self._store.page(user_id, limit=wanted, below=below)
            for head in heads:
                if search.finds(head) and not head.is_over(now):
                    if len(found) == limit:
                        return ThreadPage(tuple(found), below)
                    found.append(head)
                below = head.place
            examined += len(heads)
            if len(heads) < wanted:
                return ThreadPage(tuple(found), None)
        return ThreadPage(tuple(found), below)

    def create(
        self,
        user_id: UserId,
        *,
        title: str,
        thread_id: str | None = None,
        limits: tuple[int | None, int | None] = (None, None),
        idempotency_key: IdempotencyKey | None = None,
    ) -> ThreadHead:
        """Store a thread without messages, which ends after 30 days unless a run begins in it.

        `limits` are the tokens and micro-dollars that its runs may use in all. A repeat with the same `idempotency_key`
        returns the thread of the first one.

        Raises:
            AlreadyExists: the owner has, or had, a thread of this id.
            Gone: the first request's thread was deleted meanwhile.
            IdempotencyKeyReused: the first request asked for another thread.
            AccountGone: the owner's account is deleted.
        """
        now = self._clock.now()
        head = ThreadHead(
            key=ThreadKey(user_id, ThreadId(thread_id or new_id())),
            title=title,
            title_from=TitleSource.USER,
            created_at=now,
            updated_at=now,
            agent_id=None,
            active_run_id=None,
            message_count=0,
            version=1,
            last_run_id=RunId(""),
            spending=ThreadSpending(max_tokens=limits[0], max_cost_micros=limits[1]),
            expires_at=now + EMPTY_FOR,
        )
        request = repeatable(idempotency_key, title, thread_id, *([list(limits)] if any(limits) else []), at=now)
        try:
            self._store.create(head, request=request)
        except AlreadyExists:
            earlier = self._store.made_by(user_id, request) if request else None
            if earlier is None:
                raise
            stored = self._store.get(ThreadKey(user_id, earlier))
            if stored is None:
                raise no_longer(earlier) from None
            return stored
        count("ThreadCreated")
        return head

    def change(self, user_id: UserId, name: str, change: ThreadChange, *, version: int | None = None) -> ThreadHead:
        """Change a thread; a title that its owner gives is replaced by no other. Its place in the list stays.

        A budget holds for runs that begin, or whose turn comes, from then on.

        Raises:
            NotFound: the owner has no such thread.
            StaleVersion: `version` is not the stored one.
        """
        return self._store.change(key_of(user_id, name), change, version=version, at=self._clock.now())

    def _found(self, head: ThreadHead | None, name: str) -> ThreadHead:
        if head is None or head.is_over(self._clock.now()):
            raise NotFound(f"Thread '{name[:128]}' not found")
        return head


def key_of(user_id: UserId, name: str) -> ThreadKey:
    """Return the key of the thread that a path names.

    Raises:
        NotFound: no thread can have this name.
    """
    thread_id = id_in_urls(name)
    if thread_id is None:
        raise NotFound(f"Thread '{name[:128]}' not found")
    return ThreadKey(user_id, thread_id)
