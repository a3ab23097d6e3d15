"""Conversations: messages, the calls of tools in them, and threads, which are trees of messages. Frozen; no I/O."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal, NamedTuple

from karma.conversations.state import State
from karma.core.clock import iso
from karma.core.errors import Conflict, Gone
from karma.core.ids import AgentId, RunId, ThreadId, UserId
from karma.core.lines import NEVER, shows
from karma.core.records import Record

MAX_ADDED_BYTES = 3_000_000
"""Bytes of stored JSON that a write may add to a thread: it shares a transaction of 4 MB with a segment of the log."""
MAX_CONVERSATION_BYTES = 12_000_000
"""Bytes of the JSON of all messages of a thread, its other branches included, with which a run may begin in it."""
KEPT_FOR = timedelta(seconds=8)
"""Time for which a thread is left to a request that had its active run make way; it waits 4 s for that run's end."""
MAX_TITLE_CHARS = 200
"""Characters of a title at the most."""
_FIRST_WORDS_CHARS = 60
"""Characters of a title that is made of the first words of a conversation."""
_JOINER = "\u200d"
_MAX_SIGN_CHARS = 40
"""Characters of one sign at the most; a longer one is cut."""

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
    """A call of a tool by a model; `arguments` is JSON text as the model wrote it: see `whole_arguments`."""

    id: str
    name: str
    arguments: str


def whole_arguments(text: str) -> str:
    """Return arguments as JSON text: `{}` where they are blank or `null`, as models write for tools that take none."""
    return "{}" if text.strip() in {"", "null"} else text


CallEffect = Literal["told", "done", "unknown", "none"]
"""Knowledge of what a call has changed, beside the words of its result.

    told      the result tells it: a call that failed may have changed something all the same
    done      it was carried out, though its result is a failure: it could not be shown, or kept
    unknown   nobody knows: its process was lost, it was stopped, or no answer came in time
    none      it was not made: refused, passed over, cancelled, or not one that its tool takes
"""
Role = Literal["user", "assistant", "tool", "summary"]
"""`summary`: what a model is shown in the place of earlier messages; it is shown to nobody else."""


class Message(Record, kw_only=True):
    """One message of a thread, as the server stores it."""

    id: str
    role: Role
    content: str | Sequence[Json] = ""
    """Text, or AG-UI content parts."""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    failed: bool = False
    """The result of a tool reports a failure."""
    effect: CallEffect = field(default="told", compare=False)
    """Of the result of a tool: what is known of the effect of its call; "told" where an earlier release stored it."""
    blocks: Sequence[Json] = ()
    """Content of an assistant's turn as the provider sent it, to be sent back unchanged to the same model."""
    model: str = ""
    tokens: int = field(default=0, compare=False)
    """Of an assistant's turn: tokens of the conversation up to its end, as its model counted them; 0: not known."""
    past_in_words: bool = field(default=False, compare=False)
    """Of an assistant's turn: its model was shown words alone of what stands before those that it answers (0075)."""
    keeps: int = 0
    """Of a summary: number of the messages directly before it, summaries apart, for which it does not stand."""


class Compacted(NamedTuple):
    """A summary that stands for the first messages of a conversation before a model."""

    text: str
    covers: int
    """Number of the first messages for which it stands."""
    at: int
    """Number of messages that the conversation had when it was made."""


class Conversation(NamedTuple):
    """The messages of a branch as their user sees them, and the summary by which a model knows the first of them."""

    messages: list[Message]
    compacted: Compacted | None
    """None: a model is shown all of them."""


def conversation_of(branch: Iterable[Message]) -> Conversation:
    """Tell the messages of a branch, in order, from the summaries among them, of which the last one holds."""
    messages: list[Message] = []
    compacted: Compacted | None = None
    for message in branch:
        if message.role == "summary":
            compacted = Compacted(str(message.content), max(0, len(messages) - message.keeps), len(messages))
        else:
            messages.append(message)
    return Conversation(messages, compacted)


class ThreadSpending(Record, kw_only=True):
    """Use of models by the ended runs of a thread, and the budget that its owner gives to all of its runs."""

    tokens: int = 0
    """Of input and output, cached ones included."""
    cost_micros: int = 0
    max_tokens: int | None = None
    """None: as many as one likes."""
    max_cost_micros: int | None = None
    """None: as much as one likes."""


NOTHING_SPENT = ThreadSpending()


class TitleSource(StrEnum):
    """Giver of a thread's title; each may replace the titles of those before it, and no other."""

    WORDS = "words"
    """The first words of the conversation."""
    MODEL = "model"
    """A model, which is asked once."""
    USER = "user"
    """The thread's owner."""


class ThreadChange(Record, kw_only=True):
    """Changes of a thread by its owner; None: it stays."""

    title: str | None = None
    title_from: TitleSource = TitleSource.USER
    limits: tuple[int | None, int | None] | None = None
    """The new `max_tokens` and `max_cost_micros` of its spending."""


class MakingWay(NamedTuple):
    """A run of a thread that makes way for a request, which begins before those that wait for their turn."""

    run_id: RunId
    at: datetime
    """Moment at which the request said so last."""

    def is_awaited(self, now: datetime) -> bool:
        """Tell whether that request may still be about to begin, so that those that wait leave the thread to it."""
        return now < self.at + KEPT_FOR


