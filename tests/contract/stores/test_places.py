"""Claimants of places: who gets one, who waits, and whose turn it is, in DynamoDB and in memory."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from karma.core.dynamo.leases import MOST_NOTED, DynamoLeases
from karma.core.leases import Claimant, Lease, Pool, PoolIsFull
from tests.fakes.leases import MemoryLeases
from tests.support.stores import Store

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TWO = Pool("two", 2, 15 * MINUTE)


def take(leases: DynamoLeases | MemoryLeases, name: str, *, term: int = 1, at: datetime = NOW) -> Lease:
    return leases.take(TWO, "ada", now=at, until=at + 15 * MINUTE, claimant=Claimant(name, term))


@pytest.fixture
def leases(store: Store) -> DynamoLeases | MemoryLeases:
    return MemoryLeases() if store.in_memory else DynamoLeases("agents")


class TestARenewal:
    def test_that_is_late_has_its_place_still_where_nobody_wanted_it(self, leases: DynamoLeases | MemoryLeases) -> None:
        lease = leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE)
        assert leases.renew(lease, now=NOW + 9 * MINUTE, until=NOW + 10 * MINUTE).token == lease.token

    def test_whose_place_another_has_takes_a_free_one_and_leaves_the_other_alone(
        self, leases: DynamoLeases | MemoryLeases
    ) -> None:
        lease = leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE)
        later = NOW + 2 * MINUTE
        others = [leases.take(TWO, "ada", now=later, until=later + MINUTE) for _ in range(2)]
        with pytest.raises(PoolIsFull):
            leases.renew(lease, now=later, until=later + MINUTE)
        leases.give_back(lease)
        with pytest.raises(PoolIsFull):
            leases.take(TWO, "ada", now=later, until=later + MINUTE)
        leases.give_back(others[0])
        assert leases.renew(lease, now=later, until=later + MINUTE).place == others[0].place


class TestPlaces:
    def test_claimants_wait_and_are_told_by_their_order(self, leases: DynamoLeases | MemoryLeases) -> None:
        first = take(leases, "1.a")
        second = take(leases, "2.b")
        with pytest.raises(PoolIsFull):
            take(leases, "3.c")
        assert leases.refused_at(TWO, "ada") is None
        assert not leases.wait(TWO, "ada", Claimant("4.d", 1), now=NOW)
        assert not leases.wait(TWO, "ada", Claimant("3.c", 1), now=NOW + MINUTE)
        assert leases.refused_at(TWO, "ada") == NOW + MINUTE
        assert leases.hand_on(first, now=NOW) == ["3.c"]
        assert leases.hand_on(first, now=NOW) == []
        assert leases.wait(TWO, "ada", Claimant("3.c", 1), now=NOW), "a place is free by now"
        assert leases.pass_over(TWO, "ada", "3.c", now=NOW) == ["4.d"]
        assert leases.pass_over(TWO, "ada", "3.c", now=NOW) == ["4.d"]
        take(leases, "4.d")
        assert leases.hand_on(second, now=NOW) == []

    def test_a_later_term_has_the_place_of_the_one_before_it(self, leases: DynamoLeases | MemoryLeases) -> None:
        died, _ = take(leases, "1.a"), take(leases, "2.b", term=3)
        again = take(leases, "1.a", term=2, at=NOW + MINUTE)
        assert again.place == died.place
        leases.give_back(died)
        assert take(leases, "2.b", term=4).place != again.place
        with pytest.raises(PoolIsFull):
            take(leases, "3.c", at=NOW + 10 * MINUTE)
        assert take(leases, "3.c", at=NOW + 15 * MINUTE + timedelta(milliseconds=1)).place != again.place

    def test_processes_of_one_term_share_a_place(self, leases: DynamoLeases | MemoryLeases) -> None:
        first, second = take(leases, "1.a"), take(leases, "1.a", at=NOW + MINUTE)
        assert (first.place, first.token) == (second.place, second.token)
        other = take(leases, "1.ab")
        assert other.place != first.place, "a name that begins alike is another's"
        leases.give_back(first)  # whichever of them has the run gives it back
        leases.give_back(second)
        assert take(leases, "3.c").place == first.place

    def test_a_later_term_that_gives_way_lets_the_one_before_it_have_the_place(
        self, leases: DynamoLeases | MemoryLeases
    ) -> None:
        slow = take(leases, "1.a")
        late = take(leases, "1.a", term=2, at=NOW + MINUTE)
        leases.put_back(late)
        leases.put_back(late)
        leases.give_back(late)
        take(leases, "2.b")
        with pytest.raises(PoolIsFull):
            take(leases, "3.c", at=NOW + 15 * MINUTE)
        assert leases.hand_on(slow, now=NOW) == []
        assert take(leases, "3.c").place == slow.place
        leases.put_back(late)
        with pytest.raises(PoolIsFull):
            take(leases, "1.a", term=3)

    def test_who_took_a_free_place_or_lost_it_since_puts_nothing_back(
        self, leases: DynamoLeases | MemoryLeases
    ) -> None:
        first = take(leases, "1.a")
        leases.put_back(first)
        second = take(leases, "1.a", term=2)
        take(leases, "1.a", term=3)
        leases.put_back(second)
        late = take(leases, "1.a", at=NOW + MINUTE)
        assert late.until == NOW + MINUTE, "the third term has it"

    def test_an_earlier_term_comes_too_late(self, leases: DynamoLeases | MemoryLeases) -> None:
        here = take(leases, "1.a", term=2)
        late = take(leases, "1.a", at=NOW + MINUTE)
        assert late.until == NOW + MINUTE, "it is over"
        leases.give_back(late)
        assert take(leases, "1.a", term=2).place == here.place
        take(leases, "2.b")
        with pytest.raises(PoolIsFull):
            take(leases, "3.c")

    def test_a_claimant_has_its_place_also_where_its_holder_has_fewer_by_now(
        self, leases: DynamoLeases | MemoryLeases
    ) -> None:
        wide = Pool(TWO.name, 4, TWO.longest, 4)
        until = NOW + 15 * MINUTE
        held = [leases.take(wide, "ada", now=NOW, until=until, claimant=Claimant(f"{n}.r", 1)) for n in range(4)]
        beyond = next(each for each in held if each.place == 3)
        few, name = Pool(TWO.name, 2, TWO.longest, 4), beyond.token.split("#")[1]
        again = leases.take(few, "ada", now=NOW, until=until, claimant=Claimant(name, 2))
        assert again.place == 3
        leases.wait(few, "ada", Claimant("9.z", 1), now=NOW)
        assert leases.end(few, "ada", again.token.__eq__, now=NOW) == ["9.z"]

    def test_those_of_who_is_gone_are_ended_by_others_once(self, leases: DynamoLeases | MemoryLeases) -> None:
        gone = take(leases, "1.a")
        leases.wait(TWO, "ada", Claimant("2.b", 1), now=NOW)
        assert leases.end(TWO, "ada", "another".__eq__, now=NOW) == []
        assert leases.end(TWO, "ada", gone.token.__eq__, now=NOW) == ["2.b"]
        later = [leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE) for _ in range(2)]
        assert leases.end(TWO, "ada", gone.token.__eq__, now=NOW) == []
        leases.give_back(gone)
        with pytest.raises(PoolIsFull):
            leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE)
        assert len(later) == 2

    def test_only_so_many_are_noted(self, leases: DynamoLeases | MemoryLeases) -> None:
        held = [take(leases, "0.a"), take(leases, "0.b")]
        for each in range(MOST_NOTED + 2):
            leases.wait(TWO, "ada", Claimant(f"{each:03d}.r", 1), now=NOW + each * MINUTE / 60)
        assert leases.refused_at(TWO, "ada") == NOW + (MOST_NOTED + 1) * MINUTE / 60
        assert leases.hand_on(held[0], now=NOW) == ["000.r"]
        for each in range(MOST_NOTED):
            leases.pass_over(TWO, "ada", f"{each:03d}.r", now=NOW)
        assert leases.hand_on(held[1], now=NOW) == []
