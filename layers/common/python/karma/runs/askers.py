"""The runs that asked what a request answers: the answer goes on with their agents, and for whoever waits for them.

`agent_id` left out              the agent of the run that asked; of several, of the first that the request names
`agent_id` of that agent         it
`agent_id` of another one        409 INTERRUPT_OF_ANOTHER_AGENT for an answer; to refuse is free, since no call is made
                                 and the conversation may go on with whomever its user names

The run that goes on has the webhook and the schedule of the one that asked, and that as its parent, where the request
names no others: who waits for its end learns of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from karma.agents.domain import Agent
from karma.configuration.current import RunChoice
from karma.configuration.domain import ComponentUnavailable
from karma.conversations.domain import Thread
from karma.core.errors import AppError, Conflict, NotFound
from karma.core.ids import AgentId, RunId, UserId
from karma.models.domain import ModelNotConfigured, Target
from karma.runs.domain import Run, RunKey
from karma.runs.interrupts import AnswerStatus, run_of_interrupt
from karma.runs.ports import Configured, Runs
from karma.runs.requests import ResumeEntry, RunInput

NO_PARENT: Final = "parentRunId names no run of yours"
Askers = Mapping[str, Run]
"""Runs by the ids of the questions that they asked, in the order of the request."""


Prepared = tuple[Agent, RunChoice, Thread, AppError | None]
"""Data by which a run is planned, and why its model cannot be asked."""


class InterruptOfAnotherAgent(Conflict):
    """The request names another agent than the one that asked; `details` names it, the question and the field."""

    code = "INTERRUPT_OF_ANOTHER_AGENT"

    def __init__(self, interrupt_id: str, agent_id: AgentId) -> None:
        told = f"agent_id: interrupt '{interrupt_id}' was asked by the agent '{agent_id}'; name it, or none"
        details = {"field": "agent_id", "interrupt_id": interrupt_id, "agent_id": agent_id}
        super().__init__(told, details=details)


def askers_of(store: Runs, user_id: UserId, entries: Sequence[ResumeEntry]) -> Askers:
    """Read the runs whose questions a request answers: one Get each. What is unknown is left out. May block.

    Runs are the account's own, so that ids of others' questions find nothing.
    """
    runs: dict[str, Run | None] = {}
    found: dict[str, Run] = {}
    for entry in entries:
        named = run_of_interrupt(user_id, entry.interrupt_id)
        if named is None:
            continue
        key, _ = named
        if key.run_id not in runs:
            runs[key.run_id] = store.run(key)
        run = runs[key.run_id]
        if run is not None:
            found[entry.interrupt_id] = run
    return found


def refuses(entry: ResumeEntry) -> bool:
    """Tell whether an answer leads to no call, whatever was asked."""
    payload = entry.payload if isinstance(entry.payload, dict) else {}
    is_refused = payload.get("approved") is False or payload.get("outcome") == "give_up"
    return entry.status is AnswerStatus.CANCELLED or is_refused


def only_refuses(asked: RunInput) -> bool:
    """Tell whether a request answers, and each of its answers leads to no call."""
    return bool(asked.resume) and all(map(refuses, asked.resume))


def going_on_with(find: Callable[[str], Agent], asked: RunInput, askers: Askers) -> Agent:
    """Return the agent of a request: the one that it names, that asked what it answers, or the built-in one.

    To refuse is free of the agent that asked, also once that is deleted: the built-in one goes on.

    Raises:
        NotFound: there is no such agent.
    """
    asker = next((run.agent_id for run in askers.values() if run.agent_id is not None), "")
    try:
        return find(asked.agent or asker)
    except NotFound:
        if asked.agent not in {"", asker} or not only_refuses(asked):
            raise
        return find("")


def choice_of(
    configuration: Configured, prepare: Callable[[Target], None], agent: Agent, asked: RunInput
) -> tuple[RunChoice, AppError | None]:
    """Return the choices for a run, and why its model cannot be asked: who only refuses needs none.

    Raises:
        ComponentUnavailable, ModelNotConfigured: the model cannot be asked, and would have to be.
    """
    try:
        choice = configuration.for_run(**agent.spec.components)
        prepare(choice.target)
    except (ComponentUnavailable, ModelNotConfigured) as exc:
        if not only_refuses(asked):
            raise
        return configuration.for_refusal(), exc
    return choice, None


def with_own_parent(store: Runs, user_id: UserId, asked: RunInput) -> RunInput:
    """Return a request whose parent is a run of its account, in whichever thread; else one that names none. May block.

    One Get, where it names one. What is left out is told as any other part of a request that is not used: a client may
    name a run that was deleted since, and nobody learns whether another account has a run of that id.
    """
    named = asked.parent_run_id
    if not named or (named != asked.run_id and store.run(RunKey(user_id, RunId(named))) is not None):
        return asked
    return replace(asked, parent_run_id="", warnings=(*asked.warnings, NO_PARENT))


def going_on(asked: RunInput, askers: Askers) -> RunInput:
    """Return a request with what it inherits from the first run that asked."""
    run = next(iter(askers.values()), None)
    if run is None:
        return asked
    return replace(
        asked,
        parent_run_id=asked.parent_run_id or run.key.run_id,
        schedule_id=asked.schedule_id or run.schedule_id,
        webhook=asked.webhook or run.webhook,
    )


def require_asker(agent: Agent, askers: Askers, entries: Sequence[ResumeEntry]) -> None:
    """Refuse that an agent goes on with what another one has asked, before the answer is spent.

    Raises:
        InterruptOfAnotherAgent: an entry resolves a question of another agent's run.
    """
    for entry in entries:
        run = askers.get(entry.interrupt_id)
        asker = run.agent_id if run is not None else None
        if not refuses(entry) and asker not in {None, agent.id}:
            raise InterruptOfAnotherAgent(entry.interrupt_id, AgentId(str(asker)))
