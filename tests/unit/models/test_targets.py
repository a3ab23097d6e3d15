"""Models as runs keep them from their start, and usage by model."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from karma.models.domain import (
    OPENAI,
    UNNAMED,
    Price,
    Rates,
    Target,
    Usage,
    Usages,
    dump_target,
    load_target,
)
from karma.models.prices import cost, is_published, price_of
from karma.runs.setup import RunSetup, dump_setup, load_setup
from tests.fakes.runs import caller

WHOLE = st.integers(0, 10**9)
RATES = st.builds(Rates, input=WHOLE, output=WHOLE, cache_write=WHOLE, cache_read=WHOLE)
SINCE = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)).map(lambda at: at.replace(microsecond=0, tzinfo=UTC))
TARGETS = st.builds(
    Target,
    model=st.text(min_size=1, max_size=10),
    provider=st.sampled_from(["anthropic", OPENAI]),
    base_url=st.sampled_from(["", "http://10.0.0.7/v1"]),
    secret=st.sampled_from(["", "mine"]),
    images=st.booleans(),
    max_tokens=st.none() | st.integers(1, 64_000),
    prices=st.lists(st.builds(Price, since=SINCE, rates=RATES), max_size=3, unique_by=lambda each: each.since).map(
        lambda found: tuple(sorted(found, key=lambda each: each.since))
    ),
)
USAGES = st.builds(Usage, *[st.none() | st.integers(0, 10**6)] * 4)


@settings(max_examples=30)
@given(TARGETS, st.lists(TARGETS, max_size=3))
def test_another_process_asks_the_same_models(target: Target, fallbacks: list[Target]) -> None:
    setup = RunSetup(
        caller=caller(),
        system=("Be brief.",),
        tools=("echo",),
        frontend_tools=(),
        max_tokens=100,
        max_turns=3,
        speaks=(1, 0),
        asides=(),
        target=target,
        fallbacks=tuple(fallbacks),
    )

    assert load_setup(dump_setup(setup)) == setup
    assert load_target(orjson.loads(orjson.dumps(dump_target(target)))) == target


@settings(max_examples=30)
@given(TARGETS.filter(lambda target: target.prices), SINCE)
def test_a_price_of_its_own_holds_from_its_day_on(target: Target, at: datetime) -> None:
    begun = [price for price in target.prices if price.since <= at]

    assert price_of(target, at) == (begun[-1] if begun else target.prices[0])


def test_a_model_of_nobody_s_price_counts_as_the_dearest() -> None:
    at, usage = datetime(2026, 11, 21, tzinfo=UTC), Usage(1_000_000, 1_000_000)
    named_alike = Target(model="claude-haiku-5-5", provider=OPENAI)

    assert not is_published(named_alike)
    assert cost(usage, named_alike, at) == cost(usage, Target(model="claude-fable-5"), at) == 60_000_000


@settings(max_examples=30)
@given(st.lists(st.tuples(TARGETS, USAGES), max_size=5))
def test_usage_by_model_adds_up_and_comes_back_from_the_store(calls: list[tuple[Target, Usage]]) -> None:
    usages, total = Usages(), Usage()
    for target, usage in calls:
        usages, total = usages.plus(target, usage), total + usage

    assert usages.total == total
    assert Usages.load(orjson.loads(orjson.dumps(usages.dump()))) == usages
    wired: list[Any] = usages.wire()
    assert sum(each.get("inputTokens", 0) for each in wired) == (total.input_tokens or 0)
    assert len({(each["provider"], each["model"]) for each in wired}) == len(wired)


def test_usage_of_a_release_that_knew_one_model_is_the_run_s_own() -> None:
    own, stored = Target(model="m"), Usages({UNNAMED: Usage(1, 2)})

    assert stored.named(own).by_model == {("anthropic", "m"): Usage(1, 2)}
    assert Usages().named(own) == Usages()
