"""Stored segments in memory, and what was asked of the builder."""

from __future__ import annotations

from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.integrations.tantivy.engine import TantivyEngine
from karma.search.segments.opening import Segments


class MemorySegments:
    """Segments in a dictionary."""

    def __init__(self) -> None:
        self.stored: dict[tuple[UserId, str], bytes] = {}
        self.reads = 0

    def put(self, owner: UserId, segment_id: str, data: bytes) -> None:
        self.stored[owner, segment_id] = data

    def read(self, owner: UserId, segment_id: str) -> bytes | None:
        self.reads += 1
        return self.stored.get((owner, segment_id))

    def remove_older(self, owner: UserId, segment_id: str) -> None:
        for each in [each for each in self.stored if each[0] == owner and each[1] < segment_id]:
            del self.stored[each]

    def remove(self, owner: UserId, segment_id: str) -> None:
        self.stored.pop((owner, segment_id), None)

    def remove_all(self, owner: UserId, *, limit: int) -> int:
        found = [each for each in self.stored if each[0] == owner][:limit]
        for each in found:
            del self.stored[each]
        return len(found)


class AskedSegments:
    """Notes what is asked for; while it is `away`, the queue does not answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[UserId, str]] = []
        self.is_away = False

    def ask(self, owner: UserId, *, instead_of: str) -> None:
        if self.is_away:
            raise Upstream("The queue does not answer")
        self.asked.append((owner, instead_of))


def no_segments() -> Segments:
    """Return segments of which none is there."""
    return Segments(TantivyEngine(), MemorySegments(), AskedSegments())
