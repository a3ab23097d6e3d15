"""Sorts the calls of a turn: those made at once, those that wait for an answer, and the client's own.

It depends on the run's setup and on the calls alone, so that whoever takes a run over decides the same: no call that
has to be approved is made without the answer that the setup holds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final, NamedTuple

import orjson

from karma.conversations.domain import Json, ToolCall
from karma.core.clock import Clock
from karma.core.ids import RunId
from karma.runs.calls import MakeCall, MakeCallWith
from karma.runs.decisions import (
    ANOTHER_ONE,
    OUTCOME_SCHEMA,
    TOO_MANY,
    TOO_MANY_FORMS,
    AskedForm,
    CallDecision,
    approval_schema,
    failure,
    with_edit,
)
from karma.runs.interrupts import MAX_INTERRUPTS, Interrupt, Reason
from karma.runs.plan import RunPlan
from karma.tools.domain import DEFAULT_WAIT_S, ApprovalRule, GivenInput, OnExpiry
from karma.tools.inputs import InputRequest, answer_schema
from karma.tools.json_arguments import is_readable
from karma.tools.toolbox import Toolbox, ToolOutcome

MAX_ASKED_BYTES: Final = 262_144
"""Bytes of all forms that wait in one run, with what their tools want back: they are part of later setups."""


class Room:
    """Room that is left for forms of a run; its subagents share it."""

    def __init__(self, left: Sequence[Interrupt]) -> None:
        """`left` are questions of earlier runs that wait on."""
        self._bytes = MAX_ASKED_BYTES
        for each in left:
            self.take(each)

    def take(self, question: Interrupt) -> bool:
        """Take what a question needs; False: there is not so much left."""
        return question.given is None or self.take_form(question.response_schema, question.given)

    def take_form(self, schema: Json, given: GivenInput) -> bool:
        """Take what a form needs, as `take`."""
        needed = len(orjson.dumps([schema, given.kept]))
        if needed > self._bytes:
            return False
        self._bytes -= needed
        return True


class SortedCalls(NamedTuple):
    """Calls of one turn by what becomes of them, each kind in their order."""

    ready: list[ToolCall]
    """Calls of the server's tools that are made, or get the result that was decided."""
    held: list[Interrupt]
    """Questions about calls of the server's tools, which wait for the answers."""
    pending: list[str]
    """Ids of calls of the client's tools."""


