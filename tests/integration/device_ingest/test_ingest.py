"""The ingest handler: captured events, hostile ones, and a crash at every AWS call.

One file of more than 450 lines: each kind of message goes through the same table of faults.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from karma.billing.repository.usage import UsageRepository
from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.dynamo.items import Item
from karma.core.ids import CommandId, DeviceId, UserId, new_id
from karma.devices.domain import RAW_RETENTION_S, Command, CommandStatus, Latest
from karma.devices.repository.commands import CommandRepository
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.devices.repository.device_mapping import latest_from, latest_json
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.items import DevicesItem
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.devices import World, provisioning_device, sqs_record
from tests.support.plans import reserved
from tests.support.stack import Context, Stack

Handle = Callable[[dict[str, Any]], list[str]]

EVENTS = Path(__file__).parents[2] / "events"
THING = "EOS-3A-000017"
CERTIFICATE = "6f1c2d3e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
USER = UserId("01a1fd64-5851-7599-9816-cee19b83f05c")
DEVICE = DeviceId("01a1fd64-5851-7599-9816-cee19b83f0aa")
COMMANDS = [CommandId(f"01a1fd64-5851-7599-9816-cee19b83f0c{n}") for n in range(3)]
NOW = 1_795_250_341_254
FOREVER = from_epoch_ms(4_000_000_000_000)


def captured(name: str) -> dict[str, Any]:
    """Return a captured batch; `@COMMAND@` in a payload becomes the seeded command's id."""
    event: dict[str, Any] = json.loads((EVENTS / f"sqs_iot_{name}.json").read_text())
    for record in event["Records"]:
        body = json.loads(record["body"])
        payload = base64.b64decode(body["payload_b64"]).replace(b"@COMMAND@", COMMANDS[0].encode())
        record["body"] = json.dumps({**body, "payload_b64": base64.b64encode(payload).decode()})
    return event


def seed_device(stack: Stack) -> None:
    open_account(USER)
    # The owner's plan has its row in this table; the function itself has none of it.
    UsageRepository()
    devices = DeviceRepository()
    now = from_epoch_ms(NOW)
    device = provisioning_device(USER, id=DEVICE, serial_number=THING)
    devices.claim(device, reservation=reserved(USER), attempt="a", now=now)
    devices.activate(device, attempt="a", certificate_id=CERTIFICATE, now=now)


def seed_commands(stack: Stack, *, serial: bool = False, ends: Sequence[datetime] = (FOREVER, FOREVER)) -> None:
    devices = DeviceRepository()
    commands = CommandRepository()
    row = devices.row(USER, DEVICE)
    assert row is not None
    for command_id, end in zip(COMMANDS, ends, strict=False):
        command = Command(
            id=command_id,
            device_id=DEVICE,
            user_id=USER,
            serial_number=THING,
            command="move",
            params={},
            status=CommandStatus.QUEUED,
            serial=serial,
            issued_ms=NOW,
            expires_ms=epoch_ms(end),
        )
        commands.add(command, row, now=from_epoch_ms(NOW))


def snapshot(stack: Stack) -> dict[str, Any]:
    """Return all items but the device's costs of an hour, which a repeat adds to."""
    return {
        f"{table} {item['pk']['S']} {item['sk']['S']}": item
        for table in ("devices", "telemetry")
        for item in stack.aws("dynamodb").scan(TableName=stack.tables[table])["Items"]
        if not item["sk"]["S"].startswith("HOUR#")
    }


@pytest.fixture
def handle(stack: Stack, lambda_context: Context) -> Handle:
    """Call the handler; return the ids that must come again."""
    stack.use("device_ingest")

    def call(event: dict[str, Any]) -> list[str]:
        from device_ingest.handler import lambda_handler

        failures = lambda_handler(event, lambda_context)["batchItemFailures"]
        return [failure["itemIdentifier"] for failure in failures]

    return call


