"""Sorts the open questions of a thread for a request: some it answers, others stay open or are passed over.

named by `resume`, and open              answered by the run that begins with this request
named, answered in the same way          the run that began with that answer is the request's, also a cancelled one,
unless it failed before the call had a result: then this one begins with the answer anew
named, answered otherwise                409 INTERRUPT_ANSWERED
named, not known in this thread          404 INTERRUPT_NOT_FOUND
named as resolved, but too late          410 INTERRUPT_EXPIRED; it can be cancelled. Also when its agent was stopped,
                                         and behind a run that has taken it up since
expired and cancelled by the sweep       taken up, named or not: its call gets the result that says so
not named, its call awaited still        stays open: the run ends with it again
not named, the conversation went on      cancelled; the model is told that its call was not made

A question about a budget (budgets.py) has no call. The run that answers it asks the model where the stopped one did
not. Cancelled, its run ends at once, unless the conversation goes on. Not named, it stays open, unless that does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime

from karma.conversations.domain import Message, Thread, ToolCall
from karma.conversations.history import awaited_calls
from karma.core.errors import ValidationFailed
from karma.core.ids import RunId, UserId, short_id
from karma.core.records import Record
from karma.runs.budgets import Continued, continue_run
from karma.runs.calls import left_agent
from karma.runs.decisions import CallDecision, cancelled, decide, effect_unanswered, expired, unanswered
from karma.runs.domain import Run, RunKey, RunStatus
from karma.runs.interrupts import (
    Answered,
    AnswerStatus,
    Interrupt,
    InterruptAnswer,
    InterruptAnswered,
    InterruptExpired,
    InterruptNotFound,
)
from karma.runs.ports import Runs
from karma.runs.requests import ResumeEntry
from karma.tools.toolbox import Toolbox


class StoppedByBudget(Record, kw_only=True):
    """The open question about a budget, with the request's answer."""

    interrupt: Interrupt
    entry: ResumeEntry | None
    """None: the request does not name it."""
    stopped: Run | None = None
    """The run that it ended; None: not read, as the request does not go on with it."""
    lost: Run | None = None
    """A run that went on with the same answer, and failed."""


class Resumption(Record, kw_only=True):
    """The questions that concern a request, with its answers."""

    open: Mapping[str, Interrupt] = field(default_factory=dict)
    """Questions that no run has answered to an end, by the id of their calls."""
    answers: Mapping[str, ResumeEntry] = field(default_factory=dict)
    """The request's answers to them, by the id of the calls."""
    budget: StoppedByBudget | None = None
    answered_by: Run | None = None
    """The run that began with all the request's answers before; None: they are new, or there are none."""
    said_to: frozenset[RunId] = frozenset()
    """The runs that began with the request's answers, or go on with the same ones; none where one of them is new."""
    now: datetime | None = None
    lost: tuple[RunId, ...] = ()
    """Runs that went on with the same answers, and failed."""

    @property
    def results(self) -> Mapping[str, Message | None]:
        """Return the results that calls get if the conversation goes on without them; None: the call is made first.

        A call of a subagent waits for all that is asked within it.
        """
        found: dict[str, Message | None] = {}
        for interrupt, entry in self._asked():
            calls = (interrupt.asked,) if interrupt.inside is None else interrupt.inside.calls
            for call in calls:
                result = self._passed_over(interrupt, call, entry)
                found[call.id] = result and found.get(call.id, result)
        return found

    def _asked(self) -> Iterator[tuple[Interrupt, ResumeEntry | None]]:
        """Yield the questions for whose answers calls of the conversation wait, with the answers."""
        for call_id, interrupt in self.open.items():
            yield interrupt, self.answers.get(call_id)
        if self.budget is not None and self.budget.interrupt.inside is not None:
            yield self.budget.interrupt, self.budget.entry

    @property
    def may_be_answered(self) -> bool:
        """Tell whether somebody may still answer one of the open questions."""
        asked = [*self.open.values(), *([self.budget.interrupt] if self.budget is not None else ())]
        return self.now is not None and any(each.is_waiting(self.now) for each in asked)

    @property
    def carried(self) -> tuple[RunId, ...]:
        """Return the runs in which subagents began that wait for an answer."""
        asked = [*self.open.values(), *([self.budget.interrupt] if self.budget is not None else ())]
        runs = [run for each in asked if each.inside is not None for run in each.inside.runs]
        return tuple(dict.fromkeys([*runs, *self.lost])) if runs else ()

    def are_asked_in(self, conversation: Sequence[Message]) -> bool:
        """Tell whether all that the request answers is asked in a conversation, and has not been passed over there.

        What was withdrawn is asked nowhere: its cancellation goes on where its user is.
        """
        awaited = {call.id for call in awaited_calls(conversation)}
        return all(
            self.open[call_id].awaited.id in awaited
            for call_id, entry in self.answers.items()
            if entry.status is AnswerStatus.RESOLVED or not self.open[call_id].has_lapsed
        )

    def _passed_over(self, interrupt: Interrupt, call: ToolCall, entry: ResumeEntry | None) -> Message | None:
        if entry is not None and entry.status is AnswerStatus.RESOLVED:
            return None
        if interrupt.inside is not None:  # the agent was at work, whatever becomes of what is asked within it
            return left_agent(call)
        is_expired = self.now is not None and interrupt.is_expired(self.now)
        told = expired(interrupt) if is_expired else cancelled(interrupt, moved_on=entry is None)
        effect = effect_unanswered(interrupt)
        return Message(id=short_id(), role="tool", content=told, tool_call_id=call.id, failed=True, effect=effect)


