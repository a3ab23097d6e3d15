"""Fields of a command in bodies of requests, of devices' own routes and of others that send commands later."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from karma.core.schemas import COMPOSED, FreeForm, Whole, json_of_at_most
from karma.core.wording import form
from karma.devices.bulk import MAX_BULK_PARAMS_BYTES
from karma.devices.domain import COMMAND_FORM, COMMAND_NAME, MAX_TAG_CHARS, MAX_TTL_S, MIN_TTL_S

CommandName = Annotated[str, StringConstraints(pattern=form(f"^{COMMAND_NAME.pattern}$", f"must be {COMMAND_FORM}"))]
BulkParams = Annotated[FreeForm, json_of_at_most(MAX_BULK_PARAMS_BYTES)]
Ttl = Annotated[Whole, Field(ge=MIN_TTL_S, le=MAX_TTL_S)]
"""Seconds."""
Tag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARS), COMPOSED]
"""A tag by which devices are named."""
