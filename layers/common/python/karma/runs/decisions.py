"""Questions about a call, and the decisions that answers make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import orjson

from karma.conversations.domain import CallEffect, Json
from karma.core import freeform
from karma.core.clock import iso
from karma.core.errors import ValidationFailed
from karma.core.ids import RunId
from karma.core.records import Record
from karma.runs.interrupts import MAX_REASON_CHARS, AnswerStatus, Interrupt, Reason
from karma.tools.domain import GivenInput, dump_given, load_given
from karma.tools.failures import BadArguments
from karma.tools.inputs import checked_answers
from karma.tools.toolbox import UNKNOWN_OUTCOME, Toolbox, ToolOutcome

MAX_RESULT_CHARS: Final = 16_000
"""Characters of JSON of a result that somebody gives for a call, and of arguments that they edited."""
MOVED_ON = "The user went on without answering: this call was not made."
CANCELLED = "The user cancelled this call: it was not made."
ASKED_IN_VAIN = (
    "The agent was stopped, or the user went back, before this call had what it asked for: it did not go on."
)
WITHDRAWN = "The agent was stopped, or the user went back, before this call was approved: it was not made."
NOT_GIVEN = "The user did not give what this call asked for: it did not go on."
NOTHING_GIVEN = "The user went on without giving what this call asked for: it did not go on."
ANOTHER_ONE = (
    "Another server or agent has this tool's name since the user was asked about the call: it was not made. "
    "Call the tool again."
)
TOO_MANY = "Too many calls of one turn wait to be approved: this one was not made. Make fewer at once."
TOO_MANY_FORMS = "Too much is asked for by calls of one turn: this one did not go on. Make fewer at once."


class AskedForm(NamedTuple):
    """Forms that a call's tool has asked for, and that nobody has answered."""

    message: str
    schema: Json
    """JSON Schema of an answer's payload, as `Interrupt.response_schema`."""


class CallDecision(Record, kw_only=True):
    """Decision about a call that waited for an answer."""

    made_by: RunId
    """The run for which the call is made, as `Interrupt.made_by`."""
    arguments: str | None = None
    """JSON of the arguments that replace the model's; None: those stay."""
    content: str | None = None
    """The result that it gets without being made; None: it is made."""
    failed: bool = False
    effect: CallEffect = "told"
    """Of a call that is not made now: what is known of its effect beside that result."""
    is_repeated: bool = False
    """An earlier run began with this answer, and was lost: it may have made the call."""
    given: GivenInput | None = None
    """Input of the call beside its arguments, where its tool has asked for that; None: it has not."""

    form: AskedForm | None = None
    """The call is not made before its user has answered this, with `given`; None: it asks for nothing yet."""
    reaches: str = ""
    """As `Interrupt.reaches`: the call is made only where the tool of its name reaches the same."""

    @property
    def outcome(self) -> ToolOutcome | None:
        """Return the outcome of a call that is not made; None: it is made."""
        return None if self.content is None else ToolOutcome(self.content, self.failed, effect=self.effect)


def approval_schema(parameters: Json) -> Json:
    """Return the schema of an answer to a call that has to be approved; `parameters` is that of the arguments."""
    return {
        "type": "object",
        "properties": {
            "approved": {"type": "boolean"},
            "editedArgs": {**parameters, "description": "Arguments to call the tool with instead"},
            "reason": {"type": "string", "maxLength": MAX_REASON_CHARS, "description": "Why it is refused"},
        },
        "required": ["approved"],
        "additionalProperties": False,
    }


OUTCOME_SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {
        "outcome": {"type": "string", "enum": ["happened", "call_again", "give_up"]},
        "result": {"description": "What the call gave, where it happened"},
    },
    "required": ["outcome"],
    "additionalProperties": False,
}


def decide(
    interrupt: Interrupt, status: AnswerStatus, payload: object, *, at: str, toolbox: Toolbox, is_repeated: bool = False
) -> CallDecision:
    """Return what an answer decides; `at` is its place in the request.

    Raises:
        ValidationFailed: the payload is not what the question asks for.
    """
    if status is AnswerStatus.CANCELLED:
        return unanswered(interrupt, cancelled(interrupt))
    if not isinstance(payload, dict):
        raise ValidationFailed.of(f"{at}.payload", "must be an object as the interrupt's responseSchema describes it")
    known = interrupt.response_schema["properties"]
    for name in payload:
        if not isinstance(known, Mapping) or name not in known:
            raise ValidationFailed.of(f"{at}.payload.{str(name)[:64]}", "is not a field of the answer")
    return replace(
        _decided(interrupt, payload, at, toolbox, is_repeated=is_repeated),
        reaches=interrupt.reaches,
    )


def _decided(
    interrupt: Interrupt, payload: dict[str, Any], at: str, toolbox: Toolbox, *, is_repeated: bool
) -> CallDecision:
    if interrupt.reason is Reason.UNKNOWN_OUTCOME:
        return _of_outcome(interrupt, payload, at)
    if interrupt.given is not None:
        answers = checked_answers(interrupt.response_schema, payload, at=f"{at}.payload")
        return CallDecision(
            made_by=interrupt.made_by,
            arguments=interrupt.asked.arguments,
            is_repeated=is_repeated,
            given=replace(interrupt.given, answers=answers),
        )
    return _of_approval(interrupt, payload, at, toolbox, is_repeated=is_repeated)


def cancelled(interrupt: Interrupt, *, moved_on: bool = False) -> str:
    """Return the result of a call whose question was cancelled, or passed over since the conversation went on."""
    if interrupt.reason is Reason.UNKNOWN_OUTCOME:
        return failure(UNKNOWN_OUTCOME)
    if interrupt.reason is Reason.INPUT_REQUIRED:
        return failure(NOTHING_GIVEN if moved_on else NOT_GIVEN)
    return failure(MOVED_ON if moved_on else CANCELLED)


