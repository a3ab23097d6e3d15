"""Number of DynamoDB requests of each pattern of docs/adr/0005-device-data.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from karma.devices.reading import DeviceQuery
from tests.support.clients import hooked
from tests.support.devices import World


@pytest.fixture
def calls(world: World) -> Iterator[Callable[[Callable[[], Any]], list[str]]]:
    seen: list[str] = []

    def note(event_name: str, **_: Any) -> None:
        seen.append(event_name.rpartition(".")[2])

    def during(action: Callable[[], Any]) -> list[str]:
        seen.clear()
        action()
        return list(seen)

    with hooked("dynamodb", "before-call.dynamodb", note):
        yield during


def test_requests_of_each_pattern(world: World, calls: Callable[[Callable[[], Any]], list[str]]) -> None:
    made = [world.create(name=f"n{n}") for n in range(8)]
    device_id = made[0].current.device.id
    user = world.user
    assert calls(lambda: world.devices.list(user, DeviceQuery(limit=20))) == ["Query"]
    assert calls(lambda: world.devices.list(user, DeviceQuery(limit=5))) == ["Query", "GetItem"]
    assert calls(lambda: world.devices.list(user, DeviceQuery(limit=5, sort="name"))) == [
        "Query", "BatchGetItem", "GetItem"
    ]  # fmt: skip
    assert calls(lambda: world.devices.list(user, DeviceQuery(limit=5, tag="a", text="n7"))) == ["Query"]
    assert calls(lambda: world.devices.get(user, device_id)) == ["Query"]
    assert calls(lambda: world.devices.find_by_ref(user, made[0].current.device.serial_number)) == ["GetItem", "Query"]
    assert calls(lambda: world.devices.each_of([(user, device_id)])) == ["BatchGetItem"]
    assert calls(lambda: world.commands.send(user, device_id, "a")) == [
        "GetItem", "Query", "TransactWriteItems", "Query", "GetItem"
    ]  # fmt: skip
    assert calls(lambda: world.commands.list(user, device_id)) == ["GetItem", "Query"]

    def batches(count: int) -> None:
        world.tell(
            *(world.message(made[1], "telemetry", world.samples((0, 1.0), seq=seq)) for seq in range(count)),
            world.message(made[1], "heartbeat", {"boot": "b", "seq": 1, "ts": 1}),
        )

    first = calls(lambda: batches(5))
    assert first == ["GetItem", "BatchExecuteStatement", "ExecuteStatement", "Query"]
    world.clock.pass_time(seconds=1)
    # The claim is remembered: one call for five batches, then LATEST once, then a look into the queue.
    assert calls(lambda: batches(5)) == ["BatchExecuteStatement", "ExecuteStatement", "Query"]


def test_a_page_costs_the_same_among_many(world: World, calls: Callable[[Callable[[], Any]], list[str]]) -> None:
    for n in range(30):
        world.create(name=f"n{n}")
    page = world.devices.list(world.user, DeviceQuery(limit=10))
    after = page.next_position
    assert calls(lambda: world.devices.list(world.user, DeviceQuery(limit=10, after=after))) == ["Query", "GetItem"]
