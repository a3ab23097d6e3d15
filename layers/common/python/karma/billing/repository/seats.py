"""Seats in an account's plan: one item a person, which counts the projects that they share with the account.

Transactions that begin and end memberships take and release seats: usage.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pynamodb.attributes import NumberAttribute

from karma.billing.repository.items import BillingItem
from karma.billing.repository.keys import seat_key
from karma.core.dynamo.access import batch_get
from karma.core.dynamo.items import Key
from karma.core.ids import UserId


class SeatItem(BillingItem, discriminator="seat"):
    """A person's seat in an account's plan."""

    projects = NumberAttribute()


def shared(user_id: UserId, member_ids: Sequence[UserId]) -> Counter[UserId]:
    """Read how many projects of an account each of up to a hundred people has a seat for; one batch, consistent."""
    keys = {member_id: Key(*seat_key(user_id, member_id)) for member_id in member_ids}
    found = batch_get(SeatItem, list(keys.values()), consistent=True)
    return Counter({member_id: int(found[key].projects) for member_id, key in keys.items() if key in found})
