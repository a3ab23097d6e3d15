"""Check for a free seat before somebody is invited or accepts; the transaction itself decides."""

from __future__ import annotations

from typing import Protocol

from karma.billing.allowances import Allowance, Allowances, Metric, MetricUsage, Reservation
from karma.core.ids import UserId


class SeatReader(Protocol):
    """Reads of usage; implemented by karma.billing.repository.usage.UsageRepository."""

    def read(self, allowance: Allowance) -> list[MetricUsage]:
        """Read the amount that an account has taken of each metric."""
        ...

    def has_seat(self, user_id: UserId, member_id: UserId) -> bool:
        """Tell whether a person has a seat in the plan of an account."""
        ...


class Seats:
    """Seats of plans: the people other than the account's owner in the projects that the account pays for."""

    def __init__(self, allowances: Allowances, reader: SeatReader) -> None:
        self._allowances = allowances
        self._reader = reader

    def reserve(self, user_id: UserId) -> Reservation:
        """Return a reservation of one seat; the transaction uses it when the person has none yet.

        Raises:
            QuotaExceeded: the plan has no seats.
        """
        return self._allowances.of(user_id).reserve(Metric.SEATS)

    def require_free(self, user_id: UserId, member_id: UserId | None) -> None:
        """Check that a seat is free, or that the person has one; nothing is reserved.

        Args:
            user_id: owner of the plan.
            member_id: the invited person; None: treated as one without a seat, so that nothing is told of who it is.

        Raises:
            QuotaExceeded: the plan has no free seat, and the person has none.
        """
        if member_id is not None and self._reader.has_seat(user_id, member_id):
            return
        allowance = self._allowances.of(user_id)
        reservation = allowance.reserve(Metric.SEATS)
        used = next(each.used for each in self._reader.read(allowance) if each.metric is Metric.SEATS)
        if reservation.allowed is not None and used >= reservation.allowed:
            raise reservation.refusal()
