"""The event of the schedules, `{"sweep": <name>}`, which comes once a minute for each sweep of infra/catalog.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from karma.core.errors import ValidationFailed
from karma.core.observability import logger

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

Sweeps = Mapping[str, Callable[[], int]]
"""Sweeps of one function by name; each does a bounded amount of work and returns how much it changed."""


def run(sweeps: Sweeps, event: Any, context: LambdaContext) -> dict[str, int]:
    """Run the sweep that an event names; its errors are raised, and the function's alarm sees them.

    Raises:
        ValidationFailed: the event names no sweep of this function.
    """
    name = event.get("sweep") if isinstance(event, dict) else None
    if not isinstance(name, str) or name not in sweeps:
        raise ValidationFailed.of("sweep", f"must be one of {', '.join(sweeps)}")
    changed = sweeps[name]()
    if changed:
        logger.info("sweep.done", sweep=name, changed=changed, request_id=context.aws_request_id)
    return {"changed": changed}