class Gate:
    """Sorts the calls of one run's turns."""

    def __init__(self, plan: RunPlan, toolbox: Toolbox, clock: Clock) -> None:
        self._plan = plan
        self._toolbox = toolbox
        self._clock = clock
        self._frontend = {tool.name for tool in plan.frontend_tools}
        self._left = {interrupt.call.id: interrupt for interrupt in plan.left if interrupt.call is not None}
        self.begun: Collection[str] = ()
        """Ids of calls of subagents that have begun: they go on, whatever they were asked about before."""
        self.room = Room(plan.left)
        for decision in plan.decisions.values():
            if decision.form is not None and decision.given is not None:
                self.room.take_form(decision.form.schema, decision.given)
        """Room for forms of tools; a subagent's gate has its run's."""
        self._surplus: set[str] = set()
        """Ids of calls that are one too many of a turn to be asked about."""

    def sort(self, calls: Sequence[ToolCall], *, is_lost: bool = False) -> SortedCalls:
        """Sort the calls of a turn; with `is_lost` an earlier process may have made those that it was to make.

        A call whose arguments its tool does not take is ready, and fails, so that the model corrects it.
        """
        sorted_calls = SortedCalls([], [], [])
        asked = 0
        for call in calls:
            if call.name in self._frontend and not self._toolbox.has(call.name) and is_readable(call):
                sorted_calls.pending.append(call.id)
                continue
            interrupt = self._left.get(call.id) or self._question(call, asked + 1, is_lost=is_lost)
            if interrupt is not None and asked >= MAX_INTERRUPTS:
                self._surplus.add(call.id)
                interrupt = None
            if interrupt is None:
                sorted_calls.ready.append(call)
            else:
                asked += interrupt.key == self._plan.key
                sorted_calls.held.append(interrupt)
        return sorted_calls

    def decided(self, call: ToolCall) -> ToolOutcome | None:
        """Return the outcome of a call that is not made, as somebody decided or since it is one too many; None: it is.

        A call that was to reach another server or agent than it would by now has none either.
        """
        if call.id in self._surplus:
            return ToolOutcome(failure(TOO_MANY), failed=True, effect="none")
        decision = self._plan.decisions.get(call.id)
        if decision is None or decision.outcome is not None:
            return None if decision is None else decision.outcome
        if decision.reaches and self._toolbox.reaches(call.name) not in {"", decision.reaches}:
            return ToolOutcome(failure(ANOTHER_ONE), failed=True, effect="none")
        return None

    def applied(self, make: MakeCallWith) -> MakeCall:
        """Return a way to make calls that follows what was decided about them, and makes others by `make`."""
        asks = self._plan.speaks >= (1, 0)  # clients from before cannot answer

        async def decided(call: ToolCall, *, run_id: RunId, known: dict[str, object]) -> ToolOutcome:
            if (outcome := self.decided(call)) is not None:
                return outcome
            decision = self._plan.decisions.get(call.id)
            if decision is None:
                return await make(call, run_id=run_id, known=known, given=GivenInput() if asks else None)
            make_it = self._toolbox.call_after_loss if decision.is_repeated else make
            given = (decision.given or GivenInput()) if asks else None
            outcome = await make_it(_effective(call, decision), run_id=decision.made_by, known=known, given=given)
            if outcome.is_open:
                return outcome
            return with_edit(outcome, decision.arguments if decision.arguments != call.arguments else None)

        return decided

    def asked(
        self, made: Sequence[tuple[ToolCall, ToolOutcome]], *, behind: int
    ) -> tuple[list[tuple[ToolCall, ToolOutcome]], list[Interrupt]]:
        """Tell calls that have their results from those whose tools ask for something first; return both.

        The questions are numbered behind so many of the turn. A call that is one too many to ask has a failed result.
        """
        results: list[tuple[ToolCall, ToolOutcome]] = []
        questions: list[Interrupt] = []
        for call, outcome in made:
            if outcome.asks is None:
                results.append((call, outcome))
                continue
            n = behind + len(questions) + 1
            question = self._input(call, outcome.asks, n)
            if n <= MAX_INTERRUPTS and self.room.take(question):
                questions.append(question)
            else:
                results.append((call, ToolOutcome(failure(TOO_MANY_FORMS), failed=True)))
        return results, questions

    def _input(self, call: ToolCall, asks: InputRequest, n: int) -> Interrupt:
        decision = self._plan.decisions.get(call.id)
        before = decision.given if decision is not None else None
        given = GivenInput(rounds=(before.rounds if before else 0) + 1, kept=asks.kept)
        return self._form(call, n, AskedForm(asks.message, answer_schema(asks.forms)), given)

    def _form(self, call: ToolCall, n: int, form: AskedForm, given: GivenInput | None) -> Interrupt:
        decision, rule = self._plan.decisions.get(call.id), self._plan.approvals.get(call.name)
        question = self._interrupt(
            _effective(call, decision),
            n,
            Reason.INPUT_REQUIRED,
            form.message,
            form.schema,
            DEFAULT_WAIT_S if rule is None else rule.expires_in_s,
            made_by=decision.made_by if decision is not None else self._plan.run_id,
        )
        return replace(question, given=given, on_expiry=OnExpiry.CANCEL if rule is None else rule.on_expiry)

    def _question(self, call: ToolCall, n: int, *, is_lost: bool) -> Interrupt | None:
        decision = self._plan.decisions.get(call.id)
        if decision is None and call.id not in self.begun and (rule := self._rule(call)) is not None:
            schema = approval_schema(self._toolbox.parameters(call.name))
            message = f"Allow the call of {call.name}?"
            question = self._interrupt(
                call, n, Reason.TOOL_CALL, message, schema, rule.expires_in_s, made_by=self._plan.run_id
            )
            return replace(question, on_expiry=rule.on_expiry)
        if decision is not None and decision.form is not None:
            return self._form(call, n, decision.form, decision.given)
        may_be_made = is_lost if decision is None else decision.outcome is None and (is_lost or decision.is_repeated)
        # Clients from before 1.0 cannot answer: the model is told instead, as the toolbox does.
        if may_be_made and self._plan.speaks >= (1, 0) and self._toolbox.asks_after_loss(call):
            made_by = decision.made_by if decision else self._plan.run_id
            message = f"The process that called {call.name} was lost. Did the call take effect?"
            asked = _effective(call, decision)
            question = self._interrupt(
                asked, n, Reason.UNKNOWN_OUTCOME, message, OUTCOME_SCHEMA, DEFAULT_WAIT_S, made_by=made_by
            )
            return replace(question, given=decision.given if decision is not None else None)
        return None

    def _rule(self, call: ToolCall) -> ApprovalRule | None:
        """Return the rule by which a call has to be approved; None: it need not be."""
        rule = self._plan.approvals.get(call.name)
        arguments = None if rule is None else self._toolbox.arguments(call)
        if rule is None or arguments is None or not rule.applies_to(arguments):
            return None
        return rule

    def _interrupt(
        self,
        call: ToolCall,
        n: int,
        reason: Reason,
        message: str,
        schema: Json,
        wait_s: int,
        *,
        made_by: RunId,
    ) -> Interrupt:
        return Interrupt(
            key=self._plan.key,
            n=n,
            thread_id=self._plan.thread.thread_id,
            call=call,
            made_by=made_by,
            reason=reason,
            message=message,
            response_schema=schema,
            expires_at=self._clock.now() + timedelta(seconds=wait_s),
            reaches=self._toolbox.reaches(call.name),
        )


def _effective(call: ToolCall, decision: CallDecision | None) -> ToolCall:
    """Return a call with the arguments that were decided for it."""
    return call if decision is None or decision.arguments is None else call._replace(arguments=decision.arguments)
