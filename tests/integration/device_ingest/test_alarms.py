"""Alarms through the ingest handler: messages doubled, shuffled and delivered again by dying processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from karma.alarms.domain import MAX_RULES, AlarmRule, AlarmState
from karma.alarms.engine import WINDOW, Episode, would_raise
from karma.alarms.repository.alarms import AlarmRepository
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.alarms.watching import AlarmWatcher
from karma.core.clock import from_epoch_ms
from karma.core.ids import DeviceId, UserId
from karma.devices.repository.devices import DeviceRepository
from tests.contract.stores.test_alarms import alarm_rule
from tests.integration.device_ingest.test_ingest import (
    CERTIFICATE,
    DEVICE,
    NOW,
    THING,
    USER,
    encoded,
    seed_device,
    snapshot,
)
from tests.support.crash import CrashTest
from tests.support.devices import sqs_record
from tests.support.stack import Context, Stack

T0 = NOW - 600_000
Sample = tuple[int, float]


def message(number: int, samples: Sequence[Sample], *, again: str = "") -> dict[str, Any]:
    body = {"boot": "b", "seq": number, "samples": [{"ts": ts, "m": {"temp_c": value}} for ts, value in samples]}
    return sqs_record(f"m{number}{again}", f"dt/karma/{THING}/telemetry", encoded(body), CERTIFICATE, NOW)


def a_rule(**changes: Any) -> AlarmRule:
    fields = {"device_id": DEVICE, "high": 40.0, "margin": 1.0, "revised_at": from_epoch_ms(T0 - 1), **changes}
    rule = replace(alarm_rule(user=USER), **fields)
    AlarmRuleRepository().create(rule, request=None)
    return rule


def told() -> list[tuple[int, int]]:
    """Return when each alarm was raised and cleared, by its device's clock."""
    alarms = [
        alarm
        for is_open in (True, False)
        for alarm in AlarmRepository().page(USER, is_open=is_open, device_id=DEVICE, below="", limit=500)
    ]
    return sorted((alarm.raised_ms, alarm.cleared_ms) for alarm in alarms)


@pytest.fixture
def handle(stack: Stack, lambda_context: Context) -> Callable[..., list[str]]:
    stack.use("device_ingest")

    def call(*records: dict[str, Any]) -> list[str]:
        from device_ingest.handler import lambda_handler

        failures = lambda_handler({"Records": list(records)}, lambda_context)["batchItemFailures"]
        return [failure["itemIdentifier"] for failure in failures]

    return call


def test_an_alarm_begins_and_ends_with_its_samples(stack: Stack, handle: Callable[..., list[str]]) -> None:
    seed_device(stack)
    rule = a_rule(for_s=20)
    assert handle(message(1, [(T0, 39.0), (T0 + 10_000, 41.5)])) == []
    assert told() == []
    assert handle(message(2, [(T0 + 30_000, 42.5)])) == []
    [alarm] = AlarmRepository().page(USER, is_open=True, device_id=None, below="", limit=5)
    assert (alarm.since_ms, alarm.raised_ms, alarm.value) == (T0 + 10_000, T0 + 30_000, 42.5)
    assert (alarm.state, alarm.rule_id, alarm.device_id) == (AlarmState.RAISED, rule.id, DEVICE)
    before = snapshot(stack)
    assert handle(message(1, [(T0, 39.0), (T0 + 10_000, 41.5)]), message(2, [(T0 + 30_000, 42.5)])) == []
    assert {key: each for key, each in snapshot(stack).items() if "ALARMED" in key} == {
        key: each for key, each in before.items() if "ALARMED" in key
    }
    AlarmRepository().acknowledge(alarm, by=USER, now=from_epoch_ms(NOW))
    assert handle(message(3, [(T0 + 40_000, 39.5), (T0 + 50_000, 38.9)])) == []
    [over] = AlarmRepository().page(USER, is_open=False, device_id=None, below="", limit=5)
    assert (over.id, over.state, over.cleared_ms) == (alarm.id, AlarmState.CLEARED, T0 + 50_000)
    assert over.acknowledged_by == USER


def test_by_tag_and_only_from_the_rule_s_last_change_on(stack: Stack, handle: Callable[..., list[str]]) -> None:
    seed_device(stack)
    rules = {
        "tagged": a_rule(id="01890000-0000-7000-8000-0000000000a1", device_id=None, tag="greenhouse"),
        "other tag": a_rule(id="01890000-0000-7000-8000-0000000000a2", device_id=None, tag="cellar"),
        "other device": a_rule(id="01890000-0000-7000-8000-0000000000a3", device_id=DeviceId(USER)),
        "paused": a_rule(id="01890000-0000-7000-8000-0000000000a4", enabled=False),
        "newer": a_rule(id="01890000-0000-7000-8000-0000000000a5", revised_at=from_epoch_ms(T0 + 5_000)),
    }
    DeviceRepository().change(USER, DEVICE, {"tags": ["greenhouse"]}, version=None, now=from_epoch_ms(NOW))
    assert handle(message(1, [(T0, 41.0), (T0 + 1_000, 30.0)])) == []
    raised = AlarmRepository().page(USER, is_open=False, device_id=None, below="", limit=9)
    assert [alarm.rule_id for alarm in raised] == [rules["tagged"].id]


