"""A record that was cut off is none: it is asked for once more, or it is the end of the budget that has cut it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from karma.models.domain import Compaction
from karma.models.ports import ModelRequest
from karma.models.prices import input_tokens
from karma.runs.compaction import MAX_RECORD_CHARS
from tests.fakes.agents import catalogue
from tests.support.run_world import World, asked, spec, user
from tests.support.windowed import FACT, Said, WindowedModel, configured, text_of

pytestmark = [pytest.mark.usefixtures("no_blocking_calls")]

WINDOW = 4_000
LONG = "These are words that fill the window of a model. " * 20


def world(model: WindowedModel, *, window: int | None = WINDOW, **more: Any) -> World:
    made = World()
    made.model = model  # type: ignore[assignment]
    made.configuration = configured(own=window)
    made.agents = catalogue(more_models=("own",))
    made.agents.create(spec(model="own", compaction=Compaction(), **more))
    return made


def ask(made: World, n: int) -> list[dict[str, Any]]:
    props = {"agent_id": "brief"}
    return made.run(asked(user(f"FACT-{n} {LONG}", f"u{n}"), run=f"r{n}", forwardedProps=props))


def until_record(made: World, model: WindowedModel) -> tuple[int, list[dict[str, Any]]]:
    """Ask until a record was asked for; return the number of that question, and its run's events."""
    n = -1
    while not model.records:
        n += 1
        events = ask(made, n)
    return n, events


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event["value"] for event in events if event.get("name") == name]


@pytest.mark.parametrize("window", [None, WINDOW], ids=["beyond the window", "near it"])
def test_one_that_is_cut_off_twice_fails(window: int | None) -> None:
    model = WindowedModel(WINDOW)
    model.tokens_of_record = 10**6

    _, events = until_record(world(model, window=window), model)

    first, second = (each.max_tokens for each in model.records)
    assert second == 2 * first
    assert not named(events, "karma.compacted")
    assert len(named(events, "karma.compaction_failed")) == 1
    # Near the window the model is asked with all of the conversation.
    assert events[-1].get("code") == (None if window else "COMPACTION_FAILED")
    assert "[The conversation is longer" not in text_of(model.requests[-1])


def test_one_that_is_too_long_fails() -> None:
    model = WindowedModel(WINDOW)
    model.record = lambda _: "FACT-1 " * (MAX_RECORD_CHARS // 7 + 1)

    assert until_record(world(model, window=None), model)[1][-1]["code"] == "COMPACTION_FAILED"


def test_one_that_is_cut_off_is_asked_for_with_twice_the_room() -> None:
    model = WindowedModel(WINDOW)
    model.tokens_of_record = 500

    n, events = until_record(world(model), model)

    assert [each.max_tokens for each in model.records] == [400, 800]
    assert named(events, "karma.compacted")
    assert set(FACT.findall(text_of(model.requests[-1]))) == {f"FACT-{each}" for each in range(n + 1)}


def at_work(budget: int, *, needs: int) -> tuple[World, WindowedModel, list[int], list[dict[str, Any]]]:
    """Let a run of many calls have a budget; return also what it had used, and may have used, at its first record."""
    made_calls = iter(range(12))

    def answer(_: ModelRequest) -> Said:
        n = next(made_calls, None)
        word = orjson.dumps({"word": f"{LONG} FACT-{n}"}).decode()
        return ("Done.", ()) if n is None else ("", [("echo", word)])

    def record(asked_for: ModelRequest) -> str:
        used = model.used["claude-own"]
        bounds.append((used.input_tokens or 0) + (used.output_tokens or 0) + input_tokens(asked_for))
        return " ".join(dict.fromkeys(FACT.findall(text_of(asked_for))))

    bounds: list[int] = []
    model = WindowedModel(WINDOW, answer)
    model.record, model.tokens_of_record = record, needs
    made = world(model, tools=("echo",), max_steps=30)
    props = {"agent_id": "brief", "budget": {"max_tokens": budget}}
    events = made.run(asked(user("Do it.", "u1"), run="r1", forwardedProps=props))
    return made, model, bounds, events


@pytest.mark.parametrize(("needs", "is_kept"), [(290, True), (390, False)])
def test_one_that_a_budget_cuts_ends_the_run_with_its_question(needs: int, is_kept: bool) -> None:
    bound = at_work(10**6, needs=0)[2][0]

    made, model, _, events = at_work(bound + 300, needs=needs)

    assert [each.max_tokens for each in model.records] == [300]
    assert bool(named(events, "karma.compacted")) is is_kept
    assert bool(named(events, "karma.compaction_failed")) is not is_kept
    (question,) = events[-1]["outcome"]["interrupts"]
    assert question["reason"] == "budget_exceeded"
    raised = [{"interruptId": question["id"], "status": "resolved", "payload": {"max_tokens": 10**6}}]
    again = made.run(asked(run="r2", resume=raised, forwardedProps={"agent_id": "brief"}))
    assert again[-1]["outcome"] == {"type": "success"}
    assert {f"FACT-{n}" for n in range(12)} <= set(FACT.findall(text_of(model.requests[-1])))
