"""The part that bodies of requests which begin a run, or schedule some, have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from karma.agents.domain import MAX_NAME_CHARS
from karma.conversations.client_ids import ClientId
from karma.conversations.fields import MAX_TEXT_CHARS
from karma.core.schemas import SERVER_URL, Body, FreeForm
from karma.models.budget_body import BudgetBody
from karma.webhooks.domain import MAX_URL_CHARS

MAX_MESSAGES = 2_000
"""Messages of a request for a run in the background."""


class RunBody(Body):
    """The message of a run and its options: of `POST /runs`, and of a schedule's runs."""

    agent_id: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    """Id or name of the agent; null is the built-in one."""
    message: Annotated[str, Field(max_length=MAX_TEXT_CHARS, pattern=r"\S")] | None = None
    """One message of the user; instead of `messages`."""
    messages: Annotated[list[FreeForm], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    """Messages as AG-UI has them, with what they say of the conversation; instead of `message`."""
    thread_id: ClientId | None = None
    """Thread that the run answers; null begins one."""
    state: FreeForm | None = None
    """State of the application, which is shown with the run's first events."""
    context: Annotated[list[FreeForm], Field(max_length=MAX_MESSAGES)] = Field(default_factory=list)
    """Facts that the application tells the model, each with `description` and `value`."""
    budget: BudgetBody | None = None
    """Limit of the run; its agent may allow less."""
    webhook: Annotated[str, StringConstraints(max_length=MAX_URL_CHARS, pattern=SERVER_URL)] | None = None
    """Address that gets a signed POST when the run has ended, beside the account's webhooks; https:."""

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
        """Return the rule on `message` and `messages` where it is broken."""
        has = [name for name in ("message", "messages") if given.get(name) is not None]
        if len(has) == 2:
            return [("messages", "must not be given beside message")]
        return [] if has else [("message", "must be given, or messages")]
