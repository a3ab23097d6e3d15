"""Reads a run's log as clients are shown it.

A segment that asks for the conversation anew (`Segment.shows`) gets its MESSAGES_SNAPSHOT here, made from the thread,
whose messages up to a position never change: so the log holds no copy of a conversation, which may be 4 MB.
"""

from __future__ import annotations

from dataclasses import replace

from karma.conversations.domain import ThreadKey
from karma.runs import events
from karma.runs.domain import NOT_EXECUTED, RunKey, Segment
from karma.runs.opening import MAX_SNAPSHOT_BYTES, Link, shown
from karma.runs.ports import Runs
from karma.runs.setup import load_setup, with_asides

_FIRST_CLAIM = 2
"""Number of the segment by which a process begins with a run that was stored without one."""
_TOO_LONG = {
    "field": "messages",
    "reason": "are too long to be shown again: the unfinished answer stays, and is followed by the new one",
}


def read(store: Runs, key: RunKey, *, after: int, limit: int, link: Link) -> list[Segment]:
    """Read segments in order, those above `after`, with the snapshots that they ask for; `link` as in `opening`.

    At most 1 MB a call as it is stored, which may be several as it is read, and a snapshot for each process that took
    the run over.
    """
    return [
        replace(each, events=(*each.events, *_shown(store, key, each, each.shows, link)), shows=None)
        if each.shows is not None
        else each
        for each in store.segments(key, after=after, limit=limit)
    ]


def _spoken_without_a_process(store: Runs, key: RunKey) -> events.Version | None:
    """Return the version that a run speaks which was stored without a process; None: it began with one."""
    for first in store.segments(key, after=0, limit=1):
        if first.epoch == NOT_EXECUTED:
            return events.spoken_in(first.events[0])
    return None


def _shown(store: Runs, key: RunKey, segment: Segment, position: int, link: Link) -> tuple[bytes, ...]:
    """Return what shows the conversation at a segment: one snapshot, two where it is the first that a client gets.

    A client holds its new message alone then, and would have it before all that it lacks (conversations/order.py).
    """
    shown_anew = snapshot(store, key, position, link, until=segment.n)
    is_claim = segment.n == _FIRST_CLAIM and segment.epoch == NOT_EXECUTED + 1
    speaks = _spoken_without_a_process(store, key) if is_claim else None
    is_long = events.parse(shown_anew).type != "MESSAGES_SNAPSHOT"
    if is_long or speaks is None:
        return (shown_anew,)
    return (events.messages_snapshot((), has_activities=speaks >= events.ACTIVITIES_SINCE).data, shown_anew)


def snapshot(store: Runs, key: RunKey, position: int, link: Link, *, until: int | None = None) -> bytes:
    """Return the MESSAGES_SNAPSHOT of a run's conversation up to a position; one that is too long is a note instead.

    What its subagents have said is shown up to the segment `until`; None: all of it.
    """
    run, stored = store.run(key), store.setup(key)
    if run is None or stored is None:
        return events.input_ignored([_TOO_LONG]).data  # it is being deleted
    setup = load_setup(stored)
    thread = store.thread(ThreadKey(key.user_id, run.thread_id))
    way = thread.shown_to(position)
    messages = link([thread.messages[each] for each in way])
    conversation = [(message.id, shown(message, setup.speaks)) for message in messages]
    answers = way.index(run.answers) if run.answers in way else len(way) - 1
    data = events.messages_snapshot(with_asides(conversation, setup.asides, last=answers)).data
    if setup.subagents and setup.speaks >= events.SUBAGENTS_SINCE:
        from karma.runs.subagents.showing import with_subagents  # most agents call no others

        told = with_subagents(store, key, setup, conversation, link=link, until=until)
        whole = events.messages_snapshot(with_asides(told, setup.asides, last=answers)).data
        data = whole if len(whole) <= MAX_SNAPSHOT_BYTES else data
    return data if len(data) <= MAX_SNAPSHOT_BYTES else events.input_ignored([_TOO_LONG]).data
