"""Bodies of the routes of runs."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from karma.core.schemas import Body
from karma.runs.domain import MAX_REASON_CHARS


class CancelRunBody(Body):
    """Asks for the end of a run, or of all runs of an agent."""

    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_REASON_CHARS)] = ""
    """Reason that is kept with the run, for whoever reads it later."""