def facts(stack: Stack) -> dict[str, Any]:
    item = snapshot(stack)[f"devices USER#{USER} DEVICE#{DEVICE}#LATEST"]
    return latest_json(latest_from(cast("DevicesItem", Item.from_raw_data(item))))


def test_a_batch_of_telemetry_and_heartbeat(stack: Stack, handle: Handle) -> None:
    seed_device(stack)
    assert handle(captured("telemetry")) == []
    first = snapshot(stack)
    assert facts(stack)["readings"]["temp_c"] == [41.6, 1795250340000]
    assert facts(stack)["ip"] == "192.0.2.17"
    assert sum(key.startswith("telemetry") for key in first) == 2
    [dead] = [item for key, item in first.items() if "DEAD#" in key]
    assert dead["reason"]["S"] == "NOT_JSON"
    assert handle(captured("telemetry")) == []
    assert snapshot(stack) == first


def test_a_captured_presence_event_makes_the_device_online(stack: Stack, handle: Handle) -> None:
    seed_device(stack)
    assert handle(captured("presence")) == []
    current = DeviceRepository().current(USER, DEVICE)
    assert current is not None
    assert current.status == "online"


BODY = {"boot": "b", "seq": 7, "samples": [{"ts": NOW, "m": {"temp_c": 1.0}}]}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def batch(**changes: Any) -> bytes:
    return encoded({**BODY, **changes})


DT, CMD, PRESENCE = f"dt/karma/{THING}", f"cmd/karma/{THING}", "$aws/events/presence"
LIFE = {
    "clientId": THING,
    "timestamp": NOW,
    "eventType": "connected",
    "sessionIdentifier": "s",
    "principalIdentifier": CERTIFICATE,
    "versionNumber": 0,
}

ANSWER = {"id": COMMANDS[0], "status": "succeeded", "ts": 1}
FOREIGN = {"principalIdentifier": "f" * 64}
REFUSED = {"eventType": "connect_failed"}

