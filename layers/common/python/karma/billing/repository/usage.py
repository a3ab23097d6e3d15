"""Usage of plans: amounts that accounts have taken, one item a metric, in the billing table.

Changes are part of the transactions of the work that takes or releases an amount, whatever its tables are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from pynamodb.attributes import NumberAttribute
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.billing.allowances import (
    Adjustment,
    Allowance,
    Metric,
    MetricUsage,
    Reservation,
    allowed_by,
    given_back,
    period_of,
)
from karma.billing.repository.items import BillingItem
from karma.billing.repository.keys import SEAT_PREFIX, USAGE_PREFIX, seat_key, usage_key, user_pk
from karma.billing.repository.seats import SeatItem, shared
from karma.core.dynamo.access import batch_get
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt

_RETENTION = timedelta(days=400)
"""Time for which a month's usage is kept, from the month's first day."""


class UsageItem(BillingItem, discriminator="usage"):
    """Amount taken of one metric."""

    value = NumberAttribute(default=0)


def reserve(tx: Transaction, reservations: Iterable[Reservation]) -> None:
    """Add reservations to a transaction; it fails with QuotaExceeded when less is left. Two write units each."""
    for each in reservations:
        tx.upsert(_item(each), _added(each, each.amount), _room(each), on_fail=each.refusal())


def adjust(tx: Transaction, adjustments: Iterable[Adjustment]) -> None:
    """Add adjustments of reservations to a transaction; one of 0 writes nothing."""
    for each in adjustments:
        if each.difference:
            tx.upsert(_item(each), _added(each, each.difference))


def take_seat(tx: Transaction, reservation: Reservation, member_id: UserId, *, on_fail: AppError) -> None:
    """Count one more project for a person's seat in a transaction; only the first takes a seat of the plan.

    The transaction fails with QuotaExceeded when the person has no seat yet and none is free, and with `on_fail` when
    the seat has changed since it was read.
    """
    held = shared(reservation.user_id, [member_id])[member_id]
    item = SeatItem(*seat_key(reservation.user_id, member_id))
    unchanged = SeatItem.projects == held if held else SeatItem.pk.does_not_exist()
    tx.upsert(item, [SeatItem.projects.add(1)], unchanged, on_fail=on_fail)
    if not held:
        reserve(tx, [reservation])


def give_seats_back(tx: Transaction, seats: Iterable[tuple[UserId, UserId]], *, on_fail: AppError) -> None:
    """Count one project less for people's seats in a transaction, and release the seats of those who share no other.

    Args:
        tx: the transaction.
        seats: accounts, each with one of up to a hundred people who have a seat in its plan. A missing seat was deleted
            with its account.
        on_fail: error of the transaction when a seat has changed since it was read.
    """
    by_account: dict[UserId, list[UserId]] = defaultdict(list)
    for user_id, member_id in seats:
        by_account[user_id].append(member_id)
    for user_id, member_ids in by_account.items():
        free = 0
        for member_id, held in shared(user_id, member_ids).items():
            item, unchanged = SeatItem(*seat_key(user_id, member_id)), SeatItem.projects == held
            if held > 1:
                tx.update(item, [SeatItem.projects.add(-1)], unchanged, on_fail=on_fail)
            else:
                tx.delete(item, unchanged, on_fail=on_fail)
                free += 1
        if free:
            adjust(tx, [given_back(user_id, Metric.SEATS, free)])


class UsageRepository:
    """Reads usage, and removes that of deleted accounts."""

    def carry(self, former: UserId, user_id: UserId, *, at: datetime) -> None:
        """Count what an account has taken in the month of `at` as taken by another one, which is new."""
        found = batch_get(UsageItem, list(_of_month(former, at).values()), consistent=True)
        tx = Transaction()
        adjust(
            tx,
            [
                Adjustment(
                    user_id=user_id, metric=metric, period=period_of(metric, at), difference=int(found[key].value)
                )
                for metric, key in _of_month(former, at).items()
                if key in found
            ],
        )
        tx.commit()

    def purge(self, purge: PurgeAttempt, *, at: datetime) -> bool:
        """Remove seats and usage of a deleted account but that of the month of `at`; return True when none is left.

        The month's stays for whoever registers the account's address again, until it expires. Seats are removed first:
        another request releases a seat on condition that it exists, and changes the count with it.
        """
        keep = {key.sk for key in _of_month(purge.user_id, at).values()}
        pk = user_pk(purge.user_id)
        return all(empty(BillingItem, pk, purge, prefix=each, keep=keep) for each in (SEAT_PREFIX, USAGE_PREFIX))

    def has_seat(self, user_id: UserId, member_id: UserId) -> bool:
        """Tell whether a person has a seat in the plan of an account: one consistent read."""
        return shared(user_id, [member_id])[member_id] > 0

    def read(self, allowance: Allowance) -> list[MetricUsage]:
        """Read the amount that an account has taken of each metric now: one batch of five reads, consistent."""
        keys = {
            metric: Key(*usage_key(allowance.user_id, metric, period_of(metric, allowance.at))) for metric in Metric
        }
        found = batch_get(UsageItem, list(keys.values()), consistent=True)
        limits = allowance.plan.limits
        return [
            MetricUsage(
                metric=metric,
                used=max(0, int(found[key].value)) if key in found else 0,
                allowed=allowed_by(limits, metric),
                resets_at=allowance.resets_at(metric),
            )
            for metric, key in keys.items()
        ]


def _of_month(user_id: UserId, at: datetime) -> dict[Metric, Key]:
    """Return the keys of an account's usage of each metric that is counted by month."""
    periods = {metric: period_of(metric, at) for metric in Metric}
    return {metric: Key(*usage_key(user_id, metric, period)) for metric, period in periods.items() if period}


def _item(change: Reservation | Adjustment) -> UsageItem:
    return UsageItem(*usage_key(change.user_id, change.metric, change.period))


def _added(change: Reservation | Adjustment, amount: int) -> list[Action]:
    actions: list[Action] = [UsageItem.value.add(amount)]
    if change.period:
        ends = datetime.fromisoformat(f"{change.period}-01T00:00:00+00:00") + _RETENTION
        actions.append(UsageItem.expires_at.set(int(ends.timestamp())))
    return actions


def _room(reservation: Reservation) -> Condition | None:
    if reservation.allowed is None:
        return None
    left: Condition = UsageItem.value <= reservation.allowed - reservation.amount
    absent: Condition = UsageItem.pk.does_not_exist()
    room: Condition = absent | left
    return room
