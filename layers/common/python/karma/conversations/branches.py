"""Merges a client's history into the stored thread: which messages are new, and which message they follow.

A thread is a tree of messages that only grows. A client sends the conversation as its user sees it. The branch of the
tree that equals its beginning is the start of the run's conversation; the remaining messages are added after it:

    stored u1 a1 u2 a2, sent u1 a1 u2 a2 u3   u3 follows a2          the conversation continues
                        sent u1 a1 u2         nothing is added       u2 is answered anew, in a branch beside a2
                        sent u1 a1 u2* (edited, or another)          u2* follows a1, in a branch beside u2
                        sent u1 a1            nothing to answer      the client is shown u1 a1
                        sent u3 alone         u3 follows a2          clients may send only new messages

- Answers, calls and their results are those of the store. The client's copies only refer to them: by id, by the id of
  a call, or by place where a client has no ids.
- Messages without visible text (calls and results of our own tools) need not be sent again. A call of ours whose run
  ended before its result gets a result that says so, so that turns are complete.
- A client whose history ends within an answer, after a call or a result, gets the rest, which its connection has lost;
  only users' messages are answered anew. The text of users' messages is the client's.
- Results of calls are accepted anywhere; one that comes after the conversation went on is placed at its end.
- Answers that the server never gave are accepted in a conversation that is new to the server, else left out.
- Everything that is left out gets a note.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from karma.conversations.attachments import is_same_content
from karma.conversations.domain import Message, Thread, ToolCall
from karma.conversations.history import stopped
from karma.conversations.messages import Sent, said
from karma.conversations.order import in_stored_order, place_of
from karma.conversations.tree import Tree, is_blank, is_unseen, shape_of, shapes_of
from karma.core.errors import ValidationFailed
from karma.core.ids import short_id


class Note(NamedTuple):
    """A part of the request that was left out, and the reason."""

    field: str
    reason: str


class Merged(NamedTuple):
    """Result of merging a request into a thread."""

    conversation: tuple[Message, ...]
    """Messages of the branch, the new ones included."""
    after: int
    """Position of the message that the first new one follows; -1: the root."""
    new: tuple[Message, ...]
    notes: tuple[Note, ...]
    is_shown: bool
    """The client's copy is the same as `conversation`; else the client has to be sent it."""


def merge(thread: Thread, sent: Sequence[Sent], passed_over: Sequence[Note] = (), *, own: Collection[str]) -> Merged:
    """Find the branch that the client's messages continue, and the messages that they add to it.

    Args:
        thread: the stored thread.
        sent: the client's messages.
        passed_over: notes on messages that were left out before.
        own: names of the tools that run on the server.

    Raises:
        ValidationFailed: the message that asks for an answer is empty.
    """
    written, empty = _with_words(thread, sent)
    walk = _Walk(thread, passed_over, own)
    for each in empty:
        walk.pass_over(each, "is empty")
    if _is_whole(thread, written):
        walk.follow(in_stored_order(thread, written))
    else:
        repeated = _repeated(thread, written)
        walk.go_to(repeated[-1] if repeated and len(repeated) == len(written) else thread.latest)
        for each in written[len(repeated) :]:
            walk.add(each)
    return walk.result(written)


def has_moved_on(began: Thread, answers: int, sent: Sequence[Sent], *, own: Collection[str]) -> bool:
    """Tell whether a client's request shows that it does not wait for the answer of a running run any more.

    A disconnect is not reported. But only the client that asked, or one that was shown its conversation, has the
    message that the run answers: sending it again, changed or not, gives up that answer.

    Args:
        began: the thread as it was when the run began.
        answers: position of the message that the run answers.
        sent: the messages of a request that is not the run's own, as `arrival.recognise` returns them.
        own: names of the tools that run on the server.
    """
    way = [began.messages[position] for position in began.way_to(answers)]
    answered = next((message.id for message in reversed(way) if message.role == "user"), "")
    if answered and any(each.message.id == answered for each in sent):
        return True
    try:
        written, _ = _with_words(began, sent)
        if not _is_whole(began, written) and not _repeated(began, written):
            return False  # what is new alone: its client may never have seen that message
        return answers in began.way_to(merge(began, sent, own=own).after)
    except ValidationFailed:
        return False


