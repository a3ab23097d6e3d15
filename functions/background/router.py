"""Consumer of the DynamoDB stream of the devices table: counts devices, in order within a partition.

The function, its queue of failures and its alarm are deployed as `router`; renamed, they would be replaced.

Reports the first record that failed: DynamoDB delivers again from there (ReportBatchItemFailures, bisect, on-failure
queue: infra).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from karma.core.dynamo.tables import bind_tables
from karma.core.errors import Upstream
from karma.core.observability import count, logger
from karma.core.settings import FunctionSettings, load
from karma.devices.counting import DeviceCounting, RowChange, is_active

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """Variables of this function."""

    identity_table: str
    devices_table: str


@cache
def services() -> DeviceCounting:
    """Build the counting once a process."""
    settings = load(Settings)
    bind_tables(settings)
    return DeviceCounting()


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Count a batch of changes, in order."""
    folded = 0
    for record in event["Records"]:
        change = _change(record["dynamodb"])
        try:
            folded += services().apply(change)
        except Upstream as exc:
            logger.warning("router.retry", cause=type(exc).__name__)
            return _again_from(change)
        except Exception:  # noqa: BLE001  the process edge of one record: those before it are not counted again
            count("UnhandledError")
            logger.exception("router.failed")
            return _again_from(change)
    logger.info("router.batch", records=len(event["Records"]), folded=folded)
    return {"batchItemFailures": []}


def _again_from(change: RowChange) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": change.sequence_number}]}


def _change(record: dict[str, Any]) -> RowChange:
    keys = record["Keys"]
    return RowChange(
        pk=keys["pk"]["S"],
        sk=keys["sk"]["S"],
        sequence_number=record["SequenceNumber"],
        was_active=is_active(_strings(record.get("OldImage"))),
        is_active=is_active(_strings(record.get("NewImage"))),
    )


def _strings(image: dict[str, Any] | None) -> dict[str, str]:
    return {name: value["S"] for name, value in (image or {}).items() if "S" in value}
