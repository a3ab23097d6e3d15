"""Fields of bodies that set rules for the calls of tools."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from karma.core.conditions.language import MAX_CHARS
from karma.core.schemas import Body, Whole
from karma.tools.domain import DEFAULT_WAIT_S, MAX_WAIT_S, MIN_WAIT_S, ApprovalPolicy, ApprovalRule, OnExpiry


class ApprovalRuleBody(Body):
    """A rule by which a person has to approve calls of a tool, which the body that has it names."""

    policy: ApprovalPolicy
    """`never`, `always`, or `when`: calls for which the condition `when` holds."""
    when: Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARS)] | None = None
    """Condition on the arguments, `args`, in a part of CEL: `args.command == 'move'`. For the policy `when` alone."""
    expires_in_s: Annotated[Whole, Field(ge=MIN_WAIT_S, le=MAX_WAIT_S)] = DEFAULT_WAIT_S
    """Seconds for which a call waits to be approved; afterwards it can only be cancelled."""
    on_expiry: OnExpiry = OnExpiry.CANCEL
    """`cancel`: the conversation then rests until its user goes on; `refuse`: the model is told, in a run that begins
    by itself."""

    def rule(self) -> ApprovalRule:
        """Return what the body says, in the domain's words."""
        return ApprovalRule(
            policy=self.policy, when=self.when or "", expires_in_s=self.expires_in_s, on_expiry=self.on_expiry
        )
