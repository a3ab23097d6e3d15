"""Usage of plans: amounts that accounts have taken, in the billing table: one item a metric, one for both of a month.

Changes are part of the transactions of the work that takes or releases an amount, whatever its tables are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial, reduce
from operator import and_
from typing import TYPE_CHECKING, Final, TypeVar

from pynamodb.attributes import NumberAttribute
from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.billing.allowances import (
    Adjustment,
    Allowance,
    DaySpend,
    Metric,
    MetricUsage,
    Reservation,
    SpentToday,
    allowed_by,
    day_of,
    given_back,
    period_of,
)
from karma.billing.repository.items import BillingItem
from karma.billing.repository.keys import (
    SEAT_PREFIX,
    USAGE_PREFIX,
    account_day_key,
    day_key,
    day_prefix,
    seat_key,
    usage_key,
    user_pk,
)
from karma.billing.repository.seats import SeatItem, shared
from karma.core.dynamo.access import batch_get, get, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.transaction import RawItem, Transaction
from karma.core.errors import AppError
from karma.core.ids import UserId

if TYPE_CHECKING:
    from karma.core.purge import PurgeAttempt

Change = TypeVar("Change", Reservation, Adjustment)

_BY_MONTH: Final = (Metric.RUNS, Metric.MODEL_SPEND)

_RETENTION = timedelta(days=400)
"""Time for which a month's usage is kept, from the month's first day."""

_DAY_RETENTION = timedelta(days=40)
"""Time for which a day's spend is kept; a run lasts a day, and may be paused for a week."""


class UsageItem(BillingItem, discriminator="usage"):
    """Amount taken of one metric."""

    value = NumberAttribute(default=0)
    runs = NumberAttribute(null=True)
    """Of a month's model spend, the runs of that month; absent: an item of its own counts them, or none began."""
    delegated = NumberAttribute(default=0)
    """Of an agent's day, what it took that another agent's has, too; never of anything else."""


def reserve(tx: Transaction, reservations: Iterable[Reservation]) -> None:
    """Add reservations to a transaction; it fails with QuotaExceeded when less is left. Two write units an item."""
    for key, each in _by_item(reservations):
        actions = _added(each, [one.amount for one in each])
        tx.upsert(UsageItem(*key), actions, _room(each), on_fail=partial(_why_refused, key, each))
    for reservation, day in _of_days(reservations):
        actions, room = _added_to_day(reservation, day, reservation.amount), _day_room(reservation, day)
        tx.upsert(
            UsageItem(*_day_key(reservation, day)),
            actions,
            room,
            on_fail=partial(_why_day_refused, day, reservation.amount),
        )


def require(tx: Transaction, reservations: Iterable[Reservation]) -> None:
    """Let a transaction fail as `reserve` would now, and take nothing; a check for each item that has a limit."""
    for key, each in _by_item(reservations):
        room = _room(each)
        if room is not None:
            tx.check(UsageItem, key, room, on_fail=partial(_why_refused, key, each))
    for reservation, day in _of_days(reservations):
        room = _day_room(reservation, day)
        if room is not None:
            tx.check(
                UsageItem, _day_key(reservation, day), room, on_fail=partial(_why_day_refused, day, reservation.amount)
            )


def adjust(tx: Transaction, adjustments: Iterable[Adjustment]) -> None:
    """Add adjustments of reservations to a transaction; one of 0 writes nothing."""
    changes = [each for each in adjustments if each.difference]
    for key, each in _by_item(changes):
        tx.upsert(UsageItem(*key), _added(each, [one.difference for one in each]))
    for change, day in _of_days(changes):
        tx.upsert(UsageItem(*_day_key(change, day)), _added_to_day(change, day, change.difference))


