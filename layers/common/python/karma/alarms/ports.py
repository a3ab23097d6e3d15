"""Ports of alarms; the second implementation is in tests/fakes/alarms.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from karma.alarms.domain import MAX_RULES, Alarm, AlarmId, AlarmRule, AlarmRuleId
from karma.core.ids import DeviceId, UserId
from karma.core.requests import RepeatableRequest


class AlarmRules(Protocol):
    """A store of rules. All calls block; each write is one transaction."""

    def get(self, user_id: UserId, rule_id: AlarmRuleId) -> AlarmRule | None:
        """Read one, consistently; None when it is absent, deleted, or another account's."""

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> AlarmRuleId | None:
        """Return the id of the rule that a request created, consistently; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """

    def create(self, rule: AlarmRule, *, request: RepeatableRequest | None, most: int = MAX_RULES) -> None:
        """Store a new rule, and the record of `request`; of an absence it is looked for from now on.

        Raises:
            AlreadyExists: a request with this key created a rule within the last 25 hours; `made_by` names it.
            TooManyAlarmRules: the account has `most` rules or more.
            AccountGone: its account is deleted.
        """

    def replace(self, old: AlarmRule, new: AlarmRule) -> None:
        """Store `new`, which has the next version, in place of `old`; alarms of earlier revisions are to be superseded.

        Raises:
            AlarmRuleChanged: `old` is not the stored one any more.
        """

    def delete(self, rule: AlarmRule, *, now: datetime) -> None:
        """Delete a rule; its alarms are to be superseded.

        Raises:
            AlarmRuleChanged: `rule` is not the stored one any more.
        """

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[AlarmRule]:
        """List rules, newest first, whose ids are below `below`; "" is the first page."""


class Alarms(Protocol):
    """A store of alarms. All calls block."""

    def find(self, user_id: UserId, alarm_id: AlarmId) -> Alarm | None:
        """Read one; None when it is absent, or another account's."""

    def page(
        self, user_id: UserId, *, is_open: bool, device_id: DeviceId | None, below: str, limit: int
    ) -> list[Alarm]:
        """List alarms that are open, or over, of one device or of all, newest first, with ids below `below`."""

    def acknowledge(self, alarm: Alarm, *, by: UserId, now: datetime) -> Alarm:
        """Note that somebody has seen an alarm that is raised.

        Raises:
            AlarmChanged: it is not raised any more.
        """

    def supersede(self, user_id: UserId, rule_id: AlarmRuleId, *, below: int, now: datetime, limit: int) -> bool:
        """End open alarms of a rule's revisions before `below`, up to `limit`; True: none is left."""

    def release(self, device_id: DeviceId, alarm_id: AlarmId, *, now: datetime) -> bool:
        """Note that the silence is over in which an open alarm was raised; False: it is over, or that was noted."""

    def add(self, alarms: Sequence[Alarm]) -> None:
        """Store new alarms; one that is there stays as it is."""
