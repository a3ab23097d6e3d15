"""Bodies of the avatar routes."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints

from karma.avatars.domain import (
    MAX_ABILITIES_BYTES,
    MAX_DESCRIPTION_CHARS,
    MAX_MODEL_CHARS,
    MAX_NAME_CHARS,
    MAX_PRICE_MINOR,
    MAX_PROMPT_CHARS,
    MAX_ROLE_CHARS,
    MAX_URL_CHARS,
    MAX_WORD_CHARS,
    MAX_WORDS,
    AvatarStatus,
    NewAvatar,
)
from karma.core.schemas import HTTPS_URL, Body, FreeForm, Number, Version, json_of_at_most, left_out, line


def _distinct(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _to_the_cent(price: float) -> float:
    if _minor(price) % 1:
        raise ValueError("has at most two decimals")
    return price


def _minor(price: float) -> Decimal:
    # By its shortest text: 9.99 is not a binary fraction.
    return Decimal(repr(price)) * 100


Name = Annotated[str, line(MAX_NAME_CHARS)]
JobRole = Annotated[str, line(MAX_ROLE_CHARS)]
Description = Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION_CHARS)]
ImageUrl = Annotated[str, StringConstraints(max_length=MAX_URL_CHARS, pattern=rf"^{HTTPS_URL}$")]
ModelName = Annotated[str, line(MAX_MODEL_CHARS)]
Prompt = Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARS)]
Words = Annotated[
    list[Annotated[str, line(MAX_WORD_CHARS)]],
    Field(max_length=MAX_WORDS),
    AfterValidator(_distinct),
]
Abilities = Annotated[FreeForm, json_of_at_most(MAX_ABILITIES_BYTES)]
Price = Annotated[Number, Field(ge=0, le=MAX_PRICE_MINOR / 100, examples=[9.99]), AfterValidator(_to_the_cent)]


class CreateAvatarBody(Body):
    """A new avatar; its creator is the caller."""

    name: Name
    role: JobRole
    """Its job, in words."""
    description: Description | None = None
    avatar_url: ImageUrl | None = None
    """URL of its picture."""
    skills: Words = Field(default_factory=list)
    status: AvatarStatus = AvatarStatus.IDLE
    base_model: ModelName | None = None
    system_prompt: Prompt | None = None
    tools: Words = Field(default_factory=list)
    abilities: Abilities = Field(default_factory=dict)
    price: Price | None = None
    """Price in US dollars, to the cent; null: not for sale."""

    def new(self) -> NewAvatar:
        """Return the new avatar that the body describes."""
        return NewAvatar(
            name=self.name,
            role=self.role,
            description=self.description,
            avatar_url=self.avatar_url,
            skills=tuple(self.skills),
            status=self.status,
            base_model=self.base_model,
            system_prompt=self.system_prompt,
            tools=tuple(self.tools),
            abilities=self.abilities,
            price_minor=None if self.price is None else int(_minor(self.price)),
        )


class ChangeAvatarBody(Body):
    """Changes of an avatar; fields left out stay as they are, null removes an optional field."""

    name: Name = left_out()
    role: JobRole = left_out()
    description: Description | None = None
    avatar_url: ImageUrl | None = None
    skills: Words = left_out()
    status: AvatarStatus = left_out()
    base_model: ModelName | None = None
    system_prompt: Prompt | None = None
    tools: Words = left_out()
    abilities: Abilities = left_out()
    price: Price | None = None
    version: Version | None = None

    def changes(self) -> Mapping[str, Any]:
        """Return the changed fields by their names in the domain."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"version", "price"}}
        given |= {name: tuple(given[name]) for name in ("skills", "tools") if name in given}
        if "price" in self.model_fields_set:
            given["price_minor"] = None if self.price is None else int(_minor(self.price))
        return given
