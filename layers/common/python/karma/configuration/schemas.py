"""Bodies of the configuration routes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool

from karma.core.schemas import Body, FreeForm, Version, Whole

SeenVersion = Annotated[Whole, Field(ge=0, examples=[0])]
"""Of the component that was read; 0 is what code brings."""


class ConfigBody(Body):
    """`PUT /config/{component_name}`: what `config` leaves out stays as it is."""

    config: FreeForm
    """`type` (of a new component), `description`, `enabled`, `tags`; of a model also `provider`, `model`,
    `temperature`, `max_tokens`."""
    validate_only: StrictBool = False
    """Say what would be answered, and change nothing."""
    version: SeenVersion | None = None
    """Another one stored answers 409 STALE_VERSION."""


class RollbackBody(Body):
    """`POST /config/{component_name}/rollback`."""

    version: Version
    """What the component was after this change."""
