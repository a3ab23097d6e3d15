"""Events of a run that were sent and are not committed yet, and the segments into which they are split."""

from __future__ import annotations

from collections.abc import Sequence

from karma.runs.events import DeltaPrefix, encode_delta

SEGMENT_BYTES = 16_000
"""Bytes of a segment's events at the most, unless it has one event that is larger."""

_DELTA_CHARS = 2_500
"""Characters of a delta at the most: each takes up to six bytes in JSON, so a delta always fits into a segment."""


class Waiting:
    """Events that were sent and not committed; neighbouring deltas of one message become one event."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._prefix: DeltaPrefix | None = None
        self._parts: list[str] = []
        self.size = 0

    def add_delta(self, prefix: DeltaPrefix, text: str) -> int:
        """Add a delta, and return about how large everything is that waits."""
        if prefix is not self._prefix:
            self._seal()
            self._prefix = prefix
        self._parts.append(text)
        self.size += len(text)
        return self.size

    def add(self, data: bytes) -> None:
        """Add an event."""
        self._seal()
        self._events.append(data)
        self.size += len(data)

    def take(self) -> list[bytes]:
        """Return what waits, and wait for nothing."""
        self._seal()
        taken, self._events, self.size = self._events, [], 0
        return taken

    def put_back(self, events: Sequence[bytes]) -> None:
        """Add events again that were taken and not written, before all others."""
        self._events[:0] = events
        self.size += sum(map(len, events))

    def _seal(self) -> None:
        if self._prefix is not None and self._parts:
            text = "".join(self._parts)
            for at in range(0, len(text), _DELTA_CHARS):
                self._events.append(encode_delta(self._prefix, text[at : at + _DELTA_CHARS]))
        self._prefix = None
        self._parts = []


def batches_of(events: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """Split events into segments; returns at least one, which may be empty."""
    batches: list[tuple[bytes, ...]] = []
    batch: list[bytes] = []
    size = 0
    for data in events:
        if batch and size + len(data) + 1 > SEGMENT_BYTES:
            batches.append(tuple(batch))
            batch, size = [], 0
        batch.append(data)
        size += len(data) + 1
    batches.append(tuple(batch))
    return batches
