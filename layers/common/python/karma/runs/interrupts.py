"""Interrupts: questions with which a run ends, and which a later run of its thread answers.

    open ──> resolved      somebody answered it: the run that answered it makes the call, or gives it a result
         └─> cancelled     somebody cancelled it, or the conversation went on without an answer

- The run that asks ends (`RUN_FINISHED` of outcome `interrupt`); the transaction that ends it stores its questions, and
  the thread's head names those that are open. No process waits.
- The run that answers notes that in the transaction that starts it, on condition that nobody has answered: of two
  answers one counts. What was decided is part of its setup, so whoever takes it over decides the same.
- The tool is called for the run that asked, whichever makes the call: one that knows calls by run and id knows it.
- A question that nobody answered in time is expired: it can be cancelled, and not be answered any more. Nothing has to
  happen for that; its thread was free all the time. A sweep then carries out what its rule says (`expiry.py`).
- A run that lists questions of an earlier one again, since its request answered others, leaves them as they are.

A question needs no call: a run whose budget does not cover its next call of the model ends with one that names the
budget (`stopped_by`). A call that was made and whose tool asks its user first ends it with the tool's forms and with
what the tool wants back (`given`). Another reason to ask is one `Reason`, its answer's schema, and what `resuming.py`
makes of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from karma.conversations.domain import Json, ThreadKey, ToolCall
from karma.core.clock import iso, parse_iso
from karma.core.errors import Conflict, Gone, NotFound
from karma.core.ids import RunId, ThreadId, UserId
from karma.core.records import Record
from karma.models.budgets import NamedBudget, Spent, budget_shown, dump_budgets, load_budgets
from karma.runs.domain import RunKey
from karma.tools.domain import GivenInput, OnExpiry, dump_given, load_given

MAX_INTERRUPTS: Final = 32
"""Questions of one turn at the most; further calls that need an approval fail, and the model is told so."""
MAX_REASON_CHARS: Final = 1_000
"""Characters of the reason that somebody gives for refusing a call."""
MAX_SHOWN_CHARS: Final = 16_000
"""Characters of a call's arguments that are shown with a question: as many as somebody may edit."""
MAX_ALL_SHOWN_CHARS: Final = 131_072
"""Characters of arguments in the event that ends a run, of all its questions: each has an equal part."""
NOBODY: Final = RunId("")
"""`by` of the cancellation of a question that expired: no run began with it, and the next one takes it up."""


class Reason(StrEnum):
    """Reasons to ask, as AG-UI names them; those of our own have our prefix."""

    TOOL_CALL = "tool_call"
    """A call has to be approved."""
    UNKNOWN_OUTCOME = "karma:unknown_outcome"
    """The process that made a call was lost: it may have taken effect or not, and is not to be made twice."""
    BUDGET_EXCEEDED = "budget_exceeded"
    """A budget does not cover the next call of the model."""
    INPUT_REQUIRED = "input_required"
    """A tool that was called asks its user for something before it goes on."""


class AnswerStatus(StrEnum):
    """Answer to a question, as AG-UI's `resume` names it."""

    RESOLVED = "resolved"
    CANCELLED = "cancelled"


class InterruptAnswer(Record, kw_only=True):
    """The answer to a question."""

    status: AnswerStatus
    payload: object = None
    by: RunId
    """The run that began with it; NOBODY: none."""
    at: datetime

    def says(self, status: AnswerStatus, payload: object) -> bool:
        """Tell whether an answer is the same."""
        return self.status is status and (status is AnswerStatus.CANCELLED or self.payload == payload)