def unanswered(interrupt: Interrupt, told: str) -> CallDecision:
    """Return the decision about a call whose question has no answer, and which gets the result that is `told`."""
    effect = effect_unanswered(interrupt)
    return CallDecision(made_by=interrupt.made_by, content=told, failed=True, effect=effect)


def effect_unanswered(interrupt: Interrupt) -> CallEffect:
    """Return what is known of the effect of a call whose question was cancelled, passed over, or not answered."""
    if interrupt.reason is Reason.UNKNOWN_OUTCOME:
        return "unknown"
    # A call whose tool has asked for something was made.
    return "none" if interrupt.reason is Reason.TOOL_CALL else "told"


def expired(interrupt: Interrupt) -> str:
    """Return the result of a call whose question nobody answered in time, or before its agent was stopped."""
    if interrupt.reason is Reason.UNKNOWN_OUTCOME:
        return failure(UNKNOWN_OUTCOME)
    if interrupt.answer is not None and interrupt.answer.at < interrupt.expires_at:
        return failure(ASKED_IN_VAIN if interrupt.reason is Reason.INPUT_REQUIRED else WITHDRAWN)
    if interrupt.reason is Reason.INPUT_REQUIRED:
        until = iso(interrupt.expires_at)
        return failure(f"Nobody gave what this call asked for until {until}: it did not go on.")
    return failure(f"Nobody approved this call until {iso(interrupt.expires_at)}: it was not made.")


def failure(message: str, **more: object) -> str:
    """Return the result of a call that was not made."""
    return orjson.dumps({"error": message, **more}).decode()


def _of_approval(
    interrupt: Interrupt, payload: Mapping[str, Any], at: str, toolbox: Toolbox, *, is_repeated: bool
) -> CallDecision:
    approved, reason, edited = payload.get("approved"), payload.get("reason"), payload.get("editedArgs")
    if not isinstance(approved, bool):
        raise ValidationFailed.of(f"{at}.payload.approved", "must be true or false")
    if reason is not None and (not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS):
        raise ValidationFailed.of(f"{at}.payload.reason", f"must be at most {MAX_REASON_CHARS} characters")
    if not approved:
        told = {"reason": reason} if reason else {}
        return CallDecision(
            made_by=interrupt.made_by,
            content=failure("The user refused this call: it was not made.", **told),
            failed=True,
            effect="none",
        )
    arguments = None
    if edited is not None:
        arguments = _json(edited, f"{at}.payload.editedArgs")
        try:
            toolbox.check(interrupt.asked._replace(arguments=arguments))
        except BadArguments as exc:
            raise ValidationFailed.of(f"{at}.payload.editedArgs", f"must fit the tool: {exc}") from None
    return CallDecision(made_by=interrupt.made_by, arguments=arguments, is_repeated=is_repeated)


def _of_outcome(interrupt: Interrupt, payload: Mapping[str, Any], at: str) -> CallDecision:
    made_by, outcome = interrupt.made_by, payload.get("outcome")
    if outcome == "call_again":
        return CallDecision(made_by=made_by, arguments=interrupt.asked.arguments, given=interrupt.given)
    if outcome == "give_up":
        return CallDecision(made_by=made_by, content=failure(UNKNOWN_OUTCOME), failed=True, effect="unknown")
    if outcome != "happened":
        raise ValidationFailed.of(f"{at}.payload.outcome", "must be 'happened', 'call_again' or 'give_up'")
    result = payload.get("result", {"told_by": "the user", "outcome": "it happened"})
    return CallDecision(made_by=made_by, content=_json(result, f"{at}.payload.result"))


def _json(value: object, at: str) -> str:
    text = orjson.dumps(value).decode()
    if len(text) > MAX_RESULT_CHARS:
        raise ValidationFailed.of(at, f"must be at most {MAX_RESULT_CHARS} characters of JSON")
    if freeform.is_deeper(value):
        raise ValidationFailed.of(at, freeform.TOO_DEEP)
    return text


def with_edit(outcome: ToolOutcome, arguments: str | None) -> ToolOutcome:
    """Tell the model, beside a call's outcome, with which arguments it was made instead of its own."""
    if arguments is None:
        return outcome
    try:
        orjson.loads(outcome.content)
        result: object = orjson.Fragment(outcome.content)  # as it was told: numbers of any length stay
    except orjson.JSONDecodeError:
        result = outcome.content  # a long result, which was shortened
    told = {"arguments_changed_by_user": orjson.Fragment(arguments), "result": result}
    return outcome._replace(content=orjson.dumps(told).decode())


def dump_decision(decision: CallDecision) -> list[object]:
    """Return a decision as JSON."""
    given = None if decision.given is None else dump_given(decision.given)
    form = None if decision.form is None else list(decision.form)
    more: list[object] = [given, decision.reaches, decision.effect, form]
    while more and more[-1] in (None, "", "told"):
        more.pop()
    return [decision.made_by, decision.arguments, decision.content, decision.failed, decision.is_repeated, *more]


def load_decision(body: list[Any]) -> CallDecision:
    """Read a decision that `dump_decision` made."""
    made_by, arguments, content, failed, is_repeated, *more = body
    given, reaches = (more[0] if more else None), (more[1] if len(more) > 1 else "")
    effect: CallEffect = more[2] if len(more) > 2 else "told"
    form = more[3] if len(more) > 3 else None
    return CallDecision(
        made_by=RunId(made_by),
        arguments=arguments,
        content=content,
        failed=failed,
        effect=effect,
        is_repeated=is_repeated,
        given=load_given(given) if given is not None else None,
        form=AskedForm(*form) if form is not None else None,
        reaches=reaches,
    )
