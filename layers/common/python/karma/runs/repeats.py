"""Repeats of a request whose response was lost: they get the same answer, and start no second run.

The same run id with the same messages on the same thread is the same request. While its run goes on, the client gets
the run's log from the beginning, as it is written, or learns that its process was lost; when the run has ended, the
conversation with its answer as one snapshot, unless that is too long, and the state as the run left it:

    RUN_STARTED, MESSAGES_SNAPSHOT, STATE_SNAPSHOT, RUN_FINISHED or RUN_ERROR

The last one alone has a position. Who is cut off before it holds what no part of the log says: it joins the run, or
sends the request again; the log from its beginning would say all of it twice.

What is not used of the messages is named here, too (CUSTOM karma.input_ignored).

Another request with a run id that was used is refused (RunExists). The same messages, by their ids, under another run
id are the same request while their run goes on: a second click, or a retry. When it has ended, they ask for another
answer. With answers to questions they are it only if these are the run's own, whatever the messages say. Equal words
alone are the same request only where its client has no ids for them, no Idempotency-Key, and no `multitask_strategy`:
whoever has one of these says the words once more.

Clients keep the part of an answer that they got before their connection broke, and send it after the message that
it answers. Such a request is still the same one; MESSAGES_SNAPSHOT removes the part before the log sends the whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import orjson

from karma.conversations.arrival import passed_over, recognise
from karma.conversations.branches import Merged, Note, has_moved_on, merge
from karma.conversations.copies import is_same_content
from karma.conversations.domain import Message, Thread, ThreadKey
from karma.conversations.history import awaited_calls
from karma.conversations.messages import Sent, said
from karma.core.clock import Clock
from karma.core.errors import AppError, ValidationFailed
from karma.core.ids import RunId
from karma.core.observability import count, logger
from karma.runs.domain import ACTIVE, Run, Segment
from karma.runs.events import SUBAGENTS_SINCE, frame, frames, parse, state_after, state_snapshot
from karma.runs.opening import MAX_SNAPSHOT_BYTES, Link, Tell, input_ignored, snapshots_of
from karma.runs.ports import Runs, Sink
from karma.runs.replay import read
from karma.runs.requests import RunInput
from karma.runs.setup import load_setup
from karma.runs.watchdog import Inspector

_POLL_S = 0.25
_MAX_POLL_S = 1.0
_PAGE = 50


def is_repeat(
    run: Run,
    thread: Thread,
    asked: RunInput,
    sent: Sequence[Sent],
    *,
    own: Collection[str],
    said_to: Collection[RunId] = (),
) -> bool:
    """Tell whether a request is a repeat of the one that began this run.

    Args:
        run: the run.
        thread: its thread, read after the request had come.
        asked: the request.
        sent: its messages, those that the thread holds with the thread's content.
        own: names of the tools that run on the server.
        said_to: the runs to which its answers were said, none where one of them is new.
    """
    if run.thread_id != asked.thread_id:
        return False
    word = None if run.key.run_id == asked.run_id else _new_word(thread, asked)
    if word is not None and (word.id or asked.stands_alone):
        return False
    if run.asked_hash and run.asked_hash == asked.digest:
        return True
    brings_answers = bool(asked.resume) and run.key.run_id not in said_to
    return not brings_answers and _adds_nothing(run, thread, sent, own)


def has_left(run: Run, thread: Thread, asked: RunInput, sent: Sequence[Sent], *, own: Collection[str]) -> bool:
    """Tell whether the client of a running run asks for something else; arguments as of `is_repeat`."""
    if _new_word(thread, asked) and _adds_nothing(run, thread, sent, own):
        return False  # the same words, said once more
    began = _as_it_began(run, thread)
    if began is None:
        return has_moved_on(thread, thread.latest, sent, own=own)
    return has_moved_on(began, run.answers, sent, own=own, waiting=_waiting(began, run))


def _new_word(thread: Thread, asked: RunInput) -> Message | None:
    """Return the words with which a request ends, where the thread has none of their id.

    None: the request is known by other ids than its last words', or brings a part of the answer that it waits for.
    """
    last = said(asked.sent)[-1:]
    if asked.resume or not last or last[0].message.role != "user":
        return None
    return last[0].message if all(message.id != last[0].message.id for message in thread.messages) else None


def _adds_nothing(run: Run, thread: Thread, sent: Sequence[Sent], own: Collection[str]) -> bool:
    """Tell whether messages end with the one that a run answers, followed by nothing but messages of this run.

    Answers and results of the server's tools are never a client's; new ones can only be users' messages and results of
    its own tools.
    """
    began = _as_it_began(run, thread)
    if began is None:
        return False
    sent = said(sent, {message.id for message in began.messages})
    if not sent:
        return False
    if _are_the_last_words(began, run.answers, sent):
        return True
    try:
        merged = merge(began, sent, own=own, waiting=_waiting(began, run))
    except ValidationFailed:
        return False
    size = thread.next_message if run.status in ACTIVE else run.last_message + 1
    given = thread.messages[run.begins_at : size]
    ours = {call.id for message in given for call in message.tool_calls if call.name in own}
    ours |= {message.tool_call_id for message in given if message.role == "tool"}
    known = ours | {call.id for message in began.messages for call in message.tool_calls}
    return (
        merged.after == run.answers
        and all(m.role == "assistant" or (m.role == "tool" and m.tool_call_id in ours) for m in merged.new)
        and all(each.message.tool_call_id in known for each in sent if each.message.role == "tool")
    )


def _are_the_last_words(began: Thread, answers: int, sent: Sequence[Sent]) -> bool:
    """Tell whether a client that sends only new messages sends those of this run again, under new ids or none."""
    last = began.conversation(answers).messages[-len(sent) :]
    return len(last) == len(sent) and all(
        message.role == each.message.role == "user" and is_same_content(message.content, each.message.content)
        for message, each in zip(last, sent, strict=True)
    )


def _as_it_began(run: Run, thread: Thread) -> Thread | None:
    """Return a thread without the messages that a run and later runs added to it; None: not known for this run."""
    if not 0 <= run.answers < run.begins_at <= thread.next_message:
        return None
    size = run.begins_at
    forks = {position: after for position, after in thread.forks.items() if position < size}
    messages = thread.messages[:size]
    # Its branch is the current one: an earlier answer to the same words does not stand in the place of this run's.
    return replace(thread, messages=messages, next_message=size, forks=forks, restored_to=run.answers)


def _waiting(began: Thread, run: Run) -> Mapping[str, None]:
    """Return the calls that had no result when a run began: it began with answers to questions about some of them."""
    return dict.fromkeys(call.id for call in awaited_calls(began.conversation(run.answers).messages))


def redeliver(
    run: Run,
    asked: RunInput,
    *,
    store: Runs,
    inspector: Inspector,
    link: Link,
    clock: Clock,
    until: datetime,
    own: Collection[str],
) -> Callable[[Sink], asyncio.Task[None]]:
    """Return a function that starts to deliver a run's answer once more; its task raises nothing."""

    async def deliver(sink: Sink) -> None:
        count("RunRepeated")
        try:
            is_active = run.status in ACTIVE
            whole = None if is_active else await asyncio.to_thread(_answer, run, asked, store, link, own)
            if whole is not None:
                sink.write(whole)
                return
            shown = await asyncio.to_thread(_question, run, asked, store, link, own)
            reader = partial(read, store, run.key, limit=_PAGE, link=link)
            await _follow(run, sink, *shown, read=reader, inspector=inspector, clock=clock, until=until)
        except AppError as exc:
            # The stream ends without its last event: its client asks once more.
            logger.warning("run.not_redelivered", run_id=run.key.run_id, code=exc.code)

    return lambda sink: asyncio.get_running_loop().create_task(deliver(sink), name=f"repeat {run.key.run_id}")


