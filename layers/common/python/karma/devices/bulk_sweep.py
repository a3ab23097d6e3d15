"""The sweep of bulk commands: has parts sent again that are open longer than they should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from karma.core.clock import Clock
from karma.core.observability import count, logger
from karma.core.sweeping import sweep_each
from karma.devices.bulk import BulkCommand, BulkKey
from karma.devices.bulk_commands import LOOKED_AFTER, send_lanes
from karma.devices.bulk_parts import QueuedBulkParts
from karma.devices.repository.bulk_commands import BulkCommandRepository

BULKS_A_SWEEP: Final = 50


def send_open_parts(bulks: BulkCommandRepository, queue: QueuedBulkParts, clock: Clock) -> int:
    """Send parts that are open longer than they should be again; return of how many bulk commands.

    A message that was lost, or a process that died before it sent the next one, is made up for by it.
    """

    def go_on(key: BulkKey) -> int:
        bulk = bulks.get(key)
        if bulk is None:
            return 0
        if not bulk.open_parts or bulk.is_given_up(clock.now()):
            if bulk.open_parts:
                count("BulkCommandGivenUp")
                logger.error("bulk.given_up", bulk_id=key.bulk_id, open_parts=bulk.open_parts)
            bulks.close(bulk)
        else:
            send_lanes(queue, key, _open(bulk, bulks))
            bulks.put_off(key, until=clock.now() + LOOKED_AFTER)
        return 1

    due = bulks.due(before=clock.now(), limit=BULKS_A_SWEEP)
    return sweep_each("bulks", due, go_on, name=lambda key: key.bulk_id, clock=clock)


def _open(bulk: BulkCommand, bulks: BulkCommandRepository) -> Sequence[int]:
    return [part.number for part in bulks.parts(bulk.key, limit=bulk.parts) if part.stage is not bulk.wanted]
