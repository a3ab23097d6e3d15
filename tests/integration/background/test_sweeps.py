"""A sweep that dies at any of its calls: the next one ends in the state of a sweep that did not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from karma.billing.arrival import Arrival
from karma.billing.repository.arrivals import ArrivalRepository
from karma.core.clock import SystemClock
from karma.core.ids import CommandId, DeviceId, UserId, new_id
from karma.devices.domain import Command, CommandStatus, Device
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.service import DeviceService
from karma.integrations.iot import IotRegistry
from karma.projects.access import ProjectAccess
from karma.projects.devices import ProjectDevices
from karma.projects.repository.devices import ProjectDeviceRepository
from karma.projects.repository.projects import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from karma.telemetry.domain import HOUR_MS, Level, Period
from tests.fakes.devices import FakeClock
from tests.support.accounts import open_account
from tests.support.crash import CrashReport, CrashTest
from tests.support.devices import World, new_device, provisioning_device
from tests.support.plans import allowance, reserved
from tests.support.stack import Context, Stack

SHORT_ENTRY = f"{Path(__file__).with_name('sweep_entry.py')}:sweep"
POLICY = "karma-device"
USER = UserId(new_id())


def crash(stack: Stack, function: str, table: str, seed: Callable[[], Any], **more: Any) -> CrashReport:
    return CrashTest(
        entry=f"background.{function}:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables[table]],
        seed=seed,
        accept=lambda answer: "changed" in answer,
        **more,
    ).run()


def queued(stack: Stack) -> set[str]:
    sqs, queue = stack.aws("sqs"), stack.queues["inbox"]
    bodies: set[str] = set()
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
        for message in messages:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            bodies.add(message["Body"])
    return bodies


def test_late_events_reach_the_queue_once_their_time_comes_again(stack: Stack) -> None:
    table = stack.tables["billing"]

    def seed() -> dict[str, str]:
        queued(stack)
        past = datetime.now(UTC) - timedelta(minutes=5)
        for name in ("evt_a", "evt_b"):
            arrival = Arrival(name, "invoice.paid", '{"type": "invoice.paid", "data": {}}')
            ArrivalRepository().store(arrival, received_at=past, due_at=past)
        return {"sweep": "inbox"}

    def when_due_again(event: dict[str, str]) -> dict[str, str]:
        for name in ("evt_a", "evt_b"):
            stack.aws("dynamodb").update_item(
                TableName=table,
                Key={"pk": {"S": f"STRIPE_EVT#{name}"}, "sk": {"S": "META"}},
                UpdateExpression="SET gsi1sk = :past",
                ExpressionAttributeValues={":past": {"S": f"2026-01-01T00:00:00.000Z#{name}"}},
            )
        return event

    stack.use("sweeps.queues")
    report = crash(
        stack,
        "sweeps.queues",
        "billing",
        seed,
        redeliver=when_due_again,
        ignore=("version", "created_at", "updated_at", "gsi1sk", "attempts"),
        other_state=lambda: queued(stack),
    )
    assert {"sqs.SendMessageBatch", "dynamodb.UpdateItem"} <= set(report.calls)


def test_overdue_commands_are_ended(stack: Stack) -> None:
    issued = datetime.now(UTC) - timedelta(hours=1)
    names = [CommandId(new_id()) for _ in range(2)]
    device_id = new_id()

    def seed() -> dict[str, str]:
        devices, commands = DeviceRepository(), CommandRepository()
        device = provisioning(device_id, "EOS-late")
        devices.claim(device, reservation=reserved(USER), attempt="a", now=issued)
        row = devices.activate(device, attempt="a", certificate_id="c", now=issued)
        for name in names:
            command = Command(
                id=name,
                device_id=row.id,
                user_id=USER,
                serial_number=row.serial_number,
                command="move",
                params={},
                status=CommandStatus.QUEUED,
                serial=False,
                issued_ms=round(issued.timestamp() * 1000),
                expires_ms=round(issued.timestamp() * 1000) + 60_000,
            )
            commands.add(command, row, now=issued)
        return {"sweep": "commands"}

    def expired() -> list[str]:
        commands = CommandRepository()
        found = [commands.get(each.id, name) for each in [provisioning(device_id, "EOS-late")] for name in names]
        return [command.status for command in found if command is not None]

    stack.use("sweeps.queues")
    open_account(USER)
    report = crash(
        stack,
        "sweeps.queues",
        "devices",
        seed,
        ignore=("version", "created_at", "updated_at", "finished_ms"),
        other_state=expired,
    )
    assert expired() == [CommandStatus.EXPIRED] * 2
    assert "sqs.SendMessage" in report.calls, "what waited behind them is published"
    assert report.points >= len(report.calls)


def test_half_made_and_half_deleted_devices_are_finished(stack: Stack) -> None:
    """One creation that died, and one deletion that died."""
    iot = stack.aws("iot")
    document = json.dumps({"Version": "2012-10-17", "Statement": []})
    iot.create_policy(policyName=POLICY, policyDocument=document)
    stack.use("sweeps.devices")
    open_account(USER)
    registry = IotRegistry(
        policy_name=POLICY, mqtt_host="mqtt.example.com", ca_pem="pem", data_endpoint_url=stack.engine.endpoint_url
    )
    clock = FakeClock(datetime.now(UTC) - timedelta(hours=1))
    key = ec.generate_private_key(ec.SECP256R1())  # quicker than keys that the engine makes
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "EOS")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    csr = request.public_bytes(serialization.Encoding.PEM).decode()

    def seed() -> dict[str, str]:
        forget_things(stack)
        devices = DeviceRepository()
        half_made = provisioning(new_id(), "EOS-half-made")
        devices.claim(half_made, reservation=reserved(USER), attempt="a", now=clock.now())
        registry.create_thing(half_made.serial_number, device_id=half_made.id)
        service = DeviceService(devices, registry, clock)
        half_deleted = service.create(
            USER, new_device(serial_number="EOS-half-deleted"), allowance=allowance(USER), csr=csr
        )
        devices.begin_delete(half_deleted.current.device, now=clock.now())
        return {"sweep": "orphans"}

    def left() -> tuple[Any, ...]:
        active = [each for each in iot.list_certificates()["certificates"] if each["status"] == "ACTIVE"]
        return len(active), iot.list_things()["things"], kinds(stack)

    # The deleted one's tombstone has a new key each time.
    report = crash(stack, "sweeps.devices", "devices", seed, normalise=lambda _item: None, other_state=left)
    assert {"iot.DeleteThing", "iot.DeleteCertificate", "dynamodb.TransactWriteItems"} <= set(report.calls)
    assert left() == (0, [], {"device_tombstone": 1})


def test_what_a_deleted_device_left_is_removed(stack: Stack) -> None:
    stack.use("sweeps.devices")
    clock = FakeClock(datetime.now(UTC) - timedelta(hours=1))
    world = World(stack, user=USER, clock=clock)

    def seed() -> dict[str, str]:
        gone = world.create()
        world.tell(world.message(gone, "telemetry", world.samples((0, 1.0))), world.message(gone, "telemetry", b"x"))
        world.devices.delete(USER, gone.current.device.id)
        return {name: stack.tables[name] for name in ("devices", "telemetry", "billing")}

    report = CrashTest(
        entry=SHORT_ENTRY,
        aws=stack.aws,
        tables=[stack.tables["devices"], stack.tables["telemetry"]],
        seed=seed,
        accept=lambda answer: "changed" in answer,
    ).run()
    assert report.calls.count("dynamodb.DeleteItem") == 4, (
        "a sample, a dead letter, the count of its hour, the tombstone"
    )
    assert kinds(stack) == Counter()
    assert world.items("telemetry") == []


def test_the_schedule_removes_what_nobody_owns_any_more(
    stack: Stack, lambda_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that was deleted with a day of telemetry and files, and a certificate that was made for nobody."""
    from background.sweeps.devices import lambda_handler

    stack.use("sweeps.devices")
    monkeypatch.setattr("karma.devices.sweeps.CERTIFICATE_GRACE_S", -60.0)
    now = datetime.now(UTC)
    world = World(stack, user=USER, clock=FakeClock(now - timedelta(hours=1)))
    gone = world.create()
    world.tell(world.message(gone, "telemetry", world.samples((0, 1.0))))
    rolled_up = Period(gone.current.device.id, Level.HOUR, world.clock.ms // HOUR_MS)
    world.rollups.mark(rolled_up, due=world.clock.now())
    s3, key = stack.aws("s3"), f"devices/{gone.current.device.id}/{new_id()}"
    s3.put_object(Bucket=stack.bucket, Key=key, Body=b"stored")
    s3.create_multipart_upload(Bucket=stack.bucket, Key=key)
    world.archives.keep(f"365/{gone.current.device.id}/{'0' * 64}", b"a day")
    share_with_a_project(gone.current.device.id)
    world.devices.delete(USER, gone.current.device.id)
    stack.aws("iot").create_keys_and_certificate(setAsActive=False)

    assert lambda_handler({"sweep": "orphans"}, lambda_context) == {"changed": 2}

    assert world.kinds("telemetry") == ["telemetry_directory"], "closed, so that nothing is written behind it"
    assert stack.aws("iot").list_certificates()["certificates"] == []
    assert "Versions" not in s3.list_object_versions(Bucket=stack.bucket)
    assert ProjectDeviceRepository().of_device(gone.current.device.id) == []
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=stack.bucket)