class Inside(Record, kw_only=True):
    """The subagent that waits for an answer."""

    root: ToolCall
    """The call of the conversation's own that led to it."""
    subagent: str
    """"": a budget stops all that are at work."""
    runs: tuple[RunId, ...]
    """The runs in which subagents began with which an answer goes on, the one that asks last."""
    others: tuple[ToolCall, ...] = ()
    """Further calls of the same turn whose subagents go on with an answer."""

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Return the calls of the conversation that stay open until there is an answer."""
        return (self.root, *self.others)


class ShownArguments(NamedTuple):
    """The arguments of a call that somebody is asked about."""

    text: str
    """JSON; only its beginning where it is cut."""
    is_cut: bool


class Interrupt(Record, kw_only=True):
    """One question."""

    key: RunKey
    """The run that asked, first."""
    n: int
    """Its number among the questions of that run, from 1."""
    thread_id: ThreadId
    call: ToolCall | None
    """The call that waits for the answer; None: the next call of the model does, which a budget does not cover."""
    made_by: RunId
    """The run for which the call is made: the one whose model made it."""
    reason: Reason
    message: str
    response_schema: Json
    """JSON Schema of an answer's payload."""
    expires_at: datetime
    stopped_by: NamedBudget | None = None
    """The budget that stopped the run, `before` with what that had used at its end; None as long as there is a call."""
    used: Spent | None = None
    """Use, at its end, of the run that a budget stopped, with those that it went on for; None: no budget has
    stopped it, or a release that did not say it."""
    least: Spent | None = None
    """Use by the next call at the least, by its upper bound: `stopped_by` has to allow so much more. None: unknown."""
    on_expiry: OnExpiry = OnExpiry.CANCEL
    inside: Inside | None = None
    """None: the run's own model has made the call, or makes the next one."""
    given: GivenInput | None = None
    """State of the tool with which the call is made again, beside an answer: shown to nobody; None: there is none."""
    reaches: str = ""
    """Id of the server or agent that the call was to reach, as `Tool.reaches`: the answer holds for no other one. "": a
    tool of ours, or a release that did not note it."""
    answer: InterruptAnswer | None = None
    lapsed_at: datetime | None = None
    """Moment at which it was cancelled by nobody, whoever took it up since; None: it was not, or by a release that did
    not say it apart."""

    @property
    def id(self) -> str:
        """Return its id, which names the run that asked and the number."""
        return f"{self.key.run_id}/{self.n}"

    @property
    def asked(self) -> ToolCall:
        """Return the call that is asked about; only for a question about one."""
        assert self.call is not None  # noqa: S101  questions about budgets are told apart before
        return self.call

    @property
    def awaited(self) -> ToolCall:
        """Return the call of the conversation that has no result before the answer: it, or the one that led to it."""
        return self.asked if self.inside is None else self.inside.root

    @property
    def thread(self) -> ThreadKey:
        """Return the key of its thread."""
        return ThreadKey(self.key.user_id, self.thread_id)

    @property
    def has_lapsed(self) -> bool:
        """Tell whether it was cancelled since it expired, and not by anybody."""
        return self.answer is not None and self.answer.by == NOBODY

    @property
    def is_open(self) -> bool:
        """Tell whether no run has taken it up."""
        return self.answer is None or self.has_lapsed

    def is_waiting(self, now: datetime) -> bool:
        """Tell whether somebody may still answer it."""
        return self.answer is None and now < self.expires_at

    def is_expired(self, now: datetime) -> bool:
        """Tell whether it cannot be answered any more, though nobody has."""
        return self.has_lapsed or (self.answer is None and now >= self.expires_at)

    @property
    def is_past(self) -> bool:
        """Tell whether it was cancelled when nobody could answer it any more, also by a run that has taken it up."""
        if self.answer is None or self.answer.status is AnswerStatus.RESOLVED:
            return False
        return self.lapsed_at is not None or self.has_lapsed or self.answer.at >= self.expires_at

    def arguments(self, *, most: int = MAX_SHOWN_CHARS) -> ShownArguments | None:
        """Return the JSON with which its call is made, as far as it is shown; None: it is about none."""
        if self.call is None:
            return None
        return ShownArguments(self.call.arguments[:most], is_cut=len(self.call.arguments) > most)

    def wire(self, *, of: int = 1) -> dict[str, object]:
        """Return it as AG-UI shows it, as one `of` so many that are shown in an event."""
        metadata: dict[str, object] = {}
        if self.call is not None:
            metadata["toolName"] = self.call.name
        arguments = self.arguments(most=min(MAX_SHOWN_CHARS, MAX_ALL_SHOWN_CHARS // max(of, 1)))
        if arguments is not None:
            metadata["arguments"] = arguments.text
            if arguments.is_cut:
                metadata["argumentsCut"] = True
        if self.stopped_by is not None:
            metadata |= budget_shown(self.stopped_by, least=self.least)
        return {
            "id": self.id,
            "reason": self.reason.value,
            "message": self.message,
            **({"toolCallId": self.call.id} if self.call is not None else {}),
            "responseSchema": dict(self.response_schema),
            "expiresAt": iso(self.expires_at),
            "metadata": metadata,
            **({"subagentRunId": self.inside.subagent} if self.inside is not None and self.inside.subagent else {}),
        }


class Answered(Record, kw_only=True):
    """An answer to be noted with the start of a run."""

    interrupt: Interrupt
    """As it was read: with the answer that this one may replace, since the run that it began was lost."""
    answer: InterruptAnswer


class InterruptNotFound(NotFound):
    """The thread has no such question."""

    code = "INTERRUPT_NOT_FOUND"

    def __init__(self, interrupt_id: str) -> None:
        super().__init__(f"resume: this thread has no interrupt '{interrupt_id[:64]}'")


class InterruptAnswered(Conflict):
    """The question was answered otherwise; `details` names it and the run that began with that answer."""

    code = "INTERRUPT_ANSWERED"

    def __init__(self, interrupt: Interrupt, answer: InterruptAnswer) -> None:
        told = {"interrupt_id": interrupt.id, "run_id": answer.by, "status": answer.status.value}
        super().__init__(f"resume: interrupt '{interrupt.id}' has another answer: {answer.status}", details=told)


class InterruptExpired(Gone):
    """The question was not answered in time, or was withdrawn; it can be cancelled as long as no run did.

    `details` names it, and the run that has taken it up, if one has.
    """

    code = "INTERRUPT_EXPIRED"

    def __init__(self, interrupt: Interrupt) -> None:
        answer = interrupt.answer
        lapsed = interrupt.lapsed_at or (answer.at if answer is not None and interrupt.has_lapsed else None)
        is_early = lapsed is not None and lapsed < interrupt.expires_at
        why = "was cancelled, as its agent was stopped or its conversation went back"
        over = why if is_early else f"expired at {iso(interrupt.expires_at)}"
        is_taken = answer is not None and not interrupt.has_lapsed
        then = "its conversation has gone on without it" if is_taken else "cancel it to go on"
        details = {"interrupt_id": interrupt.id, "expires_at": iso(interrupt.expires_at)}
        if answer is not None and is_taken:
            details["run_id"] = answer.by
        super().__init__(f"resume: interrupt '{interrupt.id}' {over}; {then}", details=details)


def run_of_interrupt(user_id: UserId, interrupt_id: str) -> tuple[RunKey, int] | None:
    """Return the run and number that an id names; None: it is no such id."""
    run_id, _, n = interrupt_id.rpartition("/")
    if not run_id or not n.isascii() or not n.isdigit() or len(n) > 2:
        return None
    return RunKey(user_id, RunId(run_id)), int(n)


def dump_interrupt(interrupt: Interrupt) -> dict[str, object]:
    """Return a question as JSON, without its answer."""
    return {
        "user_id": interrupt.key.user_id,
        "run_id": interrupt.key.run_id,
        "n": interrupt.n,
        "thread_id": interrupt.thread_id,
        "call": None if interrupt.call is None else list(interrupt.call),
        "made_by": interrupt.made_by,
        "reason": interrupt.reason.value,
        "message": interrupt.message,
        "response_schema": interrupt.response_schema,
        "expires_at": iso(interrupt.expires_at),
        **({"stopped_by": dump_budgets([interrupt.stopped_by])} if interrupt.stopped_by else {}),
        **({"used": [interrupt.used.tokens, interrupt.used.cost_micros]} if interrupt.used else {}),
        **({"least": [interrupt.least.tokens, interrupt.least.cost_micros]} if interrupt.least else {}),
        "on_expiry": interrupt.on_expiry.value,
        **({"inside": _dump_inside(interrupt.inside)} if interrupt.inside else {}),
        **({"given": dump_given(interrupt.given)} if interrupt.given else {}),
        **({"reaches": interrupt.reaches} if interrupt.reaches else {}),
    }


def _dump_inside(inside: Inside) -> list[object]:
    return [list(inside.root), inside.subagent, list(inside.runs), [list(each) for each in inside.others]]


def _load_inside(body: list[Any]) -> Inside:
    root, subagent, runs, others = body
    return Inside(
        root=ToolCall(*root),
        subagent=subagent,
        runs=tuple(map(RunId, runs)),
        others=tuple(ToolCall(*each) for each in others),
    )


def load_interrupt(
    body: Mapping[str, Any], answer: InterruptAnswer | None = None, *, lapsed_at: datetime | None = None
) -> Interrupt:
    """Read a question that `dump_interrupt` made."""
    return Interrupt(
        key=RunKey(UserId(body["user_id"]), RunId(body["run_id"])),
        n=body["n"],
        thread_id=ThreadId(body["thread_id"]),
        call=ToolCall(*body["call"]) if body["call"] else None,
        made_by=RunId(body["made_by"]),
        reason=Reason(body["reason"]),
        message=body["message"],
        response_schema=body["response_schema"],
        expires_at=parse_iso(body["expires_at"]),
        stopped_by=next(iter(load_budgets(body.get("stopped_by", ()))), None),
        used=Spent(tokens=body["used"][0], cost_micros=body["used"][1]) if "used" in body else None,
        least=Spent(tokens=body["least"][0], cost_micros=body["least"][1]) if "least" in body else None,
        on_expiry=OnExpiry(body.get("on_expiry", OnExpiry.CANCEL)),
        inside=_load_inside(body["inside"]) if "inside" in body else None,
        given=load_given(body["given"]) if "given" in body else None,
        reaches=body.get("reaches", ""),
        answer=answer,
        lapsed_at=lapsed_at,
    )
