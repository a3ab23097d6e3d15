"""Writes of an agenda that are part of other transactions."""

from __future__ import annotations

from datetime import datetime

from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.webhooks.domain import Lane
from karma.webhooks.items import LOOK_PK, AgendaItem, agenda_key, look_sk


def have_looked_at(tx: Transaction, user_id: UserId, lane: Lane, *, at: datetime) -> None:
    """Have a worker look at a lane; its agenda is made when there is none."""
    tx.upsert(
        AgendaItem(*agenda_key(user_id, lane)),
        [AgendaItem.gsi1pk.set(LOOK_PK), AgendaItem.gsi1sk.set(look_sk(user_id, lane, at))],
    )


def end_rest(tx: Transaction, user_id: UserId, lane: Lane, *, at: datetime) -> None:
    """Forget the failures of a lane, also for the worker that has its lease, and have a worker look at it."""
    tx.upsert(
        AgendaItem(*agenda_key(user_id, lane)),
        [
            AgendaItem.gsi1pk.set(LOOK_PK),
            AgendaItem.gsi1sk.set(look_sk(user_id, lane, at)),
            AgendaItem.renewals.add(1),
            AgendaItem.failures.set(0),
            AgendaItem.failing_since.remove(),
            AgendaItem.rests_until.remove(),
        ],
    )
