"""Use cases of owners of threads."""

from __future__ import annotations

from dataclasses import dataclass

from karma.conversations.domain import ThreadHead, ThreadKey, ThreadPlace
from karma.core.errors import NotFound
from karma.core.ids import UserId
from karma.threads.domain import ALL, MAX_EXAMINED, Search, id_in_urls
from karma.threads.ports import Threads

_READ = 100
"""Threads that one call of a search reads."""


@dataclass(frozen=True)
class ThreadPage:
    """A page of threads; a search may find few on a page, or none, and more behind it."""

    threads: tuple[ThreadHead, ...]
    last: ThreadPlace | None
    """Place of the last thread that was looked at, behind which the next page begins; None at the end."""


class ThreadService:
    """Operations of owners on their threads. Another owner's thread is NotFound in all of them."""

    def __init__(self, store: Threads) -> None:
        self._store = store

    def get(self, user_id: UserId, name: str) -> ThreadHead:
        """Read one thread without its messages, by its name in URLs.

        Raises:
            NotFound: the owner has no such thread.
        """
        thread_id = id_in_urls(name)
        head = self._store.get(ThreadKey(user_id, thread_id)) if thread_id else None
        if head is None:
            raise NotFound(f"Thread '{name[:128]}' not found")
        return head

    def page(
        self, user_id: UserId, *, limit: int, below: ThreadPlace | None = None, search: Search = ALL
    ) -> ThreadPage:
        """List threads, the newest activity first, from behind `below` on.

        A thread that becomes active while its owner turns pages moves to the beginning, and may be missed by them.
        A search looks at `MAX_EXAMINED` threads at the most, in calls of a hundred, none of which reads a message.
        """
        found: list[ThreadHead] = []
        examined = 0
        while examined < MAX_EXAMINED:
            # One more than is shown tells whether another page follows.
            wanted = limit + 1 if search.finds_all else _READ
            heads = self._store.page(user_id, limit=wanted, below=below)
            for head in heads:
                if search.finds(head):
                    if len(found) == limit:
                        return ThreadPage(tuple(found), below)
                    found.append(head)
                below = head.place
            examined += len(heads)
            if len(heads) < wanted:
                return ThreadPage(tuple(found), None)
        return ThreadPage(tuple(found), below)
