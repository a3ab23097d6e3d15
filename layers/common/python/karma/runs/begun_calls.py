"""Calls that were open at a point, and that a run behind it has begun without a result: nobody knows their outcome.

A run that goes on from the point follows what their tools declare for a loss, for the run that began them: one that
may take effect twice is asked about. A call that waits to be approved has not begun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from karma.conversations.domain import ToolCall
from karma.conversations.history import awaited_calls
from karma.core.ids import RunId
from karma.runs.checkpoints import FoundPoint
from karma.runs.decisions import CallDecision
from karma.runs.effects import MadeCall, ThreadCalls
from karma.runs.ending import may_be_made
from karma.runs.interrupts import AnswerStatus, Interrupt
from karma.runs.left_calls import ENDED_BY_ITSELF, is_about, was_made
from karma.runs.ports import Runs
from karma.tools.domain import ApprovalRule
from karma.tools.toolbox import Toolbox


def begun_calls(store: Runs, found: FoundPoint) -> dict[ToolCall, RunId]:
    """Return those calls, with the runs for which they were made; one read where any run has asked something."""
    frontend = {tool.name for tool in found.setup.frontend_tools} if found.setup is not None else frozenset[str]()
    awaited = [call for call in awaited_calls(found.messages) if call.name not in frontend]
    if not awaited:
        return {}
    names = {*found.run.interrupt_ids, *found.thread.interrupts}
    asked = list(store.interrupts(found.run.key.user_id, sorted(names)).values()) if names else []
    calls = ThreadCalls(found.thread)
    at = calls.turn(found.point.position)
    begun: dict[ToolCall, RunId] = {}
    for call in awaited:
        about = [each for each in asked if is_about(each, call)]
        is_open = not calls.has_result(MadeCall(at, call)) or any(each.is_open for each in about)
        made_by = next((each.made_by for each in about if _has_begun(each)), None)
        if not about and found.run.status not in ENDED_BY_ITSELF and may_be_made(call, found.setup):
            made_by = found.run.key.run_id
        if is_open and made_by is not None:
            begun[call] = made_by
    return begun


def _has_begun(question: Interrupt) -> bool:
    """Tell whether the call of a question was made before it was asked, or since it was answered."""
    if was_made(question):
        return True
    answer = question.answer
    is_approved = answer is not None and isinstance(answer.payload, dict) and answer.payload.get("approved") is True
    return is_approved and answer is not None and answer.status is AnswerStatus.RESOLVED


def made_up_for(
    begun: Mapping[ToolCall, RunId], toolbox: Toolbox, approvals: Mapping[str, ApprovalRule], others: Sequence[str]
) -> dict[str, CallDecision]:
    """Return how a new run goes on with such calls, by id; those of other agents (`others`) begin anew.

    One that has to be approved by now is asked about as any other.
    """
    return {
        call.id: CallDecision(made_by=made_by, is_repeated=True)
        for call, made_by in begun.items()
        if call.name not in others and not _is_asked_about(call, toolbox, approvals)
    }


def _is_asked_about(call: ToolCall, toolbox: Toolbox, approvals: Mapping[str, ApprovalRule]) -> bool:
    rule = approvals.get(call.name)
    arguments = None if rule is None else toolbox.arguments(call)
    return rule is not None and arguments is not None and rule.applies_to(arguments)
