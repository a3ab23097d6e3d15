"""Consumer of the telemetry table's stream, which brings the keys of stored batches: marks their hours as dirty."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from background.streams import consume
from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.settings import FunctionSettings, load
from karma.devices.repository.telemetry import stored_hour
from karma.telemetry.marking import Marking
from karma.telemetry.repository import RollupRepository

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from karma.core.streams import StreamConsumer


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    telemetry_table: str


@cache
def services() -> tuple[StreamConsumer, ...]:
    """Build those who take the table's changes, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    return (Marking(RollupRepository(), SystemClock(), hour_of=stored_hour),)


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Give a batch of changes to each consumer."""
    return consume(event, *services())
