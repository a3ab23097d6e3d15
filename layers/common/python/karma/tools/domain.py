"""Rules by which a person has to approve a call of a tool before it is made, and what a person gave for one.

    never     it is made at once
    always    it is made once somebody has approved it
    when      it is made at once unless a condition on its arguments holds: `args.command == 'move'`

An agent names rules for its tools; a tool that it does not name follows the tool's own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from karma.core.conditions.language import Condition, compile_condition
from karma.core.conditions.nodes import ConditionInvalid, ConditionUnanswered
from karma.core.records import Record

COMMAND: Final = "karma.command"
"""Activity of a call that waits for a device: `{deviceId, commandId, command, status}`."""
FILE: Final = "karma.file"
"""Activity of a call that waits for a file: `{deviceId, path, status}`, once there is one with `fileId`,
`uploadedBytes` and `totalBytes`."""
MCP: Final = "karma.mcp"
"""Activity of a call of an MCP server's tool that tells how far it is: `{server, tool, progress, total?, message?}`."""
ACTIVITY_TYPES: Final = (COMMAND, FILE, MCP)
"""Types of what tools show of a call while it is being made."""

MIN_WAIT_S: Final = 60
MAX_WAIT_S: Final = 30 * 24 * 3600
DEFAULT_WAIT_S: Final = 7 * 24 * 3600
ON_REQUEST: Final = frozenset({"updateState"})
"""Tools that the built-in agent does not have: agents that are made for them do."""
NAMES: Final = frozenset({"args"})
"""Names with which paths of a condition begin: the arguments of the call."""


class ApprovalPolicy(StrEnum):
    """Calls of a tool that a person has to approve."""

    NEVER = "never"
    ALWAYS = "always"
    WHEN = "when"


class OnExpiry(StrEnum):
    """Rule for a call that nobody approved in time."""

    CANCEL = "cancel"
    """Nobody can approve it any more, and its conversation rests until its user goes on."""
    REFUSE = "refuse"
    """The model is told so, in a run that begins by itself."""


class ApprovalRule(Record, kw_only=True):
    """The rule for the calls of one tool."""

    policy: ApprovalPolicy = ApprovalPolicy.NEVER
    when: str = ""
    """Condition on `args`, for the policy `when`; karma.core.conditions has the language."""
    expires_in_s: int = DEFAULT_WAIT_S
    """Seconds for which a call waits to be approved."""
    on_expiry: OnExpiry = OnExpiry.CANCEL

    def applies_to(self, arguments: Mapping[str, object]) -> bool:
        """Tell whether a call with these arguments has to be approved; where its condition has no answer, it has to."""
        if self.policy is not ApprovalPolicy.WHEN:
            return self.policy is ApprovalPolicy.ALWAYS
        try:
            return compiled(self.when).holds({"args": arguments})
        except ConditionUnanswered:
            return True


class Wrong(NamedTuple):
    """A fault of a list that a body has."""

    place: str
    """Place below the list, such as `0.tool`."""
    message: str


AT_ONCE: Final = ApprovalRule()
"""The rule of a tool whose calls nobody has to approve."""


class ToolApproval(Record, kw_only=True):
    """The rule that an agent has for a tool."""

    tool: str
    rule: ApprovalRule


def wrong_approvals(approvals: Sequence[ToolApproval], tools: Collection[str], *, whose: str) -> Iterator[Wrong]:
    """Find what is wrong with rules for some of these tools: the place below the list, and the message.

    `whose` says in a message whose tools they are.
    """
    seen: set[str] = set()
    for i, each in enumerate(approvals):
        if each.tool not in tools:
            yield Wrong(f"{i}.tool", f"must be one of {whose} tools")
        elif each.tool in seen:
            yield Wrong(f"{i}.tool", "must not have a second rule")
        seen.add(each.tool)
        if (each.rule.policy is ApprovalPolicy.WHEN) != bool(each.rule.when):
            yield Wrong(f"{i}.when", "must be a condition for the policy 'when', and absent for others")
        elif each.rule.when:
            try:
                compiled(each.rule.when)
            except ConditionInvalid as exc:
                yield Wrong(f"{i}.when", f"must be a condition on the arguments: {exc}")


def dump_rule(rule: ApprovalRule) -> dict[str, object]:
    """Return a rule as JSON."""
    return {
        "policy": rule.policy.value,
        "when": rule.when,
        "expires_in_s": rule.expires_in_s,
        "on_expiry": rule.on_expiry.value,
    }


def load_rule(body: Mapping[str, Any]) -> ApprovalRule:
    """Read a rule that `dump_rule` made."""
    return ApprovalRule(
        policy=ApprovalPolicy(body["policy"]),
        when=body["when"],
        expires_in_s=int(body["expires_in_s"]),
        on_expiry=OnExpiry(body.get("on_expiry", OnExpiry.CANCEL)),
    )


@lru_cache(maxsize=256)
def compiled(text: str) -> Condition:
    """Compile a condition on the arguments of a call.

    Raises:
        ConditionInvalid: the text is no condition on `args`.
    """
    return compile_condition(text, NAMES)


class GivenInput(Record, kw_only=True):
    """Input of a call: beside its arguments, the answer to what its tool asked the time before."""

    rounds: int = 0
    """Times that the tool has asked; 0: it was not called yet, and its user can be asked."""
    kept: Mapping[str, object] | None = None
    """As `karma.tools.inputs.InputRequest.kept`."""
    answers: Mapping[str, object] | None = None
    """An answer for each form: `{"action": accept|decline|cancel, "content"?}`."""


def dump_given(given: GivenInput) -> list[object]:
    """Return an input as JSON."""
    return [given.rounds, given.kept, given.answers]


def load_given(body: list[Any]) -> GivenInput:
    """Read an input that `dump_given` made."""
    rounds, kept, answers = body
    return GivenInput(rounds=rounds, kept=kept, answers=answers)
