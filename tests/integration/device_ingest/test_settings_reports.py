"""Reports of settings out of documents of shadows: kept once, bounded, and never those of a former owner's time."""

from __future__ import annotations

import itertools
import json
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.audit.domain import NOWHERE
from karma.core.ids import UserId, new_id
from karma.devices.allowance import REPORTS_AN_HOUR, HourlyAllowance
from karma.devices.hearing import DeviceMessage
from karma.devices.reports import MAX_REPORT_BYTES, SettingsReports
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.hours import HourRepository
from karma.devices.repository.settings_changes import SettingsChangeRepository
from karma.devices.settings import Asker, SettingsService
from karma.devices.shadow import Shadow
from tests.fakes.devices import FakeClock
from tests.integration.device_ingest.test_ingest import DEVICE, NOW, THING, USER, seed_device
from tests.support.crash import CrashTest
from tests.support.devices import World, sqs_record
from tests.support.hands import Hands
from tests.support.stack import Stack


def topic(thing: str) -> str:
    return f"$aws/things/{thing}/shadow/name/settings/update/documents"


def half(shadow: Shadow) -> dict[str, Any]:
    state = {"desired": shadow.desired, "reported": shadow.reported}
    stamps = {"desired": shadow.desired_stamps, "reported": shadow.reported_stamps}
    return {"state": state, "metadata": stamps, "version": shadow.version}


class Reporting:
    """A device of Ada's that reports, with the documents that the broker tells of it."""

    def __init__(self, hands: Hands) -> None:
        self.hands, self.world = hands, hands.world
        self.shadows = hands.transfers.shadows
        self.shadows.now_s = lambda: self.world.clock.ms // 1_000
        changes = SettingsChangeRepository()
        self.service = SettingsService(self.world.repository, changes, self.shadows, self.world.clock)
        self.restart()

    def restart(self) -> None:
        """Start a fresh process, which has counted nothing yet."""
        allowance = HourlyAllowance(HourRepository())
        self.reports = SettingsReports(DeviceRepository(), SettingsChangeRepository(), allowance)

    def update(self, *, desired: Any = None, reported: Any = None) -> DeviceMessage:
        """Change the settings at the broker, and return the message of its document."""
        before = self.shadows.read(self.hands.serial)
        self.shadows.update(
            self.hands.serial, desired=desired or {}, reported=reported or {}, version=before.version, token=""
        )
        return self.document(before, self.shadows.read(self.hands.serial))

    def document(self, before: Shadow, after: Shadow, **changes: Any) -> DeviceMessage:
        body = {
            "previous": half(before) if before.version else None,
            "current": half(after),
            "timestamp": self.world.clock.ms // 1_000,
            **changes,
        }
        payload = json.dumps(body).encode()
        return DeviceMessage(new_id(), topic(self.hands.serial), "", payload, self.world.clock.ms)

    def take(self, *messages: DeviceMessage) -> None:
        assert self.reports.take(messages) == []

    def listed(self, user: UserId | None = None, device_id: str = "") -> list[tuple[Any, str, str | None]]:
        found, _ = self.service.changes(user or self.hands.ada, device_id or self.hands.device_id, limit=500)
        return [(dict(each.patch), each.state.value, each.changed_by) for each in found]


