"""Usage of a plan that is taken and given back in another context's transaction, with what takes it."""

from __future__ import annotations

from collections.abc import Iterable

from karma.billing.allowances import Adjustment, Reservation
from karma.billing.repository import usage
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import UserId


def reserve_usage(tx: Transaction, reservations: Iterable[Reservation]) -> None:
    """Let a transaction take what is reserved; it fails with QuotaExceeded when less is left. Two write units each."""
    usage.reserve(tx, reservations)


def adjust_usage(tx: Transaction, adjustments: Iterable[Adjustment]) -> None:
    """Let a transaction correct what was taken; nothing is written for a difference of 0. Two write units each."""
    usage.adjust(tx, adjustments)


def take_seat(tx: Transaction, reservation: Reservation, member_id: UserId, *, on_fail: AppError) -> None:
    """Let a transaction seat a person in a project of an account; see repository/usage.py. One read."""
    usage.take_seat(tx, reservation, member_id, on_fail=on_fail)


def give_seats_back(tx: Transaction, taken: Iterable[tuple[UserId, UserId]], *, on_fail: AppError) -> None:
    """Let a transaction end what `take_seat` did, for (account, person) each; see there. A read an account."""
    usage.give_seats_back(tx, taken, on_fail=on_fail)
