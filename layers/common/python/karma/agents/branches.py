"""Where a client's history and the stored thread meet: what is added, after which message, and what is passed over.

A thread is a tree of messages that only grows. A client sends the conversation as its user sees it; the way that it
goes in the tree, as far as it is there, is where the run begins, and the rest is added behind it:

    stored u1 a1 u2 a2, sent u1 a1 u2 a2 u3   u3 follows a2          the conversation goes on
                        sent u1 a1 u2         nothing is added       the answer to u2 is asked for anew, beside a2
                        sent u1 a1 u2* (edited, or another)          u2* follows a1, beside u2
                        sent u1 a1            nothing to answer      the client is shown u1 a1
                        sent u3 alone         u3 follows a2          who sends only what is new is understood, too

The store is the truth about answers, calls and their results: of those the client's copy is only a reference, by id,
by the id of a call, or by place where a client has no ids. What has no text to see (calls and results of our own tools)
need not be sent again. Users' words are the client's. Results of calls are taken wherever they come; one that comes
when the conversation has gone on stands at its end. Answers that we never gave are taken with a conversation that is
new to the server, and are passed over otherwise: nothing that was sent is passed over without a note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from karma.agents.attachments import is_same_content
from karma.agents.domain import Message, Thread
from karma.agents.messages import Sent
from karma.core.errors import ValidationFailed
from karma.core.ids import short_id


class Note(NamedTuple):
    """Something that the client sent and that was passed over."""

    field: str
    reason: str


class Merged(NamedTuple):
    """What a request makes of a thread."""

    conversation: tuple[Message, ...]
    """The branch, with what is new."""
    after: int
    """Position of the message that comes before what is new; -1 is the root."""
    new: tuple[Message, ...]
    notes: tuple[Note, ...]
    is_shown: bool
    """Whether the client has the conversation as it is here; else it has to be told."""


def merge(thread: Thread, sent: Sequence[Sent], passed_over: Sequence[Note] = ()) -> Merged:
    """Find the branch that the client's messages go, and what they add to it.

    Args:
        thread: what is stored.
        sent: the client's messages.
        passed_over: which others it sent.

    Raises:
        ValidationFailed: the message that asks for an answer is empty.
    """
    written = [each for each in sent if not _is_blank(each.message) or _is_held(thread, each.message)]
    _require_words(sent, written)
    walk = _Walk(thread, passed_over)
    for each in sent:
        if each not in written and each.message.role == "user":
            walk.pass_over(each, "is empty")
    if _is_whole(thread, written):
        walk.follow(written)
    else:
        walk.go_to_latest()
        for each in _not_held(thread, written):
            walk.add(each)
    return walk.result(written)


def has_moved_on(thread: Thread, sent: Sequence[Sent]) -> bool:
    """Tell whether a client sends the message that is being answered, so that it does not wait for that answer.

    Nobody tells when a client leaves. But who has that message is the client that asked, or one that was shown its
    conversation: to send it again, with more behind it, changed or for another answer, gives up the one on its way.
    """
    way = [thread.messages[position] for position in thread.way_to(thread.latest)]
    answered = next((message.id for message in reversed(way) if message.role == "user"), "")
    return bool(answered) and any(each.message.id == answered for each in sent)


def late_results(messages: Sequence[Message]) -> Iterator[Message]:
    """Say in words what a call gave whose result came late: models take a result right behind its call only."""
    names: dict[str, str] = {}
    waiting: set[str] = set()
    for message in messages:
        if message.role != "tool":
            waiting = {call.id for call in message.tool_calls}
            names |= {call.id: call.name for call in message.tool_calls}
        elif message.tool_call_id not in waiting:
            yield _in_words(message, names.get(message.tool_call_id, ""))
            continue
        else:
            waiting.discard(message.tool_call_id)
        yield message


def _in_words(result: Message, name: str) -> Message:
    outcome = "failed" if result.failed else "gave its result"
    text = f"The call {result.tool_call_id} of {name or 'a tool'}, open until now, {outcome}:"
    if isinstance(result.content, str):
        return Message(id=result.id, role="user", content=f"{text}\n{result.content}")
    return Message(id=result.id, role="user", content=({"type": "text", "text": text}, *result.content))


class _Walk:
    """The conversation so far, as positions of the tree and, behind those, as messages that are new."""

    def __init__(self, thread: Thread, passed_over: Sequence[Note]) -> None:
        self._thread = thread
        self._children: dict[int, list[int]] = {}
        self._by_id: dict[str, list[int]] = {}
        self._by_call: dict[str, list[int]] = {}
        for position, message in enumerate(thread.messages):
            self._children.setdefault(thread.parent(position), []).append(position)
            self._by_id.setdefault(message.id, []).append(position)
            for call in message.tool_calls:
                self._by_call.setdefault(call.id, []).append(position)
        self._way: list[int] = []
        self._new: list[Message] = []
        self._held: list[Sent] = []
        """Results, until it is known whether the conversation goes on behind them as it is stored."""
        self._notes = list(passed_over)
        self._is_import = False

    @property
    def _here(self) -> int:
        return self._way[-1] if self._way else -1

    def pass_over(self, sent: Sent, reason: str) -> None:
        self._notes.append(Note(f"messages.{sent.at}", reason))

    def go_to_latest(self) -> None:
        self._way = self._thread.way_to(self._thread.latest)

    def follow(self, sent: Sequence[Sent]) -> None:
        """Go the way of a whole conversation."""
        self._is_import = all(each.message.id and each.message.id not in self._by_id for each in sent)
        self._is_import |= not self._thread.messages
        for each in sent:
            {"user": self._user, "assistant": self._assistant, "tool": self._hold}[each.message.role](each)
        self._release()

    def add(self, sent: Sent) -> None:
        """Take a message of a client that sends only what is new."""
        if sent.message.role == "user":
            self._append(sent.message)
        elif sent.message.role == "tool":
            self._result(sent)

    def result(self, sent: Sequence[Sent]) -> Merged:
        stored = [self._thread.messages[position] for position in self._way]
        conversation = (*stored, *self._new)
        ids = {each.message.id for each in sent}
        nameless = [each.message for each in sent if not each.message.id]
        lacks = any(
            message.id not in ids and not _is_unseen(message) and not any(_is_copy(message, each) for each in nameless)
            for message in stored
        )
        notes = sorted(self._notes, key=lambda note: int(note.field.rpartition(".")[2]))
        return Merged(conversation, self._here, tuple(self._new), tuple(notes), not (notes or lacks))

    def _user(self, sent: Sent) -> None:
        position = self._find(lambda message: _is_same_user(message, sent.message))
        if position is None:
            self._release()
            position = self._find(lambda message: _is_same_user(message, sent.message))
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

    def _assistant(self, sent: Sent) -> None:
        message = sent.message
        calls = [call.id for call in message.tool_calls]
        if self._has_answer(message, calls):
            return  # another part of an answer that is there: some clients keep text and calls apart
        position = self._find(lambda stored: _is_same_answer(stored, message, calls))
        if position is None and not message.id:
            position = self._next_answer()
        if position is not None:
            stored = self._thread.messages[position]
            if message.content and message.content != stored.content:
                self.pass_over(sent, "differs from the answer that was given, which stands")
            self._go(position)
        elif copies := self._by_id.get(message.id) or self._by_call.get(calls[0] if calls else ""):
            self._release()
            self._new.append(self._thread.messages[copies[-1]])
        elif self._is_import:
            self._release()
            self._append(message)
        else:
            self.pass_over(sent, "is no answer that was given in this conversation")

    def _result(self, sent: Sent) -> None:
        message = sent.message
        asked = self._asked(message.tool_call_id)
        if asked is None and not self._new:
            asked = self._reach(message.tool_call_id)
        if asked is None:
            self.pass_over(sent, "answers no call of this conversation")
            return
        answered = next((each for each in asked if each.tool_call_id == message.tool_call_id), None)
        if answered is not None:
            if (answered.content, answered.failed) != (message.content, message.failed):
                self.pass_over(sent, "differs from the result that is there, which stands")
            return
        position = self._find(lambda stored: stored.role == "tool" and stored.tool_call_id == message.tool_call_id)
        if position is not None:
            stored = self._thread.messages[position]
            if (stored.content, stored.failed) != (message.content, message.failed):
                self.pass_over(sent, "differs from the result that is there, which stands")
            self._go(position)
        elif self._new and (copy := self._stored_result(message)) is not None:
            self._new.append(copy)
        else:
            self._append(message)

    def _asked(self, call_id: str) -> list[Message] | None:
        """Return what follows the last message of the conversation that makes this call; None when none does."""
        conversation = [*(self._thread.messages[position] for position in self._way), *self._new]
        for i in range(len(conversation) - 1, -1, -1):
            if any(call.id == call_id for call in conversation[i].tool_calls):
                return [each for each in conversation[i + 1 :] if each.role == "tool"]
        return None

    def _reach(self, call_id: str) -> list[Message] | None:
        """Go on to the message that makes this call, where a client answers a call that it did not send again."""
        for position in reversed(self._by_call.get(call_id, [])):
            way = self._thread.way_to(position)
            if way[: len(self._way)] == self._way:
                self._way = way
                return []
        return None

    def _stored_result(self, message: Message) -> Message | None:
        found = self._by_id.get(message.id, [])
        return next(
            (m for m in (self._thread.messages[p] for p in found) if m.tool_call_id == message.tool_call_id), None
        )

    def _has_answer(self, message: Message, calls: Sequence[str]) -> bool:
        conversation = [*(self._thread.messages[position] for position in self._way), *self._new]
        answers = [each for each in conversation if each.role == "assistant"]
        if not answers:
            return False
        last = answers[-1]
        if message.id and message.id == last.id:
            return True
        is_part = bool(calls) and set(calls) <= {call.id for call in last.tool_calls}
        return is_part and message.content in ("", last.content) and message.id != last.id

    def _next_answer(self) -> int | None:
        """Find the answer that stands here: without ids, the place is what a client and the store have in common."""
        return self._find(lambda stored: stored.role == "assistant" and not _is_unseen(stored))

    def _find(self, is_meant: Callable[[Message], bool]) -> int | None:
        """Find the nearest message that may come next, the latest of several; what is not seen may be left out."""
        for layer in self._layers():
            found = [position for position in layer if is_meant(self._thread.messages[position])]
            if found:
                return found[-1]
        return None

    def _layers(self) -> Iterator[list[int]]:
        layer = [] if self._new else [self._here]
        while layer:
            children = sorted(child for position in layer for child in self._children.get(position, ()))
            yield children
            layer = [child for child in children if _is_unseen(self._thread.messages[child])]

    def _go(self, position: int) -> None:
        self._way = self._thread.way_to(position)

    def _append(self, message: Message) -> None:
        self._new.append(message if message.id else replace(message, id=short_id()))


def _is_whole(thread: Thread, sent: Sequence[Sent]) -> bool:
    """Tell whether the client sends the conversation as it sees it, or only what is new to a thread that it names."""
    if not thread.messages or any(each.message.role == "assistant" for each in sent):
        return True
    ids = {message.id for message in thread.messages}
    return any(each.message.id in ids for each in sent)


def _not_held(thread: Thread, sent: Sequence[Sent]) -> Sequence[Sent]:
    """Leave out what a client without ids repeats of its user's words; the same words alone are said once more."""
    if any(each.message.id for each in sent):
        return sent
    held = [thread.messages[p].content for p in thread.way_to(thread.latest) if thread.messages[p].role == "user"]
    given = [each.message.content for each in sent if each.message.role == "user"]
    return (
        sent[len(held) :] if len(given) > len(held) and given[: len(held)] == held and len(given) == len(sent) else sent
    )


