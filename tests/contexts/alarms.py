"""Declarations of alarms for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest

from karma.alarms.domain import MAX_NAME_CHARS, Alarm, AlarmRule, AlarmRuleId, AlarmRunRefusal, Trigger, raised_alarm
from karma.alarms.repository.alarms import AlarmRepository
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.core.clock import epoch_ms
from karma.core.errors import AlreadyExists
from karma.core.ids import DeviceId, RunId, new_id
from karma.core.requests import RETENTION
from karma.notices.domain import Notice, NoticeType
from tests.contract.stores.test_alarms import alarm_rule
from tests.fakes.alarms import MemoryAlarmRules, MemoryAlarms
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Checks, Fakes, Pages, Scenarios, made
from tests.support.requests import asked
from tests.support.rows import NOW, AccountRows


class AlarmRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.rules = AlarmRuleRepository()
        self.alarms = AlarmRepository()

    def another(self) -> AlarmRule:
        return replace(alarm_rule(user=self.ada.id), id=AlarmRuleId(new_id()))

    @cached_property
    def first(self) -> AlarmRule:
        rule = self.another()
        self.rules.create(rule, request=asked("t"))
        return rule

    @cached_property
    def look(self) -> AlarmRule:
        """A rule about what is absent, for which the account's devices are to be looked at."""
        rule = replace(self.another(), trigger=Trigger.OFFLINE, metric=None, high=None, for_s=60)
        self.rules.create(rule, request=None)
        return rule

    @cached_property
    def alarm(self) -> Alarm:
        alarm = raised_alarm(
            self.another(), DeviceId(new_id()), since_ms=1, raised_ms=epoch_ms(NOW), value=1.0, now=NOW
        )
        self.alarms.add([alarm])
        return alarm

    def refuse(self, alarm: Alarm) -> bool:
        notice = Notice(id=alarm.id, user_id=alarm.user_id, type=NoticeType.ALARM_RUN_REFUSED, created_at=NOW)
        return self.alarms.refuse_run(alarm, REFUSAL, notice=notice, now=NOW)


REFUSAL = AlarmRunRefusal("NOT_FOUND", "Agent not found")

FAKES: Fakes = {MemoryAlarmRules: (AlarmRuleRepository,), MemoryAlarms: (AlarmRepository,)}

SCENARIOS = Scenarios[AlarmRows](
    AlarmRows,
    {
        "AlarmRuleRepository.get": made(lambda r: r.first, lambda r, n: r.rules.get(n.user_id, n.id)),
        "AlarmRuleRepository.made_by": made(lambda r: r.first, lambda r, n: r.rules.made_by(n.user_id, asked("t"))),
        "AlarmRuleRepository.create": made(lambda r: r.another(), lambda r, n: r.rules.create(n, request=asked("t"))),
        "AlarmRuleRepository.replace": made(
            lambda r: r.first, lambda r, n: r.rules.replace(n, replace(n, high=2.0, version=2, revision=2))
        ),
        "AlarmRuleRepository.delete": made(lambda r: r.first, lambda r, n: r.rules.delete(n, now=NOW)),
        "AlarmRuleRepository.page": made(lambda r: r.first, lambda r, n: r.rules.page(n.user_id, below="", limit=5)),
        "AlarmRuleRepository.purge_account": made(
            lambda r: (r.first, r.purge()), lambda r, n: r.rules.purge_account(n[1])
        ),
        "AlarmRepository.find": made(lambda r: r.alarm, lambda r, n: r.alarms.find(n.user_id, n.id)),
        "AlarmRepository.page": made(
            lambda r: r.alarm, lambda r, n: r.alarms.page(n.user_id, is_open=True, device_id=None, below="", limit=5)
        ),
        "AlarmRepository.acknowledge": made(
            lambda r: r.alarm, lambda r, n: r.alarms.acknowledge(n, by=n.user_id, now=NOW)
        ),
        "AlarmRepository.supersede": made(
            lambda r: r.alarm, lambda r, n: r.alarms.supersede(n.user_id, n.rule_id, below=9, now=NOW, limit=5)
        ),
        "AlarmRepository.supersede_unmarked": made(
            lambda r: r.alarm, lambda r, n: r.alarms.supersede_unmarked(n.user_id, n.rule_id, below=9, now=NOW, limit=5)
        ),
        "AlarmRepository.release": made(lambda r: r.alarm, lambda r, n: r.alarms.release(n.device_id, n.id, now=NOW)),
        "AlarmRepository.add": made(lambda r: r.alarm, lambda r, n: r.alarms.add([n])),
        "AlarmRepository.stored": made(lambda r: r.alarm, lambda r, n: r.alarms.stored(n.device_id, n.id)),
        "AlarmRepository.note_run": made(
            lambda r: r.alarm, lambda r, n: r.alarms.note_run(n, RunId(new_id()), now=NOW)
        ),
        "AlarmRepository.refuse_run": made(lambda r: r.alarm, lambda r, n: r.refuse(n)),
        "AlarmRepository.remove": made(lambda r: r.alarm, lambda r, n: r.alarms.remove(n.device_id, limit=5)),
    },
)


def _made_rule_over(rows: AlarmRows) -> None:
    rows.first  # noqa: B018
    again = rows.another()
    with pytest.raises(AlreadyExists):
        rows.rules.create(again, request=asked("t"))
    rows.rules.create(again, request=asked("t", at=NOW + RETENTION))


EXPIRES = Checks[AlarmRows](AlarmRows, {"alarm_rule_request": _made_rule_over})


def _rule(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/alarm-rules", _new_rule(world, owner))["alarm_rule"]["id"])


def _new_rule(_: World, __: str) -> dict[str, Any]:
    return {"name": "Too hot", "tag": "greenhouse", "trigger": "above", "metric": "temp_c", "high": 40}


def _alarm(world: World, owner: str, _: Mapping[str, str]) -> str:
    user_id = world.person(owner).id
    rule = replace(alarm_rule(user=user_id), id=AlarmRuleId(new_id()))
    alarm = raised_alarm(rule, DeviceId(new_id()), since_ms=1, raised_ms=epoch_ms(NOW), value=1.0, now=NOW)
    AlarmRepository().add([alarm])
    return alarm.id


OBJECTS: Objects = {"rule_id": _rule, "alarm_id": _alarm}

BODIES: Bodies = {
    "POST /api/v1/alarm-rules/test": lambda *_: {"tag": "t", "trigger": "above", "metric": "temp_c", "high": 40},
    "POST /api/v1/alarm-rules": _new_rule,
    "PATCH /api/v1/alarm-rules/{rule_id}": lambda *_: {"name": "Hotter"},
}

PAGES: Pages = {"alarm-rules": (100, 4 * MAX_NAME_CHARS + 2_500), "alarms": (100, 2_000)}
