"""Bodies of the routes of webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from karma.core.lines import NEVER
from karma.core.schemas import SERVER_URL, Body, Version, left_out
from karma.core.wording import form
from karma.webhooks.domain import (
    EVERYTHING,
    MAX_DESCRIPTION_CHARS,
    MAX_EVENT_TYPES,
    MAX_TYPE_CHARS,
    MAX_URL_CHARS,
    WebhookStatus,
)
from karma.webhooks.service import NewWebhook


def _once_each(events: list[str]) -> list[str]:
    if len(set(events)) < len(events):
        raise ValueError("must name each type once")
    return events


def _everything() -> list[str]:
    return [EVERYTHING]


_ONE_LINE = form(
    rf"^[^{NEVER}]*$", "must not have control characters, such as line breaks, nor change the direction of text"
)
Url = Annotated[str, StringConstraints(max_length=MAX_URL_CHARS, pattern=SERVER_URL)]
Description = Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARS, pattern=_ONE_LINE)]
EventTypes = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_TYPE_CHARS)]],
    Field(min_length=1, max_length=MAX_EVENT_TYPES),
    AfterValidator(_once_each),
]


class CreateWebhookBody(Body):
    """A webhook of the caller's."""

    url: Url
    """Address that gets a POST for each event; https:, with any network port."""
    events: EventTypes = Field(default_factory=_everything)
    """Types of events that it is told; `*`: all, also those of later releases."""
    description: Description = ""

    def wanted(self) -> NewWebhook:
        """Return what the body says, in the domain's words."""
        return NewWebhook(url=self.url, events=tuple(self.events), description=self.description)


class ChangeWebhookBody(Body):
    """Changes of a webhook; a member that is left out stays as it is."""

    url: Url = left_out()
    events: EventTypes = left_out()
    description: Description = left_out()
    status: Literal["enabled", "disabled"] = left_out()
    """`enabled` also forgets the failures of before."""
    version: Version | None = None

    def changes(self) -> Mapping[str, Any]:
        """Return what the body says, in the domain's words."""
        found: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set - {"version"}}
        if "events" in found:
            found["events"] = tuple(found["events"])
        if "status" in found:
            found["status"] = WebhookStatus(found["status"])
        return found
