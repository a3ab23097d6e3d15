"""Ids under which the ports of models tell of the calls of one answer."""

from __future__ import annotations

from typing import Final

from karma.integrations.event_stream import StreamTooLarge

MAX_CALLS: Final = 1000
"""Calls of tools in one answer; a stream with more is no answer."""


def own_id(given: str, taken: set[str]) -> str:
    """Return the id of a call that begins, and add it to those of its answer.

    It is the provider's, or one of ours where that is missing or another call of the answer has it, whichever of them
    was given first.

    Raises:
        StreamTooLarge: there are too many calls.
    """
    if len(taken) >= MAX_CALLS:
        raise StreamTooLarge
    own, n = given, len(taken)
    while not own or own in taken:
        own, n = f"{given or 'call'}_{n}", n + 1
    taken.add(own)
    return own
