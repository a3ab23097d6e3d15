"""Usage of plans in memory; tests/contract/stores compares it with the real repository."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

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
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt


@dataclass
class MemoryUsage:
    """Amounts by account, metric and period."""

    taken: dict[tuple[UserId, Metric, str], int] = field(default_factory=dict)
    seats: Counter[tuple[UserId, UserId]] = field(default_factory=Counter)
    """Number of an account's projects for which a person has their seat."""

    def reserve(self, reservations: Iterable[Reservation]) -> None:
        """Take all reservations or none, as a transaction does."""
        wanted = list(reservations)
        for each in wanted:
            there = self.taken.get(_key(each))
            if each.allowed is not None and there is not None and there > each.allowed - each.amount:
                raise each.refusal()
        for each in wanted:
            self._add(each, each.amount)

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

    def carry(self, former: UserId, user_id: UserId, *, at: datetime) -> None:
        for metric in Metric:
            period = period_of(metric, at)
            if period and (former, metric, period) in self.taken:
                self.taken[user_id, metric, period] = self.taken[former, metric, period]

    def purge(self, purge: PurgeAttempt, *, at: datetime) -> bool:
        kept = {(purge.user_id, metric, period_of(metric, at)) for metric in Metric if period_of(metric, at)}
        self.taken = {key: n for key, n in self.taken.items() if key[0] != purge.user_id or key in kept}
        self.seats = Counter({key: count for key, count in self.seats.items() if key[0] != purge.user_id})
        return True

    def _add(self, change: Reservation | Adjustment, amount: int) -> None:
        self.taken[_key(change)] = self.taken.get(_key(change), 0) + amount


def _key(change: Reservation | Adjustment) -> tuple[UserId, Metric, str]:
    return change.user_id, change.metric, change.period
