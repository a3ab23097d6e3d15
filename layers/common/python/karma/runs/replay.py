"""Reads a run's log as clients are shown it.

A segment that asks for the conversation anew (`Segment.shows`) gets its MESSAGES_SNAPSHOT here, made from the thread,
whose messages up to a position never change: so the log holds no copy of a conversation, which may be 4 MB.
"""

from __future__ import annotations

from dataclasses import replace

from karma.conversations.domain import ThreadKey
from karma.runs import events
from karma.runs.domain import RunKey, Segment
from karma.runs.opening import MAX_SNAPSHOT_BYTES, Link, shown
from karma.runs.ports import Runs
from karma.runs.setup import load_setup, with_asides

_TOO_LONG = {
    "field": "messages",
    "reason": "are too long to be shown again: the unfinished answer stays, and is followed by the new one",
}


def read(store: Runs, key: RunKey, *, after: int, limit: int, link: Link) -> list[Segment]:
    """Read segments in order, those above `after`, with the snapshots that they ask for; `link` as in `opening`.

    At most 1 MB a call, and a snapshot for each process that took the run over.
    """
    return [
        replace(each, events=(*each.events, snapshot(store, key, each.shows, link)), shows=None)
        if each.shows is not None
        else each
        for each in store.segments(key, after=after, limit=limit)
    ]


def snapshot(store: Runs, key: RunKey, position: int, link: Link) -> bytes:
    """Return the MESSAGES_SNAPSHOT of a run's conversation up to a position; one that is too long is a note instead."""
    run, stored = store.run(key), store.setup(key)
    if run is None or stored is None:
        return events.input_ignored([_TOO_LONG]).data  # it is being deleted
    setup = load_setup(stored)
    thread = store.thread(ThreadKey(key.user_id, run.thread_id))
    way = [each for each in thread.path_to(position) if each < thread.next_message]
    messages = link([thread.messages[each] for each in way])
    conversation = [(message.id, shown(message, setup.speaks)) for message in messages]
    answers = way.index(run.answers) if run.answers in way else len(way) - 1
    data = events.messages_snapshot(with_asides(conversation, setup.asides, last=answers)).data
    return data if len(data) <= MAX_SNAPSHOT_BYTES else events.input_ignored([_TOO_LONG]).data
