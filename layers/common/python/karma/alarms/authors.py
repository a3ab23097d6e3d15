"""For whom a rule's run acts: whoever wrote it, by the rights of now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from karma.alarms.domain import AlarmAction, AlarmRule, AlarmRun
from karma.core.errors import Forbidden
from karma.identity.domain import Caller


def require_may_change(caller: Caller, rule: AlarmRule) -> None:
    """Require that a caller may change a rule as it is: when one that begins runs does so is decided by all of it.

    Raises:
        Forbidden: the rule begins runs, and the caller may not run agents.
    """
    if AlarmAction.RUN in rule.actions and not caller.may("agent:run"):
        raise Forbidden.lacking("agent:run")


def written_by(caller: Caller, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return fields of a rule with the author of its run; those without one as they are.

    Raises:
        Forbidden: the caller may not run agents, or has not proven its address.
    """
    run: AlarmRun | None = fields.get("run")
    if run is None and AlarmAction.RUN not in fields.get("actions", ()):
        return fields
    if not caller.may("agent:run"):
        raise Forbidden.lacking("agent:run")
    caller.require_verified()
    if run is None:
        return fields
    key = caller.credential.api_key_id if caller.credential is not None and caller.method == "api_key" else None
    return {**fields, "run": replace(run, api_key_id=key)}
