"""Wishes for runs in the table `agents`, a part of the store of runs."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from karma.core.clock import iso
from karma.core.dynamo.access import delete, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import Conflict
from karma.core.ids import AgentId
from karma.runs.domain import RunKey, RunStatus
from karma.runs.items import CONTROL, HEAD, STOP, ControlItem, RunItem, RunsItem, run_pk
from karma.runs.wishes import AgentStop, Wish, Wishes

_MOST: Final = 100
"""Wishes of one run at the most; a run calls fewer agents."""


class RunWishRepository:
    """Wishes for runs over DynamoDB."""

    def withdraw(self, key: RunKey, wish: Wish) -> bool:
        """See Runs; one Delete."""
        try:
            delete(ControlItem(run_pk(key), f"{CONTROL}{wish.value}"), ControlItem.pk.exists())
        except ConditionFailed:
            return False
        return True

    def wish(self, key: RunKey, wish: Wish | AgentStop, *, at: datetime, reason: str = "") -> bool:
        """See Runs; one transaction."""
        tx = Transaction()
        has_ended = Conflict("")
        goes_on = RunItem.status == RunStatus.RUNNING.value
        if isinstance(wish, AgentStop):
            goes_on |= RunItem.status == RunStatus.PAUSED.value
        tx.check(RunItem, Key(run_pk(key), HEAD), goes_on, on_fail=has_ended)
        tx.put(ControlItem(run_pk(key), _sk(wish), reason=reason, created_at=iso(at)))
        try:
            tx.commit()
        except ConditionFailed:
            return True  # it is there
        except Conflict as exc:
            if exc is not has_ended:
                raise
            return False
        return True

    def wishes(self, key: RunKey) -> Wishes:
        """See Runs; one Query."""
        found = RunsItem.sk.startswith(CONTROL.removesuffix("#"))
        page = query(RunsItem, run_pk(key), found, limit=_MOST, consistent=True)
        return {_wish(item.sk): item.reason for item in page.items if isinstance(item, ControlItem)}


def _sk(wish: Wish | AgentStop) -> str:
    return f"{STOP}{wish.agent_id}" if isinstance(wish, AgentStop) else f"{CONTROL}{wish.value}"


def _wish(sk: str) -> Wish | AgentStop:
    return AgentStop(AgentId(sk.removeprefix(STOP))) if sk.startswith(STOP) else Wish(sk.removeprefix(CONTROL))
