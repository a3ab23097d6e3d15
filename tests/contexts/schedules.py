"""Declarations of schedules for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest

from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists
from karma.core.ids import new_id
from karma.core.requests import RETENTION
from karma.notices.domain import Notice, NoticeType
from karma.schedules.domain import MAX_MESSAGE_CHARS, MAX_NAME_CHARS, Fired, FireOutcome, Schedule, ScheduleId
from karma.schedules.repository import ScheduleRepository
from tests.contract.stores.test_schedules import HOUR, fired
from tests.contract.stores.test_schedules import schedule as a_schedule
from tests.fakes.schedules import MemorySchedules
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Checks, Fakes, Pages, Scenarios, made
from tests.support.requests import asked
from tests.support.rows import NOW, AccountRows


class ScheduleRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.store = ScheduleRepository()

    def another(self) -> Schedule:
        return replace(a_schedule(user=self.ada.id), id=ScheduleId(new_id()))

    @cached_property
    def first(self) -> Schedule:
        schedule = self.another()
        self.store.create(schedule, request=asked("t"))
        return schedule

    def commit(self, of: Fired) -> None:
        tx = Transaction()
        self.store.fired(of)(tx)
        tx.commit()

    @property
    def notice(self) -> Notice:
        return Notice(user_id=self.ada.id, type=NoticeType.SCHEDULE_FAILED, created_at=NOW, data={})


FAKES: Fakes = {MemorySchedules: (ScheduleRepository,)}

SCENARIOS = Scenarios[ScheduleRows](
    ScheduleRows,
    {
        "ScheduleRepository.get": made(lambda r: r.first, lambda r, n: r.store.get(n.user_id, n.id)),
        "ScheduleRepository.made_by": made(lambda r: r.first, lambda r, n: r.store.made_by(n.user_id, asked("t"))),
        "ScheduleRepository.census": made(lambda r: r.first, lambda r, n: r.store.census(n.user_id)),
        "ScheduleRepository.create": made(lambda r: r.another(), lambda r, n: r.store.create(n, request=asked("t"))),
        "ScheduleRepository.replace": made(
            lambda r: r.first,
            lambda r, n: r.store.replace(n, replace(n, run={"message": "x"}, run_version=2, version=2)),
        ),
        "ScheduleRepository.delete": made(lambda r: r.first, lambda r, n: r.store.delete(n)),
        "ScheduleRepository.due": made(lambda r: r.first, lambda r, n: r.store.due(n.created_at + 9 * HOUR, limit=9)),
        "ScheduleRepository.put_off": made(
            lambda r: (r.first, r.store.due(r.first.created_at + 9 * HOUR, limit=9)[0]),
            lambda r, n: r.store.put_off(n[1], until=n[0].created_at + 9 * HOUR),
        ),
        "ScheduleRepository.fired": made(lambda r: r.first, lambda r, n: r.commit(fired(n))),
        "ScheduleRepository.settle": made(
            lambda r: r.first, lambda r, n: r.store.settle(fired(n, FireOutcome.FAILED), notice=r.notice)
        ),
        "ScheduleRepository.page": made(lambda r: r.first, lambda r, n: r.store.page(n.user_id, below="", limit=5)),
        "ScheduleRepository.purge_account": made(
            lambda r: (r.first, r.purge()), lambda r, n: r.store.purge_account(n[1])
        ),
    },
)


def _made_schedule_over(rows: ScheduleRows) -> None:
    rows.first  # noqa: B018
    again = rows.another()
    with pytest.raises(AlreadyExists):
        rows.store.create(again, request=asked("t"))
    rows.store.create(again, request=asked("t", at=NOW + RETENTION))


EXPIRES = Checks[ScheduleRows](ScheduleRows, {"schedule_request": _made_schedule_over})


def _schedule(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/schedules", _new_schedule(world, owner))["schedule"]["id"])


def _new_schedule(_: World, __: str) -> dict[str, Any]:
    return {"name": "First", "cron": "0 9 * * *", "run": {"message": "Go"}}


OBJECTS: Objects = {"schedule_id": _schedule}

BODIES: Bodies = {
    "POST /api/v1/schedules": _new_schedule,
    "PATCH /api/v1/schedules/{schedule_id}": lambda *_: {"name": "Second"},
}

PAGES: Pages = {"schedules": (100, 6 * MAX_MESSAGE_CHARS + 4 * MAX_NAME_CHARS + 2_500)}
