"""An account is deleted: what is refused, what its transaction does, and that the cascade leaves only a tombstone."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent
from karma.billing.allowances import Metric
from karma.billing.repository.usage import UsageRepository
from karma.conversations.domain import Message, ThreadKey
from karma.core.clock import SystemClock
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound, StaleVersion
from karma.core.ids import RunId, ThreadId, UserId, new_id
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.settings_changes import SettingsChangeRepository
from karma.devices.service import DeviceService
from karma.devices.settings import Asker, SettingsService
from karma.identity.accounts.deletion import SETTLES_AFTER, TOMBSTONE_TTL
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.identity.ownership import AccountHolds, OwnedKind
from karma.identity.transactional import AccountGone, add_owned, remove_owned, require_account
from karma.integrations.iot import IotRegistry
from karma.integrations.iot_shadows import IotShadows
from karma.projects.repository.projects import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from karma.realtime.domain import Ticket
from karma.realtime.repository import RealtimeRepository
from karma.runs.domain import Run, RunKey, RunStatus, Segment
from karma.runs.repository import RunRepository
from karma.search.repository import SearchRepository
from karma.telemetry.domain import HOUR_MS, Level, Period
from tests.contexts.search import stamped
from tests.fakes.devices import FakeClock
from tests.support.accounts import open_account, was_deleted
from tests.support.crash import CrashTest
from tests.support.devices import World, new_device
from tests.support.plans import allowance
from tests.support.projects import invitations, join
from tests.support.stack import Context, SqsEvent, Stack

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def deletions(stack: Stack) -> DeletionRepository:
    return DeletionRepository()


@pytest.fixture
def user_id(stack: Stack, deletions: DeletionRepository) -> UserId:
    return open_account(email="ada@example.com")


@pytest.fixture
def kinds(stack: Stack) -> Callable[[], list[str]]:
    def read() -> list[str]:
        items = stack.aws("dynamodb").scan(TableName=stack.tables["identity"], ConsistentRead=True)["Items"]
        return sorted(item["type"]["S"] for item in items)

    return read


def begin(deletions: DeletionRepository, user_id: UserId, *, at: datetime = NOW) -> None:
    leaving = deletions.leaving(user_id)
    assert leaving is not None
    entry = AuditEntry(user_id=user_id, event=AuditEvent.DELETION_REQUESTED, at=at, actor_id=user_id)
    deletions.begin(leaving, entry=entry, due_at=at + timedelta(minutes=2))


def committed(*steps: Callable[[Transaction], None]) -> None:
    tx = Transaction()
    for step in steps:
        step(tx)
    tx.commit()


LEFT = {"account_tombstone", "left_address", "telemetry_directory"}
"""Types of items behind the deletion of an account with a device.