class _Walk:
    """The conversation so far: positions in the tree, followed by new messages."""

    def __init__(self, thread: Thread, passed_over: Sequence[Note], own: Collection[str]) -> None:
        self._thread = thread
        self._own = own
        self._tree = Tree(thread)
        self._way: list[int] = []
        self._new: list[Message] = []
        self._answer: Message | None = None
        """The last message of the assistant."""
        self._answer_calls: frozenset[str] = frozenset()
        self._results: dict[str, Message | None] = {}
        """Result of each call of the conversation by the call's id; None: no result yet."""
        self._own_calls: set[str] = set()
        self._open: dict[str, ToolCall] = {}
        """Calls of the server's own tools in the last turn that have no result yet."""
        self._is_completed = False
        """The conversation has results that the client did not send."""
        self._unreached: set[str] = set()
        """Ids of calls that were not found behind an earlier position, and so cannot be behind a later one."""
        self._held: list[Sent] = []
        """Results that wait until it is known whether the stored conversation goes on behind them."""
        self._notes = list(passed_over)
        self._is_import = False
        self._is_anew = False
        """This client makes new ids each time: none is known to a thread that has messages."""

    @property
    def _here(self) -> int:
        return self._way[-1] if self._way else -1

    def pass_over(self, sent: Sent, reason: str) -> None:
        self._notes.append(Note(f"messages.{sent.at}", reason))

    def go_to(self, position: int) -> None:
        """Begin after a message of the thread."""
        self._go(position)

    def follow(self, sent: Sequence[Sent]) -> None:
        """Follow the branch of a whole conversation."""
        self._is_import = all(each.message.id and each.message.id not in self._tree.by_id for each in sent)
        self._is_anew = self._is_import and bool(self._thread.messages)
        self._is_import |= not self._thread.messages
        self._go(place_of(self._thread, sent))
        answered = max((i for i, each in enumerate(sent) if each.message.role == "assistant"), default=-1)
        for i, each in enumerate(sent):
            if each.message.role == "user":
                self._user(each, known=self._by_place(each.message) if self._is_anew or i < answered else each.message)
            elif each.message.role == "assistant":
                self._assistant(each, is_last=i == len(sent) - 1)
            else:
                self._hold(each)
        self._release()
        if sent and sent[-1].message.role != "user":
            self._complete()
            self._to_the_end_of_the_answer()

    def _to_the_end_of_the_answer(self) -> None:
        """Continue to the end of an answer when the client's history ends at a call or a result within it.

        The rest exists; a model that is asked for it once more would call its tools again.
        """
        while not self._new and self._way and self._tree.message(self._here).role != "user":
            behind = [p for p in self._tree.behind.get(self._here, ()) if self._is_ours(self._tree.message(p))]
            if not behind:
                return
            self._go(behind[-1])
            self._is_completed = True

    def _is_ours(self, message: Message) -> bool:
        return message.role == "assistant" or (message.role == "tool" and message.tool_call_id in self._own_calls)

    def _by_place(self, message: Message) -> Message:
        """Drop an id that the thread does not know: the message is then found by place and content."""
        return message if message.id in self._tree.by_id else replace(message, id="")

    def add(self, sent: Sent) -> None:
        """Add a message of a client that sends only new ones."""
        if sent.message.role == "user":
            self._append(sent.message)
        elif sent.message.role == "tool":
            self._result(sent)

    def _complete(self) -> None:
        """Give each of the server's calls in the last turn its result: the stored one, else that there is none."""
        for call in [] if self._is_import else list(self._open.values()):
            if call.id not in self._open:
                continue
            self._is_completed = True
            position = self._find(("result", call.id))
            if position is not None:
                self._go(position)
            elif self._new and (found := self._tree.by_result.get(call.id)):
                self._enter_new(self._tree.message(found[-1]))
            else:
                self._enter_new(stopped(call))

    def result(self, sent: Sequence[Sent]) -> Merged:
        self._complete()
        stored = [self._tree.message(position) for position in self._way]
        conversation = (*stored, *self._new)
        ids = {each.message.id for each in sent}
        copies = _Copies(each.message for each in sent if not each.message.id)
        lacks = any(message.id not in ids and not is_unseen(message) and not copies.have(message) for message in stored)
        at = {message.id: i for i, message in enumerate(conversation) if message.role != "tool"}
        places = [at[each.message.id] for each in sent if each.message.id in at]
        differs = self._notes or lacks or self._is_completed or places != sorted(places)
        notes = sorted(self._notes, key=lambda note: int(note.field.rpartition(".")[2]))
        return Merged(conversation, self._here, tuple(self._new), tuple(notes), not differs)

    def _user(self, sent: Sent, *, known: Message) -> None:
        position = self._same_user(known)
        if position is None:
            self._release()
            position = self._same_user(known)
        if position is None:
            self._append(sent.message)
        else:
            self._go(position)

    def _hold(self, sent: Sent) -> None:
        self._held.append(sent)

    def _release(self) -> None:
        held, self._held = self._held, []
        for each in held:
            self._result(each)

    def _assistant(self, sent: Sent, *, is_last: bool) -> None:
        message = sent.message
        calls = frozenset(call.id for call in message.tool_calls)
        if self._has_answer(message, calls):
            return  # another part of an answer that is there: some clients keep text and calls apart
        position = self._same_answer(message, calls)
        if position is None and message.content:
            position = self._same_answer(self._by_place(message), calls)
        is_known_by_place = self._is_anew and bool(self._way)
        if position is None and (not message.id or is_known_by_place):
            # Without ids, the place is what a client and the store have in common.
            position = self._find("any answer")
        if position is None and is_last and (position := self._begun_answer(message, calls)) is not None:
            self._is_completed = True
            self._go(position)
        elif position is not None:
            stored = self._tree.message(position)
            if message.content and message.content != stored.content:
                self.pass_over(sent, "differs from the answer that was given, which stands")
            self._go(position)
        elif copies := self._tree.by_id.get(message.id) or self._tree.by_call.get(
            message.tool_calls[0].id if calls else ""
        ):
            self._release()
            self._complete()
            self._enter_new(self._tree.message(copies[-1]))
        elif self._is_import and not is_known_by_place:
            self._release()
            self._append(message)
        else:
            self.pass_over(sent, "is no answer that was given in this conversation")

    def _result(self, sent: Sent) -> None:
        message = sent.message
        call_id = message.tool_call_id
        if call_id not in self._results and not self._reach(call_id):
            self.pass_over(sent, "answers no call of this conversation")
            return
        answered = self._results[call_id]
        position = None if answered is not None else self._find(("result", call_id))
        stored = answered if position is None else self._tree.message(position)
        if stored is not None and (stored.content, stored.failed) != (message.content, message.failed):
            self.pass_over(sent, "differs from the result that is there, which stands")
        if position is not None:
            self._go(position)
        elif answered is not None:
            return
        elif self._new and (copy := self._stored_result(message)) is not None:
            self._enter_new(copy)
        elif call_id in self._own_calls and not self._is_import:
            self.pass_over(sent, "answers a call of a tool of the server, which gives its results itself")
        else:
            self._append(message)

    def _reach(self, call_id: str) -> bool:
        """Advance to the message with this call, for clients that send only its result; False: there is none."""
        if self._new or call_id in self._unreached:
            return False
        for position in reversed(self._tree.by_call.get(call_id, [])):
            if self._tree.is_behind(position, self._here):
                self._go(position)
                return True
        self._unreached.add(call_id)
        return False

    def _stored_result(self, message: Message) -> Message | None:
        found = map(self._tree.message, self._tree.by_id.get(message.id, []))
        return next((m for m in found if m.tool_call_id == message.tool_call_id), None)

    def _has_answer(self, message: Message, calls: frozenset[str]) -> bool:
        last = self._answer
        if last is None:
            return False
        if message.id and message.id == last.id:
            return True
        is_part = bool(calls) and calls <= self._answer_calls
        return is_part and message.content in ("", last.content)

    def _same_user(self, given: Message) -> int | None:
        """Find the user's message of this id and content; without an id, or with no content, the other decides."""
        if not given.id:
            return self._find(
                ("words", shape_of(given.content)), lambda stored: is_same_content(stored.content, given.content)
            )
        return self._find(
            ("user", given.id), lambda stored: is_blank(given) or is_same_content(stored.content, given.content)
        )

    def _same_answer(self, given: Message, calls: frozenset[str]) -> int | None:
        """Find the answer of this id, or with these calls; without either, the one with this text."""
        found = [self._find(("answer", given.id))] if given.id else []
        if calls:
            found.append(self._with_calls(calls, instead_of=self._tree.nearest_of(found)))
        elif not given.id:
            found.append(self._find(("said", given.content)))
        return self._tree.nearest_of(found)

    def _begun_answer(self, given: Message, calls: frozenset[str]) -> int | None:
        """Find the answer that begins with this text: a client that lost its stream has a part, under its own id."""

        def begins(stored: Message) -> bool:
            whole, part = stored.content, given.content
            same = isinstance(whole, str) and isinstance(part, str) and whole.startswith(part)
            return same and calls <= {call.id for call in stored.tool_calls}

        return self._find("any answer", begins) if given.content else None

    def _with_calls(self, calls: frozenset[str], *, instead_of: int | None) -> int | None:
        """Find the answer with these calls, no further on than `instead_of`, if that is given."""
        if self._new:
            return None
        rarest = min(calls, key=lambda call_id: self._tree.count(self._here, ("call", call_id)))
        return self._tree.nearest(
            self._here,
            ("call", rarest),
            lambda stored: calls <= {call.id for call in stored.tool_calls},
            within=None if instead_of is None else self._tree.depth(instead_of),
        )

    def _find(self, name: Hashable, is_meant: Callable[[Message], bool] | None = None) -> int | None:
        return None if self._new else self._tree.nearest(self._here, name, is_meant)

    def _go(self, position: int) -> None:
        for each in self._tree.way(self._here, position):
            self._way.append(each)
            self._enter(self._tree.message(each))

    def _append(self, message: Message) -> None:
        if message.role == "user":
            self._complete()
        self._enter_new(message if message.id else replace(message, id=short_id()))

    def _enter_new(self, message: Message) -> None:
        self._new.append(message)
        self._enter(message)

    def _enter(self, message: Message) -> None:
        """Record what later messages refer to; a call that is made again waits for its result again."""
        if message.role == "assistant":
            self._answer = message
            self._answer_calls = frozenset(call.id for call in message.tool_calls)
            self._open = {call.id: call for call in message.tool_calls if call.name in self._own}
            self._own_calls.update(self._open)
        elif message.role == "user":
            self._open = {}
        elif self._results.get(message.tool_call_id, message) is None:
            self._results[message.tool_call_id] = message
        for call in message.tool_calls:
            self._results[call.id] = None
        self._open.pop(message.tool_call_id, None)


