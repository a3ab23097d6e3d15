"""Questions of earlier runs that a run is left with: what becomes of them where it begins elsewhere, and where it ends.

What was open at a point from which a new run goes on is asked anew by that run, under its own rules. The earlier
question is cancelled in the transaction that begins it, so that one call never waits for two answers.

A run that answers some questions leaves the others open, and lists them again at its end. One that breaks off gives
their calls results instead: then those questions are cancelled in the transaction that ends it. So a thread never names
a question that nobody can answer any more, and what waits behind it for its turn begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from karma.conversations.domain import Message, Thread
from karma.conversations.history import awaited_calls
from karma.runs.domain import Run, RunEnd, RunKey, RunStatus
from karma.runs.interrupts import Answered, AnswerStatus, Interrupt, InterruptAnswer
from karma.runs.ports import Runs
from karma.runs.setup import RunSetup


def passed_over(store: Runs, thread: Thread, *, by: Run) -> list[Answered]:
    """Return the cancellations of a thread's open questions by a run that goes on elsewhere; one read where it has any.

    They are written with the run.
    """
    if not thread.interrupts:
        return []
    answer = InterruptAnswer(status=AnswerStatus.CANCELLED, by=by.key.run_id, at=by.created_at)
    found = store.interrupts(thread.key.user_id, thread.interrupts).values()
    return [Answered(interrupt=each, answer=answer) for each in found if each.is_open]


def left_of(store: Runs, setup: RunSetup | None, thread: Thread) -> tuple[Interrupt, ...]:
    """Return the questions that a run of a thread was left with; a read for one of the queue, whose turn decided it."""
    if setup is None or setup.left or not setup.waiting or not thread.interrupts:
        return () if setup is None else setup.left
    found = store.interrupts(thread.key.user_id, thread.interrupts)
    return tuple(found[name] for name in thread.interrupts if name in found)


def is_awaited(question: Interrupt, messages: Sequence[Message]) -> bool:
    """Tell whether the call that a question is about has no result at the end of a conversation.

    A question about a budget that stopped no subagent waits for no call, and for nobody's result.
    """
    if question.call is None and question.inside is None:
        return True
    given = {each.tool_call_id for each in messages if each.tool_call_id}
    return any(call.id == question.awaited.id and call.id not in given for call in awaited_calls(messages))


def with_ends(how: RunEnd, key: RunKey, left: Sequence[Interrupt], messages: Sequence[Message]) -> RunEnd:
    """Add to the end of a run the cancellations of the questions that it was left with and that nobody can answer now.

    `messages` are the conversation with which it ends. One that ends by itself lists those that stay open.
    """
    if not left:
        return how
    open_ids = how.interrupt_ids
    ends_by_itself = how.status in {RunStatus.FINISHED, RunStatus.INTERRUPTED}
    if not ends_by_itself:
        open_ids = tuple(each.id for each in left if is_awaited(each, messages))
    answer = InterruptAnswer(status=AnswerStatus.CANCELLED, by=key.run_id, at=how.at)
    passed_over = tuple(Answered(interrupt=each, answer=answer) for each in left if each.id not in open_ids)
    return replace(how, passed_over=passed_over, still_open=None if ends_by_itself else open_ids)
