"""Questions that a conversation leaves open where a new run goes on from a point of it.

What was open at the point is asked anew by that run, under its own rules. The earlier question is cancelled in the
transaction that begins it, so that one call never waits for two answers.
"""

from __future__ import annotations

from karma.conversations.domain import Thread
from karma.runs.domain import Run
from karma.runs.interrupts import Answered, AnswerStatus, InterruptAnswer
from karma.runs.ports import Runs


def passed_over(store: Runs, thread: Thread, *, by: Run) -> list[Answered]:
    """Return the cancellations of a thread's open questions by a run that goes on elsewhere; one read where it has any.

    They are written with the run.
    """
    if not thread.interrupts:
        return []
    answer = InterruptAnswer(status=AnswerStatus.CANCELLED, by=by.key.run_id, at=by.created_at)
    found = store.interrupts(thread.key.user_id, thread.interrupts).values()
    return [Answered(interrupt=each, answer=answer) for each in found if each.is_open]