def share_with_a_project(device_id: DeviceId) -> None:
    project = ProjectService(ProjectRepository(), SystemClock()).create(USER, NewProject(name="Greenhouse")).project
    service = ProjectDevices(ProjectDeviceRepository(), ProjectAccess(ProjectRepository()), SystemClock())
    service.share(USER, project.id, device_id, also=lambda _: None)


def kinds(stack: Stack) -> Counter[str]:
    rows = stack.aws("dynamodb").scan(TableName=stack.tables["devices"], ConsistentRead=True)["Items"]
    return Counter(row["type"]["S"] for row in rows)


def provisioning(device_id: str, serial_number: str) -> Device:
    return provisioning_device(USER, id=DeviceId(device_id), serial_number=serial_number)


def forget_things(stack: Stack) -> None:
    iot = stack.aws("iot")
    for thing in iot.list_things()["things"]:
        for principal in iot.list_thing_principals(thingName=thing["thingName"])["principals"]:
            iot.detach_thing_principal(thingName=thing["thingName"], principal=principal)
        iot.delete_thing(thingName=thing["thingName"])
    for certificate in iot.list_certificates()["certificates"]:
        iot.update_certificate(certificateId=certificate["certificateId"], newStatus="INACTIVE")
        iot.delete_certificate(certificateId=certificate["certificateId"], forceDelete=True)
