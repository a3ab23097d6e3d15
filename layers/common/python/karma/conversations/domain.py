"""Conversations: messages, the calls of tools in them, and threads, which are trees of messages. Frozen; no I/O."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from karma.core.clock import iso
from karma.core.errors import Gone
from karma.core.ids import AgentId, RunId, ThreadId, UserId
from karma.core.lines import NEVER, shows

MAX_ADDED_BYTES = 3_000_000
"""Bytes of stored JSON that a write may add to a thread: it shares a transaction of 4 MB with a segment of the log."""


MAX_TITLE_CHARS = 200
"""Characters of a title at the most."""
_FIRST_WORDS_CHARS = 60
"""Characters of a title that is made of the first words of a conversation."""

Json = Mapping[str, object]


_CLIENT_ID = re.compile(r"[!-~]{1,128}")
_NEVER_IN_LINES = re.compile(f"[{NEVER}\ud800-\udfff]")
_NOT_IN_URLS = re.compile(r"[/\\%?]")


def is_readable_id(text: str) -> bool:
    """Tell whether clients may use this id: 1 to 128 printable ASCII characters, no space, no `#` (our separator)."""
    return _CLIENT_ID.fullmatch(text) is not None and "#" not in text


def is_in_urls(text: str) -> bool:
    """Tell whether an id can be used in a URL path, whatever proxies are between a client and the server.

    A gateway decodes paths before we do, and clients resolve `.` and `..`, encoded or not.
    """
    return is_readable_id(text) and not _NOT_IN_URLS.search(text) and text not in {".", ".."}


class ThreadKey(NamedTuple):
    """Key of a thread: its owner and its id, which the client may have chosen."""

    user_id: UserId
    thread_id: ThreadId


class ToolCall(NamedTuple):
    """A call of a tool by a model; `arguments` is JSON text as the model wrote it, "" stands for `{}`."""

    id: str
    name: str
    arguments: str


Role = Literal["user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a thread, as the server stores it."""

    id: str
    role: Role
    content: str | Sequence[Json] = ""
    """Text, or AG-UI content parts."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    failed: bool = False
    """The result of a tool reports a failure."""
    blocks: Sequence[Json] = ()
    """Content of an assistant's turn as the provider sent it, to be sent back unchanged to the same model."""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A conversation as stored, with all its branches; `version` 0: not stored yet.

    Messages are only ever added. Each follows another one: the one before it, or the one that `forks` names, where a
    user went back and asked again. Every branch is the path from one of its messages to the root.
    """

    key: ThreadKey
    messages: tuple[Message, ...] = ()
    next_message: int = 0
    """Number of messages, and so the position of the next one."""
    forks: Mapping[int, int] = field(default_factory=dict)
    """Position of a message that does not follow the one before it -> position of the one it follows; -1: root."""
    version: int = 0
    active_run_id: RunId | None = None
    last_run_id: RunId | None = None
    """Its newest run; "": it has had none. None: it was stored before threads knew their runs."""
    asks_title: bool = True
    """A model has not been asked for a title yet, and its owner has given it none."""
    is_deleted: bool = False
    """Its owner has deleted it: what is left of it is being removed, and nothing is to be added."""

    def parent(self, position: int) -> int:
        """Return the position of the message that the one at this position follows; -1 for the first of a branch."""
        return self.forks.get(position, position - 1)

    def path_to(self, position: int) -> list[int]:
        """List the positions of a branch from its beginning to this message; [] for -1."""
        path: list[int] = []
        while position >= 0:
            path.append(position)
            position = self.parent(position)
        return path[::-1]

    @property
    def latest(self) -> int:
        """Return the position of the message that was added last, the end of the current branch; -1: none."""
        return self.next_message - 1


@dataclass(frozen=True, slots=True)
class History:
    """Messages to be added to a thread, the first at position `n`."""

    thread: ThreadKey
    n: int
    messages: tuple[Message, ...]
    after: int | None = None
    """Position of the message that the first one follows; None: the one before it."""

    @property
    def last(self) -> int:
        """Return the position of the last of the messages."""
        return self.n + len(self.messages) - 1

    @property
    def fork(self) -> int | None:
        """Return the position of the message that the first one follows; None: it is the one before it."""
        return None if self.after == self.n - 1 else self.after


class ThreadGone(Gone):
    """The thread was deleted; its id is not used again for a while."""

    code = "THREAD_DELETED"

    def __init__(self) -> None:
        super().__init__("The thread was deleted; take a new threadId")


class TitleSource(StrEnum):
    """Giver of a thread's title; each may replace the titles of those before it, and no other."""

    WORDS = "words"
    """The first words of the conversation."""
    MODEL = "model"
    """A model, which is asked once."""
    USER = "user"
    """The thread's owner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadHead:
    """A thread without its messages, as lists show it."""

    key: ThreadKey
    title: str
    """"" while nothing was said in words."""
    title_from: TitleSource
    created_at: datetime
    updated_at: datetime
    """The last activity: the start or the end of a run, or the creation."""
    agent_id: AgentId | None
    """Agent of the newest run."""
    active_run_id: RunId | None
    message_count: int
    """Messages of all branches when the newest run began, or when it ended."""
    version: int
    expires_at: datetime | None = None
    """End of a thread that was made by its owner and has had no run; None: it stays until it is deleted."""

    def is_over(self, now: datetime) -> bool:
        """Tell whether it has ended without a run, so that it counts as absent."""
        return self.expires_at is not None and self.expires_at <= now

    @property
    def place(self) -> ThreadPlace:
        """Return its place in the list."""
        return ThreadPlace(self.key.thread_id, iso(self.updated_at))


class ThreadDeletion(NamedTuple):
    """A deletion of a thread that is not finished."""

    key: ThreadKey
    requested_at: datetime
    attempts: int
    """Number of goes that it has had."""
    last_run_id: RunId | None
    """As `Thread.last_run_id`; None also where it was not read."""


class ThreadPlace(NamedTuple):
    """Place of a thread in its owner's list."""

    thread_id: ThreadId
    at: str
    """Its last activity, in ISO 8601."""


def first_words(messages: Sequence[Message]) -> str:
    """Make a title of what a user said first in words; "": nothing was."""
    for message in messages:
        if message.role == "user" and (text := _in_one_line(message)):
            return _shortened(text)
    return ""


def _in_one_line(message: Message) -> str:
    if isinstance(message.content, str):
        text = message.content
    else:
        text = " ".join(str(part.get("text", "")) for part in message.content if part.get("type") == "text")
    # A title needs no more than the beginning of a text, which may have megabytes.
    return one_line(text[: 20 * _FIRST_WORDS_CHARS])


def one_line(text: str) -> str:
    """Return a text as a title may be: one line without runs of white space; "" for a text that shows nothing."""
    line = " ".join(_NEVER_IN_LINES.sub(" ", text).split())
    return line if shows(line) else ""


def _shortened(text: str) -> str:
    if len(text) <= _FIRST_WORDS_CHARS:
        return text
    words = text[: _FIRST_WORDS_CHARS + 1].rpartition(" ")[0]
    words = words if shows(words) else text[:_FIRST_WORDS_CHARS]
    return f"{words}…"


def folded(text: str) -> str:
    """Return a text for comparison: without case, accents and differences of Unicode's compatibility forms."""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFKC", "".join(char for char in apart if not unicodedata.combining(char)))
