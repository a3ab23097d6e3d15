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
- Results of calls are accepted anywhere; one that comes after the conversation went on is placed at its end. Another
  result of a call of the client's tools is another answer of the user, in a branch beside the earlier one, unless the
  client's history goes on with what was answered to that.
- Answers that the server never gave are accepted in a conversation that is new to the server, else left out.
- Where a client shows half an answer that was withdrawn meanwhile, or else another one than ours, or a part of it, ours
  stands as a whole: what the client sends next is said behind it.
- Everything that is left out gets a note.

An example, which tests/unit/conversations/test_branches.py runs. The agent looked through a camera, a tool of the
server, before its first answer; now the user goes back and edits the second question:

    stored   0 u1 "Is it open?"   1 a1 calls camera   2 t1 the result   3 a2 "It is."   4 u2 "Close it."   5 a3 "Done."
    sent       u1 "Is it open?"                                           a2 "It is."     u2 "Lock it."

    sent   its original                                                       the branch     new
    u1     0: the same id and content, after the root                         0              -
    a2     3: the same id; 1 and 2 in between are hidden (`tree.is_hidden`)   0 1 2 3        -
    u2     none: 4 has this id, but another content                           0 1 2 3        u2 "Lock it."

So `after` is 3, `new` is the edited u2, and `conversation` is u1 a1 t1 a2 u2; u2 "Close it." and a3 stay in a branch of
their own. `is_shown` is true: all of the conversation that a client shows, this client has sent.

The parts: `Tree` indexes the thread, `Branch` is the conversation as far as it is found, `Originals` finds the stored
message that comes next in it for a sent one, and `_Merging` decides for each sent message what becomes of it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from itertools import takewhile
from types import MappingProxyType
from typing import NamedTuple

from karma.conversations.branch import Branch
from karma.conversations.copies import is_same_content, key_of, keys_of
from karma.conversations.domain import Compacted, Message, Thread, conversation_of
from karma.conversations.messages import Sent, said
from karma.conversations.order import in_stored_order, place_of
from karma.conversations.originals import Originals
from karma.conversations.postponed import DIFFERS
from karma.conversations.same import has_same_calls, is_same_result
from karma.conversations.tree import Tree, is_blank, is_hidden
from karma.core.errors import ValidationFailed

DIFFERS_FROM_ANSWER = "differs from the answer that was given, which stands"


class Note(NamedTuple):
    """A part of the request that was left out, and the reason."""

    field: str
    reason: str


class Merged(NamedTuple):
    """Result of merging a request into a thread."""

    conversation: tuple[Message, ...]
    """Messages of the branch, the new ones included, as they are shown."""
    after: int
    """Position of the message that the first new one follows; -1: the root."""
    new: tuple[Message, ...]
    notes: tuple[Note, ...]
    is_shown: bool
    """The client's copy is the same as `conversation`; else the client has to be sent it."""
    given: tuple[Message, ...]
    """Those of `new` that the client has sent: without the results that complete turns."""
    compacted: Compacted | None = None
    """As in `karma.conversations.domain.Conversation`."""


def merge(
    thread: Thread,
    sent: Sequence[Sent],
    passed_over: Sequence[Note] = (),
    *,
    own: Collection[str],
    waiting: Mapping[str, Message | None] = MappingProxyType({}),
    repeatable: Container[str] = (),
) -> Merged:
    """Find the branch that the client's messages continue, and the messages that they add to it.

    Args:
        thread: the stored thread.
        sent: the client's messages.
        passed_over: notes on messages that were left out before.
        own: names of the tools that run on the server.
        waiting: results of calls that wait for an answer, by their ids, in case the conversation goes on without it;
            None: the call is made, and its result comes late.
        repeatable: as of `history.stopped`, for calls whose run ended without their results.

    Raises:
        ValidationFailed: the message that asks for an answer is empty.
    """
    written, empty = _with_words(thread, sent)
    is_whole = _is_whole(thread, written)
    history = written if is_whole else ()
    merging = _Merging(thread, history, own=own, notes=passed_over, waiting=waiting, repeatable=repeatable)
    for each in empty:
        merging.leave_out(each, "is empty")
    if is_whole:
        merging.take_whole(in_stored_order(thread, written))
    else:
        merging.take_new_alone(written)
    return merging.result(written)


