"""Bodies of the routes of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from karma.agents.domain import MultitaskStrategy
from karma.conversations.client_ids import ClientId
from karma.core.schemas import COMPOSED, Body, FreeForm, Whole, line
from karma.runs.domain import MAX_REASON_CHARS
from karma.runs.interrupts import MAX_INTERRUPTS
from karma.runs.points import MAX_POINT_DESCRIPTION_CHARS, MAX_POINT_TAGS, MAX_TAG_CHARS
from karma.runs.run_body import RunBody

MAX_WAIT_S = 20
"""Seconds for which a request for a run waits for its end at the most: the gateway waits thirty."""


class CancelRunBody(Body):
    """Asks for the end of a run, or of all runs of an agent."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_REASON_CHARS)] = ""
    """Reason that is kept with the run, for whoever reads it later."""


def _distinct(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


Description = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_POINT_DESCRIPTION_CHARS)]
PointTag = Annotated[str, line(MAX_TAG_CHARS), COMPOSED]


class CreateCheckpointBody(Body):
    """Labels the latest durable point of a run."""

    description: Description = ""
    """Note on what is special about this point."""
    tags: Annotated[list[PointTag], Field(max_length=MAX_POINT_TAGS), AfterValidator(_distinct)] = Field(
        default_factory=list
    )


class StartRunBody(RunBody):
    """`POST /runs`; what it asks for is what a body of `POST /api/agent` asks for, whose rules hold."""

    parent_run_id: ClientId | None = None
    """Run from which the client says that this one comes; only shown, and left out where you have no such run."""
    tools: Annotated[list[FreeForm], Field(max_length=128)] = Field(default_factory=list)
    """Tools of the client as AG-UI has them; the run ends when the model calls one, and names the call."""
    resume: Annotated[list[FreeForm], Field(max_length=MAX_INTERRUPTS)] = Field(default_factory=list)
    """Answers to questions of the thread's runs as AG-UI has them; with some, the body needs no message."""
    multitask_strategy: MultitaskStrategy | None = None
    """Rule while another run of the thread is active: 409, that run is cancelled, this one waits for its turn,
    or that run is cancelled and the thread goes on where it began; null is what the agent says.
    """
    wait_s: Annotated[Whole, Field(ge=0, le=MAX_WAIT_S)] = 0
    """Seconds for which the answer waits for the run's end."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the rule on `message`, `messages` and `resume` where it is broken."""
        broken = super().across(given)
        if broken and broken[0][0] == "message":
            return [] if given.get("resume") else [("message", "must be given, or messages, or resume")]
        return broken
