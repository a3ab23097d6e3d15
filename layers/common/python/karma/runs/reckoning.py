"""Reckons what a run has used that no process executes, for whoever ends or pauses it (docs/adr/0055).

never executed       nothing
paused by a process  what that has counted, with the answers that it stopped
given up by one      what its last checkpoint says, and by estimate each answer that broke off since
lost with one        as above, and for the answer at hand the most that a call may use: nobody knows what it did
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from karma.conversations.domain import Conversation, Json, Message, ThreadKey
from karma.conversations.history import awaited_calls
from karma.conversations.repair import repair
from karma.core.records import Record
from karma.models.domain import Target, Usage
from karma.models.ports import Heard, ModelRequest
from karma.models.prices import estimate, has_documents, stopped_call, text_of
from karma.runs.domain import NOT_EXECUTED, Checkpoint, Progress, Run, RunEnd, RunStatus, Segment
from karma.runs.plan import LostTurn, lost_turn, shown_to_model
from karma.runs.ports import Runs
from karma.runs.reservations import reserved_for
from karma.runs.setup import RunSetup, target_of
from karma.runs.spending import tokens_of

if TYPE_CHECKING:
    from karma.runs.subagents.reckoning import StoredSubagents


class RunUse(Record, kw_only=True):
    """Use by a run."""

    turns: int = 0
    usages: Sequence[Json] = ()
    cost_micros: int | None = 0
    """None: a release stored the run that kept too little of it."""


def reckoned(
    store: Runs,
    run: Run,
    log: Sequence[Segment],
    setup: RunSetup | None,
    checkpoint: Checkpoint | None,
    how: RunEnd,
) -> RunEnd:
    """Return the end of a run with what it has used, and the corrections of what is reserved.

    Reads its thread where an answer broke off, and the steps of its subagents where it has some.
    """
    crew = None
    if setup is not None and setup.subagents:
        from karma.runs.subagents.reckoning import StoredSubagents  # most agents call no others

        crew = StoredSubagents(store, run, setup)
    used = _used(store, run, log, setup, checkpoint, crew, at=how.at)
    if used.cost_micros is not None:
        how = replace(how, correction=reserved_for(run).adjusted(used.cost_micros - run.reserved_micros))
    steps = checkpoint.progress.steps if checkpoint is not None else 0
    how = replace(how, turns=used.turns, steps=steps, usages=used.usages, cost_micros=used.cost_micros)
    return how if crew is None else crew.told(how)


def _used(
    store: Runs,
    run: Run,
    log: Sequence[Segment],
    setup: RunSetup | None,
    checkpoint: Checkpoint | None,
    crew: StoredSubagents | None,
    *,
    at: datetime,
) -> RunUse:
    done, after = (checkpoint.progress, checkpoint.n) if checkpoint is not None else (Progress(), 0)
    begun = list(_begun(log))
    if not begun:
        return RunUse(turns=done.turns)
    if run.status is RunStatus.PAUSED and run.cost_micros is not None:
        return RunUse(turns=run.turns, usages=run.usages, cost_micros=run.cost_micros)
    if setup is None:
        return RunUse(turns=done.turns, cost_micros=None)
    done = replace(done, usages=done.usages.named(target_of(run, setup)))
    lost = lost_turn(run.key.run_id, log, (), after=after)
    unknown = None if _is_given_up(log, begun[-1]) else log[begun[-1]].epoch
    if crew is not None:
        done = crew.counted(done, lost, after=after, at=at)
    done = replace(done, turns=done.turns + lost.asked)
    if lost.answers or unknown is not None:
        thread = store.thread(ThreadKey(run.key.user_id, run.thread_id))
        conversation = thread.conversation(checkpoint.position if checkpoint is not None else run.answers)
        done = _with_answers(run, done, setup, conversation, lost, unknown=unknown, at=at)
    if unknown is not None and crew is not None and crew.at_work:
        # Each of them may have been making a call: what is reserved covers all.
        done = replace(done, spent_micros=max(done.spent_micros, run.reserved_micros))
    return RunUse(turns=done.turns, usages=done.usages.wire(), cost_micros=done.spent_micros)


def _with_answers(
    run: Run,
    done: Progress,
    setup: RunSetup,
    conversation: Conversation,
    lost: LostTurn,
    *,
    unknown: int | None,
    at: datetime,
) -> Progress:
    """Add a run's answers that broke off; that of the epoch `unknown` may have used all that it might."""
    target = target_of(run, setup)
    messages = shown_to_model(conversation.messages, conversation.compacted)
    # What is sent besides the messages is not at hand; a text as long stands for it.
    beside = setup.system if setup.beside_tokens is None else (text_of(setup.beside_tokens),)
    request = request_of(target, beside, messages, max_tokens=setup.max_tokens, fallbacks=setup.fallbacks)

    is_short = has_documents(request, at_hand=False)

    def room(done: Progress) -> int:
        return max(0, run.reserved_micros - done.spent_micros)

    def most_of(done: Progress, micros: int, heard: Heard) -> int:
        # What is reserved covers its documents, too, which are not at hand here.
        return max(micros, room(done)) if is_short and heard.usage.input_tokens is None else micros

    for epoch, heard in lost.answers.items():
        if epoch != unknown:
            by, usage, micros = stopped_call(request, heard, at)
            done = with_answer(done, by, usage, most_of(done, micros, heard))
    if unknown is None or awaited_calls(conversation.messages):
        return done  # its process was lost, if it was, with calls of tools
    most = min(room(done), most_of(done, estimate(request, at), Heard()))
    if unknown in lost.answers:
        by, usage, micros = stopped_call(request, lost.answers[unknown], at)
        return replace(done, usages=done.usages.plus(by, usage), spent_micros=done.spent_micros + max(most, micros))
    return replace(done, spent_micros=done.spent_micros + most)


def request_of(
    target: Target, system: Sequence[str], messages: Sequence[Message], *, max_tokens: int, fallbacks: Sequence[Target]
) -> ModelRequest:
    """Return a call as far as its tokens and its price go."""
    return ModelRequest(
        target=target, system=system, messages=repair(messages), tools=(), max_tokens=max_tokens, fallbacks=fallbacks
    )


def with_answer(done: Progress, target: Target, usage: Usage, cost_micros: int) -> Progress:
    """Add an answer to what is done."""
    tokens = tokens_of(done.usages.total) if done.spent_tokens is None else done.spent_tokens
    return replace(
        done,
        usages=done.usages.plus(target, usage),
        spent_tokens=tokens + tokens_of(usage),
        spent_micros=done.spent_micros + cost_micros,
    )


def _begun(log: Sequence[Segment]) -> Iterator[int]:
    """Yield where processes were at a run: the one that stored it, and those that took it over."""
    for at, each in enumerate(log):
        if (at == 0 and each.epoch != NOT_EXECUTED) or each.shows is not None:
            yield at


def _is_given_up(log: Sequence[Segment], begun: int) -> bool:
    """Tell whether a process has left its run in order: by ending its own lease before its time."""
    leases = [each.lease_until for each in log if each.writer == log[begun].writer]
    return any(after < before for before, after in pairwise(leases))