def add_later(
    thread: Thread,
    given: Sequence[Message],
    *,
    own: Collection[str],
    waiting: Mapping[str, Message | None],
    repeatable: Container[str] = (),
) -> tuple[Message, ...]:
    """Return what is added behind a thread's latest message for messages that were merged before it had that.

    Calls that are open by now get their results. A result for a call that the branch does not make, or that has one, is
    left out. Arguments as of `merge`; `given` as of `Merged`.
    """
    branch = Branch(Tree(thread), own=own, is_import=False, waiting=waiting, repeatable=repeatable)
    branch.go_to(thread.latest)
    for message in given:
        call_id = message.tool_call_id
        if message.role != "tool" or (branch.has_call(call_id) and branch.result_of(call_id) is None):
            branch.append(message)
    branch.complete_turn(goes_on=False)
    return tuple(branch.new)


def has_moved_on(
    began: Thread,
    answers: int,
    sent: Sequence[Sent],
    *,
    own: Collection[str],
    waiting: Mapping[str, Message | None] = MappingProxyType({}),
) -> bool:
    """Tell whether a client's request shows that it does not wait for the answer of a running run any more.

    A disconnect is not reported. But only the client that asked, or one that was shown its conversation, has the
    message or the calls that the run answers: sending them again, or other results, gives up that answer.

    Args:
        began: the thread as it was when the run began.
        answers: position of the message that the run answers.
        sent: the messages of a request that is not the run's own, as `arrival.recognise` returns them.
        own: names of the tools that run on the server.
        waiting: as of `merge`.
    """
    path = began.conversation(answers).messages
    answered = next((message.id for message in reversed(path) if message.role == "user"), "")
    if answered and any(each.message.id == answered for each in sent):
        return True
    results = {message.tool_call_id for message in takewhile(lambda message: message.role == "tool", reversed(path))}
    if any(each.message.role == "tool" and each.message.tool_call_id in results for each in sent):
        return True
    try:
        written, _ = _with_words(began, sent)
        if not _is_whole(began, written) and not _repeated(began, written):
            return False  # what is new alone: its client may never have seen that message
        return answers in began.path_to(merge(began, sent, own=own, waiting=waiting).after)
    except ValidationFailed:
        return False


