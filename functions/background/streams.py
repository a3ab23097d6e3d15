"""Gives a batch of a table's stream to each consumer of its router, and says from which record it must come again.

Consumers are independent: what one of them cannot take holds up none of the others, but brings all of them the same
records again, which they know. Nor does a record that a consumer cannot take keep those behind it from that consumer,
unless it takes them `InOrder`: when the retries are used up, that record alone is missing. DynamoDB delivers again from
the record that is reported (ReportBatchItemFailures, bisect, on-failure queue: infra/constructs/triggers.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from karma.core.errors import Upstream
from karma.core.happenings import HappeningSource
from karma.core.observability import count, logger
from karma.core.streams import InOrder, StreamConsumer, StreamRecord

if TYPE_CHECKING:
    from karma.webhooks.fanout import Fanout


def consume(event: dict[str, Any], *consumers: StreamConsumer) -> dict[str, Any]:
    """Give a batch to each consumer, and answer as Lambda's stream mapping wants it."""
    records = [StreamRecord.read(each) for each in event["Records"]]
    taken: dict[str, int] = {}
    failed = len(records)
    for consumer in consumers:
        name = type(consumer).__name__
        taken[name], at = _given(consumer, records, name)
        failed = min(failed, at)
    logger.info("stream.batch", records=len(records), taken=taken)
    again = [{"itemIdentifier": records[failed].sequence_number}] if failed < len(records) else []
    return {"batchItemFailures": again}


def _given(consumer: StreamConsumer, records: Sequence[StreamRecord], name: str) -> tuple[int, int]:
    """Give a batch to a consumer; return how many meant something to it, and the first that must come again."""
    try:
        return consumer.take(records), len(records)
    except Upstream as exc:
        logger.warning("stream.retry", consumer=name, cause=type(exc).__name__)
        return 0, 0
    except Exception as exc:  # noqa: BLE001  the process edge of one batch
        logger.warning("stream.singly", consumer=name, cause=type(exc).__name__)
    # Some of them are bad: all others are taken, and the first bad one is named, from which on they come again.
    total, failed = 0, len(records)
    for index, record in enumerate(records):
        try:
            total += consumer.take([record])
        except Upstream as exc:
            logger.warning("stream.retry", consumer=name, cause=type(exc).__name__)
            return total, min(failed, index)
        except Exception:  # noqa: BLE001  the process edge of one record
            count("UnhandledError")
            logger.exception("stream.failed", consumer=name)
            failed = min(failed, index)
            if isinstance(consumer, InOrder):
                break
    return total, failed


class HappeningConsumer:
    """Tells webhooks what happened by a batch of changes."""

    def __init__(self, sources: Sequence[HappeningSource], fanout: Fanout) -> None:
        self._sources = sources
        self._fanout = fanout

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Make the deliveries of what happened, and return how many are new; what was told before is found again.

        Raises:
            StorageThrottled, StorageUnavailable: the database does not answer; all may be given again.
        """
        found = (source.happened(record.change) for record in records for source in self._sources)
        return self._fanout.tell([each for each in found if each is not None])
