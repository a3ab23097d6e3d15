"""Tells what a model thinks from what it says, where its server leaves both in the text: `<think>…</think>` in front.

vLLM and Ollama do without a parser of reasoning. Only a block at the beginning is one, some white space before it
apart: an answer may speak of the tag. The pieces may be cut anywhere.
"""

from __future__ import annotations

from typing import Final

_BEGINS: Final = "<think>"
_ENDS: Final = "</think>"
_MAX_BLANK: Final = 1024
"""Characters of white space that are held for a block behind them; more of it is an answer."""


class LeadingThoughts:
    """Divides the text of one answer."""

    def __init__(self) -> None:
        self._held = ""
        """Text that is not told apart yet."""
        self._blank: list[str] = []
        """White space before it."""
        self._blanks = 0
        self._is_at_start = True
        self._is_inside = False
        self._is_behind = False
        """White space between the block and the answer is left out."""

    def feed(self, text: str) -> tuple[str, str]:
        """Take the next piece; return what the model thinks and what it says of what is told apart by now."""
        if not (self._is_at_start or self._is_inside or self._is_behind):
            return "", text
        self._held += text
        if self._is_at_start:
            begun = self._held.lstrip()
            self._blank.append(self._held[: len(self._held) - len(begun)])
            self._blanks += len(self._blank[-1])
            self._held = begun
            if self._blanks > _MAX_BLANK or begun[: len(_BEGINS)] != _BEGINS[: len(begun)]:
                self._is_at_start = False
                return "", self._taken()
            if len(begun) < len(_BEGINS):
                return "", ""
            self._is_at_start, self._is_inside = False, True
            self._blank.clear()
            self._held = begun[len(_BEGINS) :]
        thought = self._thought() if self._is_inside else ""
        return thought, self._said() if self._is_behind else ""

    def _thought(self) -> str:
        thought, end, rest = self._held.partition(_ENDS)
        if end:
            self._is_inside, self._is_behind, self._held = False, True, rest
            return thought
        kept = next((n for n in range(len(_ENDS) - 1, 0, -1) if thought.endswith(_ENDS[:n])), 0)
        self._held = thought[len(thought) - kept :]
        return thought[: len(thought) - kept]

    def _said(self) -> str:
        self._held = self._held.lstrip()
        self._is_behind = not self._held
        return self._taken()

    def end(self) -> tuple[str, str]:
        """Return the rest, as `feed`: of a block that does not end, what the model thinks."""
        rest = self._taken()
        return (rest, "") if self._is_inside else ("", "" if self._is_behind else rest)

    def _taken(self) -> str:
        held, self._held = "".join((*self._blank, self._held)), ""
        self._blank.clear()
        return held
