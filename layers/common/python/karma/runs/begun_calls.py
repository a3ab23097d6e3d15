"""Calls that were open at a point, and that a run behind it has begun: nobody knows their outcome.

    no result in any branch        begun where a process was lost with it, or was asked about since
    its tool asks its user         asked anew, with what the tool wants back: it goes on with an answer, in each branch
    unknown, or not made           begun where a run has made it whose result is unknown, or that has given none
    told or done, in any           not begun: who goes back is told what it did, and a new run makes it again

A run that goes on from the point follows what their tools declare for a loss, for the run that began them: one that
may take effect twice is asked about. A call that waits to be approved has not begun; one that was approved is not asked
about again, since who approves it a second time would have it made a second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import orjson

from karma.conversations.domain import CallEffect, Message, ToolCall
from karma.conversations.history import awaited_calls, stopped
from karma.core.ids import RunId
from karma.runs.calls import PASSED_OVER, not_made, result_message
from karma.runs.checkpoints import FoundPoint
from karma.runs.decisions import NOTHING_GIVEN, AskedForm, CallDecision, failure
from karma.runs.domain import Run, RunKey
from karma.runs.effects import MadeCall, ThreadCalls
from karma.runs.ending import may_be_made
from karma.runs.interrupts import AnswerStatus, Interrupt, Reason
from karma.runs.left_calls import ENDED_BY_ITSELF, is_about, runs_about, was_made
from karma.runs.ports import Runs
from karma.runs.setup import load_setup
from karma.tools.domain import ApprovalRule
from karma.tools.inputs import MAX_ROUNDS
from karma.tools.json_arguments import is_readable
from karma.tools.toolbox import Toolbox, ToolOutcome


class BegunCall(NamedTuple):
    """A call that has begun."""

    again: CallDecision
    """Decision by which a run goes on with it."""
    is_approved: bool = False
    """Somebody was asked whether it may be made, or what became of it."""

    @property
    def is_unknown(self) -> bool:
        """Tell whether nobody knows what became of it; one whose tool asks its user waits for that."""
        return self.again.form is None


def begun_calls(store: Runs, found: FoundPoint) -> dict[ToolCall, BegunCall]:
    """Return those calls of the run's own model; one read where any run has asked something."""
    frontend = {tool.name for tool in found.setup.frontend_tools} if found.setup is not None else frozenset[str]()
    awaited = [call for call in awaited_calls(found.messages) if call.name not in frontend]
    if not awaited:
        return {}
    names = {*found.run.interrupt_ids, *found.thread.interrupts}
    asked = list(store.interrupts(found.run.key.user_id, sorted(names)).values()) if names else []
    calls = ThreadCalls(found.thread)
    at = calls.turn(found.point.position)
    begun: dict[ToolCall, BegunCall] = {}
    for call in awaited:
        made = MadeCall(at, call)
        asked_since = [_asked_about(store, each) for each in asked if is_about(each, call)]
        about = [each.last for each in asked_since]
        how = _furthest([each for each in map(_begun, asked_since) if each is not None])
        if not about and may_be_made(call, found.setup):
            how = begun_for(found, call, by=found.run.key.run_id)
        if calls.has_result(made) and not any(each.is_open for each in about):
            how = None if calls.is_told(made) else _tried(store, found, calls, made, about=about, how=how)
        if how is not None:
            was_decided = found.setup is not None and call.id in found.setup.decisions
            begun[call] = how._replace(is_approved=how.is_approved or was_decided)
    return begun


