"""Writes the events of a subagent into the run's log, each with its name; clients that know no subagents get none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from karma.runs.events import (
    SUBAGENTS_SINCE,
    DeltaPrefix,
    Event,
    OpenItems,
    Version,
    tagged,
    tagged_deltas,
    tool_result,
)
from karma.runs.log import RunLog
from karma.runs.ports import DelegatedWork, Sink

BROKEN_OFF: Final = '{"error":"The answer broke off: this call was not made."}'


class SubagentVoice:
    """The log and the sink of one subagent."""

    is_lost = False

    def __init__(self, log: RunLog, sink: Sink, subagent: str, *, speaks: Version) -> None:
        """Build the voice of a subagent; `speaks` is the version of the run's client."""
        self._log = log
        self._sink = sink
        self._subagent = subagent
        self.is_heard = speaks >= SUBAGENTS_SINCE
        self._prefixes: dict[DeltaPrefix, DeltaPrefix] = {}
        self._open = OpenItems()
        self._begun: list[str] = []
        """Calls that its model has begun in a turn that is not stored."""

    def write(self, data: bytes) -> None:
        """Send frames."""
        if data:
            self._sink.write(data)

    def has_open_text(self, message_id: str) -> bool:
        """Tell whether a message has begun and not ended; one that nobody hears need not begin."""
        return not self.is_heard or self._open.has_text(message_id)

    def soft(self, event: Event) -> bytes:
        """As `RunLog.soft`."""
        if event.type == "TOOL_CALL_START":
            self._begun.append(event.ref)
        if not self.is_heard:
            return b""
        self._open.follow(event)
        return self._log.soft(tagged(event, self._subagent))

    def delta(self, prefix: DeltaPrefix, text: str) -> bytes:
        """As `RunLog.delta`."""
        if not self.is_heard:
            return b""
        own = self._prefixes.get(prefix)  # one object a message: its neighbours are joined
        if own is None:
            own = self._prefixes[prefix] = tagged_deltas(prefix, self._subagent)
        return self._log.delta(own, text)

    async def commit(self, events: Sequence[Event] = (), *, delegated: DelegatedWork | None = None) -> None:
        """As `RunLog.commit`; nothing is written where there is nothing to store."""
        shown = [self._tagged(event) for event in events] if self.is_heard else []
        if shown or delegated is not None:
            await self._log.commit(shown, delegated=delegated)
        for event in events:
            self._open.follow(event)
            if event.type == "TOOL_CALL_START":
                self._begun.append(event.ref)

    def stored(self) -> None:
        """Note that the turn which it has told is stored."""
        self._begun.clear()
        self._prefixes.clear()

    def breaking_off(self) -> list[Event]:
        """Return what ends a turn that is not stored: its calls get results, since no client has to make them."""
        begun, self._begun = self._begun, []
        results = [
            tool_result(message_id=f"{each}-broken-off", tool_call_id=each, content=BROKEN_OFF, failed=True)
            for each in begun
        ]
        return [*self._open.closing(), *results]

    def _tagged(self, event: Event) -> Event:
        return event if event.type.startswith("SUBAGENT_") else tagged(event, self._subagent)
