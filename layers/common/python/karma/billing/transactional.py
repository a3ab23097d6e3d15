"""Usage of plans in transactions of other contexts, and allowances in their reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from karma.billing.allowances import Adjustment, Allowance, Reservation
from karma.billing.repository import usage
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import UserId

if TYPE_CHECKING:
    from karma.core.clock import Clock
    from karma.core.dynamo.reads import Later, Reads


def reserve_usage(tx: Transaction, reservations: Iterable[Reservation]) -> None:
    """Add reservations to a transaction; it fails with QuotaExceeded when less is left. Two write units each."""
    usage.reserve(tx, reservations)


def require_usage(tx: Transaction, reservations: Iterable[Reservation]) -> None:
    """Let a transaction fail with QuotaExceeded where a reservation would be refused now; nothing is taken."""
    usage.require(tx, reservations)


def adjust_usage(tx: Transaction, adjustments: Iterable[Adjustment]) -> None:
    """Add adjustments of reservations to a transaction; one of 0 writes nothing. Two write units each."""
    usage.adjust(tx, adjustments)


def take_seat(tx: Transaction, reservation: Reservation, member_id: UserId, *, on_fail: AppError) -> None:
    """Count one more project for a person's seat in a transaction; see repository/usage.py. One read."""
    usage.take_seat(tx, reservation, member_id, on_fail=on_fail)


def give_seats_back(tx: Transaction, taken: Iterable[tuple[UserId, UserId]], *, on_fail: AppError) -> None:
    """Count one project less for seats, (account, person) each; see repository/usage.py. One read an account."""
    usage.give_seats_back(tx, taken, on_fail=on_fail)


def want_allowance(reads: Reads, user_id: UserId, clock: Clock) -> Later[Allowance]:
    """Ask for an account's allowance with other items, as `Allowances.of` reads it alone: two items more."""
    from karma.billing.repository.subscriptions import want_limits  # local: few functions read with others
    from karma.billing.subscriptions import terms_at

    limits = want_limits(reads, user_id)

    def found() -> Allowance:
        now = clock.now()
        return Allowance.under(terms_at(now, user_id, limits()), user_id, now)

    return found
