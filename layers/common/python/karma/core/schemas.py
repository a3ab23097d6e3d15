"""Base of request bodies: a trust boundary refuses what it does not know."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """A request body; its validator is built when the first such body arrives, not at import."""

    model_config = ConfigDict(extra="forbid", defer_build=True, frozen=True)


class Data(BaseModel):
    """What the API answers, for the OpenAPI document only: answers are rendered from plain dicts."""

    model_config = ConfigDict(extra="forbid", defer_build=True)