def begin_account_day(tx: Transaction, user_id: UserId, day: str, used: int) -> None:
    """Let the count of an account's day begin at an amount, in a transaction; whatever it had counted is forgotten."""
    item = UsageItem(*account_day_key(user_id, day))
    tx.upsert(item, [UsageItem.value.set(used), _expiry_of(day)])


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
        found = batch_get(UsageItem, list(_keys(former, at, _BY_MONTH)), consistent=True)
        tx = Transaction()
        adjust(
            tx,
            [
                Adjustment(
                    user_id=user_id,
                    metric=metric,
                    period=period_of(metric, at),
                    difference=_taken(found, former, metric, at),
                )
                for metric in _BY_MONTH
            ],
        )
        tx.commit()

    def purge(self, purge: PurgeAttempt, *, at: datetime) -> bool:
        """Remove seats and usage of a deleted account but that of the month of `at`; return True when none is left.

        The month's stays for whoever registers the account's address again, until it expires. Seats are removed first:
        another request releases a seat on condition that it exists, and changes the count with it.
        """
        keep = {key.sk for key in _keys(purge.user_id, at, _BY_MONTH)}
        pk = user_pk(purge.user_id)
        return all(empty(BillingItem, pk, purge, prefix=each, keep=keep) for each in (SEAT_PREFIX, USAGE_PREFIX))

    def has_seat(self, user_id: UserId, member_id: UserId) -> bool:
        """Tell whether a person has a seat in the plan of an account: one consistent read."""
        return shared(user_id, [member_id])[member_id] > 0

    def read(self, allowance: Allowance) -> list[MetricUsage]:
        """Read the amount that an account has taken of each metric now: one batch of five reads, consistent."""
        found = batch_get(UsageItem, list(_keys(allowance.user_id, allowance.at, Metric)), consistent=True)
        limits = allowance.plan.limits
        return [
            MetricUsage(
                metric=metric,
                used=max(0, _taken(found, allowance.user_id, metric, allowance.at)),
                allowed=allowed_by(limits, metric),
                resets_at=allowance.resets_at(metric),
            )
            for metric in Metric
        ]

    def read_day(self, user_id: UserId, at: datetime) -> SpentToday:
        """Read an account's model spend of the day of a moment: one Query, consistent."""
        day = day_of(at)
        start, amounts, delegated = day_prefix(day), dict[str, int](), dict[str, int]()
        last: dict[str, str] | None = None
        while True:
            found = BillingItem.sk.startswith(start)
            page = query(BillingItem, user_pk(user_id), found, limit=100, start=last, consistent=True)
            for item in page.items:
                if isinstance(item, UsageItem):
                    agent = item.sk.removeprefix(start)
                    amounts[agent] = max(0, int(item.value))
                    if item.delegated > 0:
                        delegated[agent] = int(item.delegated)
            last = page.last
            if last is None:
                return SpentToday.of(day, amounts, delegated)


def _by_item(changes: Iterable[Change]) -> Iterator[tuple[Key, list[Change]]]:
    """Yield the items that count changes, each once: a transaction writes an item once."""
    found: dict[Key, list[Change]] = {}
    for each in changes:
        if not each.of_days_alone:
            found.setdefault(_key(each.user_id, each.metric, each.period), []).append(each)
    yield from found.items()


def _of_days(changes: Iterable[Change]) -> Iterator[tuple[Change, DaySpend]]:
    return ((each, day) for each in changes for day in each.days)


def _key(user_id: UserId, metric: Metric, period: str) -> Key:
    """Return the key of what counts a metric; the runs of a month are counted beside its model spend."""
    return Key(*usage_key(user_id, Metric.MODEL_SPEND if metric is Metric.RUNS else metric, period))


def _runs_key(user_id: UserId, period: str) -> Key:
    """Return the key of what releases before counted of a month's runs."""
    return Key(*usage_key(user_id, Metric.RUNS, period))


def _keys(user_id: UserId, at: datetime, metrics: Iterable[Metric]) -> set[Key]:
    """Return the keys of all that counts metrics in the periods of a moment."""
    keys = {_key(user_id, metric, period_of(metric, at)) for metric in metrics}
    return keys | {_runs_key(user_id, period_of(Metric.RUNS, at))}


