"""A run's words in lists, and its steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.conversations.domain import Json, Message, Thread
from karma.runs.domain import Run, RunStatus
from karma.runs.step_answers import agio_step_view
from karma.runs.steps import RunStep, StepReader
from karma.runs.words import MAX_SHOWN_CHARS, answered_in, asked_in
from tests.fakes.checkpoints import MemoryCheckpoints
from tests.support.lost_runs import KEY, THREAD, Life, World, begin

ROLES = st.sampled_from(("user", "assistant", "tool"))


@given(st.lists(st.tuples(ROLES, st.text(max_size=2 * MAX_SHOWN_CHARS)), max_size=8))
def test_words_are_the_beginnings_of_the_last_ones_of_each(said: list[tuple[str, str]]) -> None:
    messages = [Message(id=str(n), role=role, content=text) for n, (role, text) in enumerate(said)]  # type: ignore[arg-type]
    asked, answered = asked_in(messages), answered_in(messages)
    last_user = max((n for n, (role, _) in enumerate(said) if role == "user"), default=-1)
    words = said[last_user][1] if last_user >= 0 else ""
    answers = [text for role, text in said[last_user + 1 :] if role == "assistant" and text]
    for shown, whole in ((asked, words), (answered, answers[-1] if answers else "")):
        assert len(shown or "") <= MAX_SHOWN_CHARS
        assert whole.startswith((shown or "").removesuffix("…"))
        assert (shown is None) == (whole == "")
        assert shown == whole or shown is None or (len(whole) > MAX_SHOWN_CHARS and shown.endswith("…"))


def test_words_of_parts_are_their_texts() -> None:
    parts: list[Json] = [
        {"type": "text", "text": "Look"},
        {"type": "image", "source": {}},
        {"type": "text", "text": "here"},
    ]
    assert asked_in([Message(id="1", role="user", content=parts)]) == "Look\nhere"
    assert asked_in([Message(id="1", role="user", content=parts[1:2])]) is None


@pytest.fixture
def world() -> World:
    world = World()
    begin(world, Life(None))
    return world


def steps_of(world: World) -> tuple[Run, list[RunStep]]:
    run = world.store.run(KEY)
    assert run is not None
    return run, StepReader(world.store, MemoryCheckpoints(world.store)).steps(run)


@pytest.mark.req("R-A-15")
def test_a_run_shows_what_it_was_asked_and_has_answered(world: World) -> None:
    run, steps = steps_of(world)
    assert run.input_query == asked_in([*world.store.thread(THREAD).messages])
    assert run.input_query
    assert run.response == answered_in([steps[-1].response])


@pytest.mark.req("R-A-16")
def test_each_call_of_the_model_is_a_step_with_what_it_was_told_and_used(world: World) -> None:
    run, steps = steps_of(world)
    whole = list(world.store.thread(THREAD).messages)
    assert [each.number for each in steps] == [1, 2, 3, 4]
    assert [message for step in steps for message in (*step.told, step.response)] == whole
    assert [each.total_tokens for each in steps] == [150] * 4
    assert sum(each.cost_micros or 0 for each in steps) == run.cost_micros
    first = agio_step_view(steps[0])
    assert first["messages"][0]["role"] == "user"
    assert first["model_response"]["role"] == "assistant"
    assert [message["role"] for message in agio_step_view(steps[1])["messages"]] == ["tool", "tool"]


def test_a_run_that_died_anywhere_has_the_steps_that_are_stored() -> None:
    seen = set()
    for at in range(1, 60):
        world = World()
        begin(world, Life(at))
        if world.store.run(KEY) is None:
            continue
        run, steps = steps_of(world)
        seen.add((run.status, len(steps)))
        stored = [each for each in world.store.thread(THREAD).messages if each.role == "assistant"]
        assert [each.response for each in steps] == stored
    assert {(RunStatus.RUNNING, n) for n in (0, 1, 2, 3)} <= seen


def test_one_without_its_thread_has_none(world: World) -> None:
    world.store.threads[THREAD] = Thread(key=THREAD, is_deleted=True)
    assert steps_of(world)[1] == []
