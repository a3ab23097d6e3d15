from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.alarms.domain import AlarmRule, Silence, revised
from karma.alarms.service import AlarmRuleService
from karma.billing.plans import PlanName, plan_at
from karma.core.errors import Gone, NotFound, QuotaExceeded, StaleVersion
from karma.core.ids import DeviceId, UserId, new_id
from karma.identity.transactional import AccountGone
from tests.contract.stores.test_alarms import alarm_rule
from tests.fakes.alarms import MemoryAlarmRules, MemoryAlarms
from tests.fakes.identity import MovableClock
from tests.support.requests import key

USER = UserId(new_id())
HOT: dict[str, Any] = {
    "name": "first", "device_id": None, "tag": "a", "trigger": alarm_rule().trigger, "metric": "m", "high": 1.0,
}  # fmt: skip


class Interrupted(MemoryAlarmRules):
    """Somebody else does something right before a replacement, once."""

    meanwhile: Callable[[], object] | None = None

    def replace(self, old: AlarmRule, new: AlarmRule) -> None:
        act, self.meanwhile = self.meanwhile, None
        if act is not None:
            act()
        super().replace(old, new)


@pytest.fixture
def store() -> Interrupted:
    return Interrupted()


@pytest.fixture
def rules(store: Interrupted) -> AlarmRuleService:
    return AlarmRuleService(
        store,
        MemoryAlarms(),
        MovableClock(),
        require_device=lambda _, device: DeviceId(device),
        plan_of=lambda _: plan_at(PlanName.FREE, datetime(2026, 11, 1, tzinfo=UTC)),
    )


def test_a_change_is_repeated_on_a_newer_version_unless_one_was_named(
    rules: AlarmRuleService, store: Interrupted
) -> None:
    made = rules.create(USER, HOT)
    store.meanwhile = lambda: rules.change(USER, made.id, {"name": "theirs"})
    with pytest.raises(StaleVersion):
        rules.change(USER, made.id, {"high": 2.0}, version=1)
    store.meanwhile = lambda: rules.change(USER, made.id, {"name": "theirs again"})
    mine = rules.change(USER, made.id, {"high": 2.0})
    assert (mine.name, mine.high, mine.version, mine.revision) == ("theirs again", 2.0, 4, 4)
    assert rules.change(USER, made.id, {"high": 2.0}) == mine
    with pytest.raises(StaleVersion):
        rules.delete(USER, made.id, version=3)


def test_one_is_made_for_a_request(rules: AlarmRuleService) -> None:
    made = rules.create(USER, HOT, idempotency_key=key("t"))
    assert rules.create(USER, HOT, idempotency_key=key("t")) == made
    rules.delete(USER, made.id)
    with pytest.raises(Gone):
        rules.create(USER, HOT, idempotency_key=key("t"))


def test_none_is_made_for_a_deleted_account(rules: AlarmRuleService, store: Interrupted) -> None:
    store.deleted_accounts.add(USER)
    with pytest.raises(AccountGone):
        rules.create(USER, HOT)


@pytest.mark.parametrize("rule_id", ["", "x", "01994b94-9b20-7e83-b6c4-d2e1f0a98765"])
def test_what_is_missing_is_not_found(rules: AlarmRuleService, rule_id: str) -> None:
    other = rules.create(UserId(new_id()), HOT)
    for missing in (rule_id, other.id):
        for act in (rules.get, rules.delete, lambda user, missing: rules.change(user, missing, {})):
            with pytest.raises(NotFound):
                act(USER, missing)


def test_only_what_a_rule_judges_by_makes_a_revision() -> None:
    rule, later = alarm_rule(), alarm_rule().created_at + timedelta(hours=1)
    assert revised(rule, {"name": rule.name}, at=later) is rule
    named = revised(rule, {"name": "other"}, at=later)
    assert (named.version, named.revision, named.revised_at) == (2, 1, rule.revised_at)
    judging = revised(named, {"for_s": 5}, at=later)
    assert (judging.version, judging.revision, judging.revised_at) == (3, 3, later)


def silent(text: str, *silences: Silence, zone: str = "Europe/Berlin") -> str | None:
    from dataclasses import replace

    until = replace(alarm_rule(), silences=silences, time_zone=zone).silent_until(datetime.fromisoformat(text))
    return until.isoformat() if until else None


def test_a_silence_goes_by_the_clocks_of_its_zone() -> None:
    night = Silence(days=(1, 2, 3, 4, 5), begins=22 * 60, ends=6 * 60)
    assert silent("2026-11-30T20:59:00+00:00", night) is None
    assert silent("2026-11-30T21:00:00+00:00", night) == "2026-12-01T05:00:00+00:00"
    assert silent("2026-12-01T04:59:00+00:00", night) == "2026-12-01T05:00:00+00:00"
    assert silent("2026-12-01T05:00:00+00:00", night) is None
    # Friday's goes on into Saturday; Saturday and Sunday have none.
    assert silent("2026-12-05T04:00:00+00:00", night) == "2026-12-05T05:00:00+00:00"
    assert silent("2026-12-05T22:00:00+00:00", night) is None
    # The night in which clocks go back is an hour longer.
    saturday = Silence(days=(6,), begins=22 * 60, ends=6 * 60)
    assert silent("2026-10-24T20:00:00+00:00", saturday) == "2026-10-25T05:00:00+00:00"


def test_one_silence_goes_over_into_another() -> None:
    evening, night = Silence(days=(1,), begins=1200, ends=0), Silence(days=(2,), begins=0, ends=360)
    assert silent("2026-11-30T21:00:00+00:00", evening, night, zone="UTC") == "2026-12-01T06:00:00+00:00"
    always = Silence(days=(1, 2, 3, 4, 5, 6, 7), begins=0, ends=0)
    until = silent("2026-11-30T21:00:00+00:00", always, zone="UTC")
    assert until is not None
    assert datetime.fromisoformat(until) > datetime(2026, 12, 20, tzinfo=UTC)


def test_a_plan_says_how_many_rules_there_are(rules: AlarmRuleService) -> None:
    made = [rules.create(USER, HOT) for _ in range(5)]
    with pytest.raises(QuotaExceeded) as refused:
        rules.create(USER, HOT)
    assert refused.value.details == {
        "limit": "alarm_rules", "plan": "free", "allowed": 5, "requested": 1, "resets_at": None,
    }  # fmt: skip
    rules.delete(USER, made[0].id)
    rules.create(USER, HOT)
