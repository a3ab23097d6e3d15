"""Free-form values of every depth, in every field of the API and every payload of a device; then every list is read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from karma.core.freeform import MAX_LEVELS
from karma.core.ids import DeviceId
from karma.devices.repository.devices import DeviceRepository
from karma.devices.shadow import MAX_LEVELS as MAX_SHADOW_LEVELS
from tests.integration.permissions.test_parameters import caller, fields_of, operations, refused
from tests.integration.permissions.world import Target, World, bearer, targets
from tests.support import contexts, contract
from tests.support.seeds import dice
from tests.support.stack import Context

pytestmark = [pytest.mark.fault("F-08a"), pytest.mark.usefixtures("model")]

DEPTHS = [64, 65, 255, 1024, *dice("depths").sample([1, 63, 250, 254, 1000, 2000, *range(2, 2000)], 2)]
"""The bounds of the rule and of what reads and writes JSON, and some others for another number of the run."""

FEWER = {("api PATCH /api/v1/devices/{device_id}/settings", "desired"): MAX_SHADOW_LEVELS}
"""Levels of fields that are kept by another service, which takes fewer."""


def nested(levels: int) -> dict[str, Any]:
    """Make an object of so many levels, of objects and lists by turns."""
    value: Any = 0
    for level in range(levels - 1):
        value = [value] if level % 2 else {"a": value}
    return {"deep": value}


def is_free(schema: Mapping[str, Any]) -> bool:
    free = schema.get("additionalProperties") is True and not schema.get("properties")
    return free or any(is_free(each) for each in schema.get("anyOf", ()))


def free_fields() -> Iterator[tuple[Target, str]]:
    """Yield every free-form field of a body of the API."""
    document = contract.served()
    for target, _ in operations("api"):
        operation = document["paths"][target.path][target.method.lower()]
        for name, schema in fields_of(document, operation).items():
            if is_free(schema):
                yield target, name


def read_everything(world: World) -> list[str]:
    """Read all that can be read of what two people have; return what was answered wrongly."""
    wrong = []
    for target in targets():
        known = all(name in contexts.objects() for name in target.parameters) and "/health" not in target.path
        if target.function == "api" and target.method == "GET" and known:
            for owner in ("user", "admin"):
                answer = world.call(target, owner=owner, headers=bearer(world.person(owner).token))
                if answer.status >= 500:
                    wrong.append(f"{target.name}: {answer.status} {answer.text[:200]}")
    return wrong


def test_every_field_takes_64_levels_and_names_itself_for_more(world: World) -> None:
    world.become("api")
    wrong = []
    tried = 0
    for target, field in free_fields():
        for levels in DEPTHS:
            body = contexts.bodies()[f"{target.method} {target.path}"](world, "admin")
            path = world.path_of(target, owner="admin")
            answer = world.api(target.method, path, {**body, field: nested(levels)}, headers=caller(world, target))
            told = refused(answer) if answer.status == 422 else {}
            most = FEWER.get((target.name, field), MAX_LEVELS)
            ends = "nested deeper than 64 levels" if levels > MAX_LEVELS else f"at most {most} levels"
            right = told.get(field, "").endswith(ends) if levels > most else not told
            if answer.status >= 500 or not right:
                wrong.append(f"{target.name} {field} {levels}: {answer.status} {answer.text[:200]}")
            tried += 1
    assert wrong + read_everything(world) == []
    assert tried > 50


def test_every_field_refuses_whole_numbers_that_would_become_others(world: World) -> None:
    world.become("api")
    wrong = []
    for target, field in free_fields():
        body = contexts.bodies()[f"{target.method} {target.path}"](world, "admin")
        path = world.path_of(target, owner="admin")
        answer = world.api(target.method, path, {**body, field: {"a": [2**64]}}, headers=caller(world, target))
        told = refused(answer) if answer.status == 422 else {}
        if "64 bits" not in told.get(f"{field}.a.0", ""):
            wrong.append(f"{target.name} {field}: {answer.status} {answer.text[:200]}")
    assert wrong == []


@pytest.fixture
def ingest(world: World, lambda_context: Context) -> Callable[[str, str, list[tuple[str, bytes]]], list[str]]:
    """Send messages as a device does; return the ids of those that would come again."""

    def send(thing: str, certificate_id: str, messages: list[tuple[str, bytes]]) -> list[str]:
        from device_ingest.handler import lambda_handler

        records = [
            {
                "messageId": f"{index}",
                "body": json.dumps(
                    {
                        "topic": topic.replace("THING", thing),
                        "principal": certificate_id,
                        "received_ms": NOW_MS,
                        "payload_b64": base64.b64encode(payload).decode(),
                    }
                ),
            }
            for index, (topic, payload) in enumerate(messages)
        ]
        world.stack.use("device_ingest")
        failed = lambda_handler({"Records": records}, lambda_context)["batchItemFailures"]
        world.stack.use("api")
        return [each["itemIdentifier"] for each in failed]

    return send


NOW_MS = 1_795_250_341_254


def payloads(command_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each kind of payload, right but for the value `DEEP` somewhere in it."""
    head = {"boot": "b", "seq": 1, "ts": NOW_MS}
    yield "dt/karma/THING/telemetry", {**head, "samples": [{"ts": NOW_MS, "m": {"t": "DEEP"}}]}
    yield "dt/karma/THING/telemetry", {**head, "samples": [{"ts": NOW_MS, "m": {"t": 1}}], "other": "DEEP"}
    yield "dt/karma/THING/heartbeat", {**head, "ip": "DEEP"}
    yield "dt/karma/THING/event", {**head, "kind": "alarm", "data": "DEEP"}
    yield "cmd/karma/THING/ready", {**head, "boot": "DEEP"}
    for field in ("result", "error"):
        answer = {"id": command_id, "status": "succeeded", "ts": NOW_MS}
        yield "cmd/karma/THING/response", {**answer, field: "DEEP"}


