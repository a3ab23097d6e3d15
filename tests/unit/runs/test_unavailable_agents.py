"""Questions of an agent that is deleted, or whose model is disabled: they can be refused, without a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from karma.configuration.current import RunChoice
from karma.configuration.domain import ComponentType, ComponentUnavailable
from karma.core.errors import AppError, NotFound
from karma.models.domain import ModelNotConfigured
from karma.runs.askers import InterruptOfAnotherAgent
from karma.runs.domain import RunStatus
from tests.fakes.configuration import as_built
from tests.support.run_world import user
from tests.unit.runs.test_interrupts import DONE, Approving, calls

pytestmark = [pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.fault("F-29m")]

DISABLED = ComponentUnavailable(ComponentType.MODEL, "old", "is disabled")
WAYS: list[Any] = [None, {"approved": False}, {"approved": False, "reason": "no"}]


class Unavailable:
    """A configuration in which no model can be asked."""

    def __init__(self, why: AppError) -> None:
        self.why = why

    def for_run(self, *, agent: str, model: str, summaries: str = "") -> RunChoice:
        raise self.why

    def for_refusal(self) -> RunChoice:
        return as_built().for_refusal()


def asking(*more: Any) -> Approving:
    world = Approving(calls("hi", "ho"), *more)
    world.run(world.ask(user("go", "u1"), run="r1"))
    return world


@pytest.mark.parametrize("why", [DISABLED, ModelNotConfigured("no key")], ids=["disabled", "no key"])
@pytest.mark.parametrize("how", WAYS, ids=["cancelled", "refused", "with a reason"])
def test_calls_are_refused_though_its_model_cannot_be_asked(how: Any, why: AppError) -> None:
    world = asking()
    world.configuration = Unavailable(why)  # type: ignore[assignment]
    request = world.ask(run="r2", resume={"r1/1": how, "r1/2": how})
    events = world.run(request)
    assert events[-1]["type"] == "RUN_FINISHED"
    run = world.stored(request)
    assert (run.status, run.turns, run.cost_micros, len(world.results())) == (RunStatus.FINISHED, 0, 0, 2)
    assert len(world.model.requests) == 1
    assert world.thread().interrupts == ()


def test_one_of_two_is_refused_and_the_other_stays_open() -> None:
    world = asking()
    world.configuration = Unavailable(DISABLED)  # type: ignore[assignment]
    events = world.run(world.ask(run="r2", resume={"r1/1": {"approved": False}}))
    assert [each["id"] for each in events[-1]["outcome"]["interrupts"]] == ["r1/2"]


@pytest.mark.parametrize("mixed", [{"approved": True}, {"approved": True, "editedArgs": {"word": "a"}}])
def test_what_would_need_it_is_refused_before_anything_is_stored(mixed: Any) -> None:
    world = asking()
    world.configuration = Unavailable(DISABLED)  # type: ignore[assignment]
    for resume, messages in (
        ({"r1/1": mixed, "r1/2": {"approved": False}}, []),
        ({"r1/1": {"approved": False}, "r1/2": None}, [user("and?", "u2")]),
    ):
        with pytest.raises(ComponentUnavailable):
            world.run(world.ask(*messages, run="r2", resume=resume))
    assert world.thread().interrupts == ("r1/1", "r1/2")


def test_of_a_deleted_agent_they_are_refused_and_not_approved() -> None:
    world = asking(DONE)
    world.agents.delete(world.agent.id, version=None)
    with pytest.raises(NotFound):
        world.run(world.ask(run="r2", resume={"r1/1": {"approved": True}, "r1/2": None}))
    request = world.ask(run="r3", resume={"r1/1": {"approved": False}, "r1/2": {"approved": False}})
    events = world.run(request)
    assert events[-1]["type"] == "RUN_FINISHED"
    assert len(world.results()) == 2


def test_they_are_refused_by_whomever_the_conversation_goes_on_with() -> None:
    world = asking(DONE)
    other = world.agents.create(replace(world.agent.spec, name="other"))
    resume = {"r1/1": {"approved": False}, "r1/2": None}
    request = world.ask(run="r2", resume=resume)
    with pytest.raises(InterruptOfAnotherAgent):
        world.run(_named(world.ask(run="r2", resume={"r1/1": {"approved": True}, "r1/2": None}), other.id))
    world.run(_named(request, other.id))
    assert world.stored(request).agent_id == other.id


def _named(request: Any, agent_id: str) -> Any:
    return replace(request, agent=agent_id)