class Thread(Record, kw_only=True):
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
    interrupts: tuple[str, ...] = ()
    """Ids of the questions of its runs that are open (karma.runs.interrupts)."""
    queue: tuple[RunId, ...] = ()
    """Runs that wait for their turn, the first in front; some may have ended before it came."""
    making_way: MakingWay | None = None
    """The run whose place a request wants; None: none wants one, or another run has begun since."""
    state: State | None = None
    """The state that its runs left to its application; None: none did."""
    stored_bytes: int = 0
    """Bytes of the JSON of its messages."""
    asks_title: bool = True
    """A model has not been asked for a title yet, and its owner has given it none."""
    is_deleted: bool = False
    """Its owner has deleted it: what is left of it is being removed, and nothing is to be added."""

    spending: ThreadSpending = NOTHING_SPENT
    is_draft: bool = False
    """It is a copy for a run that has not begun; stored as one that is deleted (karma.runs.drafts)."""
    restored_to: int | None = None
    """Position behind which its owner has it go on, although messages were added later; None: behind these."""

    def parent(self, position: int) -> int:
        """Return the position of the message that the one at this position follows; -1 for the first of a branch."""
        return self.forks.get(position, position - 1)

    def require_room(self) -> None:
        """Refuse to let it grow beyond what a process can hold of it.

        Raises:
            ConversationTooLong: it has as many bytes as a thread may have when a run begins.
        """
        if self.stored_bytes > MAX_CONVERSATION_BYTES:
            raise ConversationTooLong

    def path_to(self, position: int) -> list[int]:
        """List the positions of a branch from its beginning to this message; [] for -1."""
        path: list[int] = []
        while position >= 0:
            path.append(position)
            position = self.parent(position)
        return path[::-1]

    def shown_to(self, position: int) -> list[int]:
        """List the positions of those messages of a branch that are shown: all but summaries; as `path_to`."""
        path = (each for each in self.path_to(position) if each < self.next_message)
        return [each for each in path if self.messages[each].role != "summary"]

    def conversation(self, position: int) -> Conversation:
        """Return the conversation of a branch up to the message at a position; without messages for -1.

        Raises:
            ThreadChanged: the position is of a message that was stored after the thread was read.
        """
        if position >= self.next_message:
            raise ThreadChanged
        return conversation_of(self.messages[each] for each in self.path_to(position))

    def shown_before(self, position: int) -> int:
        """Return the position of the message that one follows, summaries apart; -1 for the first of a branch."""
        before = self.parent(position)
        while before >= 0 and self.messages[before].role == "summary":
            before = self.parent(before)
        return before

    @property
    def latest(self) -> int:
        """Return the end of the current branch: the message that was added last, or to which it was restored.

        -1: there is none.
        """
        return self.next_message - 1 if self.restored_to is None else self.restored_to


class History(Record):
    """Messages to be added to a thread, the first at position `n`."""

    thread: ThreadKey
    n: int
    messages: tuple[Message, ...]
    after: int | None = None
    """Position of the message that the first one follows; None: the one before it."""
    state: State | None = None
    """The thread's state from then on; None: it stays as it is."""

    @property
    def last(self) -> int:
        """Return the position of the last of the messages."""
        return self.n + len(self.messages) - 1

    @property
    def fork(self) -> int | None:
        """Return the position of the message that the first one follows; None: it is the one before it."""
        return None if self.after == self.n - 1 else self.after


class ThreadChanged(Conflict):
    """Another run began, ended or stored more after the thread was read: read it again."""

    def __init__(self) -> None:
        super().__init__("The thread was changed by another run; try again")
        self.headers["Retry-After"] = "1"


class ThreadGone(Gone):
    """The thread was deleted; its id is not used again for a while."""

    code = "THREAD_DELETED"

    def __init__(self) -> None:
        super().__init__("The thread was deleted; take a new threadId")


class ConversationTooLong(Conflict):
    """The thread has as much as it may have."""

    code = "CONVERSATION_TOO_LONG"

    def __init__(self) -> None:
        super().__init__(
            f"The thread's messages have more than {MAX_CONVERSATION_BYTES} bytes; "
            "start a new thread, or fork this one at an earlier point"
        )


class Turns(NamedTuple):
    """A thread's active run and those that wait for it."""

    active: RunId | None
    queue: tuple[RunId, ...]
    """As `Thread.queue`."""
    interrupts: tuple[str, ...] = ()
    """As `Thread.interrupts`."""
    changed_at: datetime | None = None
    """Moment at which a run last began in it, ended, or came to wait; None: it is absent or deleted."""


class ThreadHead(Record, kw_only=True):
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
    spending: ThreadSpending = NOTHING_SPENT
    last_run_id: RunId | None = None
    """As `Thread.last_run_id`."""
    interrupts: tuple[str, ...] = ()
    """Ids of the questions that wait for an answer, expired ones included."""
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
    return f"{beginning(text, _FIRST_WORDS_CHARS)}…"


def beginning(text: str, most: int) -> str:
    """Return the beginning of a line, of so many characters at the most: whole words, of a longer word whole signs."""
    if len(text) <= most:
        return text
    words = text[: most + 1].rpartition(" ")[0]
    if shows(words):
        return words
    end = next((at for at in range(most, max(0, most - _MAX_SIGN_CHARS), -1) if _may_end(text, at)), most)
    return text[:end].rstrip()


def _may_end(text: str, at: int) -> bool:
    """Tell whether a sign that is made of several characters, such as an emoji of a family, is not cut here."""
    before, behind = text[at - 1], text[at]
    if before == _JOINER or behind == _JOINER or unicodedata.category(behind) in {"Mn", "Me", "Mc"}:
        return False
    if "\U0001f3fb" <= behind <= "\U0001f3ff" or "\U000e0020" <= behind <= "\U000e007f":
        return False  # a colour of skin, a piece of a flag's tag
    flags = at - next((n for n in range(at, 0, -1) if not _is_of_flag(text[n - 1])), 0)
    return not (_is_of_flag(behind) and flags % 2)


def _is_of_flag(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
