"""Leases in memory, as karma.core.dynamo.leases stores them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.dynamo.leases import MOST_NOTED
from karma.core.ids import UserId, new_id
from karma.core.leases import Claimant, Lease, Pool, PoolIsFull, claimant_of
from karma.runs.domain import RunKey
from karma.runs.holdings import is_place_of
from karma.runs.places import LEAST


@dataclass
class _Holder:
    places: dict[int, tuple[Lease, Claimant | None]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    refused_at: datetime | None = None

    def free(self, pool: Pool, now: datetime) -> list[int]:
        return [each for each in range(pool.places) if each not in self.places or self.places[each][0].until < now]

    def next(self, pool: Pool, now: datetime) -> list[str]:
        return sorted(self.waiting)[: len(self.free(pool, now))]


class MemoryLeases:
    """Leases, and who waits for one."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, str], _Holder] = {}

    def _of(self, pool: Pool, holder: str) -> _Holder:
        return self._holders.setdefault((pool.name, holder), _Holder())

    def take(
        self,
        pool: Pool,
        holder: str,
        *,
        now: datetime,
        until: datetime,
        claimant: Claimant | None = None,
    ) -> Lease:
        of, until = self._of(pool, holder), min(until, now + pool.longest)
        token = claimant.token if claimant else new_id()
        before = ""
        own = [place for place, (_, by) in of.places.items() if by and claimant and by.name == claimant.name]
        if own and claimant and (by := of.places[own[0]][1]) and by.term > claimant.term:
            return Lease(pool, holder, own[0], now, token)
        places = [*own, *of.free(pool, now)]
        if not places:
            raise PoolIsFull(min(of.places[each][0].until for each in range(pool.places)))
        if own:
            taken = of.places[own[0]][0]
            before = f"{epoch_ms(taken.until):013d}#{taken.token}"
        lease = Lease(pool, holder, places[0], until, token, before)
        of.places[lease.place] = lease, claimant
        of.waiting -= {claimant.name} if claimant else set()
        return lease

    def renew(self, lease: Lease, *, now: datetime, until: datetime) -> Lease:
        of = self._of(lease.pool, lease.holder)
        if of.places.get(lease.place, (None, None))[0] is None or of.places[lease.place][0].token != lease.token:
            return self.take(lease.pool, lease.holder, now=now, until=until)
        renewed = replace(lease, until=min(until, now + lease.pool.longest))
        of.places[lease.place] = renewed, None
        return renewed

    def wait(self, pool: Pool, holder: str, claimant: Claimant, *, now: datetime) -> bool:
        of = self._of(pool, holder)
        of.refused_at = now.replace(microsecond=now.microsecond // 1000 * 1000)
        if len(of.waiting) < MOST_NOTED:
            of.waiting.add(claimant.name)
        return bool(of.free(pool, now))

    def refused_at(self, pool: Pool, holder: str) -> datetime | None:
        return self._of(pool, holder).refused_at

    def give_back(self, lease: Lease) -> None:
        self._freed(lease)

    def put_back(self, lease: Lease) -> None:
        places = self._of(lease.pool, lease.holder).places
        if lease.before and lease.place in places and places[lease.place][0] == lease:
            until, _, token = lease.before.partition("#")
            before = replace(lease, until=from_epoch_ms(int(until)), token=token, before="")
            places[lease.place] = before, claimant_of(token)

    def hand_on(self, lease: Lease, *, now: datetime) -> list[str]:
        return self._of(lease.pool, lease.holder).next(lease.pool, now) if self._freed(lease) else []

    def pass_over(self, pool: Pool, holder: str, name: str, *, now: datetime) -> list[str]:
        of = self._of(pool, holder)
        of.waiting -= {name}
        return of.next(pool, now)

    def end(self, pool: Pool, holder: str, is_meant: Callable[[str], bool], *, now: datetime) -> list[str]:
        of, names = self._of(pool, holder), list[str]()
        for place, (lease, _) in list(of.places.items()):
            if is_meant(lease.token):
                del of.places[place]
                names = of.next(Pool(pool.name, max(pool.places, place + 1), pool.longest), now) or names
        return names

    def _freed(self, lease: Lease) -> bool:
        places = self._of(lease.pool, lease.holder).places
        is_mine = lease.place in places and places[lease.place][0].token == lease.token
        if is_mine:
            del places[lease.place]
        return is_mine

    def of(self, pool: Pool, holder: str) -> list[Lease]:
        """Return the leases that nobody gave back."""
        return [lease for lease, _ in self._of(pool, holder).places.values()]

    def held(self, pool: Pool, holder: str, now: datetime) -> int:
        """Return the number of places that are leased."""
        return sum(lease.until >= now for lease, _ in self._of(pool, holder).places.values())


class MemoryHoldings:
    """Places that processes hold for runs, as karma.runs.active_repository has it."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = MemoryLeases()

    def refused_at(self, user_id: UserId) -> datetime | None:
        return self.leases.refused_at(LEAST, user_id)

    def free_place(self, key: RunKey, *, term: int, at: datetime) -> list[str]:
        return self.leases.end(LEAST, key.user_id, partial(is_place_of, key.run_id, term), now=at)
