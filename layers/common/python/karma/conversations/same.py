"""Tells whether a client's copy of a call, or of the result of one, says the same as the stored one.

Front ends parse JSON and write it anew: without spaces, with other escapes, `1.0` as `1`. So objects and lists are
compared as values, with numbers as far as a double holds them; any other text, which may be a user's, as it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from karma.conversations.copies import is_same_content
from karma.conversations.domain import Json, Message, ToolCall, whole_arguments
from karma.core import freeform


def is_same_result(stored: Message, given: Message, *, is_own: bool = False) -> bool:
    """Tell whether a client's result says the same as a stored one, under whatever id.

    A copy of a failed one `is_own`, of a call of the server's tools, need not say that it failed: the event that
    brought it has no field for that, so clients keep its words alone. Of its own tools' results they know which failed.
    """
    says_how = stored.failed == given.failed or (is_own and stored.failed)
    return says_how and is_same_output(stored.content, given.content)


def is_same_output(stored: str | Sequence[Json], given: str | Sequence[Json]) -> bool:
    """Tell whether a client's copy of a result has the stored content."""
    if is_same_content(stored, given):
        return True
    ours, theirs = _text_of(stored), _text_of(given)
    return ours is not None and theirs is not None and _is_same_json(ours, theirs)


def has_same_calls(stored: Message, given: Message) -> bool:
    """Tell whether a client's copy of an answer makes no other calls than the stored one; it may have fewer."""
    ours = {call.id: call for call in stored.tool_calls}
    return all(call.id in ours and _is_same_call(ours[call.id], call) for call in given.tool_calls)


def _is_same_call(stored: ToolCall, given: ToolCall) -> bool:
    ours, theirs = whole_arguments(stored.arguments).strip(), whole_arguments(given.arguments).strip()
    return stored.name == given.name and (ours == theirs or _is_same_json(ours, theirs))


def _text_of(content: str | Sequence[Json]) -> str | None:
    """Return the text of a content; None: it has several parts, or another one than a text."""
    if isinstance(content, str):
        return content
    texts = [str(part.get("text", "")) for part in content if part.get("type") == "text"]
    return texts[0] if len(texts) == len(content) == 1 else None


def _is_same_json(stored: str, given: str) -> bool:
    if not stored.lstrip().startswith(("{", "[")) or not given.lstrip().startswith(("{", "[")):
        return False
    try:
        return _is_same_value(freeform.loads(stored), freeform.loads(given))
    except (freeform.NotJson, freeform.OutOfBounds):
        return False


def _is_same_value(stored: object, given: object) -> bool:
    if isinstance(stored, dict) and isinstance(given, dict):
        return stored.keys() == given.keys() and all(_is_same_value(stored[name], given[name]) for name in stored)
    if isinstance(stored, list) and isinstance(given, list):
        return len(stored) == len(given) and all(map(_is_same_value, stored, given))
    if isinstance(stored, bool) or isinstance(given, bool):
        return stored is given
    if isinstance(stored, int | float) and isinstance(given, int | float):
        return float(stored) == float(given)
    return stored == given
