"""Collects a long text that arrives in small pieces in few objects, rather than in a string for each of its deltas."""

from __future__ import annotations

_PIECES = 256


class GrowingText:
    """Collects pieces of one text."""

    __slots__ = ("_joined", "_pieces", "size")

    def __init__(self) -> None:
        self._joined: list[str] = []
        self._pieces: list[str] = []
        self.size = 0
        """Characters so far."""

    def add(self, piece: str) -> None:
        """Take the next piece."""
        self.size += len(piece)
        self._pieces.append(piece)
        if len(self._pieces) == _PIECES:
            self._joined.append("".join(self._pieces))
            self._pieces.clear()

    def __str__(self) -> str:
        """Return the whole text."""
        return "".join((*self._joined, *self._pieces))
