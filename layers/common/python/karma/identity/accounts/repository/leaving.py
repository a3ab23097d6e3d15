"""Addresses that accounts have left, so that whoever registers one again goes on with the month's usage."""

from __future__ import annotations

from datetime import datetime, timedelta

from karma.core.clock import epoch_ms
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.identity.accounts import emails
from karma.identity.items import LeftAddress, left_key

_LONGEST_MONTH = timedelta(days=31)


def remember(tx: Transaction, email: str, user_id: UserId, *, at: datetime) -> None:
    """Add to a transaction that an account leaves its address; known until the month ends."""
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    ends = (first + _LONGEST_MONTH).replace(day=1)
    actions = [LeftAddress.user_id.set(user_id), LeftAddress.expires_at.set(epoch_ms(ends) // 1000)]
    tx.upsert(LeftAddress(*left_key(emails.digest(email))), actions)
