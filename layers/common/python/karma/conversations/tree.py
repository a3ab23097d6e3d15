"""A thread's messages, found by what is known of them: which one may come next behind another, in nearly no time.

A request may bring thousands of messages, and a thread may hold as many. Whoever compared each with each would work for
minutes on a small body; so everything that a message can be found by is noted once for each message.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from karma.conversations.attachments import in_words
from karma.conversations.domain import Json, Message, Thread

Shape = tuple[Hashable, ...]
"""What two copies of a user's message have in common: the texts, and of other parts the kind."""


class Tree:
    """The messages of a thread by position; -1 is the root, which every message is behind."""

    def __init__(self, thread: Thread) -> None:
        self._thread = thread
        self._depths: list[int] = []
        self._regions: list[int] = []
        """Of each message the nearest one before it that a client sees."""
        self._is_seen: list[bool] = []
        self.behind: dict[int, list[int]] = {}
        """Positions of the messages that follow each one directly."""
        self._next: dict[tuple[int, Hashable], list[tuple[int, int]]] = {}
        """Depth and negative position of the messages that may come next behind a seen one, by what names them."""
        self.by_id: dict[str, list[int]] = {}
        self.by_call: dict[str, list[int]] = {}
        self.by_result: dict[str, list[int]] = {}
        """Results by the id of their call."""
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
        """How many of these were looked at and are not behind where the walk was, so that they never will be again."""
        self._entered, self._left = _spans(thread)

    def message(self, position: int) -> Message:
        """Return the message at a position."""
        return self._thread.messages[position]

    def is_behind(self, position: int, before: int) -> bool:
        """Tell whether the way from the root to a message leads over another one."""
        return before < 0 or self._entered[before] < self._entered[position] <= self._left[before]

    def way(self, before: int, position: int) -> list[int]:
        """List the positions behind one message up to another that is behind it."""
        way: list[int] = []
        while position != before:
            way.append(position)
            position = self._thread.parent(position)
        return way[::-1]

    def count(self, here: int, name: Hashable) -> int:
        """Count the messages of this name in the surroundings that `nearest` searches."""
        return len(self._next.get((self._region(here), name), ()))

    def depth(self, position: int) -> int:
        """Count the messages before one; of the root there is one less than none."""
        return self._depths[position] if position >= 0 else -1

    def nearest(
        self, here: int, name: Hashable, is_meant: Callable[[Message], bool] | None = None, *, within: int | None = None
    ) -> int | None:
        """Find the nearest message of this name that may come next, the latest of several.

        What a client does not see may stand between. A walk asks from one place, then from others behind it: what it
        has passed once it does not look at again.

        Args:
            here: where the walk is.
            name: what the message is found by.
            is_meant: which messages of the name are looked for; None: all.
            within: the depth behind which none is looked for; None: there is no such depth.
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
        """Choose the nearest of what was found, the latest of several."""
        there = [position for position in found if position is not None]
        return min(there, key=lambda position: (self._depths[position], -position), default=None)

    def _region(self, position: int) -> int:
        return position if position < 0 or self._is_seen[position] else self._regions[position]


def shape_of(content: str | Sequence[Json]) -> Shape:
    """Return what every copy of a content has in common with it."""
    if isinstance(content, str):
        return (content,)
    return tuple(str(part.get("text")) if part.get("type") == "text" else (str(part.get("type")),) for part in content)


def shapes_of(stored: str | Sequence[Json]) -> set[Shape]:
    """Return the shapes that copies of a stored content have: clients hold a named file as a part, or in words."""
    if isinstance(stored, str):
        return {shape_of(stored)}
    return {shape_of(stored), shape_of([in_words(part) for part in stored])}


def is_blank(message: Message) -> bool:
    """Tell whether a message says and asks nothing."""
    if message.role == "tool" or message.tool_calls:
        return False
    if isinstance(message.content, str):
        return not message.content.strip()
    return all(part["type"] == "text" and not str(part.get("text", "")).strip() for part in message.content)


def is_unseen(message: Message) -> bool:
    """Tell whether clients may have nothing to show for a message: calls and results of our own tools."""
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
    """Number the messages so that those behind one are numbered directly after it; returns its and the last number."""
    size = len(thread.messages)
    behind = [0] * size
    for position in range(size - 1, -1, -1):  # a message always stands later than the one that it follows
        parent = thread.parent(position)
        if parent >= 0:
            behind[parent] += behind[position] + 1
    entered: list[int] = []
    free = [0] * (size + 1)
    """The next number that a message behind this one gets; the last is the root's."""
    for position in range(size):
        parent = thread.parent(position)
        entered.append(free[parent])
        free[parent] += behind[position] + 1
        free[position] = entered[position] + 1
    return entered, [first + count for first, count in zip(entered, behind, strict=True)]
