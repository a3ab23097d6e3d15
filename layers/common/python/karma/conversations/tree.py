"""Index of a thread's messages, to find quickly which message may come next in a branch.

A request may bring thousands of messages, and a thread may hold as many. Comparing each with each would take minutes
for a small body; so each message is indexed once under every `Name` by which a client's copy of it can be found.

Clients need not send hidden messages (`is_hidden`): the next message of a branch may stand behind any number of them.
In this thread `a1` (a call) and `t1` (its result) are hidden, so `a2` and `a3` may come next after `u1`, `u2` may not:

    u1 ── a1 ── t1 ── a2 ── u2
     └─── a3
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple

from karma.conversations.copies import keys_of
from karma.conversations.domain import Message, Thread


class Name(NamedTuple):
    """A property by which a message is found; several messages may share it."""

    kind: Literal[
        "user id",
        "user content",
        "user id and content",
        "answer id",
        "answer call",
        "answer text",
        "shown answer",
        "result of call",
    ]
    """Role and property: `shown answer` finds any answer that is not hidden, whatever it says."""
    value: Hashable = None


class Tree:
    """The messages of a thread by position; -1 is the root, which all messages follow."""

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        self.restored_to = thread.restored_to
        self.children: dict[int, list[int]] = {}
        """Positions of the messages that follow each one directly."""
        self.answering: dict[int, list[int]] = {}
        """Those of them that are no words of a user."""
        self.by_id: dict[str, list[int]] = {}
        self.by_call: dict[str, list[int]] = {}
        """Positions of answers by the ids of their calls."""
        self.by_result: dict[str, list[int]] = {}
        """Positions of results by the id of their call."""
        self._depths: list[int] = []
        self._last_shown: list[int] = []
        """For each message the last one that is not hidden on the path from the root to it, itself included."""
        self._candidates: dict[tuple[int, Name], list[int]] = {}
        """Positions that may come next after a shown message, by that message and their name, the nearest first."""
        self._last_said: list[int] = []
        """For each message the last one of a user on the path from the root to it, itself included."""
        self._in_turns: dict[tuple[int, Name], list[int]] | None = None
        """Positions by the user's message before them and their name, the nearest first; None: not needed so far."""
        self._ruled_out: dict[tuple[bool, int, Name], int] = {}
        """Number of the first candidates that no later search can reach, see `nearest`."""
        for position, message in enumerate(thread.messages):
            self._add(position, message)
        for candidates in self._candidates.values():
            candidates.sort(key=self._nearest_first)
        self._numbers, self._last_numbers = _preorder(thread)

    def _add(self, position: int, message: Message) -> None:
        parent = self._thread.parent(position)
        is_shown = not is_hidden(message)
        self.children.setdefault(parent, []).append(position)
        if message.role != "user":
            self.answering.setdefault(parent, []).append(position)
        self.by_id.setdefault(message.id, []).append(position)
        for call in message.tool_calls:
            self.by_call.setdefault(call.id, []).append(position)
        if message.role == "tool":
            self.by_result.setdefault(message.tool_call_id, []).append(position)
        self._depths.append(self.depth(parent) + 1)
        shown_before = self._last_shown_at(parent)
        self._last_shown.append(position if is_shown else shown_before)
        self._last_said.append(position if message.role == "user" else self._last_said_at(parent))
        for name in _names(message, is_shown=is_shown):
            self._candidates.setdefault((shown_before, name), []).append(position)

    def message(self, position: int) -> Message:
        """Return the message at a position."""
        return self._thread.messages[position]

    def depth(self, position: int) -> int:
        """Return the number of messages before one; -1 for the root."""
        return self._depths[position] if position >= 0 else -1

    def is_descendant(self, position: int, ancestor: int) -> bool:
        """Tell whether the path from the root to a message contains another one before it."""
        return ancestor < 0 or self._numbers[ancestor] < self._numbers[position] <= self._last_numbers[ancestor]

    def path(self, ancestor: int, position: int) -> list[int]:
        """List the positions after a message up to its descendant at `position`."""
        path: list[int] = []
        while position != ancestor:
            path.append(position)
            position = self._thread.parent(position)
        return path[::-1]

    def count_candidates(self, start: int, name: Name) -> int:
        """Count the messages that `nearest` would look at in the worst case."""
        return len(self._candidates.get((self._last_shown_at(start), name), ()))

    def _positions_in_turns(self) -> dict[tuple[int, Name], list[int]]:
        if self._in_turns is None:
            self._in_turns = {}
            for position, message in enumerate(self._thread.messages):
                said_before = self._last_said_at(self._thread.parent(position))
                for name in _names(message, is_shown=False):
                    self._in_turns.setdefault((said_before, name), []).append(position)
            for candidates in self._in_turns.values():
                candidates.sort(key=self._nearest_first)
        return self._in_turns

    def nearest(
        self,
        start: int,
        name: Name,
        is_meant: Callable[[Message], bool] | None = None,
        *,
        within: int | None = None,
        may_go: Callable[[int], bool] | None = None,
        in_turn: bool = False,
    ) -> int | None:
        """Find the nearest message of this name that may come next after `start`; of several equally near the latest.

        Each search must start at a descendant of where the searches before it started, or at the same message: a
        candidate that is no descendant of `start` is none of any later start either, and is not looked at again.

        Args:
            start: position after which to search; hidden messages may be in between.
            name: a name of the message.
            is_meant: tells which messages of the name qualify; None: all.
            within: greatest depth of the message; None: unlimited.
            may_go: tells which positions qualify by the path to them; None: all.
            in_turn: all messages but a user's may be in between, also those that are not hidden.
        """
        before = self._last_said_at(start) if in_turn else self._last_shown_at(start)
        key = (in_turn, before, name)
        candidates = (self._positions_in_turns() if in_turn else self._candidates).get((before, name), [])
        first_deeper = bisect_left(candidates, self.depth(start) + 1, key=self.depth)
        all_ruled_out = True
        for i in range(max(first_deeper, self._ruled_out.get(key, 0)), len(candidates)):
            position = candidates[i]
            if within is not None and self.depth(position) > within:
                return None
            is_reachable = self.is_descendant(position, start)
            is_named = is_reachable and (is_meant is None or is_meant(self.message(position)))
            if is_named and (may_go is None or may_go(position)):
                return position
            all_ruled_out = all_ruled_out and not is_reachable
            if all_ruled_out:
                self._ruled_out[key] = i + 1
        return None

    def nearest_of(self, found: Sequence[int | None]) -> int | None:
        """Choose the nearest of some positions; of several equally near the latest."""
        return min((position for position in found if position is not None), key=self._nearest_first, default=None)

    def _nearest_first(self, position: int) -> tuple[int, int]:
        return self._depths[position], -position

    def _last_said_at(self, position: int) -> int:
        return self._last_said[position] if position >= 0 else -1

    def _last_shown_at(self, position: int) -> int:
        return self._last_shown[position] if position >= 0 else -1