# (topic, payload, principal, reason of the owner's dead letter, "" when it is dropped)
HOSTILE: dict[str, tuple[str, bytes, str | None, str]] = {
    "empty": (f"{DT}/telemetry", b"", CERTIFICATE, "NOT_JSON"),
    "not JSON": (f"{DT}/telemetry", b"hello", CERTIFICATE, "NOT_JSON"),
    "cut JSON": (f"{DT}/telemetry", batch()[:-3], CERTIFICATE, "NOT_JSON"),
    "invalid UTF-8": (f"{DT}/telemetry", b'{"boot":"\xff\xfe"}', CERTIFICATE, "NOT_JSON"),
    "zero bytes": (f"{DT}/telemetry", b"\x00" * 100, CERTIFICATE, "NOT_JSON"),
    "NaN": (f"{DT}/telemetry", batch().replace(b"1.0", b"NaN"), CERTIFICATE, "WRONG_VALUE"),
    "infinite": (f"{DT}/telemetry", batch().replace(b"1.0", b"1e999"), CERTIFICATE, "WRONG_VALUE"),
    "nested 60,000 deep": (f"{DT}/telemetry", b"[" * 60_000, CERTIFICATE, "TOO_DEEP"),
    "over 128 KB": (f"{DT}/telemetry", batch(pad="x" * 131_072), CERTIFICATE, "TOO_LARGE"),
    "a list": (f"{DT}/telemetry", b"[]", CERTIFICATE, "WRONG_SHAPE"),
    "null": (f"{DT}/telemetry", b"null", CERTIFICATE, "WRONG_SHAPE"),
    "no boot": (f"{DT}/telemetry", encoded({"seq": 1, "samples": BODY["samples"]}), CERTIFICATE, "WRONG_VALUE"),
    "key in boot": (f"{DT}/telemetry", batch(boot="x#9999999999"), CERTIFICATE, "WRONG_VALUE"),
    "huge seq": (f"{DT}/telemetry", batch(seq=10**30), CERTIFICATE, "WRONG_VALUE"),
    "negative seq": (f"{DT}/telemetry", batch(seq=-1), CERTIFICATE, "WRONG_VALUE"),
    "seq as text": (f"{DT}/telemetry", batch(seq="7"), CERTIFICATE, "WRONG_VALUE"),
    "no samples": (f"{DT}/telemetry", batch(samples=[]), CERTIFICATE, "WRONG_SHAPE"),
    "negative time": (f"{DT}/telemetry", batch(samples=[{"ts": -1, "m": {"a": 1}}]), CERTIFICATE, "WRONG_VALUE"),
    "time as text": (f"{DT}/telemetry", batch(samples=[{"ts": "1", "m": {"a": 1}}]), CERTIFICATE, "WRONG_VALUE"),
    "value as text": (f"{DT}/telemetry", batch(samples=[{"ts": NOW, "m": {"a": "1"}}]), CERTIFICATE, "WRONG_VALUE"),
    "bad metric": (f"{DT}/telemetry", batch(samples=[{"ts": NOW, "m": {"a\n": 1}}]), CERTIFICATE, "WRONG_NAME"),
    "too old": (
        f"{DT}/telemetry",
        batch(samples=[{"ts": NOW - RAW_RETENTION_S * 1000 - 3_600_000, "m": {"a": 1}}]),
        CERTIFICATE,
        "TOO_OLD",
    ),
    "future": (f"{DT}/telemetry", batch(samples=[{"ts": NOW + 600_001, "m": {"a": 1}}]), CERTIFICATE, "FUTURE"),
    "bad heartbeat": (
        f"{DT}/heartbeat",
        encoded({"boot": "b", "seq": -1, "ts": NOW}),
        CERTIFICATE,
        "WRONG_VALUE",
    ),
    "bad event": (f"{DT}/event", encoded({"boot": "b", "ts": NOW, "kind": "\x00"}), CERTIFICATE, "WRONG_VALUE"),
    "bad ready": (f"{CMD}/ready", b"{}", CERTIFICATE, "WRONG_VALUE"),
    "bad response": (
        f"{CMD}/response",
        encoded({"id": "../x", "status": "succeeded", "ts": 1}),
        CERTIFICATE,
        "WRONG_VALUE",
    ),
    "invented status": (
        f"{CMD}/response",
        encoded({"id": COMMANDS[0], "status": "cancelled", "ts": 1}),
        CERTIFICATE,
        "WRONG_VALUE",
    ),
    "huge response": (
        f"{CMD}/response",
        encoded({"id": "x", "status": "succeeded", "ts": 1, "result": {"x": "y" * 40_000}}),
        CERTIFICATE,
        "WRONG_VALUE",
    ),
    "foreign certificate": (f"{DT}/telemetry", batch(), "f" * 64, ""),
    "no certificate": (f"{DT}/telemetry", batch(), "000000000000", ""),
    "no principal": (f"{DT}/telemetry", batch(), None, ""),
    "unknown thing": ("dt/karma/EOS-nobody/telemetry", batch(), CERTIFICATE, ""),
    "foreign application": (f"dt/other/{THING}/telemetry", batch(), CERTIFICATE, ""),
    "a request": (f"{CMD}/request", encoded({"id": new_id()}), CERTIFICATE, ""),
    "key in thing": ("dt/karma/EOS#1/telemetry", batch(), CERTIFICATE, ""),
    "empty topic": ("", batch(), CERTIFICATE, ""),
    "foreign connection": (
        f"{PRESENCE}/connected/{THING}",
        encoded({**LIFE, "principalIdentifier": "f" * 64}),
        None,
        "",
    ),
    "refused connection": (
        f"{PRESENCE}/connect_failed/{THING}",
        encoded({**LIFE, "eventType": "connect_failed"}),
        None,
        "",
    ),
    "presence without version": (f"{PRESENCE}/connected/{THING}", encoded({**LIFE, "versionNumber": None}), None, ""),
}


