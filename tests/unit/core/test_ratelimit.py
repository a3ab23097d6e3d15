from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.ratelimit import Limit, LocalBuckets, network_of

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TEN = Limit("ten", 10, timedelta(minutes=1))


class TestLocalBuckets:
    def test_forget_what_was_not_used_for_longest(self) -> None:
        buckets = LocalBuckets()
        one = Limit("one", 1, timedelta(hours=1))
        assert buckets.take(one, "first", now=NOW).allowed
        for n in range(10_000):
            buckets.take(one, str(n), now=NOW)
        assert buckets.take(one, "first", now=NOW).allowed
        assert not buckets.take(one, "9999", now=NOW).allowed

    @given(st.lists(st.integers(0, 30_000), max_size=60), st.integers(1, 20))
    def test_never_let_more_through_than_amount_and_refill(self, pauses_ms: list[int], amount: int) -> None:
        limit, buckets = Limit("any", amount, timedelta(minutes=1)), LocalBuckets()
        now, passed = NOW, []
        for pause_ms in pauses_ms:
            now += timedelta(milliseconds=pause_ms)
            if buckets.take(limit, "k", now=now).allowed:
                passed.append(now)
        for i, start in enumerate(passed):
            for j, end in enumerate(passed[i:], 1):
                assert j <= amount + (end - start) / timedelta(milliseconds=limit.interval_ms)


class TestHeaders:
    def test_are_those_of_the_draft(self) -> None:
        buckets = LocalBuckets()
        decisions = [buckets.take(TEN, "k", now=NOW) for _ in range(11)]
        assert dict(decisions[0].headers()) == {
            "RateLimit-Policy": '"ten";q=10;w=60',
            "RateLimit": '"ten";r=9;t=6',
        }
        assert dict(decisions[9].headers())["RateLimit"] == '"ten";r=0;t=6'
        assert (decisions[10].allowed, decisions[10].wait_s) == (False, 6)
        assert dict(decisions[10].headers())["RateLimit"] == '"ten";r=0;t=6'


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("", "unknown"),
        (None, "unknown"),
        ("somewhere", "unknown"),
    ],
)
def test_an_ipv6_customer_is_one_network(address: str | None, network: str) -> None:
    assert network_of(address) == network