class Resolved(Record, kw_only=True):
    """Changes of the questions with the run that begins."""

    decisions: Mapping[str, CallDecision] = field(default_factory=dict)
    answered: Sequence[Answered] = ()
    left: Sequence[Interrupt] = ()
    resumed: Sequence[ToolCall] = ()
    """The calls of the last turn without a result, if any of them has waited for an answer."""
    carried: tuple[RunId, ...] = ()
    """As `RunPlan.carried`."""
    continued: Continued | None = None
    """Use with which the run starts where it goes on for one that a budget stopped."""
    is_given_up: bool = False
    """Nobody wants that one to go on: the model is asked nothing."""


def questions_of(
    store: Runs, thread: Thread, entries: Sequence[ResumeEntry], *, user_id: UserId, now: datetime
) -> Resumption:
    """Read the questions that concern a request; no call where its thread has none and it answers none. May block.

    Raises:
        InterruptNotFound: the thread has no question of an entry's id.
        InterruptAnswered: a question was answered otherwise.
        InterruptExpired: an entry resolves a question too late, or that was withdrawn.
    """
    if not entries and not thread.interrupts:
        return Resumption()
    found = store.interrupts(user_id, sorted({*thread.interrupts, *(entry.interrupt_id for entry in entries)}))
    still_open = [each for name in thread.interrupts if (each := found.get(name)) and each.is_open]
    waiting = {each.call.id: each for each in still_open if each.call is not None}
    budget = next((StoppedByBudget(interrupt=each, entry=None) for each in still_open if each.call is None), None)
    answers: dict[str, ResumeEntry] = {}
    by: Run | None = None
    is_new = False
    all_lost: list[RunId] = []
    results = {message.tool_call_id for message in thread.messages if message.role == "tool"}
    for entry in entries:
        interrupt = found.get(entry.interrupt_id)
        if interrupt is None or interrupt.thread_id != thread.key.thread_id:
            raise InterruptNotFound(entry.interrupt_id)
        lost: Run | None = None
        if interrupt.answer is None or interrupt.has_lapsed:
            if entry.status is AnswerStatus.RESOLVED and interrupt.is_expired(now):
                raise InterruptExpired(interrupt)
            is_new = True
        else:
            if not interrupt.answer.says(entry.status, entry.payload):
                if interrupt.is_past:
                    raise InterruptExpired(interrupt)
                raise InterruptAnswered(interrupt, interrupt.answer)
            run = store.run(RunKey(user_id, interrupt.answer.by))
            has_result = interrupt.call is not None and interrupt.awaited.id in results
            if run is None or run.status is not RunStatus.FAILED or has_result:
                by = run or by
                continue  # it has had its effect, or a run is about it
            lost, is_new = run, True
            all_lost.append(run.key.run_id)
        if interrupt.call is not None:
            waiting[interrupt.call.id], answers[interrupt.call.id] = interrupt, entry
        else:
            goes_on = entry.status is AnswerStatus.RESOLVED
            stopped = store.run(interrupt.key) if goes_on else None
            budget = StoppedByBudget(interrupt=interrupt, entry=entry, stopped=stopped, lost=lost)
    answered_by = None if is_new else by
    return Resumption(
        open=waiting,
        answers=answers,
        budget=budget,
        answered_by=answered_by,
        said_to=_said_to(entries, found),
        now=now,
        lost=tuple(all_lost),
    )