def record(name: str) -> dict[str, Any]:
    topic, payload, principal, _ = HOSTILE[name]
    body: dict[str, Any] = {"payload_b64": base64.b64encode(payload).decode(), "topic": topic, "received_ms": NOW}
    if principal is not None:
        body["principal"] = principal
    return {"messageId": name, "body": json.dumps(body)}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_ends_as_a_dead_letter_or_is_dropped(
    stack: Stack, handle: Handle, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    seed_device(stack)
    seed_commands(stack)
    before = snapshot(stack)
    assert handle({"Records": [record(name)]}) == []
    after = snapshot(stack)
    added = {key: item for key, item in after.items() if key not in before}
    assert {key: after[key] for key in before} == before
    reason = HOSTILE[name][3]
    if reason:
        letters = {key: item for key, item in added.items() if "DEADPAYLOAD#" not in key}
        [(key, dead)] = letters.items()
        assert len(added) - len(letters) == (len(HOSTILE[name][1]) > 4096)
        assert key.startswith(f"devices DEV#{DEVICE} DEAD#")
        assert dead["reason"]["S"] == reason
        assert len(dead["payload"]["B"]) <= 4096
    else:
        assert added == {}
    if name != "refused connection":
        assert "IngestRejected" in capsys.readouterr().out


def test_poison_holds_nobody_back(stack: Stack, handle: Handle) -> None:
    seed_device(stack)
    broken: list[dict[str, Any]] = [
        {"messageId": "broken-1", "body": "not json"},
        {"messageId": "broken-2", "body": "{}"},
        {"messageId": "broken-3", "body": json.dumps({"payload_b64": "*", "topic": "x", "received_ms": 1})},
        {"messageId": "broken-4", "body": json.dumps({"payload_b64": "", "topic": 7, "received_ms": 1})},
    ]
    records = [*broken, *(record(name) for name in HOSTILE), *captured("telemetry")["Records"]]
    assert handle({"Records": records}) == [each["messageId"] for each in broken]
    assert facts(stack)["readings"]["temp_c"] == [41.6, 1795250340000]


def test_a_replay_with_an_altered_body_is_a_dead_letter(stack: Stack, handle: Handle) -> None:
    seed_device(stack)
    body = {"topic": f"{DT}/telemetry", "principal": CERTIFICATE, "received_ms": NOW}
    for value in (b"1.0", b"1.0", b"9.0"):
        payload = base64.b64encode(batch().replace(b"1.0", value)).decode()
        assert handle({"Records": [{"messageId": "m", "body": json.dumps({**body, "payload_b64": payload})}]}) == []
    found = snapshot(stack)
    [stored] = [item for key, item in found.items() if key.startswith("telemetry")]
    assert json.loads(stored["samples"]["B"]) == [[NOW, {"temp_c": 1.0}]]
    assert [item["reason"]["S"] for key, item in found.items() if "DEAD#" in key] == ["ALTERED"]
    assert facts(stack)["readings"]["temp_c"] == [1.0, NOW]


@pytest.mark.fault("F-12e", "F-12f")
def test_words_for_no_number_cost_themselves_in_every_message(stack: Stack, handle: Handle) -> None:
    """As C's printf writes them; beside a counter beyond 64 bits. The command is over, the heartbeat counts."""
    seed_device(stack)
    seed_commands(stack)
    sent = [
        (f"{DT}/telemetry", batch(samples=[{"ts": NOW, "m": {"a": 1, "n": 10**30}}]).replace(b'"a": 1', b'"a": nan')),
        (f"{DT}/heartbeat", encoded({"boot": "b", "seq": 1, "ts": NOW, "ip": 0}).replace(b": 0", b": -nan")),
        (f"{CMD}/response", encoded({**ANSWER, "result": {"t": 0, "u": 2}}).replace(b'"t": 0', b'"t": inf')),
    ]
    records = [sqs_record(f"m{n}", *each, CERTIFICATE, NOW) for n, each in enumerate(sent)]
    for _ in range(2):
        assert handle({"Records": records}) == []
    assert facts(stack)["readings"] == {"n": [1e30, NOW]}
    assert facts(stack)["last_seen_ms"] == NOW
    command = CommandRepository().get(DEVICE, COMMANDS[0])
    assert command is not None
    assert (command.status, command.result) == (CommandStatus.SUCCEEDED, {"t": None, "u": 2})
    letters, _ = DeadLetterRepository().page(DEVICE, limit=9)
    named = {(letter.topic, *each) for letter in letters for each in letter.refused}
    fields = ('samples[0].m["a"]', "ip", 'result["t"]')
    assert named == {(topic, field, "WRONG_VALUE") for (topic, _), field in zip(sent, fields, strict=True)}
    assert all(letter.taken for letter in letters)


@pytest.mark.fault("F-12a")
def test_the_good_samples_of_a_message_are_stored_and_the_bad_ones_are_named(stack: Stack, handle: Handle) -> None:
    """100 samples: one without a time, one with a value that is no number beside one that is, one of tomorrow."""
    seed_device(stack)
    samples: list[dict[str, Any]] = [{"ts": NOW - 1000 * n, "m": {"temp_c": n, "3v3": 3.3}} for n in range(100)]
    samples[7] = {"ts": "noon", "m": {"temp_c": 1}}
    samples[8]["m"]["temp_c"] = float("nan")
    samples[9]["ts"] = NOW + 24 * 3_600_000
    payload = batch(samples=samples)
    event = {"Records": [sqs_record("m", f"{DT}/telemetry", payload, CERTIFICATE, NOW)]}
    for _ in range(2):
        assert handle(event) == []
    kept = [each for key, item in snapshot(stack).items() if key.startswith("telemetry") for each in stored(item)]
    assert len(kept) == 98
    assert facts(stack)["readings"]["temp_c"] == [0, NOW]
    [letter], _ = DeadLetterRepository().page(DEVICE, limit=5)
    assert [tuple(each) for each in letter.refused] == [
        ("samples[7].ts", "WRONG_VALUE"),
        ('samples[8].m["temp_c"]', "WRONG_VALUE"),
        ("samples[9].ts", "FUTURE"),
    ]
    whole = DeadLetterRepository().get(DEVICE, letter.id)
    assert whole is not None
    assert (whole.payload, whole.taken) == (payload, True)


def stored(item: dict[str, Any]) -> list[Any]:
    found: list[Any] = json.loads(item["samples"]["B"])
    return found


def test_a_table_that_is_away_brings_the_messages_back(stack: Stack, handle: Handle) -> None:
    seed_device(stack)
    stack.use("device_ingest", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    event = captured("presence")
    assert handle(event) == [each["messageId"] for each in event["Records"][:3]]


def test_the_accounts_broker_is_looked_up_where_no_address_is_given(stack: Stack, handle: Handle) -> None:
    """As in AWS. The engine answers with a name that leads nowhere here, so the commands wait for the next `ready`."""
    seed_device(stack)
    seed_commands(stack)
    stack.use("device_ingest", IOT_DATA_ENDPOINT="")
    event = captured("ready")
    assert handle(event) == [each["messageId"] for each in event["Records"]]
    stack.use("device_ingest")
    assert handle(event) == []
    commands = CommandRepository()
    sent = [commands.get(DEVICE, command_id) for command_id in COMMANDS[:2]]
    assert {command.status for command in sent if command is not None} == {CommandStatus.SENT}


@pytest.mark.fault("F-11b")
def test_a_crash_at_any_call_of_a_wake_up_is_repaired_by_the_redelivery(stack: Stack) -> None:
    """The first of three serial commands is over: the second is published, and a call is left for its end."""
    stack.use("device_ingest")
    now = datetime.now(UTC)
    body = {"wake_up": {"user_id": USER, "device_id": DEVICE}}

    def seed() -> dict[str, Any]:
        seed_device(stack)
        devices = DeviceRepository()
        claim = devices.claim_of(THING)
        assert claim is not None
        devices.merge_latest(claim, Latest(ready_ms=NOW), now=now)
        seed_commands(stack, serial=True, ends=[now - timedelta(seconds=1), *[now + timedelta(seconds=100)] * 2])
        return {"Records": [{"messageId": "w", "body": json.dumps(body)}]}

    def states() -> list[str]:
        commands = CommandRepository()
        return [found.status for each in COMMANDS if (found := commands.get(DEVICE, each)) is not None]

    report = CrashTest(
        entry="device_ingest.handler:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["devices"]],
        seed=seed,
        ignore=("version", "created_at", "updated_at", *TIMES),
        accept=lambda response: response == {"batchItemFailures": []},
    ).run()
    assert states() == ["expired", "sent", "queued"]
    assert {"SendMessage", "Publish"} <= {each.rpartition(".")[2] for each in report.calls}


def test_a_wake_up_that_nobody_could_have_left_goes_to_the_operators(stack: Stack, handle: Handle) -> None:
    calls: list[Any] = [
        None,
        {},
        {"user_id": USER},
        {"user_id": USER, "device_id": "x#y"},
        {"user_id": 1, "device_id": 2},
    ]
    records = [{"messageId": str(n), "body": json.dumps({"wake_up": each})} for n, each in enumerate(calls)]
    gone = {"messageId": "gone", "body": json.dumps({"wake_up": {"user_id": USER, "device_id": DEVICE}})}
    assert handle({"Records": [*records, gone]}) == [each["messageId"] for each in records]


TIMES = ("sent_ms", "published_ms", "acknowledged_ms", "finished_ms")


@pytest.mark.parametrize("name", ["telemetry", "ready", "response", "presence"])
def test_a_crash_at_any_call_is_repaired_by_the_redelivery(stack: Stack, world: World, name: str) -> None:
    stack.use("device_ingest")

    def seed() -> dict[str, Any]:
        seed_device(stack)
        if name in ("ready", "response"):
            seed_commands(stack, serial=name == "response")
        return captured(name)

    report = CrashTest(
        entry="device_ingest.handler:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["devices"], stack.tables["telemetry"]],
        seed=seed,
        # What a device has cost: a message that comes again costs again.
        ignore=("version", "created_at", "updated_at", "letters", "units", *TIMES),
        accept=lambda response: response == {"batchItemFailures": []},
    ).run()
    assert report.points >= len(report.calls)
    assert len(report.calls) >= 3


@pytest.mark.fault("F-11g")
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("what", ["heartbeat", "wake-up"])
def test_what_is_delivered_again_sends_again_what_its_first_delivery_may_not_have_sent(
    stack: Stack, handle: Handle, what: str, count: int
) -> None:
    """That delivery recorded the command as sent, and died."""
    seed_device(stack)
    seed_commands(stack)
    commands, devices = CommandRepository(), DeviceRepository()
    claim = devices.claim_of(THING)
    assert claim is not None
    devices.merge_latest(claim, Latest(ready_ms=NOW), now=from_epoch_ms(NOW))
    for entry in commands.pending(DEVICE, limit=5):
        assert commands.begin_publish(entry, at=from_epoch_ms(NOW))
    beat = sqs_record("m", f"{DT}/heartbeat", encoded({"boot": "b", "seq": 1, "ts": NOW}), CERTIFICATE, NOW)
    call = {"messageId": "m", "body": json.dumps({"wake_up": {"user_id": USER, "device_id": DEVICE}})}
    record = {**(beat if what == "heartbeat" else call), "attributes": {"ApproximateReceiveCount": str(count)}}
    assert handle({"Records": [record]}) == []
    assert [each.publishes for each in commands.pending(DEVICE, limit=5)] == [count, count]
