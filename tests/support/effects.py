"""Results of calls say the same in words, for the model, and by a mark, for whoever goes back."""

from __future__ import annotations

import re
from collections.abc import Iterable

from karma.conversations.domain import Message

_NOT_MADE = re.compile("(it|one|call) was not made|Unknown (argument|tool)")
_UNKNOWN = "taken effect or not"


def verify_effects(messages: Iterable[Message]) -> None:
    """Compare words and mark of the results among messages, in a thread without subagents."""
    for each in messages:
        if each.role == "tool":
            assert (each.effect == "none") == bool(_NOT_MADE.search(str(each.content))), each
            assert (each.effect == "unknown") == (_UNKNOWN in str(each.content)), each
