"""Usage of plans in memory; tests/contract/stores compares it with the real repository."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

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
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt


@dataclass
class MemoryUsage:
    """Amounts by account, metric and period."""

    taken: dict[tuple[UserId, Metric, str], int] = field(default_factory=dict)
    days: Counter[tuple[UserId, str, str]] = field(default_factory=Counter)
    """Model spend by account, day and agent ("": none)."""
    account_days: dict[tuple[UserId, str], int] = field(default_factory=dict)
    """All model spend by account and day, where the account limits it."""
    delegated: Counter[tuple[UserId, str, str]] = field(default_factory=Counter)
    """The part of that which agents have spent as subagents."""
    seats: Counter[tuple[UserId, UserId]] = field(default_factory=Counter)
    """Number of an account's projects for which a person has their seat."""

    def reserve(self, reservations: Iterable[Reservation]) -> None:
        """Take all reservations or none, as a transaction does."""
        wanted = list(reservations)
        self.require(wanted)
        for each in wanted:
            self._add(each, each.amount)

    def require(self, reservations: Iterable[Reservation]) -> None:
        """Refuse what `reserve` would refuse now."""
        for each in reservations:
            there = None if each.of_days_alone else self.taken.get(_key(each))
            if each.allowed is not None and there is not None and there > each.allowed - each.amount:
                raise each.refusal(taken=there if each.metric is Metric.MODEL_SPEND else None)
            for day in each.days:
                there = self._of(each.user_id, day)
                is_absent = there is None and each.amount <= (day.allowed or 0)
                if day.allowed is not None and not is_absent and (there or 0) > day.allowed - each.amount:
                    raise day.refusal(each.amount, taken=there or 0)

    def adjust(self, adjustments: Iterable[Adjustment]) -> None:
        for each in adjustments:
            if each.difference:
                self._add(each, each.difference)

    def take_seat(self, reservation: Reservation, member_id: UserId) -> None:
        if not self.has_seat(reservation.user_id, member_id):
            self.reserve([reservation])
        self.seats[reservation.user_id, member_id] += 1

    def give_seat_back(self, user_id: UserId, member_id: UserId) -> None:
        if self.has_seat(user_id, member_id):
            self.seats[user_id, member_id] -= 1
            if not self.has_seat(user_id, member_id):
                self.adjust([given_back(user_id, Metric.SEATS)])

    def has_seat(self, user_id: UserId, member_id: UserId) -> bool:
        return self.seats[user_id, member_id] > 0

    def extend(self, reservation: Reservation) -> None:
        self.reserve([reservation])

    def read(self, allowance: Allowance) -> list[MetricUsage]:
        return [
            MetricUsage(
                metric=metric,
                used=max(0, self.taken.get((allowance.user_id, metric, period_of(metric, allowance.at)), 0)),
                allowed=allowed_by(allowance.plan.limits, metric),
                resets_at=allowance.resets_at(metric),
            )
            for metric in Metric
        ]

    def read_day(self, user_id: UserId, at: datetime) -> SpentToday:
        spent = {key[2]: max(0, n) for key, n in self.days.items() if key[:2] == (user_id, day_of(at))}
        delegated = {key[2]: n for key, n in self.delegated.items() if key[:2] == (user_id, day_of(at)) and n > 0}
        return SpentToday.of(day_of(at), spent, delegated)

    def carry(self, former: UserId, user_id: UserId, *, at: datetime) -> None:
        for metric in Metric:
            period = period_of(metric, at)
            if period and (former, metric, period) in self.taken:
                self.taken[user_id, metric, period] = self.taken[former, metric, period]

    def purge(self, purge: PurgeAttempt, *, at: datetime) -> bool:
        kept = {(purge.user_id, metric, period_of(metric, at)) for metric in Metric if period_of(metric, at)}
        self.taken = {key: n for key, n in self.taken.items() if key[0] != purge.user_id or key in kept}
        self.days = Counter({key: n for key, n in self.days.items() if key[0] != purge.user_id})
        self.account_days = {key: n for key, n in self.account_days.items() if key[0] != purge.user_id}
        self.delegated = Counter({key: n for key, n in self.delegated.items() if key[0] != purge.user_id})
        self.seats = Counter({key: count for key, count in self.seats.items() if key[0] != purge.user_id})
        return True

    def _add(self, change: Reservation | Adjustment, amount: int) -> None:
        if not change.of_days_alone:
            self.taken[_key(change)] = self.taken.get(_key(change), 0) + amount
        for day in change.days:
            if day.is_account:
                key = change.user_id, day.day
                self.account_days[key] = self.account_days.get(key, 0) + amount
                continue
            self.days[change.user_id, day.day, day.agent_id] += amount
            if change.of_days_alone:
                self.delegated[change.user_id, day.day, day.agent_id] += amount

    def _of(self, user_id: UserId, day: DaySpend) -> int | None:
        if day.is_account:
            return self.account_days.get((user_id, day.day))
        return self.days.get((user_id, day.day, day.agent_id))


def _key(change: Reservation | Adjustment) -> tuple[UserId, Metric, str]:
    return change.user_id, change.metric, change.period