def _tried(
    store: Runs,
    found: FoundPoint,
    calls: ThreadCalls,
    made: MadeCall,
    *,
    about: Sequence[Interrupt],
    how: BegunCall | None,
) -> BegunCall | None:
    """Return how a call has begun none of whose results tells what became of it; None: it has not.

    `how` is what the questions `about` it tell. Reads the thread's runs since the one that made it, one Get each.
    """
    if how is not None and any(map(was_made, about)):
        return how
    thread, results = found.thread, calls.results(made)
    asked_at = {made.position, *(each.position for each in map(calls.answered_at, results) if each is not None)}
    runs = runs_about(store, thread, calls, asked_at)
    given: dict[RunKey, list[CallEffect]] = {run.key: [] for run in runs}
    for at in results:
        by = next((run.key for run in runs if run.begins_at <= at), None)
        if by is not None:
            given[by].append(thread.messages[at].effect)
    for run in runs:
        if (again := _tried_by(store, run, made.call, given[run.key])) is not None:
            return how or again
    if any(thread.messages[at].effect == "unknown" for at in results):  # the run that made it is not read any more
        return how or BegunCall(CallDecision(made_by=found.run.key.run_id, is_repeated=True))
    return None


def _tried_by(store: Runs, run: Run, call: ToolCall, given: Sequence[CallEffect]) -> BegunCall | None:
    """Return how a run has begun a call for which it has `given` such results; None: it has not made it."""
    stored = store.setup(run.key)
    setup = load_setup(stored) if stored else None
    decision = setup.decisions.get(call.id) if setup is not None else None
    if decision is not None and decision.outcome is not None and decision.effect != "unknown":
        return None  # it was refused, or given a result: this run does not make it, whatever was told of it since
    is_lost = not given and run.status not in ENDED_BY_ITSELF and may_be_made(call, setup)
    is_again = decision is not None and decision.outcome is None and decision.is_repeated
    if not (is_lost or is_again or "unknown" in given):
        return None
    if decision is None:
        return BegunCall(CallDecision(made_by=run.key.run_id, is_repeated=True))
    again = replace(decision, content=None, failed=False, effect="told", is_repeated=True)
    return BegunCall(again, is_approved=True)


def begun_for(found: FoundPoint, call: ToolCall, *, by: RunId, is_settled: bool = True) -> BegunCall | None:
    """Return how a call has begun about which nothing is asked, and that is made `by` a run; None: it has not.

    `is_settled` tells that no later run is at work on it. What a run that has ended by itself leaves has not begun.
    """
    decision = found.setup.decisions.get(call.id) if found.setup is not None else None
    if found.run.status in ENDED_BY_ITSELF and is_settled:
        return None
    if decision is None:
        return BegunCall(CallDecision(made_by=by, is_repeated=True))
    return BegunCall(replace(decision, is_repeated=True), is_approved=True) if decision.outcome is None else None


class AskedAbout(NamedTuple):
    """Questions about one call, of which each answer has led to the next: its tool may ask, more than once."""

    first: Interrupt
    last: Interrupt

    @property
    def is_approved(self) -> bool:
        """Tell whether somebody has approved the call, which has asked something since."""
        return self.first is not self.last and self.first.reason is Reason.TOOL_CALL


def asked_about(store: Runs, first: Interrupt) -> AskedAbout:
    """Return what was asked about a call since a question; a Get and a BatchGet for each that somebody has resolved."""
    last = first
    for _ in range(MAX_ROUNDS + 1):
        answer = last.answer
        if answer is None or answer.status is not AnswerStatus.RESOLVED or last.call is None:
            break
        run = store.run(RunKey(last.key.user_id, answer.by))
        names = [each for each in run.interrupt_ids if each != last.id] if run is not None else []
        found = store.interrupts(last.key.user_id, names).values() if names else ()
        later = next((each for each in found if _is_of_same(each, last)), None)
        if later is None:
            break
        last = later
    return AskedAbout(first, last)


def _is_of_same(one: Interrupt, other: Interrupt) -> bool:
    inside = [each.inside and each.inside.subagent for each in (one, other)]
    return one.call is not None and other.call is not None and one.call.id == other.call.id and inside[0] == inside[1]


def _furthest(found: Sequence[BegunCall]) -> BegunCall | None:
    """Return how a call has begun that was asked about in several branches: what was asked last holds."""
    if not found:
        return None
    last = max(found, key=lambda how: (how.again.given.rounds if how.again.given else 0, how.is_unknown))
    return last._replace(is_approved=any(how.is_approved for how in found))