def _is_same_user(stored: Message, given: Message) -> bool:
    if stored.role != "user" or (given.id and stored.id != given.id):
        return False
    return (bool(given.id) and _is_blank(given)) or is_same_content(stored.content, given.content)


def _is_same_answer(stored: Message, given: Message, calls: Sequence[str]) -> bool:
    if stored.role != "assistant":
        return False
    if given.id and stored.id == given.id:
        return True
    if calls:
        return set(calls) <= {call.id for call in stored.tool_calls}
    return not given.id and stored.content == given.content


def _is_copy(stored: Message, given: Message) -> bool:
    return stored.role == given.role and is_same_content(stored.content, given.content)


def _is_blank(message: Message) -> bool:
    if message.role == "tool" or message.tool_calls:
        return False
    if isinstance(message.content, str):
        return not message.content.strip()
    return all(part["type"] == "text" and not str(part.get("text", "")).strip() for part in message.content)


def _is_held(thread: Thread, message: Message) -> bool:
    return bool(message.id) and any(stored.id == message.id for stored in thread.messages)


def _is_unseen(message: Message) -> bool:
    return message.role == "tool" or (message.role == "assistant" and _is_blank(replace(message, tool_calls=())))


def _require_words(sent: Sequence[Sent], written: Sequence[Sent]) -> None:
    last = sent[-1] if sent else None
    if last is not None and last.message.role == "user" and last not in written:
        raise ValidationFailed.of(f"messages.{last.at}.content", "must not be empty")