def _question(
    run: Run, asked: RunInput, store: Runs, link: Link, own: Collection[str]
) -> tuple[tuple[bytes, ...], tuple[Note, ...]]:
    """Compare a client's messages with those that a run answers.

    Returns snapshots of the conversation up to the message that it answers, () when the client has it so; and notes on
    what is not used of the client's.
    """
    began = _as_it_began(run, store.thread(ThreadKey(run.key.user_id, run.thread_id)))
    if began is None:
        return (), ()
    sent = recognise(run.key.user_id, began.messages, asked.sent, asked.unread)
    merged = merge(began, sent, own=own, waiting=_waiting(began, run))
    notes = _notes(began, asked, sent, merged)
    if merged.is_shown and not merged.new:
        return (), notes
    tell = _telling(run, asked, store, link, until=0)
    snapshots = snapshots_of(link(began.conversation(run.answers).messages), asked, tell=tell)
    return snapshots if len(snapshots[-1]) <= MAX_SNAPSHOT_BYTES else (), notes


def _telling(run: Run, asked: RunInput, store: Runs, link: Link, *, until: int | None) -> Tell | None:
    """Return what adds to a run's conversation what its subagents have said; None: it has none, or none is shown.

    `until` is as in `with_subagents`: 0 adds what they have said in earlier runs.
    """
    if asked.speaks < SUBAGENTS_SINCE or not (asked.resume or run.delegated):
        return None
    stored = store.setup(run.key)
    setup = load_setup(stored) if stored else None
    if setup is None or not setup.subagents:
        return None
    from karma.runs.subagents.showing import with_subagents  # most agents call no others

    return lambda conversation: with_subagents(store, run.key, setup, conversation, link=link, until=until)