The directory says for two days that a device that is gone gets no rollups.
"""


class TestTheTombstone:
    def test_takes_the_place_of_account_and_address(
        self, deletions: DeletionRepository, user_id: UserId, kinds: Callable[[], list[str]]
    ) -> None:
        begin(deletions, user_id)
        assert kinds() == ["account_tombstone", "audit_entry", "left_address"]
        assert was_deleted(user_id, at=NOW)
        assert not was_deleted(UserId(new_id()), at=NOW)

    def test_lets_nothing_be_hung_on_the_account(self, deletions: DeletionRepository, user_id: UserId) -> None:
        committed(lambda tx: require_account(tx, user_id))
        begin(deletions, user_id)
        for hang in (require_account, lambda tx, user: add_owned(tx, user, OwnedKind.AVATAR)):
            with pytest.raises(AccountGone):
                committed(lambda tx, hang=hang: hang(tx, user_id))  # type: ignore[misc]

    def test_is_put_once(self, deletions: DeletionRepository, user_id: UserId) -> None:
        leaving = deletions.leaving(user_id)
        assert leaving is not None
        begin(deletions, user_id)
        entry = AuditEntry(user_id=user_id, event=AuditEvent.DELETION_REQUESTED, at=NOW, actor_id=user_id)
        with pytest.raises(NotFound):
            deletions.begin(leaving, entry=entry, due_at=NOW)

    def test_is_not_put_on_an_account_that_has_changed(
        self, stack: Stack, deletions: DeletionRepository, user_id: UserId
    ) -> None:
        leaving = deletions.leaving(user_id)
        assert leaving is not None
        stack.aws("dynamodb").update_item(
            TableName=stack.tables["identity"],
            Key={"pk": {"S": f"USER#{user_id}"}, "sk": {"S": "PROFILE"}},
            UpdateExpression="ADD version :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )
        entry = AuditEntry(user_id=user_id, event=AuditEvent.DELETION_REQUESTED, at=NOW, actor_id=user_id)
        with pytest.raises(StaleVersion):
            deletions.begin(leaving, entry=entry, due_at=NOW)
        assert not was_deleted(user_id, at=NOW)

    def test_frees_the_address_at_once(self, stack: Stack, deletions: DeletionRepository, user_id: UserId) -> None:
        begin(deletions, user_id)
        again = open_account(email="ada@example.com")
        begin(deletions, again)
        assert was_deleted(user_id, at=NOW)
        assert was_deleted(again, at=NOW)

    def test_is_believed_for_ninety_days_from_the_request(self, deletions: DeletionRepository, user_id: UserId) -> None:
        begin(deletions, user_id)
        deletions.finish(user_id, at=NOW + SETTLES_AFTER, forget_at=NOW + TOMBSTONE_TTL)
        assert was_deleted(user_id, at=NOW + TOMBSTONE_TTL - timedelta(seconds=1))
        assert not was_deleted(user_id, at=NOW + TOMBSTONE_TTL)


@pytest.mark.req("R-K-23")
class TestAnAccountThatHoldsSomething:
    @pytest.mark.parametrize("kind", OwnedKind)
    def test_is_not_deleted(
        self, deletions: DeletionRepository, user_id: UserId, kind: OwnedKind, kinds: Callable[[], list[str]]
    ) -> None:
        committed(lambda tx: add_owned(tx, user_id, kind))
        committed(lambda tx: add_owned(tx, user_id, kind))
        before = kinds()
        with pytest.raises(AccountHolds, match=f"2 {kind}s") as refused:
            begin(deletions, user_id)
        assert refused.value.details == {kind.value: 2}
        assert kinds() == before

    def test_is_told_of_all_it_holds(self, deletions: DeletionRepository, user_id: UserId) -> None:
        for kind in OwnedKind:
            committed(lambda tx, kind=kind: add_owned(tx, user_id, kind))  # type: ignore[misc]
        with pytest.raises(AccountHolds, match="1 project and 1 avatar"):
            begin(deletions, user_id)

    def test_is_deleted_when_it_holds_nothing_any_more(
        self, deletions: DeletionRepository, user_id: UserId, kinds: Callable[[], list[str]]
    ) -> None:
        committed(lambda tx: add_owned(tx, user_id, OwnedKind.PROJECT))
        committed(lambda tx: remove_owned(tx, user_id, OwnedKind.PROJECT))
        begin(deletions, user_id)
        assert kinds() == ["account_tombstone", "audit_entry", "left_address"]

    def test_gives_nothing_away_that_it_does_not_hold(self, deletions: DeletionRepository, user_id: UserId) -> None:
        committed(lambda tx: add_owned(tx, user_id, OwnedKind.PROJECT))
        with pytest.raises(ConditionFailed):
            committed(lambda tx: remove_owned(tx, user_id, OwnedKind.AVATAR))


class TestTheListOfWork:
    def test_names_deletions_that_are_due_until_they_are_finished(
        self, deletions: DeletionRepository, user_id: UserId
    ) -> None:
        begin(deletions, user_id)
        assert deletions.due(NOW, limit=10) == []
        (due,) = deletions.due(NOW + timedelta(minutes=3), limit=10)
        assert (due.user_id, due.requested_at, due.attempts) == (user_id, NOW, 0)
        assert deletions.postpone(user_id, due_at=NOW + timedelta(hours=1), waits_for="billing")
        assert deletions.due(NOW + timedelta(minutes=3), limit=10) == []
        deletions.finish(user_id, at=NOW, forget_at=NOW + TOMBSTONE_TTL)
        assert deletions.due(NOW + timedelta(days=1), limit=10) == []
        assert not deletions.postpone(user_id, due_at=NOW, waits_for=None)

    def test_is_not_joined_by_an_account_that_is_there(self, deletions: DeletionRepository, user_id: UserId) -> None:
        assert deletions.get(user_id) is None
        assert not deletions.postpone(user_id, due_at=NOW, waits_for=None)
        deletions.finish(user_id, at=NOW, forget_at=NOW)
        assert deletions.get(user_id) is None


def test_a_crash_of_the_consumer_leaves_nothing_but_the_tombstone(
    stack: Stack, deletions: DeletionRepository, sqs_event: SqsEvent
) -> None:
    """The last go of all: what an earlier one removes is removed by it as well."""
    iot, user_id = stack.aws("iot"), UserId(new_id())
    shadows = IotShadows(endpoint_url=stack.engine.endpoint_url)
    document = json.dumps({"Version": "2012-10-17", "Statement": []})
    iot.create_policy(policyName="karma-device", policyDocument=document)

    def seed() -> dict[str, Any]:
        open_account(user_id)
        registry = IotRegistry(
            policy_name="karma-device",
            mqtt_host="mqtt.example.com",
            ca_pem="pem",
            data_endpoint_url=stack.engine.endpoint_url,
        )
        devices = DeviceService(DeviceRepository(), registry, SystemClock())
        made = devices.create(user_id, new_device(serial_number="EOS-1"), allowance=allowance(user_id)).current.device
        settings = SettingsService(DeviceRepository(), SettingsChangeRepository(), shadows, SystemClock())
        settings.change(user_id, made.id, {"interval_s": 30}, by=Asker(user_id=user_id, source=NOWHERE))
        RealtimeRepository().put_ticket(Ticket(hash="t" * 64, user_id=user_id, expires_at=NOW), now=NOW)
        begin(deletions, user_id, at=datetime.now(UTC) - 2 * SETTLES_AFTER)
        return sqs_event([user_id])

    def left_in_iot() -> tuple[Any, ...]:
        on = [each for each in iot.list_certificates()["certificates"] if each["status"] == "ACTIVE"]
        return on, iot.list_things()["things"], shadows.read("EOS-1").desired

    stack.use("deletion")
    report = CrashTest(
        entry=f"{Path(__file__).with_name('deletion_entry.py')}:handle",
        aws=stack.aws,
        tables=stack.tables.values(),
        seed=seed,
        normalise=lambda item: {"type": item["type"], "sk": item["sk"]},
        other_state=left_in_iot,
        accept=lambda answer: answer == {"batchItemFailures": []},
        max_calls=84,
    ).run()

    left = {item["type"]["S"] for table in stack.tables.values() for item in scan(stack, table)}
    assert (left, left_in_iot()) == (LEFT, ([], [], {}))
    assert "after dynamodb.BatchWriteItem" in " ".join(report.at)


def scan(stack: Stack, table: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = stack.aws("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]
    return items


def test_what_runs_listens_and_was_measured_goes_with_the_account(
    stack: Stack, deletions: DeletionRepository, user_id: UserId, sqs_event: SqsEvent, lambda_context: Context
) -> None:
    from background.deletion import lambda_handler

    now = datetime.now(UTC)
    world = World(stack, user=user_id, clock=FakeClock(now))
    device = world.create()
    world.tell(world.message(device, "telemetry", world.samples((0, 1.0))))
    hour = Period(device.current.device.id, Level.HOUR, world.clock.ms // HOUR_MS)
    world.rollups.mark(hour, due=now)
    run, thread = RunKey(user_id, RunId("r1")), ThreadKey(user_id, ThreadId("t1"))
    store = RunRepository()
    store.start(
        Run(key=run, thread_id=thread.thread_id, status=RunStatus.RUNNING, model="m", created_at=now),
        thread=store.thread(thread),
        segment=Segment(key=run, n=1, writer="w", epoch=1, lease_until=now, events=(b'{"type":"X"}',), terminal=False),
        messages=(Message(id="u1", role="user", content="hi"),),
    )
    for connection, parts in (("c1", {"SUB#user": "subscription"}), ("sse-1", {"INBOX": "inbox"})):
        owned = {"gsi1pk": {"S": f"USER#{user_id}"}, "gsi1sk": {"S": f"CONN#{connection}"}}
        stored = {"META": {"type": {"S": "connection"}, **owned}}
        stored |= {sk: {"type": {"S": kind}} for sk, kind in parts.items()}
        for sk, more in stored.items():
            item = {"pk": {"S": f"CONN#{connection}"}, "sk": {"S": sk}, **more}
            stack.aws("dynamodb").put_item(TableName=stack.tables["realtime"], Item=item)
    assert SearchRepository().write(user_id, [stamped(user_id)], at=now) == 1
    begin(deletions, user_id, at=now - 2 * SETTLES_AFTER)

    stack.use("deletion")
    assert lambda_handler(sqs_event([user_id]), lambda_context) == {"batchItemFailures": []}

    left = {item["type"]["S"] for table in stack.tables.values() for item in scan(stack, table)}
    assert left == LEFT


@pytest.mark.fault("F-19a")
def test_a_deleted_member_leaves_their_seat_to_others(
    stack: Stack, deletions: DeletionRepository, user_id: UserId, sqs_event: SqsEvent, lambda_context: Context
) -> None:
    from background.deletion import lambda_handler

    host, clock = open_account(), SystemClock()
    open_account(user_id)
    projects = ProjectRepository()
    service = invitations(projects, clock)
    for name in ("Greenhouse", "Orchard"):
        join(service, ProjectService(projects, clock).create(host, NewProject(name=name)).project.id, user_id, by=host)
    usage = UsageRepository()
    assert usage.has_seat(host, user_id)
    begin(deletions, user_id, at=datetime.now(UTC) - 2 * SETTLES_AFTER)

    stack.use("deletion")
    assert lambda_handler(sqs_event([user_id]), lambda_context) == {"batchItemFailures": []}

    assert not usage.has_seat(host, user_id)
    assert [each.used for each in usage.read(allowance(host)) if each.metric is Metric.SEATS] == [0]
    assert [each for each in scan(stack, stack.tables["work"]) if each["sk"]["S"] == f"MEMBER#{user_id}"] == []
