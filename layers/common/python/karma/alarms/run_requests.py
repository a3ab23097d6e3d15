"""Asks for the runs that rules begin for their alarms: a consumer of the stream of the table, background.router.

Beside AlarmTelling, so that neither holds up the other. A message names the alarm; who takes it begins the run once
(run_starting.py). What is raised in a silence waits for its end, as what is told does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from karma.alarms.domain import Alarm, AlarmAction, AlarmId
from karma.alarms.items import alarm_in
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.core.ids import DeviceId
from karma.core.messages import named, naming
from karma.core.streams import StreamRecord


class RunQueue(Protocol):
    """The queue of fires."""

    def send(self, body: str, *, delay_s: int = 0) -> None:
        """Enqueue one message. Raises Upstream."""


class AlarmKey(NamedTuple):
    """Key of an alarm."""

    device_id: DeviceId
    alarm_id: AlarmId


class AlarmRunRequests:
    """Asks for runs."""

    def __init__(self, rules: AlarmRuleRepository, queue: RunQueue) -> None:
        self._rules = rules
        self._queue = queue

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Ask for the runs of what was raised, and return for how many; see karma.core.streams.

        Raises:
            Upstream: the database or the queue does not answer; the changes must be delivered again.
        """
        return sum(self._asked(record) for record in records)

    def _asked(self, record: StreamRecord) -> bool:
        old, new = record.change
        if new is None or new.get("type") != {"S": "alarm"}:
            return False
        is_released = old is not None and "released_at" not in old and "released_at" in new
        if old is not None and not is_released:
            return False
        alarm = alarm_in(new)
        rule = self._rules.get(alarm.user_id, alarm.rule_id)
        if rule is None or AlarmAction.RUN not in rule.actions:
            return False
        if not is_released and rule.silent_until(alarm.recorded_at) is not None:
            return False
        self._queue.send(alarm_run_message(alarm))
        return True


def alarm_run_message(alarm: Alarm) -> str:
    """Write the message that asks for the run of an alarm."""
    return naming("alarm", device_id=alarm.device_id, alarm_id=alarm.id)


def read_alarm_run(body: str) -> AlarmKey:
    """Read a message that `alarm_run_message` wrote.

    Raises:
        ValidationFailed: it is no such message.
    """
    device_id, alarm_id = named(body, "alarm", "device_id", "alarm_id")
    return AlarmKey(DeviceId(device_id), AlarmId(alarm_id))
