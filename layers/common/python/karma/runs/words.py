"""The beginnings of what a run was asked and has answered, kept with its row so that lists show them without a read."""

from __future__ import annotations

from collections.abc import Sequence

from karma.conversations.domain import Message

MAX_SHOWN_CHARS = 200
"""Characters of a message that lists of runs show, at the most."""


def asked_in(messages: Sequence[Message]) -> str | None:
    """Return the beginning of the last message of a user; None: there is none in words."""
    return next((_beginning(each) for each in reversed(messages) if each.role == "user"), None)


def answered_in(messages: Sequence[Message]) -> str | None:
    """Return the beginning of the last words behind the last message of a user; None: there are none."""
    for message in reversed(messages):
        if message.role == "user":
            return None
        if message.role == "assistant" and (text := _beginning(message)):
            return text
    return None


def _beginning(message: Message) -> str | None:
    if isinstance(message.content, str):
        text = message.content
    else:
        text = "\n".join(str(part.get("text", "")) for part in message.content if part.get("type") == "text")
    if len(text) > MAX_SHOWN_CHARS:
        text = f"{text[: MAX_SHOWN_CHARS - 1]}…"
    return text or None
