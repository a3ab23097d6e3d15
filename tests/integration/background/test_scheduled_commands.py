"""Schedules of commands on real tables and queues: from the route over fire and ingest to the device's command."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.billing.plans import PlanName
from karma.core.clock import SystemClock, iso
from karma.core.dynamo.access import delete, update
from karma.core.ids import DeviceId, UserId, new_id
from karma.devices.bulk import BulkKey
from karma.devices.repository.bulk_commands import BulkCommandRepository
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.devices import DeviceRepository
from karma.identity.domain import Role
from karma.identity.items import UserItem, user_key
from karma.schedules.domain import FireAction, FireOutcome, Schedule, ScheduleId
from karma.schedules.repository import ScheduleRepository
from karma.schedules.sweeps import fire_message
from karma.schedules.timing import Timing
from tests.contract.stores.test_schedules import schedule as a_schedule
from tests.integration.background.test_schedules import (
    SCHEDULES,
    Functions,
    an_account,
    functions,
    just_now,
    key_of,
    owner,
    stored,
)
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.devices import provisioning_device
from tests.support.plans import reserved, subscribe
from tests.support.projects import leave, show
from tests.support.queues import received
from tests.support.stack import Stack

__all__ = ["functions", "owner"]

BLINK: dict[str, Any] = {"command": "blink", "ttl_s": 600, "serial": False}


def a_device(user: UserId, *tags: str) -> DeviceId:
    """Store an active device without its thing."""
    device, now = provisioning_device(user, tags=tags), SystemClock().now()
    DeviceRepository().claim(device, reservation=reserved(user), attempt="a", now=now)
    DeviceRepository().activate(device, attempt="a", certificate_id="c", now=now)
    return device.id


def due(user: UserId, **command: Any) -> Schedule:
    """Store a schedule of commands that is due now, and not again before the new year."""
    made = replace(
        a_schedule(user=user, next_fire_at=just_now()),
        id=ScheduleId(new_id()),
        timing=Timing(cron="0 0 1 1 *"),
        action=FireAction.COMMAND,
        run=None,
        command={**BLINK, **command},
    )
    ScheduleRepository().create(made, request=None)
    return made


def ingest(functions: Functions) -> None:
    """Hand what is in the queue of ingest to its function, until nothing is."""
    from device_ingest.handler import lambda_handler

    functions.stack.use("device_ingest")
    while bodies := received(functions.stack, "ingest"):
        records = [{"messageId": f"m{at}", "body": each} for at, each in enumerate(bodies)]
        assert lambda_handler({"Records": records}, functions.context) == {"batchItemFailures": []}
    functions.stack.use("schedules", MODEL_ID="claude-haiku-5-5")


def commands_of(device_id: DeviceId) -> list[str]:
    return [each.command for each in CommandRepository().pending(device_id, limit=100)]


def error_of(schedule: Schedule) -> tuple[str, str]:
    last = stored(schedule).last_fire
    assert last is not None
    assert last.error is not None
    assert last.outcome is FireOutcome.FAILED
    return last.error.code, last.error.message


def test_a_schedule_sends_its_command_to_those_with_the_tag_at_that_moment(functions: Functions, owner: UserId) -> None:
    body = {"name": "Blink", "cron": "0 0 1 1 *", "command": {**BLINK, "tag": "north"}}
    status, made = functions.call("POST", SCHEDULES, body)
    assert status == 201, made
    shown = made["schedule"]
    assert (shown["action"], shown["run"], shown["command"]["tag"]) == ("command", None, "north")
    devices = [a_device(owner, "north"), a_device(owner, "north"), a_device(owner, "south")]
    old = stored(replace(a_schedule(user=owner), id=ScheduleId(shown["id"])))
    now_due = replace(old, next_fire_at=just_now(), version=2)
    ScheduleRepository().replace(old, now_due)

    message = fire_message(key_of(now_due))
    assert functions.fire(message, message) == {"batchItemFailures": []}
    ingest(functions)
    assert [commands_of(each) for each in devices] == [["blink"], ["blink"], []]
    _, told = functions.call("GET", f"{SCHEDULES}/{shown['id']}")
    bulk_id = told["schedule"]["last_bulk_id"]
    _, bulk = functions.call("GET", f"/api/v1/commands/bulk/{bulk_id}")
    assert (bulk["bulk"]["schedule_id"], bulk["counts"]) == (shown["id"], {"queued": 2})

    # While they wait for their devices the next fire is left out; the one behind the end of the command is not.
    functions.stack.use("schedules", MODEL_ID="claude-haiku-5-5")
    for ended, outcome in ((False, FireOutcome.SKIPPED), (True, FireOutcome.STARTED)):
        if ended:
            item = BulkCommandRepository()
            seen = item.get(BulkKey(owner, bulk_id))
            assert seen is not None
            _end(seen.key)
        before = stored(now_due)
        again = replace(before, next_fire_at=just_now() + timedelta(milliseconds=ended), version=before.version + 1)
        ScheduleRepository().replace(before, again)
        functions.fire(fire_message(key_of(again)))
        last = stored(again).last_fire
        assert last is not None
        assert last.outcome is outcome


def _end(key: BulkKey) -> None:
    from karma.devices.repository.bulk_commands import BulkCommandItem, bulk_key

    update(BulkCommandItem(*bulk_key(key)), [BulkCommandItem.expires_ms.set(1)])


def test_one_device_is_named_by_its_serial_and_another_account_s_is_not_found(
    functions: Functions, owner: UserId
) -> None:
    device_id = a_device(owner)
    row = DeviceRepository().row(owner, device_id)
    assert row is not None
    body = {"name": "Blink", "at": iso(just_now() + timedelta(hours=1))}
    for ref in (device_id, row.serial_number):
        status, made = functions.call("POST", SCHEDULES, {**body, "command": {**BLINK, "device_id": ref}})
        assert (status, made["schedule"]["command"]["device_id"]) == (201, device_id), made
    others = a_device(open_account())
    status, told = functions.call("POST", SCHEDULES, {**body, "command": {**BLINK, "device_id": others}})
    assert (status, told["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ({"tag": "nobody"}, "VALIDATION_ERROR"),
        ({"device_id": "01994b94-9b20-7e83-b6c4-d2e1f0a98765"}, "NOT_FOUND"),
    ],
    ids=["no device has the tag", "the device was deleted or transferred"],
)
def test_a_fire_without_a_device_is_shown_and_sends_nothing(
    functions: Functions, command: dict[str, Any], code: str
) -> None:
    schedule = due(an_account(), **command)
    assert functions.fire(fire_message(key_of(schedule))) == {"batchItemFailures": []}
    assert error_of(schedule)[0] == code
    assert received(functions.stack, "ingest") == []


def test_a_fire_to_more_devices_than_the_plan_allows_sends_none(functions: Functions) -> None:
    user = open_account()
    subscribe(user, PlanName.FREE)
    devices = [a_device(user, "north") for _ in range(11)]
    schedule = due(user, tag="north")
    functions.fire(fire_message(key_of(schedule)))
    code, message = error_of(schedule)
    assert (code, "at most 10 devices" in message) == ("QUOTA_EXCEEDED", True)
    ingest(functions)
    assert [commands_of(each) for each in devices] == [[]] * 11


def test_rights_are_those_of_the_moment(functions: Functions) -> None:
    user = an_account()
    schedule = due(user, device_id=a_device(user))
    update(UserItem(*user_key(user)), [UserItem.role.set(Role.VIEWER)])
    functions.fire(fire_message(key_of(schedule)))
    assert error_of(schedule)[0] == "FORBIDDEN"
    gone = due(an_account(), tag="north")
    delete(UserItem(*user_key(gone.user_id)))
    assert functions.fire(fire_message(key_of(gone))) == {"batchItemFailures": []}
    assert stored(gone) == gone


@pytest.mark.fault("F-29zs")
def test_a_process_that_dies_at_any_call_sends_each_device_one_command(functions: Functions, stack: Stack) -> None:
    """The bulk command is there if and only if the fire is over; what was not sent then the sweep sends."""
    user = an_account()
    device_id = new_id()
    schedule = replace(
        a_schedule(user=user, next_fire_at=just_now()),
        id=ScheduleId(new_id()),
        timing=Timing(cron="0 0 1 1 *"),
        action=FireAction.COMMAND,
        run=None,
        command={**BLINK, "tag": "north"},
    )

    def seed() -> dict[str, Any]:
        nonlocal device_id
        device_id = a_device(user, "north")
        ScheduleRepository().create(schedule, request=None)
        return functions.sqs_event([fire_message(key_of(schedule))])

    def state(item: dict[str, Any]) -> dict[str, Any] | None:
        kept = ("pk", "sk", "type", "started", "next_fire_at", "last_bulk_id", "open_parts", "total", "gsi1pk")
        if item["type"] not in {"schedule", "bulk_command", "bulk_part"}:
            return None
        return {name: item[name] for name in kept if name in item}

    report = CrashTest(
        entry="background.schedules:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["agents"], stack.tables["devices"]],
        seed=seed,
        normalise=state,
        accept=lambda answer: answer == {"batchItemFailures": []},
    ).run()
    assert report.points >= 6
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


@pytest.mark.fault("F-44c")
def test_a_device_of_another_s_is_sent_it_while_a_project_lets_the_schedule_s_owner(
    functions: Functions, owner: UserId
) -> None:
    host = UserId(new_id())
    open_account(host)
    device_id = a_device(host)
    project_id = show(device_id, of=host, to=owner)
    first, second = (due(owner, device_id=device_id) for _ in range(2))
    functions.fire(fire_message(key_of(first)))
    ingest(functions)
    [command], _ = CommandRepository().page(device_id, limit=100)
    assert (command.user_id, command.requested_by) == (host, f"member:{owner}")
    leave(owner, project_id)
    functions.fire(fire_message(key_of(second)))
    assert error_of(second) == ("NOT_FOUND", f"Device {device_id} not found")
