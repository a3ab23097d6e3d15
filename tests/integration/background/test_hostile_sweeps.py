"""Sweeps asked for what they are not, or meeting items that nobody of ours wrote: sound work beside them is done."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.catalog import SWEEPS
from karma.billing.arrival import Arrival
from karma.billing.repository.arrivals import ArrivalRepository
from karma.core.errors import ValidationFailed
from karma.core.ids import CommandId, UserId, new_id
from karma.devices.domain import Command, CommandStatus
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.items import expiry_partition
from tests.integration.background.conftest import Items
from tests.integration.background.test_sweeps import POLICY, USER, provisioning, queued
from tests.support.accounts import open_account
from tests.support.plans import reserved
from tests.support.stack import Context, Stack

Sweep = Callable[[str], dict[str, int]]

PAST = datetime(2026, 1, 1, tzinfo=UTC)

# Events that no schedule of ours sends.
EVENTS: dict[str, Any] = {
    "nothing": None,
    "empty": {},
    "list": [],
    "list of a name": ["inbox"],
    "name alone": "inbox",
    "number": 7,
    "JSON not read": '{"sweep": "inbox"}',
    "null": {"sweep": None},
    "no name": {"sweep": ""},
    "true": {"sweep": True},
    "position": {"sweep": 0},
    "list inside": {"sweep": ["inbox"]},
    "object inside": {"sweep": {"sweep": "inbox"}},
    "unknown": {"sweep": "dust"},
    "another function's": {"sweep": "orphans"},
    "all": {"sweep": "*"},
    "two": {"sweep": "inbox,commands"},
    "capitals": {"sweep": "INBOX"},
    "spaces": {"sweep": " inbox "},
    "line break": {"sweep": "inbox\r\n"},
    "nul": {"sweep": "inbox\x00"},
    "homograph": {"sweep": "inb\u043ex"},
    "lone surrogate": {"sweep": "\ud800"},
    "attribute": {"sweep": "__class__"},
    "path": {"sweep": "../inbox"},
    "256 KB": {"sweep": "x" * 262_144},
    "5,000 digits": {"sweep": 10**4999},
    "other key": {"Sweep": "inbox"},
    "as detail": {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {"sweep": "inbox"}},
    "as a record": {"Records": [{"body": '{"sweep": "inbox"}'}]},
    "as a request": {"rawPath": "/", "body": '{"sweep": "inbox"}'},
}


@pytest.fixture
def sweep(stack: Stack, lambda_context: Context) -> Sweep:
    def call(name: str) -> dict[str, int]:
        function = importlib.import_module(SWEEPS[name])
        stack.use(SWEEPS[name].removeprefix("background."))
        changed: dict[str, int] = function.lambda_handler({"sweep": name}, lambda_context)
        return changed

    return call


@pytest.mark.parametrize("name", EVENTS)
def test_what_is_no_sweep_of_ours_is_refused_by_name(
    stack: Stack, lambda_context: Context, items: Items, name: str
) -> None:
    from background.sweeps.queues import lambda_handler

    stack.use("sweeps.queues")
    add_event(stack, "evt_due")
    before = items()
    with pytest.raises(ValidationFailed) as refused:
        lambda_handler(EVENTS[name], lambda_context)
    assert refused.value.details == [
        {
            "field": "sweep",
            "message": "must be one of inbox, subscriptions, mail, deletions, interrupts, webhooks, schedules, "
            "alarms, rollups, bulks, commands",
            "type": "value_error",
        }
    ]
    assert items() == before
    assert queued(stack) == set()


def attributes(pk: str, sk: str, **more: Any) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}, **more}


def add_event(stack: Stack, name: str) -> None:
    arrival = Arrival(name, "invoice.paid", '{"type": "invoice.paid", "data": {}}')
    ArrivalRepository().store(arrival, received_at=PAST, due_at=PAST)


OPEN = {"gsi1pk": {"S": "INBOX#UNHANDLED"}, "gsi1sk": {"S": "2026-01-01T00:00:00.000Z#evt_0"}}
EVENT = {**OPEN, "type": {"S": "stripe_event"}, "event_type": {"S": "a"}, "attempts": {"N": "0"}, "version": {"N": "1"}}

# Items in the inbox's list that are no events that wait.
INBOX: dict[str, dict[str, Any]] = {
    "subscription": attributes("USER#u", "SUBSCRIPTION", **OPEN, type={"S": "billing_subscription"}),
    "no type": attributes("STRIPE_EVT#evt_0", "META", **OPEN),
    "type a number": attributes("STRIPE_EVT#evt_0", "META", **{**EVENT, "type": {"N": "1"}}),
    "unknown type": attributes("STRIPE_EVT#evt_0", "META", **{**EVENT, "type": {"S": "stripe_event2"}}),
    "key of a user": attributes("USER#u", "META", **EVENT),
    "handled": attributes("STRIPE_EVT#evt_0", "META", **EVENT, handled_at={"S": "2026-01-01T00:00:00.000Z"}),
    "attempts text": attributes("STRIPE_EVT#evt_0", "META", **{**EVENT, "attempts": {"S": "many"}}),
    "attempts a list": attributes("STRIPE_EVT#evt_0", "META", **{**EVENT, "attempts": {"L": []}}),
    "handled a number": attributes("STRIPE_EVT#evt_0", "META", **EVENT, handled_at={"N": "1"}),
    "body a set": attributes("STRIPE_EVT#evt_0", "META", **EVENT, body={"SS": ["x"]}),
    "version text": attributes("STRIPE_EVT#evt_0", "META", **{**EVENT, "version": {"S": "1"}}),
}


@pytest.mark.parametrize("name", INBOX)
def test_the_inbox_passes_over_what_is_no_waiting_event(sweep: Sweep, stack: Stack, items: Items, name: str) -> None:
    stack.aws("dynamodb").put_item(TableName=stack.tables["billing"], Item=INBOX[name])
    before = items()
    add_event(stack, "evt_due")
    assert sweep("inbox") == {"changed": 1}
    assert queued(stack) == {"evt_due"}
    assert unchanged(before, items())


DEVICE = new_id()
EXPIRED = {"gsi1pk": {"S": expiry_partition(DEVICE)}, "gsi1sk": {"S": "2026-01-01T00:00:00.000Z#x"}}  # type: ignore[arg-type]
PENDING = {
    **EXPIRED,
    "type": {"S": "pending_command"},
    **{field: {"S": "x"} for field in ("command_id", "user_id", "serial_number", "command")},
    **{field: {"N": "1"} for field in ("issued_ms", "expires_ms", "version")},
    "device_id": {"S": DEVICE},
    "status": {"S": "queued"},
    "serial": {"BOOL": False},
    "params": {"S": "{}"},
}
# Items in the list of overdue commands that are no commands.
COMMANDS: dict[str, dict[str, Any]] = {
    "no type": attributes(f"DEV#{DEVICE}", "PENDING#x", **EXPIRED),
    "a device": attributes("USER#u", "DEVICE#x", **EXPIRED, type={"S": "device"}),
    "without its command": attributes(f"DEV#{DEVICE}", "PENDING#x", **PENDING),
    "unknown status": attributes(f"DEV#{DEVICE}", "PENDING#x", **{**PENDING, "status": {"S": "sold"}}),
    "status a number": attributes(f"DEV#{DEVICE}", "PENDING#x", **{**PENDING, "status": {"N": "1"}}),
    "no status": attributes(f"DEV#{DEVICE}", "PENDING#x", **{k: v for k, v in PENDING.items() if k != "status"}),
    "no times": attributes(f"DEV#{DEVICE}", "PENDING#x", **{k: v for k, v in PENDING.items() if k[-3:] != "_ms"}),
    "time as text": attributes(f"DEV#{DEVICE}", "PENDING#x", **{**PENDING, "issued_ms": {"S": "now"}}),
    "broken JSON": attributes(f"DEV#{DEVICE}", "PENDING#x", **{**PENDING, "params": {"S": '{"a": '}}),
    "params a map": attributes(f"DEV#{DEVICE}", "PENDING#x", **{**PENDING, "params": {"M": {}}}),
    "huge": attributes(f"DEV#{DEVICE}", "PENDING#x", **{**PENDING, "status": {"S": "x" * 380_000}}),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_overdue_commands_end_beside_what_is_none(sweep: Sweep, stack: Stack, items: Items, name: str) -> None:
    stack.aws("dynamodb").put_item(TableName=stack.tables["devices"], Item=COMMANDS[name])
    before = items()
    command = overdue_command(stack)
    sweep("commands")
    ended = CommandRepository().get(command.device_id, command.id)
    assert ended is not None
    assert ended.status is CommandStatus.EXPIRED
    assert unchanged(before, items())


LISTED = {"gsi1pk": {"S": "SWEEP#DEVICES"}, "gsi1sk": {"S": "2026-01-01T00:00:00.000Z#x"}}
UNIQUE_SERIAL = {
    **LISTED,
    "type": {"S": "thing"},
    "serial_number": {"S": "EOS-x"},
    "user_id": {"S": USER},
    "device_id": {"S": DEVICE},
    "state": {"S": "provisioning"},
    "version": {"N": "1"},
}
# Items in the list of unfinished devices that are none.
ORPHANS: dict[str, dict[str, Any]] = {
    "no type": attributes("THING#EOS-x", "META", **LISTED),
    "unknown type": attributes("THING#EOS-x", "META", **{**UNIQUE_SERIAL, "type": {"S": "robot"}}),
    "serial number without a row": attributes("THING#EOS-x", "META", **UNIQUE_SERIAL),
    "unknown state": attributes("THING#EOS-x", "META", **{**UNIQUE_SERIAL, "state": {"S": "sold"}}),
    "no state": attributes("THING#EOS-x", "META", **{k: v for k, v in UNIQUE_SERIAL.items() if k != "state"}),
    "certificates a list": attributes("THING#EOS-x", "META", **UNIQUE_SERIAL, certificate_ids={"L": [{"S": "c"}]}),
    "certificates of numbers": attributes("THING#EOS-x", "META", **UNIQUE_SERIAL, certificate_ids={"NS": ["1"]}),
    "tombstone of nobody": attributes(f"DEV#{DEVICE}", "TOMBSTONE", **LISTED, type={"S": "device_tombstone"}),
    "tombstone of a number": attributes(
        f"DEV#{DEVICE}", "TOMBSTONE", **LISTED, type={"S": "device_tombstone"}, device_id={"N": "1"}
    ),
    "command": attributes(f"DEV#{DEVICE}", "CMD#x", **LISTED, type={"S": "command"}),
}


@pytest.mark.parametrize("name", ORPHANS)
def test_half_made_devices_are_removed_beside_what_is_none(sweep: Sweep, stack: Stack, items: Items, name: str) -> None:
    stack.aws("iot").create_policy(policyName=POLICY, policyDocument='{"Version": "2012-10-17", "Statement": []}')
    stack.aws("dynamodb").put_item(TableName=stack.tables["devices"], Item=ORPHANS[name])
    before = items()
    open_account(USER)
    devices = DeviceRepository()
    devices.claim(
        provisioning(new_id(), "EOS-half-made"),
        reservation=reserved(USER),
        attempt="a",
        now=datetime.now(UTC) - timedelta(hours=1),
    )
    sweep("orphans")
    left = items()
    (taken,) = [left.pop(key) for key in list(left) if "USAGE#devices" in key]
    assert (taken["value"], left) == ({"N": "0"}, before)


def overdue_command(stack: Stack) -> Command:
    devices, commands = DeviceRepository(), CommandRepository()
    open_account(USER)
    device = provisioning(DEVICE, "EOS-late")
    devices.claim(device, reservation=reserved(USER), attempt="a", now=PAST)
    row = devices.activate(device, attempt="a", certificate_id="c", now=PAST)
    issued_ms = round(PAST.timestamp() * 1000)
    command = Command(
        id=CommandId(new_id()),
        device_id=row.id,
        user_id=UserId(USER),
        serial_number=row.serial_number,
        command="move",
        params={},
        status=CommandStatus.QUEUED,
        serial=False,
        issued_ms=issued_ms,
        expires_ms=issued_ms + 60_000,
    )
    commands.add(command, row, now=PAST)
    return command


def unchanged(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return bool(before) and before.items() <= after.items()
