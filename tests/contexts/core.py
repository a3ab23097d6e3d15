"""Declarations of rate limits and leases for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from datetime import timedelta

from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.dynamo.leases import DynamoLeases
from karma.core.leases import Claimant, Pool
from karma.core.ratelimit import Limit, LocalBuckets
from tests.fakes.leases import MemoryLeases
from tests.integration.permissions.world import Objects
from tests.support.contexts import Checks, Fakes, Scenarios, made
from tests.support.rows import DAY, LATER, NOW, AccountRows

TEN = Limit("ten", 10, timedelta(minutes=1))
TWO_PLACES = Pool("two", 2, DAY)
ADA = Claimant("ada", 1)


class CoreRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.buckets = DynamoBuckets()
        self.leases = DynamoLeases()


FAKES: Fakes = {LocalBuckets: (DynamoBuckets,), MemoryLeases: (DynamoLeases,)}

SCENARIOS = Scenarios[CoreRows](
    CoreRows,
    {
        "DynamoBuckets.take": lambda r: lambda: r.buckets.take(TEN, r.id, now=NOW),
        "DynamoBuckets.give_back": made(
            lambda r: r.buckets.take(TEN, r.id, now=NOW), lambda r, _: r.buckets.give_back(TEN, r.id, now=NOW)
        ),
        "DynamoLeases.take": lambda r: lambda: r.leases.take(TWO_PLACES, r.id, now=NOW, until=LATER),
        "DynamoLeases.give_back": made(
            lambda r: r.leases.take(TWO_PLACES, r.id, now=NOW, until=LATER), lambda r, lease: r.leases.give_back(lease)
        ),
        "DynamoLeases.hand_on": made(
            lambda r: r.leases.take(TWO_PLACES, r.id, now=NOW, until=LATER),
            lambda r, lease: r.leases.hand_on(lease, now=NOW),
        ),
        "DynamoLeases.put_back": made(
            lambda r: [
                r.leases.take(TWO_PLACES, r.id, now=NOW, until=LATER, claimant=Claimant(ADA.name, term))
                for term in (1, 2)
            ][1],
            lambda r, lease: r.leases.put_back(lease),
        ),
        "DynamoLeases.end": made(
            lambda r: r.leases.take(TWO_PLACES, r.id, now=NOW, until=LATER),
            lambda r, lease: r.leases.end(TWO_PLACES, r.id, lease.token.__eq__, now=NOW),
        ),
        "DynamoLeases.renew": made(
            lambda r: r.leases.take(TWO_PLACES, r.id, now=NOW, until=LATER),
            lambda r, lease: r.leases.renew(lease, now=NOW, until=LATER),
        ),
        "DynamoLeases.wait": lambda r: lambda: r.leases.wait(TWO_PLACES, r.id, ADA, now=NOW),
        "DynamoLeases.pass_over": made(
            lambda r: r.leases.wait(TWO_PLACES, r.id, ADA, now=NOW),
            lambda r, _: r.leases.pass_over(TWO_PLACES, r.id, ADA.name, now=NOW),
        ),
        "DynamoLeases.refused_at": lambda r: lambda: r.leases.refused_at(TWO_PLACES, r.id),
    },
)

OBJECTS: Objects = {"component": lambda *_: "database"}

SHARED = {"component"}


def _bucket_over(rows: CoreRows) -> None:
    for _ in range(TEN.amount):
        rows.buckets.take(TEN, rows.id, now=NOW)
    assert not rows.buckets.take(TEN, rows.id, now=NOW).allowed
    assert rows.buckets.take(TEN, rows.id, now=NOW + DAY).remaining == TEN.amount - 1


EXPIRES = Checks[CoreRows](CoreRows, {"bucket": _bucket_over})