class _Merging:
    """Takes the messages of one request in order: each has an original in the thread, is new, or is left out."""

    def __init__(
        self,
        thread: Thread,
        history: Sequence[Sent],
        *,
        own: Collection[str],
        notes: Sequence[Note],
        waiting: Mapping[str, Message | None],
        repeatable: Container[str],
    ) -> None:
        """Prepare a merge.

        Args:
            thread: the stored thread.
            history: the messages of a client that sends the whole conversation; () of one that sends only new ones.
            own: names of the tools that run on the server.
            notes: notes on messages that were left out before.
            waiting: as of `merge`.
            repeatable: as of `merge`.
        """
        self._thread = thread
        self._own = own
        tree = Tree(thread)
        has_unknown_ids = all(each.message.id and each.message.id not in tree.by_id for each in history)
        self._makes_ids_anew = bool(history and thread.messages) and has_unknown_ids
        """None of the client's ids is known to a thread that has messages: it makes new ones each time."""
        self._is_import = bool(history) and (has_unknown_ids or not thread.messages)
        """The client may bring a conversation from elsewhere, with answers that the server never gave."""
        self._branch = Branch(tree, own=own, is_import=self._is_import, waiting=waiting, repeatable=repeatable)
        self._originals = Originals(tree, self._branch)
        self._tree = tree
        self._postponed = self._branch.postponed
        """Results that wait until it is known whether the stored conversation goes on behind them."""
        self._postponed.shown_calls = {call.id for each in history for call in each.message.tool_calls}
        self._notes = list(notes)

    def leave_out(self, sent: Sent, reason: str) -> None:
        """Leave out a message, with a note."""
        self._notes.append(Note(f"messages.{sent.at}", reason))

    def take_new_alone(self, messages: Sequence[Sent]) -> None:
        """Take the messages of a client that sends only new ones, or repeats all its user's messages before them."""
        repeated = _repeated(self._thread, messages)
        if repeated and len(repeated) == len(messages):
            self._branch.go_to(repeated[-1])
        else:
            self._go_to_latest(messages)
        for each in messages[len(repeated) :]:
            if each.message.role == "user":
                self._branch.append(each.message)
            elif each.message.role == "tool":
                self._postponed.add(each)
                self._take_postponed_results()

    def _go_to_latest(self, new: Sequence[Sent]) -> None:
        """Continue to the latest message, or up to a result behind which no words stand and that the user now changes.

        The other results of that turn are kept.
        """
        given = {each.message.tool_call_id: each.message for each in reversed(new) if each.message.role == "tool"}
        path = self._thread.path_to(self._thread.latest)
        held = [self._tree.message(position) for position in path]
        ours = {call.id for message in held for call in message.tool_calls if call.name in self._own}
        is_other = [
            m.role == "tool" and m.tool_call_id in given.keys() - ours and not is_same_result(m, given[m.tool_call_id])
            for m in held
        ]
        said_last = max((i for i, message in enumerate(held) if message.role == "user"), default=0)
        first = next((i for i in range(said_last, len(held)) if is_other[i]), len(held))
        self._branch.go_to(path[first - 1] if first else -1)
        for i in range(first, len(held)):
            if held[i].role != "tool":
                break
            if not is_other[i]:
                self._branch.append_copy(held[i])

    def take_whole(self, history: Sequence[Sent]) -> None:
        """Take the messages of a client that sends the whole conversation."""
        self._branch.go_to(place_of(self._thread, history))
        last_answer = max((i for i, each in enumerate(history) if each.message.role == "assistant"), default=-1)
        for i, each in enumerate(history):
            if each.message.role == "user":
                self._take_user(each, is_answered=i < last_answer)
            elif each.message.role == "assistant":
                self._take_answer(each, is_last=i == len(history) - 1)
            else:
                self._postponed.add(each)
        self._take_postponed_results()
        if self._branch.has_stale_copy:
            self._branch.go_behind_answer(self._thread.latest)
        if history and history[-1].message.role != "user":
            self._branch.complete_turn(goes_on=False)
            self._branch.go_to_end_of_answer()

    def _take_postponed_results(self) -> None:
        for each in self._postponed.all():
            if each.message.tool_call_id in self._postponed:
                self._take_result(each)
        self._postponed.clear()

    def _take_user(self, sent: Sent, *, is_answered: bool) -> None:
        given = sent.message
        if self._makes_ids_anew or is_answered:
            given = self._originals.without_unknown_id(given)
        position = self._originals.of_user(given)
        if position is None:
            self._branch.go_behind_answer(self._thread.latest)
            self._take_postponed_results()
            self._branch.go_behind_answer(self._thread.latest)
            position = self._originals.of_user(given)
        if position is None:
            self._branch.append(sent.message)
        else:
            self._branch.go_to(position)

    def _take_answer(self, sent: Sent, *, is_last: bool) -> None:
        given = sent.message
        if self._branch.last_answer is not None and self._branch.ends_with_answer(given):
            self._name_if_other(sent, self._branch.last_answer)
            return
        position = self._original_of_answer(given)
        if position is not None:
            self._name_if_other(sent, self._tree.message(position))
            self._branch.go_to(position)
        elif is_last and (position := self._originals.of_begun_answer(given)) is not None:
            self._branch.has_unsent = True
            self._branch.go_to(position)
        else:
            self._take_answer_from_elsewhere(sent)

    def _original_of_answer(self, given: Message) -> int | None:
        position = self._originals.of_answer(given)
        if position is None and given.content:
            position = self._originals.of_answer(self._originals.without_unknown_id(given))
        if position is None and (not given.id or self._is_known_by_place):
            # Without ids, the place is what a client and the store have in common.
            position = self._originals.next_shown_answer()
        return position

    @property
    def _is_known_by_place(self) -> bool:
        """The client's ids tell nothing, but its history begins as a stored branch does."""
        return self._makes_ids_anew and self._branch.end >= 0

    def _take_answer_from_elsewhere(self, sent: Sent) -> None:
        """Take an answer that does not come next: a copy of another branch's, or one that the server never gave."""
        stored = self._originals.answer_elsewhere(sent.message)
        if stored is not None:
            self._take_postponed_results()
            self._branch.complete_turn()
            self._name_if_other(sent, stored)
            self._branch.append_copy(stored)
        elif self._is_import and not self._is_known_by_place:
            self._take_postponed_results()
            self._branch.append(sent.message)
        elif self._branch.goes_on_with_answer(self._thread.latest):
            self._branch.has_stale_copy = True
            self.leave_out(sent, DIFFERS_FROM_ANSWER)
        else:
            self.leave_out(sent, "is no answer that this conversation has: it was withdrawn, or not given here")

    def _name_if_other(self, sent: Sent, stored: Message) -> None:
        """Name an answer that is not what was answered: the stored one stands."""
        given = sent.message
        if (given.content and given.content != stored.content) or not has_same_calls(stored, given):
            self._branch.has_stale_copy = True
            self.leave_out(sent, DIFFERS_FROM_ANSWER)

    def _take_result(self, sent: Sent) -> None:
        given = sent.message
        call_id = given.tool_call_id
        if not self._branch.has_call(call_id) and not self._branch.go_to_call(call_id):
            self.leave_out(sent, "answers no call of this conversation")
        elif (result := self._branch.result_of(call_id)) is not None:
            self._postponed.leave_out(call_id, DIFFERS, unless=result, is_own=self._branch.is_own_call(call_id))
        elif (position := self._originals.of_result(given)) is not None:
            self._branch.go_to(position)
        elif self._branch.new and (stored := self._originals.result_elsewhere(given)) is not None:
            self._branch.append_copy(stored)
        elif self._branch.is_own_call(call_id) and not self._is_import:
            self.leave_out(sent, "answers a call of a tool of the server, which gives its results itself")
        else:
            self._branch.append(given)

    def _go_to_last_summary(self) -> None:
        """Take along the summary with which the thread ends, since its run failed: it holds where nobody went back."""
        latest = self._thread.latest
        is_summary = latest >= 0 and self._tree.message(latest).role == "summary"
        if is_summary and self._thread.shown_before(latest) == self._branch.end:
            self._branch.go_to(latest)

    def result(self, sent: Sequence[Sent]) -> Merged:
        """Complete the last turn, and return what became of the client's messages."""
        self._branch.complete_turn(goes_on=False)
        self._go_to_last_summary()
        for each, why in self._postponed.left_out:
            self.leave_out(each, why)
        stored = self._branch.stored
        conversation, compacted = conversation_of((*stored, *self._branch.new))
        is_shown = not (
            self._notes or self._branch.has_unsent or _lacks_any(sent, stored) or _is_reordered(sent, conversation)
        )
        notes = sorted(self._notes, key=lambda note: int(note.field.rpartition(".")[2]))
        new, given = tuple(self._branch.new), tuple(self._branch.given)
        return Merged(tuple(conversation), self._branch.end, new, tuple(notes), is_shown, given, compacted)


def _lacks_any(sent: Sequence[Sent], stored: Sequence[Message]) -> bool:
    """Tell whether a client did not send one of these stored messages that clients show."""
    ids = {each.message.id for each in sent}
    copies = {(each.message.role, key_of(each.message.content)) for each in sent if not each.message.id}
    return any(
        message.id not in ids
        and not is_hidden(message)
        and all((message.role, key) not in copies for key in keys_of(message.content))
        for message in stored
    )


def _is_reordered(sent: Sequence[Sent], conversation: Sequence[Message]) -> bool:
    """Tell whether a client sent messages of the conversation in another order than theirs; results may be anywhere."""
    places = {message.id: i for i, message in enumerate(conversation) if message.role != "tool"}
    found = [places[each.message.id] for each in sent if each.message.id in places]
    return found != sorted(found)


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
    held = [p for p in thread.path_to(thread.latest) if thread.messages[p].role == "user"]
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
