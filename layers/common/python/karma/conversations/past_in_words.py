"""Earlier messages in words alone, for a model that refuses what else they hold (docs/adr/0075).

Media that we take may be refused by a model, for reasons that its provider alone knows, and so may what a provider has
sent itself: signatures of thoughts, results of its own tools. Each later request would hold them, and be refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from karma.conversations.domain import Json, Message

_OWN: Final = frozenset({"text", "tool_use"})
"""Types of blocks whose meaning a message has besides."""


def put_in_words(messages: Sequence[Message], *, before: int) -> tuple[list[Message], list[str]]:
    """Return messages of which those before an index are words alone, and the ids of those that were more."""
    found = [_in_words(each) for each in messages[: max(0, before)]]
    changed = [new.id for new, old in zip(found, messages, strict=False) if new is not old]
    return [*found, *messages[len(found) :]], changed


def _in_words(message: Message) -> Message:
    """Return a message without media and a provider's own blocks; the same one, where it has none."""
    if any(block.get("type") not in _OWN for block in message.blocks):
        message = replace(message, blocks=())
    if isinstance(message.content, str) or all(part.get("type") == "text" for part in message.content):
        return message
    return replace(message, content=tuple(map(_said, message.content)))


def _said(part: Json) -> Json:
    if part.get("type") == "text":
        return part
    return {"type": "text", "text": f"[{part.get('type')} that was here: it cannot be read, and is left out]"}