class _Copies:
    """Messages that a client sent without ids, by shape, to be compared with stored ones."""

    def __init__(self, messages: Iterable[Message]) -> None:
        self._by_shape: dict[object, list[Message]] = {}
        for message in messages:
            self._by_shape.setdefault((message.role, shape_of(message.content)), []).append(message)

    def have(self, stored: Message) -> bool:
        """Tell whether one of them is a copy of a stored message."""
        return any(
            is_same_content(stored.content, each.content)
            for shape in shapes_of(stored.content)
            for each in self._by_shape.get((stored.role, shape), ())
        )


def _is_whole(thread: Thread, sent: Sequence[Sent]) -> bool:
    """Tell whether the client sends the whole conversation, or only new messages of a thread that it names."""
    if not thread.messages or any(each.message.role == "assistant" for each in sent):
        return True
    ids = {message.id for message in thread.messages}
    return any(each.message.id in ids for each in sent)


def _repeated(thread: Thread, sent: Sequence[Sent]) -> Sequence[int]:
    """Return the positions of the user's messages when a client that keeps no answers repeats them all, else ().

    Such a client has no ids, or makes new ones. A single message equal to an earlier one is a new one.
    """
    held = [p for p in thread.way_to(thread.latest) if thread.messages[p].role == "user"]
    if len(sent) < max(len(held), 2) or any(each.message.role != "user" for each in sent):
        return ()
    is_repeated = all(
        is_same_content(thread.messages[position].content, each.message.content)
        for position, each in zip(held, sent, strict=False)
    )
    return held if is_repeated else ()


def _with_words(thread: Thread, sent: Sequence[Sent]) -> tuple[list[Sent], list[Sent]]:
    """Divide a client's messages into those with content or the id of a stored message, and empty ones of the user.

    Raises:
        ValidationFailed: the message that asks for an answer is empty.
    """
    held = {message.id for message in thread.messages}
    written: list[Sent] = []
    empty: list[Sent] = []
    for each in said(sent, held):
        (empty if is_blank(each.message) and each.message.id not in held else written).append(each)
    if empty and (not written or empty[-1].at > written[-1].at):
        raise ValidationFailed.of(f"messages.{empty[-1].at}.content", "must not be empty")
    return written, empty
