"""Costs of devices by hour, counted over all processes: one item a device and hour."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.core.dynamo.access import upsert
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AppError
from karma.core.ids import DeviceId
from karma.devices.repository.items import HourItem, hour_key

HOUR_S: Final = 3_600
_RETENTION_S: Final = 24 * 3_600
"""Seconds after the end of the hour for which the item is kept: the queue may deliver a message hours later."""


class Cost(StrEnum):
    """Cost that is counted."""

    LETTERS = "letters"
    """Dead letters that are kept."""
    UNITS = "units"
    """Write units of telemetry."""
    WORDS = "words"
    """Heartbeats, events, `ready`, and what the broker says of connections."""
    ANSWERS = "answers"
    """Answers to commands."""
    COMMANDS = "commands"
    """Kilobytes of commands, each rounded up."""
    FILES = "files"
    """Asks for files, and links of uploads beyond the first of an answer."""
    REPORTS = "reports"
    """Reports of settings that are kept."""
    FILE_REFUSALS = "file_refusals"
    """Answers to asks that were beyond the hour."""


class HourRepository:
    """Conditional counts in one `devices` table."""

    def take(self, device_id: DeviceId, cost: Cost, amount: int, *, hour: int, most: int) -> bool:
        """Add an amount to an hour's count; return False and add nothing when that would exceed `most`."""
        try:
            upsert(*_taking(device_id, cost, amount, hour=hour, most=most))
        except ConditionFailed:
            return False
        return True


def take_in(
    tx: Transaction, device_id: DeviceId, cost: Cost, amount: int, *, hour: int, most: int, on_fail: AppError
) -> None:
    """Add an amount to an hour's count in a transaction, which fails with `on_fail` when that would exceed `most`."""
    item, actions, room = _taking(device_id, cost, amount, hour=hour, most=most)
    tx.upsert(item, actions, room, on_fail=on_fail)


def _taking(
    device_id: DeviceId, cost: Cost, amount: int, *, hour: int, most: int
) -> tuple[HourItem, list[Action], Condition]:
    counted = getattr(HourItem, cost.value)
    actions = [counted.add(amount), HourItem.expires_at.set((hour + 1) * HOUR_S + _RETENTION_S)]
    return HourItem(*hour_key(device_id, hour)), actions, counted.does_not_exist() | (counted <= most - amount)
