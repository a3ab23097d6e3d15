"""The sweep of exports: sends those again that no worker writes, though they are not over."""

from __future__ import annotations

from typing import Final

from karma.core.clock import Clock
from karma.core.sweeping import sweep_each
from karma.telemetry.exports.domain import LOOKED_AFTER, ExportKey
from karma.telemetry.exports.messages import send_export
from karma.telemetry.exports.ports import ExportQueue
from karma.telemetry.exports.repository import ExportRepository

EXPORTS_A_SWEEP: Final = 50


def send_open_exports(exports: ExportRepository, queue: ExportQueue, clock: Clock) -> int:
    """Send exports whose message was lost, or whose worker died; return how many."""
    now = clock.now()

    def send(key: ExportKey) -> int:
        if send_export(queue, key):
            exports.put_off(key, before=now, until=now + LOOKED_AFTER)
        return 1

    due = exports.due(before=now, limit=EXPORTS_A_SWEEP)
    return sweep_each("exports", due, send, name=lambda key: key.export_id, clock=clock)
