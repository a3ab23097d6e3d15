"""Bodies of the routes that go back to points of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from karma.agents.domain import MAX_NAME_CHARS, MAX_PROMPT_CHARS, MAX_STEPS, MAX_TOOLS
from karma.conversations.fields import MAX_TEXT_CHARS
from karma.core.schemas import Body, Whole, line
from karma.core.wording import form
from karma.runs.modifications import GivenResult, Modifications
from karma.runs.points import MAX_POINT_DESCRIPTION_CHARS

MAX_CHANGES = 100
"""Messages, and results, that one request changes."""
MAX_KEPT_MESSAGES = 100_000
MAX_ANSWER_TOKENS = 64_000
_NOT_BLANK = form(r"\S", "must not be blank")

Words = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS, pattern=_NOT_BLANK)]
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PROMPT_CHARS, pattern=_NOT_BLANK)]
MessageRef = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ConfiguredName = Annotated[str, line(MAX_NAME_CHARS)]


def _not_kept(value: object) -> object:
    if value is not None:
        raise ValueError("must be absent: what goes on from a point begins with the state of then")
    return value


class EditedMessageBody(Body):
    """Another text of a message of the user, or of an answer."""

    id: MessageRef
    content: Words


class ReplacedResultBody(Body):
    """Another result of a call of a tool, or the result of one that has none at this point."""

    tool_call_id: MessageRef
    content: Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARS)]
    failed: bool = False


class ModificationsBody(Body):
    """Changes with which a new run goes on; what is absent stays as it was."""

    modified_query: Words | None = None
    """The user's last message before this point, in other words; what followed it is left out."""
    message: Words | None = None
    """The user's next message."""
    system_prompt: Prompt | None = None
    model: ConfiguredName | None = None
    """Name of a configured model."""
    tools: Annotated[list[ConfiguredName], Field(max_length=MAX_TOOLS)] | None = None
    """Names of the server's tools that the run may use."""
    max_steps: Annotated[Whole, Field(ge=1, le=MAX_STEPS)] | None = None
    """Calls of the model at the most; a new run counts anew."""
    max_tokens: Annotated[Whole, Field(ge=1, le=MAX_ANSWER_TOKENS)] | None = None
    """Tokens of one answer of the model at the most."""
    keep_messages: Annotated[Whole, Field(ge=1, le=MAX_KEPT_MESSAGES)] | None = None
    """Number of messages of the conversation that are kept, from its first one on."""
    messages: Annotated[list[EditedMessageBody], Field(max_length=MAX_CHANGES)] = Field(default_factory=list)
    tool_results: Annotated[list[ReplacedResultBody], Field(max_length=MAX_CHANGES)] = Field(default_factory=list)
    state: Annotated[Any, AfterValidator(_not_kept)] = None
    """Not possible yet."""

    def changes(self) -> Modifications:
        """Return the changes that are asked for."""
        return Modifications(
            keep_messages=self.keep_messages,
            messages={each.id: each.content for each in self.messages},
            tool_results={each.tool_call_id: GivenResult(each.content, each.failed) for each in self.tool_results},
            modified_query=self.modified_query,
            message=self.message,
            system_prompt=self.system_prompt,
            model=self.model,
            tools=None if self.tools is None else tuple(dict.fromkeys(self.tools)),
            max_steps=self.max_steps,
            max_tokens=self.max_tokens,
        )


class _GoingBackBody(Body):
    """Goes on from a point of a run, with changes."""

    modifications: ModificationsBody = Field(default_factory=ModificationsBody)

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the changes of what another one changes already."""
        found: list[tuple[str, str]] = []
        wanted = given.get("modifications")
        for name, key in (("messages", "id"), ("tool_results", "tool_call_id")):
            listed = wanted.get(name) if isinstance(wanted, Mapping) else None
            changed: dict[str, int] = {}
            for at, each in enumerate(listed if isinstance(listed, list) else ()):
                of = each.get(key) if isinstance(each, Mapping) else None
                if isinstance(of, str) and (first := changed.setdefault(of, at)) != at:
                    message = f"is given twice: modifications.{name}.{first} changes it, too"
                    found.append((f"modifications.{name}.{at}.{key}", message))
        return found


class RestoreBody(_GoingBackBody):
    """Goes back to a point of a run."""

    create_new_run: bool = True
    """True: a new run goes on from the point, in the same thread; false: the thread itself goes back to it."""


class ForkBody(_GoingBackBody):
    """Goes on from a point of a run in a thread of its own."""

    description: Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_POINT_DESCRIPTION_CHARS)] = ""
    """Note on what is tried; the new run's first checkpoint shows it."""
