"""Conversations: messages, the calls of tools in them, and the tree that a thread keeps of them. Frozen; no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from karma.core.ids import RunId, ThreadId, UserId

MAX_ADDED_BYTES = 3_000_000
"""What one write may add to a thread, as stored JSON: it shares a transaction of 4 MB with a segment of the log."""


Json = Mapping[str, object]


_CLIENT_ID = re.compile(r"[!-~]{1,128}")
_NOT_IN_URLS = re.compile(r"[/\\%?]")


def is_readable_id(text: str) -> bool:
    """Tell whether clients may use this id: 1 to 128 printable ASCII characters, no space, no `#` (our separator)."""
    return _CLIENT_ID.fullmatch(text) is not None and "#" not in text


def is_in_urls(text: str) -> bool:
    """Tell whether a URL can name what has this id, whatever stands between a client and us.

    A gateway decodes paths before we do, and clients resolve `.` and `..`, encoded or not.
    """
    return is_readable_id(text) and not _NOT_IN_URLS.search(text) and text not in {".", ".."}


class ThreadKey(NamedTuple):
    """A thread belongs to its user; the id may be the client's own."""

    user_id: UserId
    thread_id: ThreadId


class ToolCall(NamedTuple):
    """One call a model asked for; `arguments` is JSON text as the model wrote it, "" read as `{}`."""

    id: str
    name: str
    arguments: str


Role = Literal["user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a thread, as the server keeps it."""

    id: str
    role: Role
    content: str | Sequence[Json] = ""
    """Text, or AG-UI content parts."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    failed: bool = False
    """The tool's result reports a failure."""
    blocks: Sequence[Json] = ()
    """An assistant turn as the provider sent it, to be replayed unchanged to the same model."""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A conversation as stored, with all its branches; `version` 0 is one that does not exist yet.

    Messages are only ever added. Each follows another one: the one before it, or the one that `forks` names, where a
    user went back and asked again. So every branch that ever was is the way from one of its messages to the root.
    """

    key: ThreadKey
    messages: tuple[Message, ...] = ()
    next_message: int = 0
    """Number of messages, and the position of the next one."""
    forks: Mapping[int, int] = field(default_factory=dict)
    """Positions of messages that do not follow the one before them, and which one they follow; -1 is the root."""
    version: int = 0
    active_run_id: RunId | None = None

    def parent(self, position: int) -> int:
        """Return which message the one at this position follows; -1 for the first of a branch."""
        return self.forks.get(position, position - 1)

    def way_to(self, position: int) -> list[int]:
        """List the positions of a branch from its beginning to this message; none for -1."""
        way: list[int] = []
        while position >= 0:
            way.append(position)
            position = self.parent(position)
        return way[::-1]

    @property
    def latest(self) -> int:
        """The position of the message that was added last, the end of the branch that is spoken of now."""
        return self.next_message - 1


@dataclass(frozen=True, slots=True)
class History:
    """Messages to be added to a thread, the first at position `n`."""

    thread: ThreadKey
    n: int
    messages: tuple[Message, ...]
    after: int | None = None
    """Position of the message that the first one follows; None is the one before it."""

    @property
    def fork(self) -> int | None:
        """Position of the message that the first one follows where that is not the one before it."""
        return None if self.after == self.n - 1 else self.after
