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
from karma.core.schemas import Body, Number, Version, Whole
from karma.core.wording import form

_LINE = r"^[^\x00-\x1f\x7f]*$"
_NOT_BLANK = form(r"\S", "must not be blank")


def _distinct(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_NAME_CHARS, pattern=_LINE)]
Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TAG_CHARS, pattern=_LINE)]


class AgentConfigBody(Body):
    """How an agent's runs go."""

    max_steps: Annotated[Whole, Field(ge=1, le=MAX_STEPS)] = DEFAULT_STEPS
    """Model calls a run."""
    temperature: Annotated[Number, Field(ge=0, le=1)] = DEFAULT_TEMPERATURE
    """Kept and shown; the model API takes no sampling parameters, so a run does not send it."""


class AgentBody(Body):
    """An agent as an admin describes it: `POST /agents`."""

    name: Name
    description: Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARS)] = ""
    model: Name
    """One of the models that the engine runs, or a configured name of one; a wrong one is answered with the list."""
    system_prompt: Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS, pattern=_NOT_BLANK)]
    tools: Annotated[list[Name], Field(max_length=MAX_TOOLS), AfterValidator(_distinct)] = Field(default_factory=list)
    """Names of built-in tools; without any, the agent only talks."""
    tags: Annotated[list[Tag], Field(max_length=MAX_TAGS), AfterValidator(_distinct)] = Field(default_factory=list)
    memory: Name | None = None
    knowledge: Name | None = None
    config: AgentConfigBody = Field(default_factory=AgentConfigBody)

    def spec(self) -> AgentSpec:
        """Return what the body says."""
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
    """`PUT /agents/{id}`: what is left out gets its default, as in a new agent."""

    version: Version | None = None
    """The version that was read; another one stored answers 409 STALE_VERSION."""