def _taken(found: Mapping[Key, UsageItem], user_id: UserId, metric: Metric, at: datetime) -> int:
    """Return what is taken of a metric in the period of a moment, by the items of `_keys`."""
    period = period_of(metric, at)
    item = found.get(_key(user_id, metric, period))
    if metric is Metric.RUNS:
        runs = None if item is None else item.attribute_values.get("runs")
        if runs is not None:
            return int(runs)
        item = found.get(_runs_key(user_id, period))
    return 0 if item is None else int(item.value)


def _added(changes: Sequence[Reservation | Adjustment], amounts: Sequence[int]) -> list[Action]:
    """Return what adds the amounts of changes to the item that counts them all."""
    actions: list[Action] = [_count(each.metric).add(n) for each, n in zip(changes, amounts, strict=True)]
    if period := changes[0].period:
        ends = datetime.fromisoformat(f"{period}-01T00:00:00+00:00") + _RETENTION
        actions.append(UsageItem.expires_at.set(int(ends.timestamp())))
    return actions


def _count(metric: Metric) -> NumberAttribute:
    return UsageItem.runs if metric is Metric.RUNS else UsageItem.value


def _day_key(change: Reservation | Adjustment, day: DaySpend) -> Key:
    if day.is_account:
        return Key(*account_day_key(change.user_id, day.day))
    return Key(*day_key(change.user_id, day.day, day.agent_id))


def _added_to_day(change: Reservation | Adjustment, day: DaySpend, amount: int) -> list[Action]:
    actions: list[Action] = [UsageItem.value.add(amount), _expiry_of(day.day)]
    if change.of_days_alone:
        actions.append(UsageItem.delegated.add(amount))
    return actions


def _expiry_of(day: str) -> Action:
    ends = datetime.fromisoformat(f"{day}T00:00:00+00:00") + _DAY_RETENTION
    return UsageItem.expires_at.set(int(ends.timestamp()))


def _room(reservations: Sequence[Reservation]) -> Condition | None:
    """Return the condition that an item has room for all of these."""
    left: list[Condition] = []
    for each in reservations:
        count = _count(each.metric)
        room: Condition | None = None if each.allowed is None else count <= each.allowed - each.amount
        if each.metric is Metric.RUNS:
            left.append(UsageItem.runs.exists())
        elif room is not None:
            # The month's runs may have been counted before any spend.
            room = (count.does_not_exist() & UsageItem.runs.exists()) | room
        if room is not None:
            left.append(room)
    return _absent_or(left)


def _day_room(reservation: Reservation, day: DaySpend) -> Condition | None:
    if day.allowed is None:
        return None
    room: Condition = UsageItem.value <= day.allowed - reservation.amount
    # Where the amount is more than the whole day, the refusal says what is taken.
    return _absent_or([room]) if reservation.amount <= day.allowed else room


def _why_day_refused(day: DaySpend, amount: int, there: RawItem) -> AppError:
    return day.refusal(amount, taken=int(there.get("value", {}).get("N", 0)))


def _absent_or(left: Sequence[Condition]) -> Condition | None:
    if not left:
        return None
    room: Condition = UsageItem.pk.does_not_exist() | reduce(and_, left)
    return room


def _why_refused(key: Key, reservations: Sequence[Reservation], there: RawItem) -> AppError | None:
    """Return the refusal of what an item lacks room for; None: what it lacked was the month's runs."""
    first = reservations[0]
    if "value" in there and "runs" not in there and any(each.metric is Metric.RUNS for each in reservations):
        # Model spend of this month came first, or a release before counted its runs.
        before = get(UsageItem, _runs_key(first.user_id, first.period), consistent=True)
        with suppress(ConditionFailed):
            counted = UsageItem.runs.set(0 if before is None else int(before.value))
            update(UsageItem(*key), [counted], UsageItem.runs.does_not_exist())
        return None
    for each in reservations:
        taken = there.get("runs" if each.metric is Metric.RUNS else "value", {}).get("N", 0)
        if each.allowed is not None and int(taken) > each.allowed - each.amount:
            return each.refusal(taken=int(taken) if each.metric is Metric.MODEL_SPEND else None)
    return first.refusal()
