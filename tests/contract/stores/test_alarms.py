"""Rules of alarms and alarms: one suite for the stores in memory and for DynamoDB."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from karma.alarms.domain import (
    MAX_RULES,
    Alarm,
    AlarmAction,
    AlarmChanged,
    AlarmRule,
    AlarmRuleChanged,
    AlarmRuleId,
    AlarmRun,
    AlarmRunRefusal,
    AlarmState,
    Silence,
    TooManyAlarmRules,
    Trigger,
    raised_alarm,
)
from karma.alarms.items import AlarmItem, alarm_item, alarm_key
from karma.alarms.ports import AlarmRules, Alarms
from karma.alarms.repository.alarms import AlarmRepository, end, end_actions
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.core.clock import epoch_ms, monotonic
from karma.core.dynamo.access import delete, get, put, update
from karma.core.errors import AlreadyExists
from karma.core.ids import ApiKeyId, DeviceId, RunId, UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.identity.transactional import AccountGone
from tests.fakes.alarms import MemoryAlarmRules, MemoryAlarms
from tests.support.accounts import open_account
from tests.support.clients import hooked
from tests.support.requests import asked
from tests.support.stores import Database, Store

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
USER, OTHER, GONE = UserId(new_id()), UserId(new_id()), UserId(new_id())
DEVICE, ANOTHER = DeviceId(new_id()), DeviceId(new_id())


@pytest.fixture
def rule_store(store: Store) -> AlarmRules:
    return MemoryAlarmRules(deleted_accounts={GONE}) if store.in_memory else stored()


@pytest.fixture
def alarm_store(store: Store) -> Alarms:
    return MemoryAlarms() if store.in_memory else AlarmRepository()


@pytest.fixture
def dynamo(database: Database) -> AlarmRuleRepository:
    return stored()


def stored() -> AlarmRuleRepository:
    for user in (USER, OTHER):
        open_account(user)
    return AlarmRuleRepository()


def alarm_rule(number: int = 1, *, user: UserId = USER) -> AlarmRule:
    return AlarmRule(
        id=AlarmRuleId(f"01890000-0000-7000-8000-{number:012d}"),
        user_id=user,
        name=f"rule {number}",
        device_id=DEVICE,
        tag=None,
        trigger=Trigger.ABOVE,
        metric="temp_c",
        high=0.1,
        created_at=NOW,
        updated_at=NOW,
        revised_at=NOW,
        version=1,
    )


def an_alarm(minute: int = 0, *, of: AlarmRule | None = None, device: DeviceId = DEVICE) -> Alarm:
    at = epoch_ms(NOW) + 60_000 * minute
    return raised_alarm(of or alarm_rule(), device, since_ms=at - 5, raised_ms=at, value=41.2, now=NOW)


def test_a_rule_reads_back_whole(rule_store: AlarmRules) -> None:
    bare = alarm_rule(1)
    full = replace(
        alarm_rule(2),
        device_id=None,
        tag="greenhouse",
        trigger=Trigger.OUTSIDE,
        low=-273.15,
        high=1e12,
        margin=0.3,
        for_s=60,
        keep_s=90,
        actions=(AlarmAction.RUN,),
        run=AlarmRun(agent_id="karma", message="Look", api_key_id=ApiKeyId(new_id())),
        silences=(Silence(days=(1, 7), begins=1320, ends=360), Silence(days=(6,), begins=0, ends=0)),
        time_zone="Europe/Berlin",
        enabled=False,
    )
    absent = replace(alarm_rule(3), trigger=Trigger.OFFLINE, metric=None, high=None, for_s=300)
    for each in (bare, full, absent):
        rule_store.create(each, request=None)
    assert [rule_store.get(USER, each.id) for each in (bare, full, absent)] == [bare, full, absent]


def test_what_does_not_exist_or_is_another_s_is_nothing(rule_store: AlarmRules) -> None:
    rule_store.create(alarm_rule(user=OTHER), request=asked("t"))
    assert rule_store.get(USER, alarm_rule().id) is None
    assert rule_store.made_by(USER, asked("t")) is None
    assert rule_store.page(USER, below="", limit=5) == []


def test_a_request_makes_one(rule_store: AlarmRules) -> None:
    rule_store.create(alarm_rule(1), request=asked("t"))
    with pytest.raises(AlreadyExists):
        rule_store.create(alarm_rule(2), request=asked("t"))
    assert rule_store.made_by(USER, asked("t")) == alarm_rule(1).id
    assert rule_store.get(USER, alarm_rule(2).id) is None
    with pytest.raises(IdempotencyKeyReused):
        rule_store.made_by(USER, asked("t", "another rule"))
    day_after = asked("t", "another rule", at=NOW + RETENTION)
    rule_store.create(alarm_rule(3), request=day_after)
    assert rule_store.made_by(USER, day_after) == alarm_rule(3).id


def test_lists_go_by_age_and_below_an_id(rule_store: AlarmRules) -> None:
    made = [alarm_rule(n) for n in range(5, 0, -1)]
    for each in made:
        rule_store.create(each, request=asked("t") if each is made[0] else None)
    assert rule_store.page(USER, below="", limit=9) == made
    assert rule_store.page(USER, below=made[1].id, limit=2) == made[2:4]


def test_a_stale_version_changes_and_deletes_nothing(rule_store: AlarmRules) -> None:
    old = alarm_rule()
    rule_store.create(old, request=None)
    new = replace(old, high=2.0, updated_at=NOW + timedelta(seconds=1), version=2, revision=2)
    rule_store.replace(old, new)
    with pytest.raises(AlarmRuleChanged):
        rule_store.replace(old, replace(new, name="late"))
    with pytest.raises(AlarmRuleChanged):
        rule_store.delete(old, now=NOW)
    assert rule_store.get(USER, old.id) == new
    rule_store.delete(new, now=NOW)
    assert rule_store.get(USER, old.id) is None


def test_an_account_has_only_so_many(rule_store: AlarmRules) -> None:
    for number in range(MAX_RULES):
        rule_store.create(alarm_rule(number), request=None)
    with pytest.raises(TooManyAlarmRules):
        rule_store.create(alarm_rule(MAX_RULES), request=None)
    rule_store.delete(alarm_rule(0), now=NOW)
    rule_store.create(alarm_rule(MAX_RULES), request=None)


def test_nothing_is_made_for_an_account_that_is_gone(rule_store: AlarmRules) -> None:
    with pytest.raises(AccountGone):
        rule_store.create(alarm_rule(user=GONE), request=asked("t"))
    assert rule_store.get(GONE, alarm_rule().id) is None


def test_an_account_s_go_with_it(dynamo: AlarmRuleRepository, database: Database) -> None:
    for each in (alarm_rule(1), alarm_rule(2), alarm_rule(3, user=OTHER)):
        dynamo.create(each, request=asked("t") if each.id == alarm_rule(1).id else None)
    dynamo.delete(alarm_rule(2), now=NOW)
    assert not dynamo.purge_account(PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() - 1, settled=True))
    assert dynamo.purge_account(PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() + 60, settled=True))
    assert {item["pk"]["S"] for item in database.items("devices")} == {f"ALARMS#{OTHER}"}


def test_alarms_are_listed_by_what_is_open_and_by_device(alarm_store: Alarms) -> None:
    first, second, third = an_alarm(1), an_alarm(2), an_alarm(3, device=ANOTHER)
    over = replace(an_alarm(4), state=AlarmState.CLEARED, cleared_ms=9, ended_at=NOW)
    alarm_store.add([first, second, third, over, first])
    alarm_store.add([an_alarm(of=alarm_rule(user=OTHER))])
    for each in (first, over):
        assert alarm_store.find(USER, each.id) == each
        assert alarm_store.find(OTHER, each.id) is None
    assert alarm_store.page(USER, is_open=True, device_id=None, below="", limit=9) == [third, second, first]
    assert alarm_store.page(USER, is_open=True, device_id=None, below=third.id, limit=1) == [second]
    assert alarm_store.page(USER, is_open=False, device_id=None, below="", limit=9) == [over]
    assert alarm_store.page(USER, is_open=True, device_id=DEVICE, below="", limit=9) == [second, first]
    assert alarm_store.page(USER, is_open=True, device_id=DEVICE, below=second.id, limit=9) == [first]
    assert alarm_store.page(OTHER, is_open=True, device_id=ANOTHER, below="", limit=9) == []


def test_an_alarm_is_acknowledged_while_it_is_raised(alarm_store: Alarms) -> None:
    alarm = an_alarm()
    alarm_store.add([alarm])
    seen = alarm_store.acknowledge(alarm, by=USER, now=NOW)
    assert seen == replace(alarm, state=AlarmState.ACKNOWLEDGED, acknowledged_at=NOW, acknowledged_by=USER)
    assert alarm_store.find(USER, alarm.id) == seen
    with pytest.raises(AlarmChanged):
        alarm_store.acknowledge(alarm, by=USER, now=NOW)


def test_an_alarm_has_one_run_or_one_refusal(database: Database) -> None:
    open_account(USER)
    alarms, began, refused = AlarmRepository(), an_alarm(1), an_alarm(2)
    alarms.add([began, refused])
    refusal = AlarmRunRefusal("NOT_FOUND", "Agent not found")
    run_id = RunId(new_id())
    assert [alarms.note_run(began, run_id, now=NOW) for _ in range(2)] == [True, False]
    assert not alarms.refuse_run(began, refusal, now=NOW)
    assert [alarms.refuse_run(refused, refusal, now=NOW) for _ in range(2)] == [True, False]
    assert not alarms.note_run(refused, run_id, now=NOW)
    assert alarms.stored(DEVICE, began.id) == replace(began, run_id=run_id)
    assert alarms.stored(DEVICE, refused.id) == replace(refused, run_refusal=refusal)
    assert alarms.stored(DEVICE, an_alarm(3).id) is None


def test_an_alarm_that_a_silence_holds_is_released_once_while_it_is_open(alarm_store: Alarms) -> None:
    held, over = an_alarm(), replace(an_alarm(9), state=AlarmState.CLEARED, cleared_ms=9, ended_at=NOW)
    alarm_store.add([held, over])
    for alarm, released in ((held, [True, False]), (over, [False, False])):
        assert [alarm_store.release(DEVICE, alarm.id, now=NOW) for _ in range(2)] == released


def test_alarms_of_earlier_revisions_are_superseded(alarm_store: Alarms) -> None:
    old = [an_alarm(minute) for minute in range(3)]
    new = an_alarm(of=replace(alarm_rule(), revision=2))
    others = an_alarm(of=alarm_rule(2))
    over = replace(an_alarm(9), state=AlarmState.CLEARED, cleared_ms=9, ended_at=NOW)
    alarm_store.add([*old, new, others, over])
    assert not alarm_store.supersede(USER, old[0].rule_id, below=2, now=NOW, limit=2)
    assert alarm_store.supersede(USER, old[0].rule_id, below=2, now=NOW, limit=2)
    left = alarm_store.page(USER, is_open=True, device_id=None, below="", limit=9)
    assert {each.id for each in left} == {new.id, others.id}
    assert alarm_store.find(USER, old[0].id) == replace(old[0], state=AlarmState.SUPERSEDED, ended_at=NOW)
    assert alarm_store.find(USER, over.id) == over


def marked(database: Database) -> set[str]:
    """Return the ids of the alarms that have marks."""
    return {item["alarm_id"]["S"] for item in database.items("devices") if item["pk"]["S"].startswith("ALARMRULE#")}


def test_an_alarm_has_a_mark_while_it_is_open(database: Database) -> None:
    alarms, made = AlarmRepository(), [an_alarm(minute) for minute in range(4)]
    others = an_alarm(of=alarm_rule(2))
    over = replace(an_alarm(9), state=AlarmState.CLEARED, cleared_ms=9, ended_at=NOW)
    alarms.add([*made, others, over, made[0]])
    alarms.acknowledge(made[1], by=USER, now=NOW)
    assert marked(database) == {each.id for each in (*made, others)}
    assert [end(made[0], AlarmState.CLEARED, cleared_ms=9, now=NOW) for _ in range(2)] == [True, False]
    assert marked(database) == {each.id for each in (*made[1:], others)}
    assert not alarms.supersede(USER, made[0].rule_id, below=2, now=NOW, limit=2)
    assert alarms.supersede(USER, made[0].rule_id, below=2, now=NOW, limit=2)
    assert marked(database) == {others.id}
    assert alarms.remove(DEVICE, limit=9) == 6
    assert marked(database) == set()


def test_what_was_raised_before_there_were_marks_ends_as_well(database: Database) -> None:
    alarms, made = AlarmRepository(), [an_alarm(minute) for minute in range(3)]
    for each in made:
        put(alarm_item(each))
    assert end(made[0], AlarmState.CLEARED, cleared_ms=9, now=NOW)
    assert alarms.supersede(USER, made[0].rule_id, below=2, now=NOW, limit=1), "it is left to the sweep"
    assert len(alarms.page(USER, is_open=True, device_id=None, below="", limit=9)) == 2
    assert not alarms.supersede_unmarked(USER, made[0].rule_id, below=2, now=NOW, limit=1)
    assert alarms.supersede_unmarked(USER, made[0].rule_id, below=2, now=NOW, limit=1)
    assert alarms.page(USER, is_open=True, device_id=None, below="", limit=9) == []


def test_a_mark_that_outlives_its_alarm_is_removed(database: Database) -> None:
    """A release that knows no marks ends alarms without them, while both are deployed."""
    alarms, made = AlarmRepository(), [an_alarm(minute) for minute in range(3)]
    alarms.add(made)
    item = get(AlarmItem, alarm_key(DEVICE, made[0].id))
    assert item is not None
    update(item, end_actions(made[0].id, AlarmState.CLEARED, now=NOW, cleared_ms=9))
    gone = get(AlarmItem, alarm_key(DEVICE, made[1].id))
    assert gone is not None
    delete(gone)
    assert alarms.supersede(USER, made[0].rule_id, below=2, now=NOW, limit=9)
    assert marked(database) == set()
    states = {each.id: each.state for each in alarms.page(USER, is_open=False, device_id=None, below="", limit=9)}
    assert states == {made[0].id: AlarmState.CLEARED, made[2].id: AlarmState.SUPERSEDED}


class Dead(BaseException):
    """The process died."""


def test_a_death_at_any_call_of_superseding_is_made_good_by_a_repeat(database: Database) -> None:
    alarms, deaths = AlarmRepository(), 0
    while True:
        rule, left = alarm_rule(deaths), deaths
        made = [an_alarm(minute, of=rule) for minute in range(2)]
        alarms.add(made)

        def die(**_: object) -> None:
            nonlocal left
            if not left:
                raise Dead
            left -= 1

        died = True
        with suppress(Dead), hooked("dynamodb", "after-call.dynamodb", die):
            alarms.supersede(USER, rule.id, below=2, now=NOW, limit=9)
            died = False
        assert alarms.supersede(USER, rule.id, below=2, now=NOW, limit=9)
        found = [alarms.find(USER, each.id) for each in made]
        assert [each.state for each in found if each] == [AlarmState.SUPERSEDED] * 2
        assert marked(database) == set()
        if not died:
            break
        deaths += 1
    assert deaths == 3


def test_alarms_go_with_their_device(alarm_store: Alarms) -> None:
    alarm_store.add([an_alarm(1), an_alarm(2), an_alarm(3, device=ANOTHER)])
    assert isinstance(alarm_store, MemoryAlarms | AlarmRepository)
    assert [alarm_store.remove(DEVICE, limit=2), alarm_store.remove(DEVICE, limit=2)] == [2, 0]
    assert [each.device_id for each in alarm_store.page(USER, is_open=True, device_id=None, below="", limit=9)] == [
        ANOTHER
    ]
