"""Calls that a branch was left with, and that have no result in any: whether they may have been made.

A run that ends by itself gives each call a result, or asks about it. One whose process was lost does not: its calls may
have been made, but for those that waited to be approved. They get their results when the conversation goes on, which
it does not where it goes back instead.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from karma.conversations.domain import Thread, ToolCall
from karma.runs.domain import Run, RunKey, RunStatus
from karma.runs.effects import Acting, EffectStatus, MadeCall, ThreadCalls
from karma.runs.ending import may_be_made
from karma.runs.interrupts import Interrupt, Reason
from karma.runs.ports import Runs
from karma.runs.setup import load_setup

_LOOKED_AT: Final = 200
"""The newest runs of a thread, of which calls without a result are looked for; what is older counts as not known."""
_AHEAD: Final = 20
"""Runs that wait for their turn at the most, and so may have been admitted before one that began before them."""
ENDED_BY_ITSELF: Final = frozenset({RunStatus.FINISHED, RunStatus.INTERRUPTED})
"""States of a run each of whose calls has a result, or is asked about."""


def left_calls(
    store: Runs, thread: Thread, positions: Collection[int], of: Acting
) -> list[tuple[MadeCall, EffectStatus]]:
    """Return the calls of acting tools in answers at these positions that have no result, and may have been made.

    One whose tool waits for its user's answer did not go on: it has failed, as if that were cancelled.
    Without any such call nothing is read; else the thread's runs that began behind the first of them, one Get each.
    """
    calls = ThreadCalls(thread)
    asked = (MadeCall(at, call) for at in sorted(positions) for call in thread.messages[at].tool_calls)
    found = [made for made in asked if of.has(made.call.name) and not calls.has_result(made)]
    if not found:
        return []
    runs = list(_runs(store, thread, since=found[0].position))
    told = [(made, _left_as(store, made, _concerned(runs, calls, made.position))) for made in found]
    return [(made, status) for made, status in told if status is not None]


def _runs(store: Runs, thread: Thread, *, since: int) -> Iterator[Run]:
    """Yield the runs of a thread, the newest first, back to the one that added the message at a position."""
    name, ahead = thread.last_run_id, _AHEAD
    for _ in range(_LOOKED_AT):
        run = store.run(RunKey(thread.key.user_id, name)) if name else None
        if run is None or not ahead:
            return
        if run.begins_at <= thread.next_message:  # later ones, of a thread as it was before
            yield run
        ahead -= 0 <= run.begins_at <= since
        name = run.previous_run_id


def runs_about(store: Runs, thread: Thread, calls: ThreadCalls, positions: Collection[int]) -> list[Run]:
    """Return the runs that made the calls of answers, or went on with them, the newest first; one Get a run read."""
    runs = list(_runs(store, thread, since=min(positions)))
    concerned = {run.key: run for at in positions for run in _concerned(runs, calls, at)}
    return sorted(concerned.values(), key=lambda run: run.begins_at, reverse=True)


def _concerned(runs: list[Run], calls: ThreadCalls, position: int) -> list[Run]:
    """Return the run that made the calls of an answer, and those that went on with them."""
    begun = [run for run in runs if 0 <= run.begins_at <= position]
    made_by = max(begun, key=lambda run: run.begins_at, default=None)
    went_on = [run for run in runs if run.begins_at > position and calls.turn(run.answers) == position]
    return went_on if made_by is None else [made_by, *went_on]


def _left_as(store: Runs, made: MadeCall, runs: list[Run]) -> EffectStatus | None:
    """Return what is known of a call of which runs have left no result; None: it was not made."""
    told: set[EffectStatus | None] = {_left_by(store, run, made.call) for run in runs} or {"unknown"}
    return "unknown" if "unknown" in told else "failed" if "failed" in told else None


def _left_by(store: Runs, run: Run, call: ToolCall) -> EffectStatus | None:
    if run.status not in ENDED_BY_ITSELF:
        stored = store.setup(run.key)
        return "unknown" if may_be_made(call, load_setup(stored) if stored else None) else None
    asked = store.interrupts(run.key.user_id, run.interrupt_ids).values() if run.interrupt_ids else ()
    about = [each for each in asked if is_about(each, call) and was_made(each)]
    waits = all(each.reason is Reason.INPUT_REQUIRED and each.inside is None for each in about)
    return None if not about else "failed" if waits else "unknown"


def is_about(question: Interrupt, call: ToolCall) -> bool:
    """Tell whether a call of the conversation waits for the answer to a question."""
    if question.inside is not None:
        return any(each.id == call.id for each in question.inside.calls)
    return question.call is not None and question.call.id == call.id


def was_made(question: Interrupt) -> bool:
    """Tell whether the call of the conversation that waits for an answer was made before it was asked about."""
    return question.reason is not Reason.TOOL_CALL or question.inside is not None