def _asked_about(store: Runs, question: Interrupt) -> AskedAbout:
    return asked_about(store, question) if question.inside is None else AskedAbout(question, question)


def _begun(asked: AskedAbout) -> BegunCall | None:
    """Return how the call of the run's own model to which a question led has begun; None: it has not."""
    if asked.first.inside is not None:  # it is asked within that call
        return BegunCall(CallDecision(made_by=asked.first.made_by, is_repeated=True))
    return begun_by_answer(asked)


def begun_by_answer(asked: AskedAbout) -> BegunCall | None:
    """Return how a call has begun before it was asked about, or since that was answered; None: it has not."""
    how = _begun_by_last(asked.last)
    return None if how is None else how._replace(is_approved=how.is_approved or asked.is_approved)


def _begun_by_last(question: Interrupt) -> BegunCall | None:
    again = CallDecision(made_by=question.made_by, is_repeated=True, reaches=question.reaches)
    if question.reason is Reason.INPUT_REQUIRED:
        again = replace(again, arguments=question.asked.arguments)
        if question.answer is None or question.answer.status is not AnswerStatus.RESOLVED:
            form = AskedForm(question.message, question.response_schema)
            return BegunCall(replace(again, given=question.given, form=form))
        answers = question.answer.payload if isinstance(question.answer.payload, dict) else None
        return BegunCall(replace(again, given=question.given and replace(question.given, answers=answers)))
    if question.reason is not Reason.TOOL_CALL:
        has_to_be_told = question.reason is Reason.UNKNOWN_OUTCOME
        return BegunCall(replace(again, arguments=question.asked.arguments), is_approved=has_to_be_told)
    answer = question.answer
    if answer is None or answer.status is not AnswerStatus.RESOLVED or not isinstance(answer.payload, dict):
        return None
    if answer.payload.get("approved") is not True:
        return None
    edited = answer.payload.get("editedArgs")
    arguments = None if edited is None else orjson.dumps(edited).decode()
    return BegunCall(replace(again, arguments=arguments), is_approved=True)


def passed_over_calls(store: Runs, found: FoundPoint, calls: Sequence[ToolCall]) -> list[Message]:
    """Return results of calls open at a point, behind which a user says something new; the client's have theirs later.

    They are not made in the new conversation. One that may have been made before says that nobody knows its outcome.
    """
    frontend = {tool.name for tool in found.setup.frontend_tools} if found.setup is not None else frozenset[str]()
    again = found.setup.repeatable if found.setup is not None else ()
    begun = begun_calls(store, found) if calls else {}
    results: list[Message] = []
    for call in calls:
        how = begun.get(call)
        if call.name in frontend and is_readable(call):
            continue
        if how is None:
            results.append(not_made(call, PASSED_OVER))
        elif how.is_unknown:
            results.append(stopped(call, repeatable=again))
        else:
            results.append(result_message(call, ToolOutcome(failure(NOTHING_GIVEN), failed=True)))
    return results


def made_up_for(
    begun: Mapping[ToolCall, BegunCall], toolbox: Toolbox, approvals: Mapping[str, ApprovalRule], others: Sequence[str]
) -> dict[str, CallDecision]:
    """Return how a new run goes on with such calls, by id; other agents (`others`) go on by what they have done.

    One that nobody has approved, and that has to be by now, is asked about as any other.
    """
    return {
        call.id: how.again
        for call, how in begun.items()
        if call.name not in others and (how.is_approved or not _is_asked_about(call, toolbox, approvals))
    }


def _is_asked_about(call: ToolCall, toolbox: Toolbox, approvals: Mapping[str, ApprovalRule]) -> bool:
    rule = approvals.get(call.name)
    arguments = None if rule is None else toolbox.arguments(call)
    return rule is not None and arguments is not None and rule.applies_to(arguments)
