"""A run whose client's connections are cut anywhere, and whose processes may die."""

from __future__ import annotations

import random
from typing import Any

from karma.runs.events import frames
from karma.runs.replay import read
from tests.fakes.runs import KeptFrames
from tests.support.agui import verify
from tests.support.lost_runs import KEY, THREAD, Life, World, begin, go_on, screen

CUTS = 5


class CutRun:
    """Gives a client what each of its connections brings; after some that are cut it gets one that is whole."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.world = World(unique_ids=dice.random() < 0.5)
        sink = KeptFrames()
        begin(self.world, self._life(), sink)
        self._first: bytes | None = sink.data
        self._left = dice.randint(0, CUTS)

    def _life(self) -> Life:
        dice = self._dice
        return Life(dice.randint(5, 60) if dice.random() < 0.5 else None, after=dice.random() < 0.5)

    def connection(self, position: int) -> bytes | None:
        """Return what the next connection brings, behind a position of the log; None: there is no such run."""
        if self.world.store.run(KEY) is None:
            return None
        data, self._first = self._first, None
        if data is None:
            if not self.world.log[-1].terminal:
                go_on(self.world, self._life() if self._left else Life(None))
            segments = read(self.world.store, KEY, after=position, limit=10**6, link=list)
            data = b"".join(frames(each.events, n=each.n) for each in segments)
        if not self._left:
            return data
        self._left -= 1
        return data[: self._dice.randint(0, len(data))]

    def check(self, seen: list[dict[str, Any]]) -> None:
        """Check that what a client handed on is one whole stream of this run."""
        verify(seen)
        thread = self.world.store.thread(THREAD)
        shown = screen(seen)
        assert [each["id"] for each in shown] == [each.id for each in thread.messages if each.role != "user"]
        assert shown == screen(self.world.shown())
