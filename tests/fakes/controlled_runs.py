"""The part of the store of runs in memory by which requests control them; tests/fakes/runs.py has the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

from karma.core.ids import AgentId, UserId
from karma.runs.domain import (
    ACTIVE,
    MAX_PAUSE,
    OwnershipLost,
    Run,
    RunKey,
    RunPause,
    RunStatus,
    Segment,
    Wish,
    Wishes,
    WishesChanged,
    pause,
    resume,
)
from karma.runs.ports import ActivePage


class ControlledRuns:
    """Runs in dictionaries, which the whole store fills."""

    fail: Callable[[str], Exception | None]
    runs_by_key: dict[RunKey, Run]
    logs: dict[RunKey, dict[int, Segment]]
    wished: dict[RunKey, dict[Wish, str]]
    _lock: threading.RLock

    def _meet(self, name: str) -> None:
        failure = self.fail(name)
        if failure is not None:
            raise failure

    def _is_repeat(self, segment: Segment) -> bool:
        found = self.logs[segment.key].get(segment.n)
        if found is None:
            return False
        if found.writer != segment.writer or found.terminal != segment.terminal:
            raise OwnershipLost
        return True

    def pause(self, segment: Segment, how: RunPause) -> None:
        self._meet("pause")
        with self._lock:
            if self._is_repeat(segment):
                return
            wished = self.wished[segment.key]
            if Wish.PAUSE not in wished or Wish.CANCEL in wished:
                raise WishesChanged
            if self.runs_by_key[segment.key].status is not RunStatus.RUNNING:
                raise OwnershipLost
            del wished[Wish.PAUSE]
            self.logs[segment.key][segment.n] = segment
            self.runs_by_key[segment.key] = pause(self.runs_by_key[segment.key], how)

    def resume(self, segment: Segment, run: Run, *, at: datetime) -> None:
        self._meet("resume")
        with self._lock:
            if self._is_repeat(segment):
                return
            if self.runs_by_key[segment.key].status is not RunStatus.PAUSED:
                raise OwnershipLost
            self.logs[segment.key][segment.n] = segment
            self.runs_by_key[segment.key] = resume(run, at=at, epoch=segment.epoch)

    def paused_before(self, moment: datetime, *, limit: int) -> list[RunKey]:
        paused = [(run.paused_at, run.key) for run in self.runs_by_key.values() if run.paused_at is not None]
        return [key for at, key in sorted(paused) if at + MAX_PAUSE < moment][:limit]

    def active(
        self, user_id: UserId, agent_id: AgentId, *, limit: int, start: dict[str, str] | None = None
    ) -> ActivePage:
        found = [
            run
            for run in self.runs_by_key.values()
            if run.key.user_id == user_id and run.agent_id == agent_id and run.status in ACTIVE
        ]
        found.sort(key=lambda run: (run.created_at, run.key.run_id))
        at = int(start["at"]) if start else 0
        more = at + limit < len(found)
        return ActivePage([run.key for run in found[at : at + limit]], {"at": str(at + limit)} if more else None)

    def withdraw(self, key: RunKey, wish: Wish) -> bool:
        self._meet("withdraw")
        return self.wished[key].pop(wish, None) is not None

    def wish(self, key: RunKey, wish: Wish, *, at: datetime, reason: str = "") -> bool:
        self._meet("wish")
        with self._lock:
            run = self.runs_by_key.get(key)
            if run is None or run.status is not RunStatus.RUNNING:
                return False
            self.wished[key].setdefault(wish, reason)
            return True

    def wishes(self, key: RunKey) -> Wishes:
        self._meet("wishes")
        return dict(self.wished.get(key, {}))
