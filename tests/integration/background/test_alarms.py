"""Alarms behind ingest: notices and webhooks from the stream, and the sweep that ends them and looks for the absent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.alarms.domain import MAILS_AN_HOUR, STORM, Alarm, AlarmAction, AlarmRule, AlarmState, Silence, Trigger
from karma.alarms.items import AlarmItem, HeldItem, alarm_item, alarm_key, alarm_of, held_key
from karma.alarms.repository.alarms import AlarmRepository, end
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.core.clock import epoch_ms
from karma.core.dynamo.access import get, put, update
from karma.core.dynamo.work import due_sk
from karma.devices.domain import Latest, Reading
from karma.devices.repository.devices import DeviceRepository
from karma.mail.domain import Mail, MailKind
from karma.mail.repository import OutboxRepository
from karma.notices.domain import NoticeType
from karma.notices.repository import NoticeRepository
from karma.webhooks.repository.deliveries import DeliveryRepository
from karma.webhooks.repository.webhooks import WebhookRepository
from tests.contexts.webhooks import a_webhook, an_entry
from tests.contract.stores.test_alarms import alarm_rule, an_alarm
from tests.integration.device_ingest.test_ingest import DEVICE, THING, USER, seed_device
from tests.support.stack import Context, Drain, Stack

NOW = datetime.now(UTC).replace(microsecond=0)


def rule_of(**changes: Any) -> AlarmRule:
    long_ago = NOW - timedelta(hours=2)
    fields = {"device_id": DEVICE, "created_at": long_ago, "updated_at": long_ago, "revised_at": long_ago, **changes}
    rule = replace(alarm_rule(user=USER), **fields)
    AlarmRuleRepository().create(rule, request=None)
    return rule


def notices() -> list[NoticeType]:
    since = NOW - timedelta(days=1)
    found = NoticeRepository().page(USER, unread=False, since=since, below="", limit=100)
    return sorted(notice.type for notice in found)


@pytest.fixture
def seeded(stack: Stack) -> None:
    seed_device(stack)


@pytest.fixture
def route(stack: Stack, lambda_context: Context, seeded: None) -> Callable[..., None]:
    """Give changes of alarms to the router, twice, as a stream does."""

    def image(alarm: Alarm | None) -> Any:
        return alarm_item(alarm).serialize() | {"type": {"S": "alarm"}} if alarm is not None else None

    def give(*changes: tuple[Alarm | None, Alarm]) -> None:
        stack.use("router")
        from background.router import lambda_handler

        records = []
        for number, (old, new) in enumerate(changes):
            pk, sk = alarm_key(new.device_id, new.id)
            row = {"Keys": {"pk": {"S": pk}, "sk": {"S": sk}}, "SequenceNumber": str(number), "NewImage": image(new)}
            if old is not None:
                row["OldImage"] = image(old)
            records.append({"dynamodb": row})
        for _ in range(2):
            assert lambda_handler({"Records": records}, lambda_context) == {"batchItemFailures": []}

    return give


def over(alarm: Alarm) -> Alarm:
    return replace(alarm, state=AlarmState.CLEARED, cleared_ms=alarm.raised_ms + 9, ended_at=alarm.recorded_at)


def test_an_alarm_is_told_once_when_it_is_raised_and_once_when_it_is_cleared(route: Callable[..., None]) -> None:
    rule = rule_of()
    alarm = replace(an_alarm(of=rule), recorded_at=NOW)
    route((None, alarm))
    assert notices() == [NoticeType.ALARM_RAISED]
    seen = replace(alarm, state=AlarmState.ACKNOWLEDGED, acknowledged_at=NOW, acknowledged_by=USER)
    route((alarm, seen), (seen, over(seen)))
    assert notices() == [NoticeType.ALARM_CLEARED, NoticeType.ALARM_RAISED]
    route((over(seen), replace(over(seen), ended_at=NOW)))
    assert len(notices()) == 2


def test_nobody_is_told_in_a_silence_nor_of_its_end(route: Callable[..., None]) -> None:
    always = Silence(days=(1, 2, 3, 4, 5, 6, 7), begins=0, ends=0)
    alarm = replace(an_alarm(of=rule_of(silences=(always,))), recorded_at=NOW)
    quiet = replace(an_alarm(of=rule_of(id="01890000-0000-7000-8000-0000000000a2", actions=())), recorded_at=NOW)
    route((None, alarm), (alarm, over(alarm)), (None, quiet))
    assert notices() == []


def at_the_end_of_a_silence(alarm: Alarm, sweep: Callable[[], int]) -> Alarm:
    """Let a silence be over for all rules, sweep, and return the alarm as it is stored then."""
    held = HeldItem(*held_key(USER, alarm.id))
    update(held, [HeldItem.gsi1sk.set(due_sk(NOW - timedelta(minutes=1), alarm.id))], HeldItem.pk.exists())
    rule = AlarmRuleRepository().get(USER, alarm.rule_id)
    assert rule is not None
    if rule.silences:
        AlarmRuleRepository().replace(rule, replace(rule, silences=(), version=rule.version + 1))
    sweep()
    item = get(AlarmItem, alarm_key(alarm.device_id, alarm.id), consistent=True)
    assert item is not None
    return alarm_of(item)


ALWAYS = (
    Silence(days=(1, 2, 3, 4, 5, 6, 7), begins=0, ends=12 * 60),
    Silence(days=(1, 2, 3, 4, 5, 6, 7), begins=12 * 60, ends=0),
)


def test_what_is_still_raised_at_the_end_of_a_silence_is_told_then_and_once(
    stack: Stack, route: Callable[..., None], sweep: Callable[[], int]
) -> None:
    rule = rule_of(silences=ALWAYS)
    still, cleared = (replace(an_alarm(n, of=rule), recorded_at=NOW) for n in range(2))
    AlarmRepository().add([still, over(cleared)])
    route((None, still), (None, cleared), (cleared, over(cleared)))
    assert notices() == []
    assert at_the_end_of_a_silence(cleared, sweep).released_at is None
    told = at_the_end_of_a_silence(still, sweep)
    assert told.released_at is not None
    route((still, told))
    assert notices() == [NoticeType.ALARM_RAISED]
    route((still, told), (told, over(told)))
    assert notices() == [NoticeType.ALARM_CLEARED, NoticeType.ALARM_RAISED]
    assert sweep() == 0


def test_a_silence_that_goes_on_holds_an_alarm_further_and_of_a_deleted_rule_nothing_is_told(
    route: Callable[..., None], sweep: Callable[[], int]
) -> None:
    rule = rule_of(silences=ALWAYS)
    alarm = replace(an_alarm(of=rule), recorded_at=NOW)
    AlarmRepository().add([alarm])
    route((None, alarm))
    held = HeldItem(*held_key(USER, alarm.id))
    update(held, [HeldItem.gsi1sk.set(due_sk(NOW - timedelta(minutes=1), alarm.id))])
    assert sweep() == 1
    kept = get(HeldItem, held_key(USER, alarm.id))
    assert kept is not None
    assert str(kept.gsi1sk) > due_sk(NOW, "")
    update(held, [HeldItem.gsi1sk.set(due_sk(NOW - timedelta(minutes=1), alarm.id))])
    AlarmRuleRepository().delete(rule, now=NOW)
    sweep()
    assert get(HeldItem, held_key(USER, alarm.id)) is None
    assert notices() == []


def mails() -> list[tuple[MailKind, str]]:
    return sorted((each.kind, each.id) for each in pending_mails())


def pending_mails() -> list[Mail]:
    due = OutboxRepository().due(NOW + timedelta(hours=1), limit=100)
    found = [OutboxRepository().get(each.mail_id) for each in due]
    return [each for each in found if each is not None]


def test_a_mail_tells_of_an_alarm_and_of_its_end_once_and_is_enqueued(
    stack: Stack, route: Callable[..., None], drain: Drain
) -> None:
    rule = rule_of(actions=(AlarmAction.MAIL,))
    alarm = replace(an_alarm(of=rule), recorded_at=NOW)
    route((None, alarm))
    route((None, alarm), (alarm, over(alarm)))
    assert [kind for kind, _ in mails()] == [MailKind.ALARM_CLEARED, MailKind.ALARM_RAISED]
    assert notices() == []
    assert {each.user_id for each in pending_mails()} == {USER}
    assert {each["Body"] for each in drain(stack.queues["mail"], 2)} == {mail_id for _, mail_id in mails()}


def test_an_account_gets_no_more_mails_in_an_hour_than_are_allowed_and_all_notices(route: Callable[..., None]) -> None:
    rules = [
        rule_of(id=f"01890000-0000-7000-8000-{n:012d}", actions=(AlarmAction.MAIL, AlarmAction.NOTICE))
        for n in range(2)
    ]
    alarms = [replace(an_alarm(n, of=rule), recorded_at=NOW) for rule in rules for n in range(12)]
    route(*((None, alarm) for alarm in alarms))
    assert (len(mails()), len(notices())) == (MAILS_AN_HOUR, 24)


def test_what_was_not_told_is_not_cleared_and_of_a_storm_one_notice_tells(route: Callable[..., None]) -> None:
    rule = rule_of()
    alarms = [replace(an_alarm(n, of=rule), recorded_at=NOW) for n in range(STORM + 5)]
    route(*((None, alarm) for alarm in alarms))
    told = notices()
    assert (told.count(NoticeType.ALARM_RAISED), told.count(NoticeType.ALARMS_MANY)) == (STORM, 1)
    route((alarms[-1], over(alarms[-1])), (alarms[0], over(alarms[0])))
    assert notices().count(NoticeType.ALARM_CLEARED) == 1


def test_webhooks_are_told_of_each_change(stack: Stack) -> None:
    from karma.alarms.happenings import AlarmHappenings
    from karma.core.happenings import ItemChange

    alarm = replace(an_alarm(of=alarm_rule(user=USER)), recorded_at=NOW)
    seen = replace(alarm, state=AlarmState.ACKNOWLEDGED, acknowledged_at=NOW, acknowledged_by=USER)

    def told(old: Alarm | None, new: Alarm) -> Any:
        images = [alarm_item(each).serialize() | {"type": {"S": "alarm"}} if each else None for each in (old, new)]
        return AlarmHappenings().happened(ItemChange(*images))

    raised = told(None, alarm)
    assert (raised.type, raised.user_id, raised.data["value"]) == ("alarm.raised", USER, 41.2)
    assert "metric" not in raised.data  # a name that somebody gave
    assert raised == told(None, alarm)
    assert [told(*each).type for each in ((alarm, seen), (seen, over(seen)), (None, over(alarm)))] == [
        "alarm.acknowledged",
        "alarm.cleared",
        "alarm.raised",
    ]
    assert told(over(alarm), over(alarm)) is None


def test_a_webhook_gets_a_delivery_of_an_alarm(route: Callable[..., None]) -> None:
    webhook = replace(a_webhook(USER), events=("alarm.raised",))
    WebhookRepository().create(webhook, seen=None, request=None, entry=an_entry(USER))
    alarm = replace(an_alarm(of=rule_of()), recorded_at=NOW)
    route((None, alarm), (alarm, over(alarm)))
    [delivery] = DeliveryRepository().page(USER, webhook.id, below="", limit=5)
    assert delivery.type == "alarm.raised"
    assert alarm.id in delivery.payload


@pytest.fixture
def sweep(stack: Stack, lambda_context: Context, seeded: None) -> Callable[[], int]:
    def run() -> int:
        stack.use("sweeps.queues")
        from background.sweeps.queues import lambda_handler

        return int(lambda_handler({"sweep": "alarms"}, lambda_context)["changed"])

    return run


def test_a_device_that_says_nothing_raises_one_alarm_until_it_speaks(sweep: Callable[[], int]) -> None:
    silent = rule_of(trigger=Trigger.NO_DATA, metric="temp_c", high=None, for_s=600)
    rule_of(id="01890000-0000-7000-8000-0000000000a2", trigger=Trigger.OFFLINE, metric=None, high=None, for_s=86_400)
    devices = DeviceRepository()
    claim = devices.claim_of(THING)
    assert claim is not None

    def say(ago_s: int) -> int:
        ts = epoch_ms(datetime.now(UTC)) - ago_s * 1000
        devices.merge_latest(claim, Latest(readings={"temp_c": Reading(1.0, ts)}, last_seen_ms=ts), now=NOW)
        return ts

    last = say(700)
    assert sweep() == 1
    [alarm] = AlarmRepository().page(USER, is_open=True, device_id=None, below="", limit=9)
    assert (alarm.rule_id, alarm.since_ms, alarm.raised_ms, alarm.value) == (silent.id, last, last + 600_000, None)
    assert sweep() == 0  # looked at once a minute
    look_again()
    assert sweep() == 1
    assert AlarmRepository().page(USER, is_open=True, device_id=None, below="", limit=9) == [alarm]
    back = say(5)
    look_again()
    assert sweep() == 1
    [past] = AlarmRepository().page(USER, is_open=False, device_id=None, below="", limit=9)
    assert (past.id, past.state, past.cleared_ms) == (alarm.id, AlarmState.CLEARED, back)


def look_again() -> None:
    from karma.alarms.items import LookItem, look_key
    from karma.core.dynamo.access import update

    update(LookItem(*look_key(USER)), [LookItem.gsi1sk.set(due_sk(NOW - timedelta(hours=1), "LOOK"))])


def test_alarms_of_an_earlier_revision_end_though_they_came_behind_the_change(sweep: Callable[[], int]) -> None:
    old = rule_of()
    new = replace(old, high=9.0, version=2, revision=2)
    AlarmRuleRepository().replace(old, new)
    late, unmarked = an_alarm(of=old, device=DEVICE), an_alarm(1, of=old, device=DEVICE)
    AlarmRepository().add([late])
    put(alarm_item(unmarked))
    assert sweep() == 1
    for each in (late, unmarked):
        item = get(AlarmItem, alarm_key(DEVICE, each.id), consistent=True)
        assert item is not None
        assert item.state == AlarmState.SUPERSEDED
    assert not end(late, AlarmState.CLEARED, now=NOW)
    assert sweep() == 0


def test_who_has_no_such_rule_any_more_is_not_looked_at(sweep: Callable[[], int]) -> None:
    rule = rule_of(trigger=Trigger.OFFLINE, metric=None, high=None, for_s=60)
    AlarmRuleRepository().delete(rule, now=NOW - timedelta(hours=1))
    assert sweep() == 2
    assert sweep() == 0
