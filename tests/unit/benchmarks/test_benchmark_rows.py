"""The table of benchmarks keeps the rows that were not measured, and prices have what the deployment uses."""

from __future__ import annotations

import pytest

from benchmarks import prices, turns
from benchmarks.report import Row, markdown, merged
from infra.catalog import FUNCTIONS, FunctionName


def row(metric: str, measured: str, *, area: str = "runs") -> Row:
    return Row(area, metric, "", measured, "<= 2", ok=True)


def test_a_new_row_stands_in_the_place_of_the_one_of_its_name() -> None:
    old = markdown([row("a", "1"), row("b", "2"), row("a", "3", area="mcp")])
    assert merged(old, [row("c", "5"), row("b", "4")]) == markdown(
        [row("a", "1"), row("b", "4"), row("a", "3", area="mcp"), row("c", "5")]
    )
    assert merged("", [row("a", "1")]) == markdown([row("a", "1")])


def test_what_is_used_is_paid_by_its_price() -> None:
    (paid,) = prices.paid({"DynamoDB, writes": 100.0})
    assert paid.usd == pytest.approx(0.0625)
    assert paid.at == "100 WRU a turn, $0.625 for 1,000,000 WRU"
    with pytest.raises(KeyError):
        prices.paid({"free lunch": 1.0})


def test_memory_is_that_of_the_functions() -> None:
    assert FUNCTIONS[FunctionName.AGENT_STREAM].memory_mb == 1024 * turns.STREAM_GB
    assert {FUNCTIONS[name].memory_mb for name in (FunctionName.RUNS, FunctionName.METRICS)} == {1024 * turns.SMALL_GB}
