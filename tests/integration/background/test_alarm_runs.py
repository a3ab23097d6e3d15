"""Runs that rules begin for their alarms, from the stream of the table to the run: once each, or refused and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.agents.domain import BUILT_IN_ID
from karma.alarms.domain import STORM, Alarm, AlarmAction, AlarmRule, AlarmRuleId, AlarmRun, AlarmState, Silence
from karma.alarms.items import AlarmItem, alarm_item, alarm_key
from karma.alarms.repository.alarms import AlarmRepository
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.alarms.run_requests import alarm_run_message
from karma.alarms.run_starting import TOO_LATE, TRIED_FOR, run_of
from karma.billing.allowances import Metric
from karma.billing.transactional import reserve_usage
from karma.core.clock import epoch_ms
from karma.core.dynamo.access import update
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import ApiKeyId, DeviceId, UserId, new_id
from karma.notices.domain import NoticeType
from karma.notices.repository import NoticeRepository
from karma.runs.background import BackgroundRuns
from karma.runs.domain import RunKey
from karma.runs.repository import RunRepository
from tests.contract.stores.test_alarms import alarm_rule, an_alarm
from tests.support.accounts import open_account
from tests.support.clients import hooked
from tests.support.plans import allowance
from tests.support.stack import Context, Drain, SqsEvent, Stack

MODEL = "claude-haiku-5-5"
NOW = datetime.now(UTC).replace(microsecond=0)
RUN = AlarmRun(agent_id=BUILT_IN_ID, message="Switch the fan on.")


class Dead(BaseException):
    """The process died."""


@dataclass
class Alarms:
    """An account, its rule with a run, and the functions between an alarm and its run."""

    stack: Stack
    sqs_event: SqsEvent
    drain: Drain
    context: Context
    user: UserId

    def rule(self, **changes: Any) -> AlarmRule:
        made = replace(
            alarm_rule(user=self.user),
            id=AlarmRuleId(new_id()),
            **{"actions": (AlarmAction.NOTICE, AlarmAction.RUN), "run": RUN, **changes},
        )
        AlarmRuleRepository().create(made, request=None)
        return made

    def alarm(self, rule: AlarmRule, minute: int = 0, **changes: Any) -> Alarm:
        made = replace(an_alarm(minute, of=rule, device=DeviceId(new_id())), **{"recorded_at": NOW, **changes})
        AlarmRepository().add([made])
        return made

    def route(self, *changes: tuple[Alarm | None, Alarm], asks: bool = True) -> list[str]:
        """Let the router take changes, twice; return the messages that ask for runs."""
        self.stack.use("router")
        from background.router import lambda_handler

        def image(alarm: Alarm) -> Any:
            return alarm_item(alarm).serialize() | {"type": {"S": "alarm"}}

        records = []
        for number, (old, new) in enumerate(changes):
            pk, sk = alarm_key(new.device_id, new.id)
            row = {"Keys": {"pk": {"S": pk}, "sk": {"S": sk}}, "SequenceNumber": str(number), "NewImage": image(new)}
            records.append({"dynamodb": row if old is None else row | {"OldImage": image(old)}})
        for _ in range(2):
            assert lambda_handler({"Records": records}, self.context) == {"batchItemFailures": []}
        count = 2 * len(changes) if asks else 0
        return [each["Body"] for each in self.drain(self.stack.queues["fires"], count)]

    def begin(self, *bodies: str) -> None:
        self.stack.use("schedules", MODEL_ID=MODEL)
        from background.schedules import lambda_handler

        assert lambda_handler(self.sqs_event(list(bodies)), self.context) == {"batchItemFailures": []}

    def read(self, alarm: Alarm) -> Alarm:
        found = AlarmRepository().stored(alarm.device_id, alarm.id)
        assert found is not None
        return found

    def runs(self) -> int:
        return len(RunRepository().runs(self.user, limit=50, start=None).runs)

    def notices(self) -> list[NoticeType]:
        found = NoticeRepository().page(self.user, unread=False, since=NOW - timedelta(days=9), below="", limit=100)
        return sorted(notice.type for notice in found)


@pytest.fixture
def alarms(stack: Stack, sqs_event: SqsEvent, drain: Drain, lambda_context: Context) -> Alarms:
    import background.router
    import background.schedules  # noqa: F401  before use(): it clears what the modules keep

    stack.use("schedules", MODEL_ID=MODEL)
    return Alarms(stack, sqs_event, drain, lambda_context, open_account())


def test_an_alarm_begins_one_run_however_often_it_is_told(alarms: Alarms) -> None:
    alarm = alarms.alarm(alarms.rule())
    asked = alarms.route((None, alarm))
    assert asked == [alarm_run_message(alarm)] * 2
    alarms.begin(*asked, *asked)
    seen = alarms.read(alarm)
    assert (seen.run_id, seen.run_refusal, alarms.runs()) == (run_of(alarm), None, 1)
    run = RunRepository().run(RunKey(alarms.user, run_of(alarm)))
    assert run is not None
    assert run.agent_id == BUILT_IN_ID
    over = replace(seen, state=AlarmState.CLEARED, cleared_ms=9, ended_at=NOW)
    assert alarms.route((seen, over), asks=False) == []
    assert alarms.notices() == [NoticeType.ALARM_CLEARED, NoticeType.ALARM_RAISED]
    quiet = alarms.alarm(alarms.rule(actions=(AlarmAction.NOTICE,), run=None), 1)
    assert alarms.route((None, quiet), asks=False) == []


def test_a_death_at_any_call_leaves_one_run(alarms: Alarms) -> None:
    rule, deaths = alarms.rule(), 0
    while True:
        alarm, left = alarms.alarm(rule, deaths), deaths

        def die(**_: Any) -> None:
            nonlocal left
            if not left:
                raise Dead
            left -= 1

        before = alarms.runs()
        try:
            with hooked("dynamodb", "after-call.dynamodb", die):
                alarms.begin(alarm_run_message(alarm))
        except Dead:
            deaths += 1
            alarms.begin(alarm_run_message(alarm))
        else:
            break
        assert (alarms.runs(), alarms.read(alarm).run_id) == (before + 1, run_of(alarm))
    assert deaths > 5


def _agent_gone(alarms: Alarms) -> AlarmRun:
    return replace(RUN, agent_id=new_id())


def _key_ended(alarms: Alarms) -> AlarmRun:
    return replace(RUN, api_key_id=ApiKeyId(new_id()))


def _plan_used_up(alarms: Alarms) -> AlarmRun:
    tx = Transaction()
    reserve_usage(tx, [allowance(alarms.user, at=datetime.now(UTC)).reserve(Metric.RUNS, 200)])
    tx.commit()
    return RUN


@pytest.mark.parametrize(
    ("run", "code"),
    [(_agent_gone, "NOT_FOUND"), (_key_ended, "API_KEY_ENDED"), (_plan_used_up, "QUOTA_EXCEEDED")],
    ids=["agent", "key", "plan"],
)
def test_what_is_refused_is_told_once_and_stops_nothing_else(
    alarms: Alarms, run: Callable[[Alarms], AlarmRun], code: str
) -> None:
    alarm = alarms.alarm(alarms.rule(run=run(alarms)))
    alarms.begin(*alarms.route((None, alarm)))
    seen = alarms.read(alarm)
    assert seen.run_refusal is not None
    assert (seen.run_id, seen.run_refusal.code, alarms.runs()) == (None, code, 0)
    assert alarms.notices() == [NoticeType.ALARM_RAISED, NoticeType.ALARM_RUN_REFUSED]


@pytest.mark.fault("F-29w")
def test_an_error_of_ours_is_tried_for_a_while_and_then_shown(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch, sqs_event: SqsEvent
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("nobody foresaw this")

    now = datetime.now(UTC)
    early, late = (alarms.alarm(alarms.rule(), n, recorded_at=now - n * TRIED_FOR) for n in range(2))
    begun = alarms.alarm(alarms.rule(), 2, recorded_at=now - TRIED_FOR)
    alarms.begin(alarm_run_message(begun))
    without = [AlarmItem.run_id.remove()]
    update(AlarmItem(*alarm_key(begun.device_id, begun.id)), without, AlarmItem.pk.exists())  # it died before the note
    from background.schedules import lambda_handler

    monkeypatch.setattr(BackgroundRuns, "begin", broken)
    for left in (3, 1):
        event = sqs_event([alarm_run_message(each) for each in (early, late, begun)])
        assert len(lambda_handler(event, alarms.context)["batchItemFailures"]) == left
    assert alarms.read(early).run_refusal is None
    refusal = alarms.read(late).run_refusal
    assert refusal is not None
    assert (refusal.code, late.id in refusal.message, "foresaw" in refusal.message) == ("INTERNAL", True, False)
    assert (alarms.read(begun).run_id, alarms.read(begun).run_refusal) == (run_of(begun), None)
    assert alarms.notices().count(NoticeType.ALARM_RUN_REFUSED) == 1


def test_a_storm_begins_as_many_runs_as_are_told_one_by_one(alarms: Alarms) -> None:
    rule = alarms.rule()
    raised = [alarms.alarm(rule, n) for n in range(STORM + 1)]
    alarms.route(*((None, each) for each in raised))
    alarms.begin(alarm_run_message(raised[0]), alarm_run_message(raised[-1]))
    last = alarms.read(raised[-1])
    assert last.run_refusal is not None
    assert (last.run_refusal.code, alarms.runs()) == ("TOO_MANY_ALARMS", 1)
    assert NoticeType.ALARM_RUN_REFUSED not in alarms.notices()


def test_a_run_waits_for_the_end_of_a_silence(alarms: Alarms) -> None:
    always = Silence(days=(1, 2, 3, 4, 5, 6, 7), begins=0, ends=0)
    alarm = alarms.alarm(alarms.rule(silences=(always,)))
    assert alarms.route((None, alarm), asks=False) == []
    released = replace(alarm, released_at=NOW + timedelta(hours=1))
    assert alarms.route((alarm, released)) == [alarm_run_message(alarm)] * 2


def test_what_came_too_late_or_is_gone_begins_nothing(alarms: Alarms) -> None:
    rule = alarms.rule()
    old = alarms.alarm(rule, recorded_at=NOW - TOO_LATE - timedelta(minutes=1))
    ended = alarms.alarm(rule, 1, state=AlarmState.SUPERSEDED, ended_at=NOW)
    gone = replace(an_alarm(2, of=rule), recorded_at=NOW)
    deleted = alarms.alarm(replace(rule, id=AlarmRuleId(new_id())), 3)
    alarms.begin(*map(alarm_run_message, (old, ended, gone, deleted)))
    assert (alarms.runs(), alarms.notices()) == (0, [])
    assert epoch_ms(alarms.read(old).recorded_at) < epoch_ms(NOW)