def _notes(began: Thread, asked: RunInput, sent: Sequence[Sent], merged: Merged) -> tuple[Note, ...]:
    """Make the notes on what a client holds of the conversation before a run.

    What it holds of the run's own answer, perhaps a part, is no news.
    """
    known = {message.id for message in began.messages}
    known |= {call.id for message in began.messages for call in message.tool_calls}
    ours = {
        f"messages.{each.at}"
        for each in sent
        if each.message.role != "user" and not known & {each.message.id, each.message.tool_call_id}
    }
    taken = {each.at for each in sent}
    unread = [passed_over(each.at, each.problems) for each in asked.unread if each.at not in taken]
    return (*unread, *(note for note in merged.notes if note.field not in ours))


def _with_notes(notes: Sequence[Note], rest: Sequence[bytes]) -> list[bytes]:
    """Add notes that a run's first events lack to these."""
    events = [orjson.loads(data) for data in rest]
    told = [note for event in events if event["type"] == "CUSTOM" for note in event["value"]]
    return [*input_ignored([note for note in notes if note._asdict() not in told]), *rest]


async def _follow(
    run: Run,
    sink: Sink,
    snapshots: Sequence[bytes],
    notes: Sequence[Note],
    *,
    read: Callable[..., list[Segment]],
    inspector: Inspector,
    clock: Clock,
    until: datetime,
) -> None:
    after, pause_s = 0, _POLL_S
    look_at, is_last_look = clock.now(), False
    while clock.now() < until and not sink.is_lost:
        segments = await asyncio.to_thread(read, after=after)
        for segment in segments:
            after = segment.n
            if after == 1:
                started, *rest = segment.events
                sink.write(b"".join(map(frame, (started, *snapshots))) + frames(_with_notes(notes, rest), n=after))
            else:
                sink.write(frames(segment.events, n=after))
            if segment.terminal:
                return
        if not segments and clock.now() >= look_at:
            # A run whose process died writes no more: once its lease is over another process goes on, and is read.
            again_in = await asyncio.to_thread(inspector.look, run.key)
            if again_in is None and is_last_look:
                return  # it is paused, or gone with its account
            is_last_look = again_in is None  # its end may have come since the log was read
            look_at = clock.now() + (again_in or timedelta())
        pause_s = _POLL_S if segments else min(_MAX_POLL_S, pause_s * 1.5)
        await asyncio.sleep(0 if segments else pause_s)


def _answer(run: Run, asked: RunInput, store: Runs, link: Link, own: Collection[str]) -> bytes | None:
    """Make the answer of a run that has ended.

    None: its conversation is too long for a snapshot, as it is to join it; or the run is being deleted.
    """
    key = ThreadKey(run.key.user_id, run.thread_id)
    stored = store.whole(run.key)
    if stored is None or not stored.log:
        return None
    thread = store.thread(key)
    _, notes = _question(run, asked, store, link, own)
    if 0 <= run.last_message < thread.next_message:
        conversation = thread.conversation(run.last_message).messages
    else:
        conversation = list(
            merge(thread, recognise(key.user_id, thread.messages, asked.sent, asked.unread), own=own).conversation
        )
    tell = _telling(run, asked, store, link, until=None)
    snapshots = snapshots_of(link(conversation), asked, tell=tell)
    if len(snapshots[-1]) > MAX_SNAPSHOT_BYTES:
        return None
    started, *rest = stored.log[0].events
    opened = [data for data in rest if parse(data).type == "CUSTOM"]
    state = state_snapshot(state_after([data for each in stored.log for data in each.events], {})).data
    shown = [started, *snapshots, *_with_notes(notes, opened), state]
    last = stored.log[-1]
    return b"".join(map(frame, shown)) + frames(last.events[-1:], n=last.n)
