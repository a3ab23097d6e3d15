"""Bodies of the configuration routes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool

from karma.core.schemas import Body, FreeForm, Version, Whole

SeenVersion = Annotated[Whole, Field(ge=0, examples=[0])]
"""Version of the component that the caller read; 0: it was never configured."""


class ConfigBody(Body):
    """`PUT /config/{component_name}`: fields that `config` leaves out stay as they are."""

    config: FreeForm
    """`type` (of a new component), `description`, `enabled`, `tags`; of a model also `provider`, `model`,
    `temperature`, `max_tokens`, `base_url`, `secret`, `images`, `context_window`, `prices`, `fallback`."""
    validate_only: StrictBool = False
    """Return the answer of the change without making it."""
    version: SeenVersion | None = None
    """Answered with 409 STALE_VERSION if the stored version is another one."""


class ConfigRollbackBody(Body):
    """`POST /config/{component_name}/rollback`."""

    version: Version
    """The change whose result the component becomes again."""
