"""Shows clients what a model thinks while it answers, as it comes and in snapshots.

A message of reasoning belongs to the answer that it stands before, and has an id made of that answer's, so that the log
and the stored answer name it alike. Signatures and redacted blocks stay in the stored answer: no client is sent them.
"""

from __future__ import annotations

from karma.models.prices import utf8_size
from karma.runs import events
from karma.runs.events import DeltaPrefix
from karma.runs.ports import Voice


class Reasoning:
    """The reasoning of one turn of the model while it streams."""

    def __init__(self, log: Voice, message_id: str, *, is_shown: bool) -> None:
        """Build it for the turn whose answer has this id; what is not shown is counted only."""
        self._log = log
        self._message_id = message_id
        self._is_shown = is_shown
        self._count = 0
        self._open: DeltaPrefix | None = None
        self.chars = 0
        """Characters so far."""
        self.size = 0
        """UTF-8 bytes so far."""

    @property
    def is_open(self) -> bool:
        """Tell whether a message of it has begun and not ended."""
        return self._open is not None

    def add(self, text: str) -> list[bytes]:
        """Log a piece and return its frames, which the caller sends at once. Raises as `RunLog.delta` does."""
        self.chars += len(text)
        self.size += utf8_size(text)
        if not self._is_shown:
            return []
        frames: list[bytes] = []
        if self._open is None:
            self._open = events.reasoning_deltas(reasoning_id(self._message_id, self._count))
            self._count += 1
            frames += map(self._log.soft, events.reasoning_begun(self._open.ref))
        return [*frames, self._log.delta(self._open, text)]

    def end(self) -> list[bytes]:
        """Log the end of the open message and return its frames. Raises as `RunLog.soft` does."""
        if self._open is None:
            return []
        ref, self._open = self._open.ref, None
        return [self._log.soft(end(ref)) for end in (events.reasoning_message_end, events.reasoning_end)]


def reasoning_id(message_id: str, n: int) -> str:
    """Return the id of an answer's n-th message of reasoning, counted from 0."""
    return f"{message_id}-reasoning-{n}"
