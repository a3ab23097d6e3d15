"""In-memory stand-in for the store of schedules. It passes the same contract suite as DynamoDB's."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.core.clock import iso
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import AccountGone
from karma.notices.domain import Notice
from karma.runs.ports import Also
from karma.schedules.domain import (
    MAX_SCHEDULES,
    Census,
    Fired,
    FireKey,
    Schedule,
    ScheduleChanged,
    ScheduleId,
    TooManySchedules,
)
from karma.schedules.ports import DueFire
from tests.fakes.requests import MemoryRequests


@dataclass
class MemorySchedules:
    """Schedules in dictionaries."""

    schedules: dict[ScheduleId, Schedule] = field(default_factory=dict)
    looks: dict[ScheduleId, str] = field(default_factory=dict)
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    changes: dict[UserId, int] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    deleted_accounts: set[UserId] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def get(self, user_id: UserId, schedule_id: ScheduleId) -> Schedule | None:
        schedule = self.schedules.get(schedule_id)
        return schedule if schedule is not None and schedule.user_id == user_id else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ScheduleId | None:
        made = self.requests.noted(user_id, request)
        return ScheduleId(made) if made else None

    def census(self, user_id: UserId) -> Census:
        mine = [each for each in self.schedules.values() if each.user_id == user_id]
        active = sum(each.next_fire_at is not None for each in mine)
        return Census(total=len(mine), active=active, version=self.changes.get(user_id, 0))

    def create(self, schedule: Schedule, *, request: RepeatableRequest | None, seen: Census | None = None) -> None:
        if schedule.user_id in self.deleted_accounts:
            raise AccountGone(schedule.user_id)
        self.requests.require_new(schedule.user_id, request)
        if sum(each.user_id == schedule.user_id for each in self.schedules.values()) >= MAX_SCHEDULES:
            raise TooManySchedules
        self._require_census(schedule, seen)
        self._count(schedule.user_id)
        self.requests.note(schedule.user_id, request, schedule.id)
        self._keep(schedule)

    def replace(self, old: Schedule, new: Schedule, *, seen: Census | None = None) -> None:
        with self._lock:
            self._require(old)
            self._require_census(new, seen)
            if seen is not None:
                self._count(new.user_id)
            self._keep(new)

    def delete(self, schedule: Schedule) -> None:
        with self._lock:
            stored = self.schedules.get(schedule.id)
            if stored is None or stored.version != schedule.version:
                raise _changed(schedule)
            self._count(schedule.user_id)
            del self.schedules[schedule.id]
            self.looks.pop(schedule.id, None)

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Schedule]:
        mine = [
            replace(schedule, run=None, command=None)
            for schedule in self.schedules.values()
            if schedule.user_id == user_id and (not below or schedule.id < below)
        ]
        return sorted(mine, key=lambda schedule: schedule.id, reverse=True)[:limit]

    def due(self, before: datetime, *, limit: int) -> Sequence[DueFire]:
        found = []
        for schedule_id, look_at in sorted(self.looks.items(), key=lambda each: each[1]):
            schedule = self.schedules[schedule_id]
            if look_at < iso(before) and schedule.next_fire_at is not None:
                found.append(DueFire(FireKey(schedule.user_id, schedule_id, schedule.next_fire_at), look_at))
        return found[:limit]

    def put_off(self, due: DueFire, *, until: datetime) -> bool:
        with self._lock:
            seen = due.look_at or f"{iso(due.key.due_at)}#{due.key.schedule_id}"
            if self.looks.get(due.key.schedule_id) != seen:
                return False
            self.looks[due.key.schedule_id] = f"{iso(until)}#{due.key.schedule_id}"
            return True

    def fired(self, fired: Fired) -> Also:
        def join(_: Transaction) -> None:
            self._note(fired)

        return join

    def settle(self, fired: Fired, *, notice: Notice | None) -> None:
        if notice is not None and notice.user_id in self.deleted_accounts:
            raise AccountGone(notice.user_id)
        self._note(fired)
        if notice is not None:
            self.notices.append(notice)

    def _note(self, fired: Fired) -> None:
        with self._lock:
            self._require(fired.seen)
            self._keep(fired.applied())

    def _keep(self, schedule: Schedule) -> None:
        self.schedules[schedule.id] = schedule
        self.looks.pop(schedule.id, None)
        if schedule.next_fire_at is not None:
            self.looks[schedule.id] = f"{iso(schedule.next_fire_at)}#{schedule.id}"

    def _count(self, user_id: UserId) -> None:
        self.changes[user_id] = self.changes.get(user_id, 0) + 1

    def _require_census(self, schedule: Schedule, seen: Census | None) -> None:
        if seen is not None and seen.version != self.changes.get(schedule.user_id, 0):
            raise _changed(schedule)

    def _require(self, seen: Schedule) -> None:
        stored = self.schedules.get(seen.id)
        if stored is None or (stored.version, stored.next_fire_at) != (seen.version, seen.next_fire_at):
            raise _changed(seen)


def _changed(schedule: Schedule) -> ScheduleChanged:
    return ScheduleChanged(f"Schedule {schedule.id} was changed by another request; read it again")