def is_blank(message: Message) -> bool:
    """Tell whether a message has no content and no calls; the result of a call is never blank."""
    return message.role != "tool" and not message.tool_calls and not _has_content(message)


def is_hidden(message: Message) -> bool:
    """Tell whether clients may leave out a message: a result, a summary, or an answer that calls and says nothing."""
    return message.role in {"tool", "summary"} or (message.role == "assistant" and not _has_content(message))


def _has_content(message: Message) -> bool:
    """Tell whether a message has a text of more than white space, or any other part."""
    if isinstance(message.content, str):
        return bool(message.content.strip())
    return any(part["type"] != "text" or str(part.get("text", "")).strip() for part in message.content)


def _names(message: Message, *, is_shown: bool) -> list[Name]:
    if message.role == "tool":
        return [Name("result of call", message.tool_call_id)]
    if message.role == "summary":
        return []
    if message.role == "user":
        keys = keys_of(message.content)
        contents = [Name("user content", key) for key in keys]
        return [Name("user id", message.id), *contents, *(Name("user id and content", (message.id, k)) for k in keys)]
    names = [Name("answer id", message.id)]
    names += [Name("answer call", call_id) for call_id in {call.id for call in message.tool_calls}]
    if isinstance(message.content, str):
        names.append(Name("answer text", message.content))
    if is_shown:
        names.append(Name("shown answer"))
    return names


def _preorder(thread: Thread) -> tuple[list[int], list[int]]:
    """Number messages in preorder: the descendants of each have the numbers directly after its own.

    Returns the number of each message, and the number of its last descendant.
    """
    size = len(thread.messages)
    descendants = [0] * size
    for position in range(size - 1, -1, -1):  # a message always stands later than the one that it follows
        parent = thread.parent(position)
        if parent >= 0:
            descendants[parent] += descendants[position] + 1
    numbers: list[int] = []
    next_number = [0] * (size + 1)
    """For each message the number of its next child; the last entry, which -1 names, is the root's."""
    for position in range(size):
        parent = thread.parent(position)
        numbers.append(next_number[parent])
        next_number[parent] += descendants[position] + 1
        next_number[position] = numbers[position] + 1
    return numbers, [first + count for first, count in zip(numbers, descendants, strict=True)]
