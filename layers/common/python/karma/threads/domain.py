"""Names of threads in URLs, and the search by title. Frozen; no I/O."""

from __future__ import annotations

import base64
import binascii
import unicodedata

from karma.conversations.domain import ThreadHead, is_in_urls, is_readable_id
from karma.core.ids import AgentId, ThreadId
from karma.core.records import Record

MAX_QUERY_CHARS = 200
MAX_EXAMINED = 500
"""Threads of which one page of a search reads the titles at the most; its cursor goes on behind them."""
_ENCODED = "~"
"""First character of a name in URLs that encodes an id."""


def name_in_urls(thread_id: ThreadId) -> str:
    """Return the name of a thread in a path: its id, or `~` and the id in base64url where a path cannot have it."""
    if is_in_urls(thread_id) and not thread_id.startswith(_ENCODED):
        return thread_id
    return _ENCODED + base64.urlsafe_b64encode(thread_id.encode()).decode().rstrip("=")


def id_in_urls(name: str) -> ThreadId | None:
    """Return the id of the thread that a path names; None: no thread can have this name."""
    if not name.startswith(_ENCODED):
        return ThreadId(name) if is_readable_id(name) else None
    try:
        text = base64.b64decode(name[1:] + "=" * (-len(name[1:]) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    return ThreadId(text) if is_readable_id(text) else None


class Search(Record):
    """Threads that a list is limited to."""

    agent_id: AgentId | None = None
    """Agent of the newest run; None: any."""
    query: str = ""
    """Words that the title must have, in any order, also as parts of words; case and accents do not count."""

    @property
    def finds_all(self) -> bool:
        """Tell whether it limits nothing."""
        return self.agent_id is None and not self.query.split()

    def finds(self, head: ThreadHead) -> bool:
        """Tell whether a thread is one of those."""
        if self.agent_id is not None and head.agent_id != self.agent_id:
            return False
        title = folded(head.title)
        return all(word in title for word in folded(self.query).split())


ALL = Search()


def folded(text: str) -> str:
    """Return a text for comparison: without case, accents and differences of Unicode's compatibility forms."""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFKC", "".join(char for char in apart if not unicodedata.combining(char)))
