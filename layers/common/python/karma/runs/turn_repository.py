"""Turns of runs in the table `agents`, a part of the store of runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pynamodb.expressions.update import Action

from karma.billing.transactional import require_usage
from karma.conversations.domain import History, Message, Thread, ThreadChanged, ThreadKey, Turns
from karma.conversations.reading import read_turns
from karma.conversations.state import State
from karma.conversations.transactional import add_messages, make_way, run_before, take_turn
from karma.core.clock import iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import RunId
from karma.identity.transactional import require_account
from karma.models.budgets import dump_budgets
from karma.runs.attachment_repository import require_attachments
from karma.runs.domain import OwnershipLost, Run, RunExists, RunStatus
from karma.runs.interrupt_repository import note_answers
from karma.runs.interrupts import Answered, Interrupt
from karma.runs.items import (
    ACTIVE_SK,
    HEAD,
    ActiveItem,
    RunItem,
    RunOwnerItem,
    active_runs_pk,
    agent_runs_pk,
    list_sk,
    run_id_pk,
    run_pk,
    user_pk,
)
from karma.runs.stored import as_json, run_item
from karma.runs.wishes import Needs


class RunTurnRepository:
    """Turns of runs over DynamoDB."""

    def turns(self, key: ThreadKey) -> Turns:
        """See Runs; one Get."""
        return read_turns(key)

    def make_way(self, thread: ThreadKey, run_id: RunId, *, at: datetime, needs: Needs | None = None) -> bool:
        """See Ways; one transaction: an item, and a check for each thing that could refuse what is needed."""
        tx, other = Transaction(), ThreadChanged()
        make_way(tx, thread, run_id, at=iso(at), on_fail=other)
        if needs is not None:
            _require(tx, thread, needs)
        try:
            tx.commit()
        except ThreadChanged as exc:
            if exc is not other:
                raise
            return False
        return True

    def take_turn(
        self,
        run: Run,
        thread: Thread,
        messages: tuple[Message, ...],
        *,
        state: State | None = None,
        answers: Sequence[Answered] = (),
        left: Sequence[Interrupt] = (),
        at: datetime,
    ) -> None:
        """See Runs; one transaction."""
        now, changed = iso(at), ThreadChanged()
        history = History(thread.key, thread.next_message, messages, thread.latest, state=state)
        tx = Transaction()
        actions: list[Action] = [
            RunItem.status.set(run.status.value),
            RunItem.answers.set(run.answers),
            RunItem.begins_at.set(run.begins_at),
            RunItem.follows.set(run.follows),
            RunItem.paused_ms.set(run.paused_ms),
            RunItem.updated_at.set(now),
            RunItem.budgets.set(as_json(dump_budgets(run.budgets))) if run.budgets else RunItem.budgets.remove(),
        ]
        tx.update(RunItem(run_pk(run.key), HEAD), actions, RunItem.status == RunStatus.QUEUED.value)
        is_open = [each.id for each in left]
        take_turn(tx, thread, run_id=run.key.run_id, history=history, interrupts=is_open, at=now, on_fail=changed)
        note_answers(tx, answers, on_fail=changed)
        add_messages(tx, history, at=now, on_fail=changed)
        try:
            tx.commit()
        except ConditionFailed:
            raise OwnershipLost(f"run {run.key.run_id} does not wait for its turn any more") from None


def _require(tx: Transaction, thread: ThreadKey, needs: Needs) -> None:
    """Let a transaction fail as the start of a run would now for what it needs beside its thread."""
    require_account(tx, thread.user_id)
    tx.check(RunItem, Key(run_pk(needs.run), HEAD), RunItem.pk.does_not_exist(), on_fail=RunExists(needs.run.run_id))
    require_attachments(tx, thread, needs.messages, new=needs.attachments, on_fail=ThreadChanged())
    require_usage(tx, needs.reservations)


def put_run(tx: Transaction, run: Run, thread: Thread, *, on_fail: RunExists) -> None:
    """Add a new run to a transaction, with what lists and finds it."""
    now, item = iso(run.created_at), run_item(run)
    item.previous_run_id = run_before(thread)
    tx.put(item, on_fail=on_fail)
    owner = RunOwnerItem(run_id_pk(run.key.run_id), user_pk(run.key.user_id), user_id=run.key.user_id, created_at=now)
    if run.agent_id is not None:
        owner.gsi1pk, owner.gsi1sk = agent_runs_pk(run.key.user_id, run.agent_id), list_sk(run)
        active = ActiveItem(run_pk(run.key), ACTIVE_SK, created_at=now)
        active.gsi1pk, active.gsi1sk = active_runs_pk(run.key.user_id, run.agent_id), list_sk(run)
        tx.put(active, on_fail=on_fail)
    tx.put(owner, on_fail=on_fail)
