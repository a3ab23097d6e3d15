"""Bodies of the agent routes."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from karma.agents.domain import (
    DEFAULT_STEPS,
    DEFAULT_TEMPERATURE,
    MAX_DESCRIPTION_CHARS,
    MAX_NAME_CHARS,
    MAX_PROMPT_CHARS,
    MAX_STEPS,
    MAX_TAG_CHARS,
    MAX_TAGS,
    MAX_TOOLS,
    AgentSpec,
)
from karma.core.schemas import Body, Number, Version, Whole, line
from karma.core.wording import form

_NOT_BLANK = form(r"\S", "must not be blank")


def _distinct(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


Name = Annotated[str, line(MAX_NAME_CHARS)]
Tag = Annotated[str, line(MAX_TAG_CHARS)]


class AgentConfigBody(Body):
    """Limits and settings of an agent's runs."""

    max_steps: Annotated[Whole, Field(ge=1, le=MAX_STEPS)] = DEFAULT_STEPS
    """Calls of the model in one run at the most."""
    temperature: Annotated[Number, Field(ge=0, le=1)] = DEFAULT_TEMPERATURE
    """Stored and shown only; the model API accepts no sampling parameters, so runs do not send it."""


class AgentBody(Body):
    """An agent as an admin describes it: `POST /agents`."""

    name: Name
    description: Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARS)] = ""
    model: Name
    """A model that the engine runs, or a configured name of one; for any other the answer lists them."""
    system_prompt: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS, pattern=_NOT_BLANK)]
    tools: Annotated[list[Name], Field(max_length=MAX_TOOLS), AfterValidator(_distinct)] = Field(default_factory=list)
    """Names of built-in tools; without any, the agent only talks."""
    tags: Annotated[list[Tag], Field(max_length=MAX_TAGS), AfterValidator(_distinct)] = Field(default_factory=list)
    memory: Name | None = None
    knowledge: Name | None = None
    config: AgentConfigBody = Field(default_factory=AgentConfigBody)

    def spec(self) -> AgentSpec:
        """Return the agent's fields of the body."""
        return AgentSpec(
            name=self.name,
            model=self.model,
            system_prompt=self.system_prompt,
            description=self.description,
            tools=tuple(self.tools),
            tags=tuple(self.tags),
            memory=self.memory,
            knowledge=self.knowledge,
            max_steps=self.config.max_steps,
            temperature=self.config.temperature,
        )


class ReplaceAgentBody(AgentBody):
    """`PUT /agents/{id}`: fields left out get their defaults, as in a new agent."""

    version: Version | None = None
    """Version that the caller read; when the stored one differs, the answer is 409 STALE_VERSION."""
