"""Questions of runs in the table `agents`, and their writes in the transactions of runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime

from pynamodb.expressions.update import Action

from karma.core.clock import iso
from karma.core.dynamo.access import batch_get, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import UserId
from karma.runs.domain import RunEnd, RunKey
from karma.runs.interrupts import NOBODY, Answered, AnswerStatus, Interrupt, run_of_interrupt
from karma.runs.items import (
    EXPIRING_PK,
    InterruptItem,
    expiring_sk,
    interrupt_sk,
    parse_interrupt_sk,
    parse_run_pk,
    run_pk,
)
from karma.runs.ports import Expiring, ExpiringPage
from karma.runs.stored import as_json, interrupt_item, interrupt_of

_WAITS = InterruptItem.pk.exists() & InterruptItem.answered_by.does_not_exist()


def note_questions(tx: Transaction, key: RunKey, how: RunEnd, *, at: str) -> None:
    """Store the questions of a run that ends; those of earlier runs are stored, and some are cancelled with its end.

    These have no answer, since the run had their thread; some may have lapsed meanwhile.
    """
    for interrupt in how.interrupts:
        if interrupt.key == key:
            tx.put(interrupt_item(interrupt, at=at))
    for each in how.passed_over:
        tx.update(*_answer(each), _WAITS | (InterruptItem.answered_by == NOBODY))


def note_answers(tx: Transaction, answers: Sequence[Answered], *, on_fail: AppError) -> None:
    """Note answers, each on condition that its question is as it was read."""
    for each in answers:
        earlier = each.interrupt.answer
        as_read = _WAITS if earlier is None else InterruptItem.answered_by == earlier.by
        tx.update(*_answer(each), as_read, on_fail=on_fail)


def _answer(each: Answered) -> tuple[InterruptItem, list[Action]]:
    item, answer = InterruptItem(run_pk(each.interrupt.key), interrupt_sk(each.interrupt.n)), each.answer
    return item, [
        InterruptItem.answer_status.set(answer.status.value),
        InterruptItem.answer_payload.set(as_json(answer.payload)),
        InterruptItem.answered_by.set(answer.by),
        InterruptItem.answered_at.set(iso(answer.at)),
        InterruptItem.updated_at.set(iso(answer.at)),
        InterruptItem.gsi1pk.remove(),
        InterruptItem.gsi1sk.remove(),
    ]


def _expiring_of(item: InterruptItem) -> Expiring:
    return Expiring(parse_run_pk(item.pk), parse_interrupt_sk(item.sk), int(item.put_offs or 0))


class RunInterruptRepository:
    """Questions of runs over DynamoDB."""

    def interrupts(self, user_id: UserId, ids: Collection[str]) -> dict[str, Interrupt]:
        """See Runs; one BatchGet a hundred of them, none for no id that could be one."""
        named = {name: run_of_interrupt(user_id, name) for name in ids}
        keys = {name: Key(run_pk(at[0]), interrupt_sk(at[1])) for name, at in named.items() if at is not None}
        found = batch_get(InterruptItem, list(keys.values()), consistent=True) if keys else {}
        read = {name: interrupt_of(found[key]) for name, key in keys.items() if key in found}
        return {name: interrupt for name, interrupt in read.items() if interrupt.id == name}

    def expiring(self, before: datetime, *, limit: int, start: dict[str, str] | None = None) -> ExpiringPage:
        """See Runs; one Query of the index."""
        from karma.core.dynamo.work import query_work  # only the sweep lists them

        due = InterruptItem.gsi1sk < iso(before)
        found = query_work(InterruptItem, EXPIRING_PK, due, _expiring_of, limit=limit, start=start)
        return ExpiringPage(found.items, found.last)

    def put_off(self, key: RunKey, n: int, *, until: datetime) -> None:
        """See Runs; one update."""
        item = InterruptItem(run_pk(key), interrupt_sk(n))
        with suppress(ConditionFailed):
            update(item, [InterruptItem.gsi1sk.set(expiring_sk(key, n, until)), InterruptItem.put_offs.add(1)], _WAITS)

    def lapse(self, interrupt: Interrupt, *, at: datetime) -> bool:
        """See Runs; one update."""
        item = InterruptItem(run_pk(interrupt.key), interrupt_sk(interrupt.n))
        actions = [
            InterruptItem.answer_status.set(AnswerStatus.CANCELLED.value),
            InterruptItem.answered_by.set(NOBODY),
            InterruptItem.answered_at.set(iso(at)),
            InterruptItem.lapsed_at.set(iso(at)),
            InterruptItem.updated_at.set(iso(at)),
            InterruptItem.gsi1pk.remove(),
            InterruptItem.gsi1sk.remove(),
        ]
        try:
            update(item, actions, _WAITS)
        except ConditionFailed:
            return False
        return True
