"""Makes one stream of the several connections that a run may take.

A run's log is committed in segments; `id: n` marks the last event of segment n. Text is sent before it is committed, so
when a connection is cut the client holds some events behind the last id, and the next connection, which begins behind
that id, brings them again: with other cuts between deltas, or not at all, when the process died before it committed
them. What was handed on is not handed on twice, and what turns out to be withdrawn is closed, so that any consumer of
AG-UI accepts the whole as one stream. The MESSAGES_SNAPSHOT that the server sends for a lost process takes it away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Event = Mapping[str, Any]
"""An AG-UI event as its JSON object; `type` names its kind."""

_IDS = {
    "TEXT_MESSAGE": "messageId",
    "TOOL_CALL": "toolCallId",
    "REASONING": "messageId",
    "REASONING_MESSAGE": "messageId",
}
"""Fields that name an item, by the kind of the item: `<kind>_START` begins it, `<kind>_END` ends it."""
TERMINAL = frozenset({"RUN_FINISHED", "RUN_ERROR"})
_PAUSES = {"karma.run_paused": True, "karma.run_resumed": False}
"""Names of CUSTOM events, by whether the run is paused behind them."""


class Continuity:
    """Follows one run over its connections."""

    def __init__(self, position: int = 0) -> None:
        """Begin behind a position that another stream had reached."""
        self.position = position
        """Number of the last segment that was read whole; 0: none."""
        self.is_over = False
        """The run's terminal event was handed on."""
        self.is_paused = False
        """The run was paused behind what was handed on; its stream goes on when somebody has resumed it."""
        self._since: list[Event] = []
        """Events of this connection behind the position."""
        self._known: deque[Event] = deque()
        """Events that were handed on in earlier connections, and that this one is expected to bring again."""
        self._open: set[_Item] = set()
        """Texts, calls and reasoning that have begun and not ended."""
        self._closed: set[_Item] = set()
        """Those that were ended here, since the log turned out not to have them."""

    def reconnect(self) -> None:
        """Begin with a new connection, which brings what is behind `position`."""
        self._known = deque(_joined([*self._since, *self._known]))
        self._since = []

    def take(self, event: Event | None, *, position: int | None) -> list[Event]:
        """Take one frame, and return the events to hand on.

        Args:
            event: its event; None: it has none.
            position: the number in its id; None: it has none.
        """
        handed_on: list[Event] = []
        if event is not None:
            self._since.append(event)
            handed_on = self._new_in(event)
        if position is not None:
            self.position = position
            self._since = []
        return handed_on

    def _new_in(self, event: Event) -> list[Event]:
        rest: Event | None = event
        while rest is not None and self._known:
            first = self._known[0]
            if rest == first:
                self._known.popleft()
                return []
            if not _continues(first, rest):
                return [*self._forget(), *self._handed_on(rest)]
            had, came = first["delta"], rest["delta"]
            if len(came) < len(had):
                self._known[0] = {**first, "delta": had[len(came) :]}
                return []
            self._known.popleft()
            rest = {**rest, "delta": came[len(had) :]} if len(came) > len(had) else None
        return [] if rest is None else self._handed_on(rest)

    def _forget(self) -> list[Event]:
        """Return the ends of what had begun and is not in the log; what ended comes to no second end."""
        begun, ended = (
            [item for event in self._known if event["type"].endswith(part) and (item := _item(event))]
            for part in ("_START", "_END")
        )
        self._known.clear()
        lost = [item for item in reversed(begun) if item in self._open]
        self._open.difference_update(lost)
        self._closed.update(lost, ended)
        return [{"type": f"{item.kind}_END", _IDS[item.kind]: item.id} for item in lost]

    def _handed_on(self, event: Event) -> list[Event]:
        item, part = _item(event), event["type"].rpartition("_")[2]
        if item is not None and part == "START":
            self._open.add(item)
            self._closed.discard(item)  # who joins a run is told anew of what is open
        elif item is not None and part in {"CONTENT", "ARGS", "END"}:
            if item in self._closed:
                return []
            if part == "END":
                self._open.discard(item)  # it may have begun before this stream
        elif event["type"] in TERMINAL:
            self.is_over = True
        elif event.get("name") in _PAUSES:
            self.is_paused = _PAUSES[event["name"]]
        return [event]


class _Item(NamedTuple):
    """A text, a call or a piece of reasoning, which several events make up."""

    kind: str
    id: str


def _item(event: Event) -> _Item | None:
    kind = event["type"].rpartition("_")[0]
    return _Item(kind, str(event[_IDS[kind]])) if kind in _IDS else None


def _delta_of(event: Event) -> tuple[_Item, str] | None:
    item, delta = _item(event), event.get("delta")
    return (item, event["type"]) if item is not None and isinstance(delta, str) else None


def _continues(one: Event, other: Event) -> bool:
    """Tell whether both are deltas of one item, and one begins with the other."""
    if _delta_of(one) is None or _delta_of(one) != _delta_of(other):
        return False
    had, came = one["delta"], other["delta"]
    return bool(had.startswith(came) or came.startswith(had))


def _joined(events: Iterable[Event]) -> list[Event]:
    """Join neighbouring deltas of one item."""
    found: list[Event] = []
    for event in events:
        if found and _delta_of(event) is not None and _delta_of(found[-1]) == _delta_of(event):
            found[-1] = {**found[-1], "delta": found[-1]["delta"] + event["delta"]}
        else:
            found.append(event)
    return found