@pytest.fixture
def reporting(world: World) -> Reporting:
    # The millisecond decides of two messages of one second; whole seconds keep the tests' order.
    world.clock = FakeClock(datetime.fromtimestamp(world.clock.ms // 1_000, UTC))
    return Reporting(Hands(world))


def test_what_a_device_reports_stands_among_the_changes_as_its_own(reporting: Reporting) -> None:
    by = Asker(user_id=reporting.hands.ada, source=NOWHERE)
    reporting.service.change(reporting.hands.ada, reporting.hands.device_id, {"a": {"b": 1}}, by=by)
    reporting.world.clock.pass_time(seconds=1)
    reporting.take(reporting.update(reported={"a": {"b": 1}, "own": [1]}))
    reporting.world.clock.pass_time(seconds=1)
    reporting.take(reporting.update(reported={"own": None}))
    # What somebody has asked for stands at the time of the process, which is not the broker's here.
    changes = reporting.listed()
    assert [each for each in changes if each[2] is None] == [
        ({"own": None}, "reported", None),
        ({"a": {"b": 1}, "own": [1]}, "reported", None),
    ]
    assert ({"a": {"b": 1}}, "applied", reporting.hands.ada) in changes


def test_doubled_late_and_reordered_documents_change_nothing(reporting: Reporting, seed: int) -> None:
    messages = []
    for number in range(6):
        messages.append(reporting.update(reported={"n": number}))
        if number % 2:
            reporting.world.clock.pass_time(seconds=1)
    dice = random.Random(seed)
    told = [*messages, *messages, *(message for message in messages)]
    dice.shuffle(told)
    for message in told:
        if dice.random() < 0.3:
            reporting.restart()
        reporting.take(message)
    assert [patch for patch, _, _ in reporting.listed()] == [{"n": number} for number in reversed(range(6))]


def test_a_change_of_the_owner_s_and_the_same_again_are_no_reports(reporting: Reporting) -> None:
    first = reporting.update(reported={"n": 1})
    reporting.take(first, reporting.update(desired={"n": 2}), reporting.update(reported={"n": 1}))
    assert [patch for patch, _, _ in reporting.listed()] == [{"n": 1}]


@pytest.mark.fault("F-47e")
def test_a_device_that_reports_in_a_loop_writes_no_more_than_its_hour(reporting: Reporting) -> None:
    messages = [reporting.update(reported={"n": number}) for number in range(REPORTS_AN_HOUR + 100)]
    reporting.take(*messages)
    kept = len(reporting.listed())
    assert REPORTS_AN_HOUR <= kept < len(messages)
    reporting.world.clock.pass_time(hours=1)
    reporting.take(reporting.update(reported={"n": -1}))
    assert len(reporting.listed()) == kept + 1


def test_a_report_that_is_too_large_is_named_without_its_values(reporting: Reporting) -> None:
    reporting.take(reporting.update(reported={"n": "x" * MAX_REPORT_BYTES}))
    found, _ = reporting.service.changes(reporting.hands.ada, reporting.hands.device_id, limit=5)
    assert [(dict(each.patch), each.is_cut, each.settings_version) for each in found] == [({}, True, 1)]


@pytest.mark.fault("F-47b")
def test_what_was_reported_before_a_transfer_belongs_to_nobody(reporting: Reporting) -> None:
    hands = reporting.hands
    late = reporting.update(reported={"former": 1})
    reporting.world.clock.pass_time(seconds=5)
    hands.transfers.shadows.delete = lambda thing: None  # type: ignore[method-assign]
    mine = hands.hand_over().current.device
    reporting.take(late)
    # The deletion was lost. What the receiver's first change removes of it is no report of the device's.
    left = reporting.shadows.read(hands.serial)
    by = Asker(user_id=hands.bob, source=NOWHERE)
    reporting.service.change(hands.bob, mine.id, {"a": 1}, by=by)
    reporting.take(reporting.document(left, reporting.shadows.read(hands.serial)))
    assert [state for _, state, _ in reporting.listed(hands.bob, mine.id)] == ["applied"]
    reporting.take(reporting.update(reported={"now": 1}))
    assert ({"now": 1}, "reported", None) in reporting.listed(hands.bob, mine.id)
    kinds = [item for item in reporting.world.items() if item.get("state", {}).get("S") == "reported"]
    assert len(kinds) == 1


def test_reports_of_nobody_s_thing_are_dropped(reporting: Reporting) -> None:
    message = reporting.update(reported={"n": 1})
    reporting.world.devices.delete(reporting.hands.ada, reporting.hands.device_id)
    reporting.take(message, DeviceMessage(new_id(), topic("EOS-nobody"), "", message.payload, message.received_ms))
    assert "settings_change" not in reporting.world.kinds()


GOOD = {"state": {"reported": {"a": 1}}, "version": 3}


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"current": null, "timestamp": 1}',
        json.dumps({"current": GOOD, "timestamp": 5}),
        json.dumps({"current": GOOD, "timestamp": "@"}),
        json.dumps({"current": {**GOOD, "version": 0}, "timestamp": "@now"}),
        json.dumps({"current": {**GOOD, "version": 2**60}, "timestamp": "@now"}),
        json.dumps({"current": {**GOOD, "version": "3"}, "timestamp": "@now"}),
        json.dumps({"current": {"state": {"reported": [1]}, "version": 3}, "timestamp": "@now"}),
        json.dumps({"current": {"state": [], "version": 3}, "timestamp": "@now"}),
        json.dumps({"previous": 7, "current": GOOD, "timestamp": "@now"}),
        b'{"current": {"state": {"reported": '
        + b'{"a":' * 80
        + b"1"
        + b"}" * 80
        + b'}, "version": 3}, "timestamp": 1}',
    ],
    ids=itertools.count(),
)
def test_what_is_no_document_is_dropped(reporting: Reporting, payload: bytes | str) -> None:
    text = payload.encode() if isinstance(payload, str) else payload
    now = str(reporting.world.clock.ms // 1_000).encode()
    at = reporting.world.clock.ms
    message = DeviceMessage(new_id(), topic(reporting.hands.serial), "", text.replace(b'"@now"', now), at)
    reporting.take(message)
    assert reporting.listed() == []


def test_halves_of_characters_that_a_device_reports_are_read(reporting: Reporting) -> None:
    after = Shadow(reported={"a": "\ud83d"}, reported_stamps={"a": {"timestamp": 1}}, version=1)
    reporting.take(reporting.document(Shadow(), after))
    assert reporting.listed() == [({"a": "\ufffd"}, "reported", None)]


def test_the_function_keeps_a_report_once_wherever_it_dies(stack: Stack) -> None:
    body = {"previous": None, "current": GOOD, "timestamp": NOW // 1_000}
    record = sqs_record("m1", topic(THING), json.dumps(body).encode(), None, NOW)

    def seed() -> dict[str, Any]:
        seed_device(stack)
        return {"Records": [record, {**record, "messageId": "m2"}]}

    stack.use("device_ingest")
    report = CrashTest(
        entry="device_ingest.handler:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["devices"]],
        seed=seed,
        accept=lambda answer: answer == {"batchItemFailures": []},
    ).run()
    assert report.calls == ("dynamodb.GetItem", "dynamodb.TransactWriteItems") * 2
    found, _ = SettingsChangeRepository().page(DEVICE, limit=5, after="", now=datetime.fromtimestamp(NOW / 1_000, UTC))
    assert [dict(each.patch) for each in found] == [{"a": 1}]
    kept = [item for item in stack.aws("dynamodb").scan(TableName=stack.tables["devices"])["Items"] if "patch" in item]
    assert [each["user_id"]["S"] for each in kept] == [USER], "whose channel tells of it"
