"""Commands to many devices: from the route over the queue and ingest to the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from karma.core.ids import new_id
from tests.integration.api.test_devices import Client, body
from tests.integration.api.test_devices import user as user  # noqa: PLC0414  a fixture
from tests.support.queues import received
from tests.support.stack import Context, Stack


def deliver(stack: Stack, context: Context) -> list[Any]:
    """Hand what is in the queue of ingest to its function; return its answers."""
    from device_ingest.handler import lambda_handler

    stack.use("device_ingest")
    answers = []
    while bodies := received(stack, "ingest"):
        records = [{"messageId": f"m{at}", "body": each} for at, each in enumerate(bodies)]
        answers.append(lambda_handler({"Records": records}, context))
    stack.use("api")
    return answers


def test_a_bulk_command_by_tag(
    stack: Stack, user: Callable[[], Client], lambda_context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, stranger = user(), user()
    for n in range(2):
        client("POST", "/devices", body(serial_number=f"BULK-{n}", tags=["north"]), status=201)
    order = {"tag": "north", "command": "blink", "params": {"times": 1}}
    made = client("POST", "/commands/bulk", order, status=202, idempotency_key="k1")["bulk"]
    assert (made["status"], made["total"], made["tag"], made["sent"]) == ("sending", 2, "north", 0)
    assert client("POST", "/commands/bulk", order, status=202, idempotency_key="k1")["bulk"] == made
    path = f"/commands/bulk/{made['id']}"
    assert client("GET", path)["counts"] == {"waiting": 2}
    assert deliver(stack, lambda_context) == [{"batchItemFailures": []}]
    seen = client("GET", path)
    assert (seen["bulk"]["status"], seen["bulk"]["sent"], seen["counts"]) == ("sent", 2, {"queued": 2})
    first = client("GET", f"{path}/results?limit=1")
    second = client("GET", f"{path}/results?limit=1&cursor={first['next_cursor']}")
    assert (first["total"], second["next_cursor"]) == (2, None)
    results = [*first["results"], *second["results"]]
    assert {each["command"]["requested_by"] for each in results} == {f"bulk:{made['id']}"}
    assert [each["id"] for each in client("GET", "/commands/bulk")["bulks"]] == [made["id"]]
    assert client("DELETE", path)["bulk"]["status"] == "cancelling"
    deliver(stack, lambda_context)
    assert client("GET", path)["counts"] == {"cancelled": 2}
    assert client("DELETE", path)["bulk"]["status"] == "cancelled"
    for method, asked_for in (("GET", path), ("GET", f"{path}/results"), ("DELETE", path), ("GET", path + "x")):
        assert stranger(method, asked_for, status=404)["code"] == "NOT_FOUND"


def test_wrong_orders_are_named(user: Callable[[], Client]) -> None:
    client = user()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"command": "blink"}, "tag"),
        ({"command": "blink", "tag": "a", "device_ids": [new_id()]}, "device_ids"),
        ({"command": "blink", "tag": ""}, "tag"),
        ({"command": "blink", "tag": "nobody"}, "tag"),
        ({"command": "blink", "device_ids": []}, "device_ids"),
        ({"command": "blink", "device_ids": ["EOS-1"]}, "device_ids.0"),
        ({"command": "1", "device_ids": [new_id()]}, "command"),
        ({"command": "blink", "device_ids": [new_id()], "params": {"x": "x" * 4_096}}, "params"),
        ({"command": "blink", "device_ids": [new_id()], "ttl_s": 604_801}, "ttl_s"),
    ]
    for given, name in wrong:
        # The limit of requests a minute is another test's.
        told = user()("POST", "/commands/bulk", given, status=422)
        assert [each["field"] for each in told["details"]] == [name], given
    beyond = {"command": "blink", "device_ids": [new_id() for _ in range(11)]}
    told = client("POST", "/commands/bulk", beyond, status=402)
    assert told["code"] == "QUOTA_EXCEEDED"
    assert (told["details"]["limit"], told["details"]["allowed"]) == ("bulk_devices", 10)


def test_a_message_that_is_none_of_ours_comes_again(
    stack: Stack, user: Callable[[], Client], lambda_context: Context
) -> None:
    from device_ingest.handler import lambda_handler

    stack.use("device_ingest")
    key = {"user_id": new_id(), "bulk_id": new_id(), "part": 0}
    wrong: list[Any] = [{**key, "part": "0"}, {**key, "part": -1}, {**key, "bulk_id": "x"}, {"part": 0}, [], key]
    records = [{"messageId": f"m{at}", "body": json.dumps({"bulk": each})} for at, each in enumerate(wrong)]
    failed = lambda_handler({"Records": records}, lambda_context)["batchItemFailures"]
    assert [each["itemIdentifier"] for each in failed] == ["m0", "m1", "m2", "m3", "m4"]
