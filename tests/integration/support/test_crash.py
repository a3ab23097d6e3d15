"""The crash helper itself: it must find a handler that is not safe, and pass one that is."""

from pathlib import Path

import pytest

from tests.support.crash import CrashTest
from tests.support.stack import Stack

ENTRIES = Path(__file__).parents[2] / "fixtures" / "crash" / "entries.py"


def _crash_test(stack: Stack, function: str, *, asks_others: bool = False) -> CrashTest:
    table = stack.tables["devices"]
    return CrashTest(
        entry=f"{ENTRIES}:{function}",
        aws=stack.aws,
        tables=[table],
        seed=lambda: {"table": table, "pk": "TEST#1"},
        accept=lambda response: bool(response["ok"]),
        asks_others=asks_others,
    )


def test_dies_before_and_after_each_call_and_passes_a_repeatable_handler(stack: Stack) -> None:
    stack.use("router")
    report = _crash_test(stack, "stores_twice").run()
    assert report.calls == ("dynamodb.PutItem", "dynamodb.PutItem")
    assert report.at[:2] == ["after dynamodb.PutItem (#1)", "after dynamodb.PutItem (#2)"]
    assert len(report.at) == 3
    assert report.at[2] in {"before dynamodb.PutItem (#1)", "before dynamodb.PutItem (#2)"}


def test_dies_before_each_call_where_others_are_asked_and_on_request(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.use("router")
    everywhere = [f"{side} dynamodb.PutItem (#{n})" for side in ("after", "before") for n in (1, 2)]
    assert _crash_test(stack, "stores_twice", asks_others=True).run().at == everywhere
    monkeypatch.setenv("CRASHES", "all")
    assert _crash_test(stack, "stores_twice").run().at == everywhere


def test_dies_after_each_change_and_once_elsewhere(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.use("router")
    calls = [f"dynamodb.{name}" for name in ("GetItem", "PutItem", "PutItem", "Query")]
    places = {side: [f"{side} {name} (#{n})" for n, name in enumerate(calls, 1)] for side in ("after", "before")}
    report = _crash_test(stack, "looks_then_stores_twice").run()
    *changes, other = report.at
    assert changes == places["after"][1:3]
    assert other in {places["after"][0], places["after"][3], *places["before"]}
    assert report.points >= len(report.calls) == len(calls)
    monkeypatch.setenv("CRASHES", "all")
    assert _crash_test(stack, "looks_then_stores_twice").run().at == places["after"] + places["before"]


def test_finds_a_handler_that_counts_twice(stack: Stack) -> None:
    stack.use("router")
    with pytest.raises(AssertionError, match=r"after dynamodb.UpdateItem \(#1\): .* another state"):
        _crash_test(stack, "counts_then_stores").run()
