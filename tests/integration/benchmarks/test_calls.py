"""Requests make the calls that docs/calls.md states, among few items and among many."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import pytest

from benchmarks.calls import ITEMS, PAGE, REWRITE, Rows, limit_of, on_dynamodb_local, page
from benchmarks.dynamodb_local import DynamoDbLocalMissing
from tests.support.stack import Stack

MANY = int(os.environ.get("ITEMS", "2000"))
"""Items of each table: more than lists show, and than a page of DynamoDB holds; `ITEMS=10000` takes as many."""


@pytest.fixture
def owner(stack: Stack, tables: Mapping[str, str]) -> Iterator[Rows]:
    from api.handler import lambda_handler

    for name in ("karma-device", "karma-claim"):
        stack.aws("iot").create_policy(policyName=name, policyDocument="{}")
    stack.use("api")
    try:
        with on_dynamodb_local(tables) as client:
            yield Rows(client, tables, lambda_handler)
    except DynamoDbLocalMissing as missing:
        pytest.skip(str(missing))


def test_routes_cost_what_the_page_says_among_few_items_and_among_many(owner: Rows) -> None:
    owner.fill(ITEMS)
    filtered_few = owner.filtered()
    owner.fill(MANY)
    # The page was written among few items: what is true among many is true among both.
    costs, filtered_many = owner.costs(), owner.filtered()
    assert page(costs) == PAGE.read_text(), f"docs/calls.md is stale; if that is meant: {REWRITE}"
    reads = [cost for cost in costs if cost.route.startswith("GET")]
    assert {cost.route: cost.calls for cost in reads if len(cost.calls) > limit_of(cost)} == {}
    assert {cost.route for cost in reads if cost.write_units} == set()
    # A list by filter reads what it does not show: the meter would see it, and the cap of 1,000 devices holds.
    assert filtered_many.read_units > MANY / ITEMS / 2 * filtered_few.read_units
    assert filtered_many.calls == ("Query",) * (2 if MANY == 10_000 else 1)
