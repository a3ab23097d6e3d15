"""Leases of processes that run at once, die, or hold on for too long: never more than the pool has."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest

from karma.core import aws
from karma.core.dynamo.leases import DynamoLeases
from karma.core.leases import Lease, Pool, PoolIsFull
from tests.support.stores import Database

pytestmark = pytest.mark.fault("F-22b")

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TEN = Pool("ten", 10, 15 * MINUTE)
TWO = Pool("two", 2, 15 * MINUTE)


@pytest.fixture
def leases(database: Database) -> DynamoLeases:
    return DynamoLeases()


class TestAPool:
    def test_has_as_many_places_as_it_says(self, leases: DynamoLeases) -> None:
        taken = [leases.take(TEN, "ada", now=NOW, until=NOW + each * MINUTE) for each in range(3, 13)]
        assert sorted(lease.place for lease in taken) == list(range(10))
        with pytest.raises(PoolIsFull) as full:
            leases.take(TEN, "ada", now=NOW + MINUTE, until=NOW + 2 * MINUTE)
        assert full.value.free_at == NOW + 3 * MINUTE
        assert leases.take(TEN, "bob", now=NOW, until=NOW + MINUTE).holder == "bob"

    def test_of_a_process_that_died_is_free_when_its_time_is_over(self, leases: DynamoLeases) -> None:
        for _ in range(2):
            leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE)
        with pytest.raises(PoolIsFull):
            leases.take(TWO, "ada", now=NOW + MINUTE, until=NOW + 2 * MINUTE)
        later = NOW + MINUTE + timedelta(milliseconds=1)
        assert [leases.take(TWO, "ada", now=later, until=later + MINUTE).until for _ in range(2)] == [
            later + MINUTE
        ] * 2

    def test_gives_nobody_a_longer_lease_than_it_has(self, leases: DynamoLeases, database: Database) -> None:
        assert leases.take(TWO, "ada@example.com", now=NOW, until=NOW + 99 * MINUTE).until == NOW + 15 * MINUTE
        leases.take(TWO, "ada@example.com", now=NOW, until=NOW + MINUTE)
        [item] = database.items("identity")
        assert int(item["expires_at"]["N"]) > (NOW + 15 * MINUTE).timestamp(), "the longer lease stands in it as well"
        assert "example" not in repr(item), "letters that no id has, as ada may be within"

    def test_takes_one_place_where_its_answer_was_lost_and_the_request_is_sent_again(
        self, leases: DynamoLeases, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = aws.client("dynamodb")
        real = client.update_item

        def twice(**request: Any) -> Any:
            real(**request)
            return real(**request)

        for _ in range(2):
            with monkeypatch.context() as lost:
                lost.setattr(client, "update_item", twice)
                leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE)
        with pytest.raises(PoolIsFull):
            leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE)

    def test_given_back_twice_frees_nobody_else_s_place(self, leases: DynamoLeases) -> None:
        one = Pool("one", 1, MINUTE)
        first = leases.take(one, "ada", now=NOW, until=NOW + MINUTE)
        leases.give_back(first)
        leases.take(one, "ada", now=NOW, until=NOW + MINUTE)
        leases.give_back(first)
        with pytest.raises(PoolIsFull):
            leases.take(one, "ada", now=NOW, until=NOW + MINUTE)


class TestARenewal:
    def test_puts_off_the_end_and_that_of_the_item(self, leases: DynamoLeases, database: Database) -> None:
        lease = leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE)
        renewed = leases.renew(lease, now=NOW + 14 * MINUTE, until=NOW + 99 * MINUTE)
        assert (renewed.place, renewed.token, renewed.until) == (lease.place, lease.token, NOW + 29 * MINUTE)
        [item] = database.items("identity")
        assert int(item["expires_at"]["N"]) > (NOW + 29 * MINUTE).timestamp()
        leases.give_back(lease)  # by its token, also where the answer to the renewal was lost
        assert {leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE).place for _ in range(2)} == {0, 1}

    def test_that_is_sent_again_is_made_once(self, leases: DynamoLeases, monkeypatch: pytest.MonkeyPatch) -> None:
        client, lease = aws.client("dynamodb"), leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE)
        real = client.update_item
        with monkeypatch.context() as lost:
            lost.setattr(client, "update_item", lambda **request: (real(**request), real(**request))[1])
            leases.give_back(leases.renew(lease, now=NOW, until=NOW + 2 * MINUTE))
        assert {leases.take(TWO, "ada", now=NOW, until=NOW + MINUTE).place for _ in range(2)} == {0, 1}


def test_no_interleaving_of_opens_and_renewals_exceeds_the_pool(
    leases: DynamoLeases, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """200 times two processes open at the cap, the second between two calls of the first, beside a late renewal."""
    chance, client = random.Random(seed), aws.client("dynamodb")
    real, pool = client.update_item, Pool("two", 2, MINUTE)
    for nth in range(200):
        holder, living = f"ada{nth}", list[Lease]()
        late = leases.take(pool, holder, now=NOW, until=NOW + MINUTE)
        later = NOW + MINUTE + timedelta(milliseconds=1)

        def open_one(holder: str = holder, living: list[Lease] = living, later: datetime = later) -> None:
            with suppress(PoolIsFull):
                living.append(leases.take(pool, holder, now=later, until=later + MINUTE))

        def renew(
            holder: str = holder, living: list[Lease] = living, later: datetime = later, late: Lease = late
        ) -> None:
            with suppress(PoolIsFull):
                living.append(leases.renew(late, now=later, until=later + MINUTE))

        work = [open_one, open_one, renew]
        chance.shuffle(work)
        meets = {chance.randrange(3): work[1], chance.randrange(3, 5): work[2]}
        calls = iter(range(99))

        def update_item(meets: dict[int, Any] = meets, calls: Iterator[int] = calls, **request: Any) -> Any:
            if (other := meets.pop(next(calls), None)) is not None:
                other()
            return real(**request)

        with monkeypatch.context() as met:
            met.setattr(client, "update_item", update_item)
            work[0]()
        for each in list(meets.values()):
            each()
        assert len({each.place for each in living}) == len(living) == 2, nth


@pytest.mark.parametrize("left_behind", [0, 4])
def test_of_thirty_processes_at_once_as_many_get_one_as_there_are(database: Database, left_behind: int) -> None:
    for _ in range(left_behind):
        DynamoLeases().take(TEN, "ada", now=NOW, until=NOW + MINUTE)
    barrier = Barrier(30)

    def ask(_: int) -> int | None:
        barrier.wait(30)
        try:
            return DynamoLeases().take(TEN, "ada", now=NOW, until=NOW + MINUTE).place
        except PoolIsFull:
            return None

    with ThreadPoolExecutor(30) as pool:
        places = [place for place in pool.map(ask, range(30)) if place is not None]
    assert len(places) == len(set(places)) == 10 - left_behind


def test_any_history_keeps_to_the_pool(leases: DynamoLeases, seed: int) -> None:
    """Takes, returns, deaths and passing time, in any order: exactly the pool's places are given."""
    chance = random.Random(seed)
    pool = Pool("three", 3, 2 * MINUTE)
    now, is_open, past = NOW, list[Lease](), list[Lease]()
    for step in range(60):
        now += timedelta(seconds=chance.choice([0, 0, 1, 30]))
        is_open = [lease for lease in is_open if lease.until >= now]
        if chance.random() < 0.6:
            try:
                is_open.append(leases.take(pool, "ada", now=now, until=now + chance.choice([1, 3]) * MINUTE))
                past.append(is_open[-1])
            except PoolIsFull:
                assert len(is_open) == 3, step
        elif past:
            lease = chance.choice(past)
            leases.give_back(lease)
            is_open = [each for each in is_open if each is not lease]
        assert len({lease.place for lease in is_open}) == len(is_open) <= 3, step
