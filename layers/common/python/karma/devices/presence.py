"""Is a device connected? Decided from lifecycle events that arrive late, twice, and in any order.

Rules (AWS documents duplicates and re-ordering of lifecycle events):
1. Timestamps more than four minutes apart decide: the later event is true.
2. Within four minutes the higher `versionNumber` is true; versions restart at 0 after a broker's reset.
3. At equal version `disconnected` is true, so a closed session does not reopen by a late or repeated `connected`.
   A session is (sessionIdentifier, versionNumber): a persistent session keeps its identifier over reconnects.

"More than four minutes" is not transitive, so folding events pairwise would make the result depend on their order.
Instead the state keeps every event that may still win, and the winner is computed from that set: of all events within
four minutes of the newest, the highest by rule 2 and 3. An event is dropped when it can never win again: it is out of
the window, or an event at least as new ranks above it. What remains is nearly always one event.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

WINDOW_MS: Final = 4 * 60 * 1000


class PresenceEvent(NamedTuple):
    """One lifecycle event of one client id."""

    ts: int
    """Milliseconds, by the broker's clock."""
    version: int
    connected: bool
    session: str

    @property
    def rank(self) -> tuple[int, bool, int, str]:
        """Order within the window: version, then disconnected over connected; the rest only makes it total."""
        return (self.version, not self.connected, self.ts, self.session)


@dataclass(frozen=True)
class PresenceState:
    """Events that may still be the truth, newest first."""

    events: tuple[PresenceEvent, ...] = ()

    @property
    def winner(self) -> PresenceEvent | None:
        """The event that is true now."""
        return max(self.events, key=lambda event: event.rank) if self.events else None

    @property
    def connected(self) -> bool:
        """Whether the device has a connection, as far as lifecycle events tell."""
        winner = self.winner
        return winner is not None and winner.connected

    @property
    def changed_ms(self) -> int:
        """Broker's time of the event that is true now, 0 when there was none."""
        winner = self.winner
        return winner.ts if winner is not None else 0

    def after(self, *new: PresenceEvent) -> PresenceState:
        """Return the state that knows these events too; the same whatever their order or number of repeats."""
        return PresenceState(_undecided((*self.events, *new)))


def _undecided(events: Iterable[PresenceEvent]) -> tuple[PresenceEvent, ...]:
    newest_first = sorted(set(events), key=lambda event: (event.ts, event.rank), reverse=True)
    kept: list[PresenceEvent] = []
    for event in newest_first:
        if event.ts < newest_first[0].ts - WINDOW_MS:
            break
        # All that were kept are at least as new; the last of them ranks highest.
        if not kept or event.rank > kept[-1].rank:
            kept.append(event)
    return tuple(kept)