def test_doubled_and_shuffled_messages_raise_what_the_whole_history_does(
    stack: Stack, handle: Callable[..., list[str]], seed: int
) -> None:
    random = Random(seed)
    seed_device(stack)
    rule = a_rule()
    value, samples = 39.0, []
    for n in range(400):
        value = min(43.0, max(36.0, value + random.uniform(-1.5, 1.5)))
        samples.append((T0 + 1_000 * n, round(value, 1)))
    messages = [message(n // 4, samples[n : n + 4]) for n in range(0, len(samples), 4)]
    # Each within three messages of its place; a tenth comes twice.
    order = sorted(range(len(messages)), key=lambda n: n + random.uniform(0, 3))
    delivered = [n for each in order for n in ([each, each] if random.random() < 0.1 else [each])]
    at = 0
    while at < len(delivered):
        size = random.randint(1, 5)
        assert handle(*(messages[n] for n in delivered[at : at + size])) == []
        at += size
    truth = would_raise(rule.condition, dict(samples))
    assert len(truth) > 5
    assert WINDOW >= 7 * 4
    found = [Episode(raised, raised, cleared or NOW) for raised, cleared in told()]
    # Two may be one, where the good sample between them came once the end of the second had been told.
    assert all(sum(episode.meets(each) for each in found) == 1 for episode in truth), seed
    assert all(any(episode.meets(each) for episode in truth) for each in found), seed


def marks(stack: Stack) -> int:
    """Return the number of alarms that have the mark of open ones."""
    return sum("ALARMRULE#" in key for key in snapshot(stack))


@pytest.mark.parametrize("is_raised", [False, True], ids=["raises", "clears"])
def test_a_crash_at_any_call_is_repaired_by_the_redelivery(
    stack: Stack, handle: Callable[..., list[str]], is_raised: bool
) -> None:
    def seed() -> dict[str, Any]:
        seed_device(stack)
        a_rule(revised_at=from_epoch_ms(T0 - 9_000))
        if is_raised:
            assert handle(message(0, [(T0 - 2_000, 41.0)])) == []
            assert marks(stack) == 1
            return {"Records": [message(1, [(T0, 38.0)])]}
        return {"Records": [message(1, [(T0, 41.0), (T0 + 1_000, 38.0), (T0 + 2_000, 42.0)])]}

    report = CrashTest(
        entry="device_ingest.handler:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["devices"], stack.tables["telemetry"]],
        seed=seed,
        ignore=("version", "created_at", "updated_at", "letters", "units", "recorded_at", "ended_at", "expires_at"),
        accept=lambda response: response == {"batchItemFailures": []},
    ).run()
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
    assert told() == ([(T0 - 2_000, T0)] if is_raised else [(T0, T0 + 1_000), (T0 + 2_000, 0)])
    assert marks(stack) == (0 if is_raised else 1)


def test_alarms_of_many_rules_at_once_are_written_by_several_transactions(
    stack: Stack, handle: Callable[..., list[str]]
) -> None:
    """An alarm that is open is two items, and a transaction has a hundred."""
    seed_device(stack)
    for number in range(MAX_RULES):
        a_rule(id=f"01890000-0000-7000-8000-0000000000{number:02x}")
    assert handle(message(1, [(T0, 42.0)])) == []
    assert (told(), marks(stack)) == ([(T0, 0)] * MAX_RULES, MAX_RULES)
    assert handle(message(2, [(T0 + 1_000, 38.0)])) == []
    assert (told(), marks(stack)) == ([(T0, T0 + 1_000)] * MAX_RULES, 0)


def test_two_processes_at_once_tell_it_once(stack: Stack) -> None:
    stack.use("device_ingest")
    seed_device(stack)
    a_rule()
    from karma.devices.domain import Latest, Reading
    from karma.devices.samples import read_telemetry

    devices = DeviceRepository()
    claim = devices.claim_of(THING)
    assert claim is not None
    body = {"boot": "b", "seq": 1, "samples": [{"ts": T0, "m": {"temp_c": 41.0}}]}
    batches = read_telemetry(encoded(body), received_ms=NOW).batches
    said = Latest(readings={"temp_c": Reading(41.0, T0)}, last_seen_ms=NOW)

    class Overtaken(AlarmWatcher):
        """Another process writes the same between the reading and the write of this one."""

        def watch(self, user_id: UserId, device_id: DeviceId, batches: Any) -> Any:
            mine = super().watch(user_id, device_id, batches)
            theirs = super().watch(user_id, device_id, batches)
            assert mine is not None
            step, calls = mine.step, []

            def stepping(*args: Any, **kwargs: Any) -> Any:
                calls.append(1)
                stepped = step(*args, **kwargs)
                if len(calls) == 1:
                    assert claim is not None
                    devices.merge_latest(claim, said, now=from_epoch_ms(NOW), watch=theirs)
                return stepped

            mine.step = stepping  # type: ignore[method-assign]
            return mine

    watch = Overtaken(AlarmRuleRepository(), devices).watch(USER, DEVICE, batches)
    assert devices.merge_latest(claim, said, now=from_epoch_ms(NOW), watch=watch)
    assert told() == [(T0, 0)]
