"""The stream of the agents table becomes figures: records that DynamoDB wrote, deaths, and what is no run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from karma.core.ids import AgentId, UserId, new_id
from karma.metrics.domain import Figures, Series, Totals, hour_of
from karma.metrics.repository import MetricRepository
from tests.contexts.runs import begin, record
from tests.integration.background.conftest import Items
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.rows import NOW
from tests.support.stack import Context, Stack

AGENT = AgentId("karma")


KEYS = {"pk": {"S": "RUN#x#y"}, "sk": {"S": "HEAD"}}


@pytest.fixture
def user(stack: Stack) -> UserId:
    stack.use("metrics")
    made = UserId(new_id())
    open_account(made)
    return made


def handle(records: list[dict[str, Any]], context: Context) -> list[str]:
    from background.metrics import lambda_handler

    answered = lambda_handler({"Records": records}, context)
    return [failure["itemIdentifier"] for failure in answered["batchItemFailures"]]


def figures(user: UserId) -> Figures:
    hour = hour_of(NOW)
    [(_, found)] = MetricRepository().hours(Series(user, AGENT), hour, hour + timedelta(hours=1))
    return found


@pytest.mark.req("R-A-28", "R-A-29", "R-C-05")
def test_what_dynamodb_wrote_into_the_stream_is_counted_once(
    user: UserId, streamed: Callable[[], list[dict[str, Any]]], lambda_context: Context
) -> None:
    for name in ("r1", "r2"):
        record(user, name, agent=AGENT)
    begin(user, "r3", agent=AGENT)
    records = streamed()
    for start in range(0, len(records), 5):
        assert handle(records[start:], lambda_context) == []
    found = figures(user)
    assert (found.completed, found.tokens, found.cost_micros, found.duration_ms) == (2, 10, 80, 4_000)
    totals = MetricRepository().totals()
    assert (totals.active, totals.ended.runs) == (1, 2)


def test_a_death_at_any_call_is_repaired_by_the_redelivery(
    stack: Stack, user: UserId, streamed: Callable[[], list[dict[str, Any]]]
) -> None:
    record(user, "r1", agent=AGENT)
    records = [each for each in streamed() if each["dynamodb"]["NewImage"]["type"] == {"S": "run"}]
    CrashTest(
        entry="background.metrics:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["agents"]],
        ignore=("version", "created_at", "updated_at", "expires_at"),
        seed=lambda: {"Records": records},
        accept=lambda response: response == {"batchItemFailures": []},
    ).run()
    assert figures(user).completed == 1


def test_a_table_that_is_away_brings_the_batch_back(
    stack: Stack, user: UserId, streamed: Callable[[], list[dict[str, Any]]], lambda_context: Context
) -> None:
    record(user, "r1", agent=AGENT)
    records = streamed()
    stack.use("metrics", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert handle(records, lambda_context) == [records[0]["dynamodb"]["SequenceNumber"]]


def test_a_record_that_nobody_can_read_keeps_none_before_it(
    user: UserId, streamed: Callable[[], list[dict[str, Any]]], lambda_context: Context
) -> None:
    record(user, "r1", agent=AGENT)
    bad = {
        "eventName": "INSERT",
        "dynamodb": {"Keys": KEYS, "SequenceNumber": "900", "NewImage": {"type": {"S": "run"}, "pk": {"S": "RUN#x#y"}}},
    }
    assert handle([*streamed(), bad], lambda_context) == ["900"]
    assert figures(user).completed == 1


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"NewImage": {}},
        {"NewImage": {"type": {"S": "segment"}}, "OldImage": {"type": {"S": "segment"}}},
        {"OldImage": {"type": {"S": "thread"}}},
    ],
)
def test_what_is_no_run_counts_nothing(
    user: UserId, row: dict[str, Any], items: Items, lambda_context: Context
) -> None:
    before = items()
    change = {"eventName": "MODIFY", "dynamodb": {"Keys": KEYS, "SequenceNumber": "1", **row}}
    assert handle([change], lambda_context) == []
    assert items() == before
    assert MetricRepository().totals() == Totals()