def test_every_payload_of_a_device_is_taken_or_a_dead_letter(
    world: World, ingest: Callable[[str, str, list[tuple[str, bytes]]], list[str]]
) -> None:
    world.become("api")
    owner = bearer(world.person("user").token)
    device_id = world.thing("user", "device_id", {})
    row = DeviceRepository().row(world.person("user").id, DeviceId(device_id))
    assert row is not None
    claim = DeviceRepository().claim_of(row.serial_number)
    assert claim is not None
    messages = []
    for levels in DEPTHS:
        made = world.create("user", f"/api/v1/devices/{device_id}/commands", {"command": "blink"})["command"]
        deep = json.dumps(nested(levels))
        messages += [(topic, json.dumps(body).replace('"DEEP"', deep).encode()) for topic, body in payloads(made["id"])]
    assert ingest(row.serial_number, min(claim.certificate_ids), messages) == []
    assert read_everything(world) == []
    listed = world.api("GET", f"/api/v1/devices/{device_id}/commands", headers=owner, query="limit=100").data
    answered = [each for each in listed["commands"] if each["result"] or each["error"]]
    whole = [each for each in answered if "not_kept" not in {**(each["result"] or {}), **(each["error"] or {})}]
    assert len(whole) == sum(levels <= MAX_LEVELS for levels in DEPTHS)
    letters = world.api("GET", f"/api/v1/devices/{device_id}/dead-letters", headers=owner, query="limit=100").data
    assert "TOO_DEEP" in {each["reason"] for each in letters["dead_letters"]}


FREE = frozenset(
    {"params", "result", "error", "capabilities", "hardware", "network", "location", "metadata", "permissions"}
)


@pytest.mark.parametrize("levels", [255, 900])
def test_what_was_stored_before_the_limit_hides_nothing(world: World, levels: int) -> None:
    world.become("api")
    for name in ("device_id", "command_id", "file_id", "task_id", "avatar_id"):
        world.thing("user", name, {"device_id": world.thing("user", "device_id", {})})
    database = world.stack.aws("dynamodb")
    changed = 0
    for table in (world.stack.tables["devices"], world.stack.tables["work"], world.stack.tables["agents"]):
        for item in database.scan(TableName=table)["Items"]:
            for name in (FREE | {"abilities"}) & item.keys():
                item[name] = {"S": json.dumps(nested(levels))}
                database.put_item(TableName=table, Item=item)
                changed += 1
    assert changed > 5
    assert read_everything(world) == []
