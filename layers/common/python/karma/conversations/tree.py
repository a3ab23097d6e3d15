"""Index of a thread's messages, to find quickly which message may follow another one in a branch.

A request may bring thousands of messages, and a thread may hold as many. Comparing each with each would take minutes
for a small body; so each message is indexed once under every name by which it can be found: id, call, text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from karma.conversations.attachments import in_words
from karma.conversations.domain import Json, Message, Thread

Shape = tuple[Hashable, ...]
"""Common part of all copies of a user's message: its texts, and the kinds of other parts."""


class Tree:
    """The messages of a thread by position; -1 is the root, which all messages follow."""

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        self._depths: list[int] = []
        self._regions: list[int] = []
        """For each message the nearest one before it that clients show."""
        self._is_seen: list[bool] = []
        self.behind: dict[int, list[int]] = {}
        """Positions of the messages that follow each one directly."""
        self._next: dict[tuple[int, Hashable], list[tuple[int, int]]] = {}
        """Depth and negative position of the messages that may come next after a shown one, by name."""
        self.by_id: dict[str, list[int]] = {}
        self.by_call: dict[str, list[int]] = {}
        self.by_result: dict[str, list[int]] = {}
        """Positions of results by the id of their call."""
        for position, message in enumerate(thread.messages):
            parent = thread.parent(position)
            self.behind.setdefault(parent, []).append(position)
            self._depths.append(self.depth(parent) + 1)
            self._regions.append(self._region(parent))
            self._is_seen.append(not is_unseen(message))
            self.by_id.setdefault(message.id, []).append(position)
            for call in message.tool_calls:
                self.by_call.setdefault(call.id, []).append(position)
            if message.role == "tool":
                self.by_result.setdefault(message.tool_call_id, []).append(position)
            for name in _names(message, is_seen=self._is_seen[position]):
                named = self._next.setdefault((self._regions[position], name), [])
                named.append((self._depths[position], -position))
        for named in self._next.values():
            named.sort()
        self._passed: dict[tuple[int, Hashable], int] = {}
        """Number of these that are not behind an earlier position of the search, and need not be looked at again."""
        self._entered, self._left = _spans(thread)

    def message(self, position: int) -> Message:
        """Return the message at a position."""
        return self._thread.messages[position]

    def is_behind(self, position: int, before: int) -> bool:
        """Tell whether the path from the root to a message contains another one."""
        return before < 0 or self._entered[before] < self._entered[position] <= self._left[before]

    def way(self, before: int, position: int) -> list[int]:
        """List the positions after one message up to another that is behind it."""
        way: list[int] = []
        while position != before:
            way.append(position)
            position = self._thread.parent(position)
        return way[::-1]

    def count(self, here: int, name: Hashable) -> int:
        """Count the messages of this name among which `nearest` searches."""
        return len(self._next.get((self._region(here), name), ()))

    def depth(self, position: int) -> int:
        """Return the number of messages before one; -1 for the root."""
        return self._depths[position] if position >= 0 else -1

    def nearest(
        self, here: int, name: Hashable, is_meant: Callable[[Message], bool] | None = None, *, within: int | None = None
    ) -> int | None:
        """Find the nearest message of this name that may come next; of several equally near the latest.

        Messages that clients do not show may be in between. Each search must start behind the one before: messages that
        were passed are not looked at again.

        Args:
            here: position from which to search.
            name: one of the message's names, see `_names`.
            is_meant: tells which messages of the name qualify; None: all.
            within: greatest depth of the message; None: unlimited.
        """
        place = (self._region(here), name)
        named = self._next.get(place, [])
        first = max(bisect_left(named, (self.depth(here) + 1, -len(self._depths))), self._passed.get(place, 0))
        is_passed = True
        for i in range(first, len(named)):
            depth, position = named[i][0], -named[i][1]
            if within is not None and depth > within:
                return None
            is_behind = self.is_behind(position, here)
            if is_behind and (is_meant is None or is_meant(self.message(position))):
                return position
            is_passed = is_passed and not is_behind
            if is_passed:
                self._passed[place] = i + 1
        return None

    def nearest_of(self, found: Sequence[int | None]) -> int | None:
        """Choose the nearest of some positions; of several equally near the latest."""
        there = [position for position in found if position is not None]
        return min(there, key=lambda position: (self._depths[position], -position), default=None)

    def _region(self, position: int) -> int:
        return position if position < 0 or self._is_seen[position] else self._regions[position]


def shape_of(content: str | Sequence[Json]) -> Shape:
    """Return the shape of a content, which all its copies share."""
    if isinstance(content, str):
        return (content,)
    return tuple(str(part.get("text")) if part.get("type") == "text" else (str(part.get("type")),) for part in content)


def shapes_of(stored: str | Sequence[Json]) -> set[Shape]:
    """Return the shapes that copies of a stored content may have: clients hold a named file as a part or as text."""
    if isinstance(stored, str):
        return {shape_of(stored)}
    return {shape_of(stored), shape_of([in_words(part) for part in stored])}


def is_blank(message: Message) -> bool:
    """Tell whether a message has neither text nor calls nor results."""
    if message.role == "tool" or message.tool_calls:
        return False
    if isinstance(message.content, str):
        return not message.content.strip()
    return all(part["type"] == "text" and not str(part.get("text", "")).strip() for part in message.content)


def is_unseen(message: Message) -> bool:
    """Tell whether clients may not show a message: calls and results of our own tools."""
    return message.role == "tool" or (message.role == "assistant" and is_blank(replace(message, tool_calls=())))


def _names(message: Message, *, is_seen: bool) -> list[Hashable]:
    if message.role == "tool":
        return [("result", message.tool_call_id)]
    if message.role == "user":
        return [("user", message.id), *(("words", shape) for shape in shapes_of(message.content))]
    names: list[Hashable] = [("answer", message.id)]
    names += [("call", call_id) for call_id in {call.id for call in message.tool_calls}]
    if isinstance(message.content, str):
        names.append(("said", message.content))
    if is_seen:
        names.append("any answer")
    return names


def _spans(thread: Thread) -> tuple[list[int], list[int]]:
    """Number messages so that those behind one come directly after it; return first and last number of each."""
    size = len(thread.messages)
    behind = [0] * size
    for position in range(size - 1, -1, -1):  # a message always stands later than the one that it follows
        parent = thread.parent(position)
        if parent >= 0:
            behind[parent] += behind[position] + 1
    entered: list[int] = []
    free = [0] * (size + 1)
    """The next number for a message behind this one; the last entry is the root's."""
    for position in range(size):
        parent = thread.parent(position)
        entered.append(free[parent])
        free[parent] += behind[position] + 1
        free[position] = entered[position] + 1
    return entered, [first + count for first, count in zip(entered, behind, strict=True)]
