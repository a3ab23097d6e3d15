"""The branch that a merge builds: stored messages from the root on, followed by new ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import replace
from types import MappingProxyType

from karma.conversations.domain import Message, ToolCall
from karma.conversations.history import stopped
from karma.conversations.postponed import DIFFERS, PostponedResults
from karma.conversations.same import is_same_result
from karma.conversations.tree import Name, Tree
from karma.core.ids import short_id


class Branch:
    """A branch that only grows at its end: along the stored thread at first, then by new messages.

    It keeps what later messages may refer to: the last answer, the calls of the branch and their results.
    """

    def __init__(
        self,
        tree: Tree,
        *,
        own: Collection[str],
        is_import: bool,
        waiting: Mapping[str, Message | None] = MappingProxyType({}),
        repeatable: Container[str] = (),
    ) -> None:
        self._tree = tree
        self._repeatable = repeatable
        """As of `stopped`."""
        self._waiting = waiting
        """Results of calls that wait for an answer, by their ids, in case the conversation goes on without it; None: a
        call is made then, and its result comes late."""
        self._own = own
        self._is_import = is_import
        """The calls were made elsewhere: none of them is the server's to complete."""
        self._path: list[int] = []
        self.postponed = PostponedResults()
        """Results of the request that are not taken yet."""
        self.new: list[Message] = []
        self._completing: set[str] = set()
        """Ids of those new messages that complete turns, and that nobody has sent."""
        self.has_unsent = False
        """The branch has messages that the client is known to lack: results of calls, or the rest of an answer."""
        self.has_stale_copy = False
        """In place of the answers to the last user's message the client shows what the conversation does not have."""
        self.last_answer: Message | None = None
        self._last_answer_calls: frozenset[str] = frozenset()
        self._results: dict[str, Message | None] = {}
        """Result of each call of the branch by the call's id; None: no result yet."""
        self._own_calls: set[str] = set()
        """Ids of calls of the server's own tools."""
        self._open_own_calls: dict[str, ToolCall] = {}
        """Those of the last turn that have no result yet."""
        self._calls_not_ahead: set[str] = set()
        """Ids of calls that are not made further on in the stored thread."""

    @property
    def end(self) -> int:
        """Return the position of the last stored message of the branch; -1: it has none."""
        return self._path[-1] if self._path else -1

    @property
    def stored(self) -> list[Message]:
        """Return the stored messages of the branch."""
        return [self._tree.message(position) for position in self._path]

    @property
    def given(self) -> list[Message]:
        """Return the new messages but for the results that complete turns."""
        return [message for message in self.new if message.id not in self._completing]

    def has_call(self, call_id: str) -> bool:
        """Tell whether an answer of the branch makes this call."""
        return call_id in self._results

    def is_own_call(self, call_id: str) -> bool:
        """Tell whether an answer of the branch makes this call of a tool of the server."""
        return call_id in self._own_calls

    def result_of(self, call_id: str) -> Message | None:
        """Return the result of a call of the branch; None: it has none yet."""
        return self._results[call_id]

    def ends_with_answer(self, given: Message) -> bool:
        """Tell whether the last answer of the branch is this one, or has it as a part.

        Some clients keep the text and the calls of an answer as several messages.
        """
        if self.last_answer is None:
            return False
        if given.id and given.id == self.last_answer.id:
            return True
        calls = {call.id for call in given.tool_calls}
        return bool(calls) and calls <= self._last_answer_calls and given.content in ("", self.last_answer.content)

    def find(
        self, name: Name, is_meant: Callable[[Message], bool] | None = None, *, within: int | None = None
    ) -> int | None:
        """Find the nearest stored message of this name that may come next; None also behind a new message.

        It is found behind the results that the client shows; where there is none, behind others. Behind a stale copy
        it may stand anywhere in the turn.
        """
        if self.new:
            return None
        found = self._find(name, is_meant, within=within, in_turn=False)
        if found is None and self.has_stale_copy:
            found = self._find(name, is_meant, within=within, in_turn=True)
        return found

    def _find(
        self, name: Name, is_meant: Callable[[Message], bool] | None, *, within: int | None, in_turn: bool
    ) -> int | None:
        found = self._tree.nearest(self.end, name, is_meant, within=within, in_turn=in_turn)
        if found is None or not self.postponed or self._agrees(found):
            return found
        shown = self._tree.nearest(self.end, name, is_meant, within=within, may_go=self._agrees, in_turn=in_turn)
        return found if shown is None else shown

    def find_same_result(self, given: Message) -> int | None:
        """Find the stored result that says the same as one of a client's tool, behind results that the client shows."""
        if self.new:
            return None
        name = Name("result of call", given.tool_call_id)
        return self._tree.nearest(self.end, name, lambda stored: is_same_result(stored, given), may_go=self._agrees)

    def _agrees(self, position: int) -> bool:
        return self.postponed.agree(map(self._tree.message, self._tree.path(self.end, position)), self._own_calls)

    def go_to(self, position: int) -> None:
        """Continue along the stored thread, up to this descendant of its end."""
        for each in self._tree.path(self.end, position):
            self._path.append(each)
            self._note(self._tree.message(each))

    def go_to_call(self, call_id: str) -> bool:
        """Continue to the latest stored answer that makes this call and is ahead; return False when there is none."""
        if self.new or call_id in self._calls_not_ahead:
            return False
        for position in reversed(self._tree.by_call.get(call_id, [])):
            if self._tree.is_descendant(position, self.end):
                self.go_to(position)
                return True
        self._calls_not_ahead.add(call_id)
        return False

    def go_to_end_of_answer(self) -> None:
        """Continue to the end of a stored answer when the branch ends at a call or a result within it.

        The rest exists; a model that is asked for it once more would call its tools again.
        """
        while not self.new and self._path and self._tree.message(self.end).role != "user":
            if self.end == self._tree.restored_to and self._open_own_calls.keys() & self._waiting.keys():
                return
            rest = [p for p in self._tree.children.get(self.end, ()) if self._is_of_the_server(self._tree.message(p))]
            if not rest:
                return
            self.go_to(rest[-1])
            self.has_unsent = True

    def goes_on_with_answer(self, latest: int) -> bool:
        """Tell whether an answer, or more of one, stands where the branch ends; `latest` as of `go_behind_answer`."""
        return not self.new and self.end != latest and bool(self._tree.answering.get(self.end))

    def go_behind_answer(self, latest: int) -> None:
        """Continue to the end of the stored answer, before words that are said behind it, or at a stale copy's end.

        A client that has a part has lost the rest. Where several answers stand side by side in the place of a stale
        copy, it is the one that leads to `latest`, the end of the current branch. A thread that was led back to the end
        of this branch goes on there: what stood behind it was given up.
        """
        while not self.new and self.end != latest and (rest := self._rest_of_answer()):
            current = [each for each in rest if each == latest or self._tree.is_descendant(latest, each)]
            self.go_to((current or rest)[-1])
            self.has_unsent = True

    def _rest_of_answer(self) -> list[int]:
        """Return what stands next: the server's messages within an answer; in the place of a stale copy all of them.

        Results of the client's tools that differ from those that it shows are another answer of its user.
        """
        rest = self._tree.answering.get(self.end, ())
        if self.has_stale_copy:
            return [each for each in rest if self._agrees(each)]
        if self.last_answer is None:
            return []
        return [each for each in rest if self._is_of_the_server(self._tree.message(each))]

    def _is_of_the_server(self, message: Message) -> bool:
        return message.role in {"assistant", "summary"} or (
            message.role == "tool" and self.is_own_call(message.tool_call_id)
        )

    def append(self, message: Message) -> None:
        """Add a new message; one without an id gets one. A user's completes the turn before it."""
        if message.role == "user":
            self.complete_turn()
        self._append(message if message.id else replace(message, id=short_id()))

    def append_copy(self, stored: Message) -> None:
        """Add a copy of a stored message that stands elsewhere in the thread."""
        self._append(stored)

    def _append(self, message: Message) -> None:
        self.new.append(message)
        self._note(message)

    def complete_turn(self, *, goes_on: bool = True) -> None:
        """Give each of the server's calls in the last turn its result: the stored one, else that there is none.

        A call that waits for an answer waits on unless the conversation `goes_on`.
        """
        for call in [] if self._is_import else list(self._open_own_calls.values()):
            if call.id not in self._open_own_calls:
                continue  # its result was on the way to that of an earlier call
            # Where its owner went back to, what waits anew has its earlier result in a branch that was left.
            is_anew = call.id in self._waiting and self.end == self._tree.restored_to
            position = None if is_anew else self.find(Name("result of call", call.id))
            self.has_unsent |= goes_on or position is not None or call.id not in self._waiting
            if position is not None:
                self.go_to(position)
            elif call.id in self._waiting:
                passed_over = self._waiting[call.id]
                if goes_on and passed_over is not None:
                    self._complete(passed_over)
            elif self.new and (elsewhere := self._tree.by_result.get(call.id)):
                self._complete(self._tree.message(elsewhere[-1]))
            else:
                self._complete(stopped(call, repeatable=self._repeatable))
        if goes_on:
            self._pass_over_before_words()

    def _pass_over_before_words(self) -> None:
        """Give calls their results that wait on behind words: those said beside an answer to another question."""
        for call_id, passed_over in self._waiting.items():
            if passed_over is not None and self._results.get(call_id, passed_over) is None:
                self._complete(passed_over)

    def _complete(self, result: Message) -> None:
        self._completing.add(result.id)
        self._append(result)

    def _note(self, message: Message) -> None:
        """Note what later messages refer to; a call that is made again waits for its result again."""
        if message.role == "summary":
            return
        if message.role == "assistant":
            self.last_answer = message
            self._last_answer_calls = frozenset(call.id for call in message.tool_calls)
            self._open_own_calls = {call.id: call for call in message.tool_calls if call.name in self._own}
            self._own_calls.difference_update(self._last_answer_calls)
            self._own_calls.update(self._open_own_calls)
        elif message.role == "user":
            self._open_own_calls = {}
            self.last_answer, self._last_answer_calls = None, frozenset()
            self.has_stale_copy = False
        elif self._results.get(message.tool_call_id, message) is None:
            self._results[message.tool_call_id] = message
            is_own = message.tool_call_id in self._own_calls
            self.postponed.leave_out(message.tool_call_id, DIFFERS, unless=message, is_own=is_own)
        for call in message.tool_calls:
            if self._results.get(call.id, message) is None:
                self.postponed.leave_out(call.id, "answers a call whose id a later call of this conversation has")
            self._results[call.id] = None
        self._open_own_calls.pop(message.tool_call_id, None)
