"""Consumer of the DynamoDB stream of the agents table: folds runs into figures. See karma/metrics/folding.py.

A batch counts as a whole: whatever of it was counted when it fails is found again by its marks.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from background.streams import consume
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.metrics.folding import Folding
from karma.metrics.repository import MetricRepository

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    agents_table: str


@cache
def services() -> Folding:
    """Build the folding once a process."""
    settings = load(Settings)
    bind_tables(settings)
    return Folding(MetricRepository(), SystemClock())


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Count a batch of changes."""
    return consume(event, services())
