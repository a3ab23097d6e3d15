"""Delivers messages to connections of both kinds: sockets by the gateway, streams by their inboxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from karma.core.clock import Clock
from karma.realtime.domain import is_streamed
from karma.realtime.ports import Delivered, Inboxes, Pushes

_AT_ONCE: Final = 16
"""Inboxes that are written at the same moment, some milliseconds each: a hundred one after the other take too long."""


class LiveDelivery:
    """See Pushes; most messages go to sockets alone, and then nothing is added to what that costs."""

    def __init__(self, sockets: Pushes, inboxes: Callable[[], Inboxes], clock: Clock) -> None:
        """Make one; `inboxes` is asked for when somebody has a stream open, which few have."""
        self._sockets = sockets
        self._inboxes = inboxes
        self._clock = clock

    def send_all(self, messages: Sequence[tuple[str, bytes]]) -> list[Delivered]:
        """See Pushes; all that one stream is sent is put into its inbox at once, in its order."""
        streamed: dict[str, list[int]] = {}
        for place, (connection, _) in enumerate(messages):
            if is_streamed(connection):
                streamed.setdefault(connection, []).append(place)
        if not streamed:
            return self._sockets.send_all(messages)
        outcomes = iter(self._sockets.send_all([each for each in messages if not is_streamed(each[0])]))
        added = dict(zip(streamed, self._add_all(messages, streamed), strict=True))
        return [added[each] if is_streamed(each) else next(outcomes) for each, _ in messages]

    def _add_all(self, messages: Sequence[tuple[str, bytes]], streamed: dict[str, list[int]]) -> list[Delivered]:
        now, inboxes = self._clock.now(), self._inboxes()

        def add(connection: str) -> Delivered:
            bodies = [messages[place][1].decode() for place in streamed[connection]]
            return inboxes.add(connection, bodies, now=now)

        # The first alone: it makes the client that the others share.
        first, *rest = streamed
        found = [add(first)]
        if rest:
            with ThreadPoolExecutor(max_workers=min(_AT_ONCE, len(rest))) as threads:
                found += threads.map(add, rest)
        return found