def _said_to(entries: Sequence[ResumeEntry], found: Mapping[str, Interrupt]) -> frozenset[RunId]:
    """Return the runs to which all of a request's answers were said before; none where one of them is new."""
    known = [found[entry.interrupt_id] for entry in entries]
    if any(each.is_open for each in known):
        return frozenset()
    return frozenset(each.answer.by for each in known if each.answer is not None)


def resolve(
    resumption: Resumption,
    conversation: Sequence[Message],
    *,
    by: RunId,
    now: datetime,
    toolbox: Toolbox | None = None,
    has_news: bool = False,
) -> Resolved:
    """Decide about each question; `conversation` is that of the run, which begins with the request.

    `has_news` tells that the request brings messages, `toolbox` checks answers: None where there are none.

    Raises:
        ValidationFailed: payloads are not what their questions ask for; one entry each.
    """
    if resumption.budget is not None:
        found = _of_budget(resumption.budget, by=by, now=now, has_news=has_news)
        return _with_subagents(found, resumption, conversation)
    if not resumption.open:
        return Resolved()
    awaited = {call.id: call for call in awaited_calls(conversation)}
    decisions: dict[str, CallDecision] = {}
    answered: list[Answered] = []
    left: list[Interrupt] = []
    wrong: list[object] = []
    for call_id, interrupt in resumption.open.items():
        entry, is_awaited = resumption.answers.get(call_id), interrupt.awaited.id in awaited
        # A run of the queue has no decisions: what has lapsed is left to the next one.
        if entry is None and is_awaited and (toolbox is None or not interrupt.has_lapsed):
            left.append(interrupt)
            continue
        status = entry.status if entry else AnswerStatus.CANCELLED
        payload = entry.payload if entry and status is AnswerStatus.RESOLVED else None
        if is_awaited and status is AnswerStatus.CANCELLED and interrupt.is_expired(now):
            decisions[call_id] = unanswered(interrupt, expired(interrupt))
        elif is_awaited and entry is not None and toolbox is not None:
            try:
                decision = decide(
                    interrupt, status, payload, at=entry.at, toolbox=toolbox, is_repeated=interrupt.answer is not None
                )
            except ValidationFailed as exc:
                wrong += exc.details or []
                continue
            decisions[call_id] = decision
        elif status is AnswerStatus.RESOLVED and entry is not None:
            told = "answers a call that is not part of the conversation which the messages continue"
            wrong += ValidationFailed.of(f"{entry.at}.interruptId", told).details or []
            continue
        answered.append(Answered(interrupt=interrupt, answer=_answer(status, payload, by, now)))
    if wrong:
        raise ValidationFailed("Request validation failed", details=wrong)
    waiting = {*decisions, *(each.awaited.id for each in resumption.open.values())}
    resumed = tuple(awaited.values()) if awaited.keys() & waiting else ()
    carried = resumption.carried if resumed else ()
    return Resolved(decisions=decisions, answered=answered, left=left, resumed=resumed, carried=carried)


def _with_subagents(found: Resolved, resumption: Resumption, conversation: Sequence[Message]) -> Resolved:
    """Return what becomes of a question about a budget, which may have stopped subagents, too."""
    if found.continued is None or not resumption.carried:
        return found
    return replace(found, resumed=awaited_calls(conversation), carried=resumption.carried)


def _of_budget(stop: StoppedByBudget, *, by: RunId, now: datetime, has_news: bool) -> Resolved:
    """Decide about the question with which a budget stopped a run; a thread with one has no other."""
    entry = stop.entry
    if entry is None and not has_news and not stop.interrupt.has_lapsed:
        return Resolved(left=[stop.interrupt])
    if entry is None or entry.status is AnswerStatus.CANCELLED:
        answer = _answer(AnswerStatus.CANCELLED, None, by, now)
        answered = [Answered(interrupt=stop.interrupt, answer=answer)]
        return Resolved(answered=answered, is_given_up=not has_news)
    continued = continue_run(stop.interrupt, stop.stopped, stop.lost, entry.payload, at=entry.at)
    answer = _answer(AnswerStatus.RESOLVED, entry.payload, by, now)
    return Resolved(answered=[Answered(interrupt=stop.interrupt, answer=answer)], continued=continued)


def _answer(status: AnswerStatus, payload: object, by: RunId, now: datetime) -> InterruptAnswer:
    return InterruptAnswer(status=status, payload=payload, by=by, at=now)
