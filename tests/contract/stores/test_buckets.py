"""One suite for the buckets of a process and those in DynamoDB; and what fifty requests at once come to."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

from karma.core import aws
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.errors import StorageUnavailable
from karma.core.ratelimit import Buckets, Limit, LocalBuckets
from tests.support.stores import Database, Store

pytestmark = pytest.mark.req("R-M-37")

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TEN = Limit("ten", 10, timedelta(minutes=1))
ONE = Limit("one", 1, timedelta(seconds=5))


@pytest.fixture
def buckets(store: Store) -> Buckets:
    return LocalBuckets() if store.in_memory else DynamoBuckets()


class TestABucket:
    def test_lets_as_many_through_as_it_holds(self, buckets: Buckets) -> None:
        decisions = [buckets.take(TEN, "k", now=NOW) for _ in range(12)]
        assert [decision.allowed for decision in decisions] == [True] * 10 + [False] * 2
        assert [decision.remaining for decision in decisions] == [*range(9, -1, -1), 0, 0]
        assert decisions[-1].wait_s == 6
        assert decisions[-1].full_s == 60

    def test_fills_by_and_by(self, buckets: Buckets) -> None:
        for _ in range(10):
            buckets.take(TEN, "k", now=NOW)
        then = NOW + timedelta(seconds=12)
        assert [buckets.take(TEN, "k", now=then).allowed for _ in range(3)] == [True, True, False]
        much_later = NOW + timedelta(days=2)
        assert sum(buckets.take(TEN, "k", now=much_later).allowed for _ in range(12)) == 10

    def test_is_not_emptied_by_refusals(self, buckets: Buckets) -> None:
        for _ in range(100):
            decision = buckets.take(ONE, "k", now=NOW)
        assert decision.wait_s == 5
        assert buckets.take(ONE, "k", now=NOW + timedelta(seconds=decision.wait_s)).allowed

    def test_belongs_to_one_key_and_one_limit(self, buckets: Buckets) -> None:
        other = Limit("other", 1, timedelta(seconds=5))
        assert buckets.take(ONE, "k", now=NOW).allowed
        assert not buckets.take(ONE, "k", now=NOW).allowed
        assert buckets.take(ONE, "l", now=NOW).allowed
        assert buckets.take(other, "k", now=NOW).allowed
        assert buckets.take(ONE, "any # \u00e4 text", now=NOW).allowed

    def test_takes_back(self, buckets: Buckets) -> None:
        buckets.give_back(TEN, "k", now=NOW)
        for _ in range(10):
            buckets.take(TEN, "k", now=NOW)
        for _ in range(2):
            buckets.give_back(TEN, "k", now=NOW)
        assert [buckets.take(TEN, "k", now=NOW).allowed for _ in range(3)] == [True, True, False]
        later = NOW + timedelta(hours=1)
        buckets.give_back(TEN, "k", now=later)
        assert sum(buckets.take(TEN, "k", now=later).allowed for _ in range(12)) == 10

    def test_stands_a_clock_that_is_behind(self, buckets: Buckets) -> None:
        for _ in range(10):
            buckets.take(TEN, "k", now=NOW)
        assert not buckets.take(TEN, "k", now=NOW - timedelta(seconds=30)).allowed


class TestInDynamoDB:
    @pytest.mark.parametrize("ahead", [0, 4])
    def test_fifty_requests_at_once_are_ten_that_pass(self, database: Database, ahead: int) -> None:
        shared = DynamoBuckets()
        for _ in range(ahead):
            shared.take(TEN, "k", now=NOW)
        barrier = Barrier(50)

        def ask(_: int) -> bool:
            barrier.wait(30)
            return shared.take(TEN, "k", now=NOW).allowed

        with ThreadPoolExecutor(50) as pool:
            assert sum(pool.map(ask, range(50))) == 10 - ahead

    def test_who_asks_one_process_often_costs_one_update_each_time(self, database: Database) -> None:
        made: list[str] = []
        aws.client("dynamodb").meta.events.register("before-call.dynamodb", lambda model, **_: made.append(model.name))
        shared = DynamoBuckets()
        often = [shared.take(TEN, "k", now=NOW + timedelta(seconds=at)).allowed for at in range(5)]
        rarely = [shared.take(ONE, "k", now=NOW + timedelta(minutes=at)).allowed for at in range(5)]
        assert all(often + rarely)
        assert made == ["UpdateItem"] * 10

    def test_an_item_says_when_it_may_go_and_not_whose_it_is(self, database: Database) -> None:
        DynamoBuckets().take(TEN, "ada@example.com", now=NOW)
        [item] = database.items("identity")
        assert item["pk"]["S"].startswith("LIMIT#ten#")
        assert (item["type"]["S"], item["sk"]["S"]) == ("bucket", "BUCKET")
        assert 60 <= int(item["expires_at"]["N"]) - NOW.timestamp() <= 62
        assert "ada" not in repr(item)

    def test_a_database_that_does_not_answer_decides_nothing(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:9")
        aws.reset()
        with pytest.raises(StorageUnavailable):
            DynamoBuckets().take(TEN, "k", now=NOW)
