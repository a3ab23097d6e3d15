"""Settings: applied once, in order, over lost and doubled messages, refused, and by the engine's shadows over TLS."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from karma_device.config import DeviceConfig
from karma_device.device import Device
from karma_device.errors import SettingsRefused
from karma_device.settings import DeviceSettings
from karma_device_testing.cloud import Broker, wait_until

BASE = "$aws/things/EOS-1/shadow/name/settings"


class Service:
    """Keeps what the device sends."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []
        self.settings = DeviceSettings("EOS-1", send=self.send)

    def send(self, topic: str, payload: bytes) -> None:
        self.sent.append((topic.removeprefix(f"{BASE}/"), json.loads(payload)))

    def told(self, kind: str, version: int, **state: Any) -> None:
        self.settings.receive(f"{BASE}/{kind}", json.dumps({"version": version, "state": state}).encode())

    def reports(self, number: int) -> list[Any]:
        def found() -> list[Any]:
            return [body["state"]["reported"] for kind, body in self.sent if kind == "update"]

        wait_until(lambda: len(found()) >= number)
        return found()


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def applied(service: Service) -> list[Any]:
    seen: list[Any] = []

    @service.settings.on_change
    def apply(wanted: dict[str, Any]) -> None:
        seen.append(wanted)

    return seen


def test_what_is_wanted_at_the_connection_is_applied_and_reported(service: Service, applied: list[Any]) -> None:
    service.settings.connected()
    assert service.sent == [("get", {})]
    service.told("get/accepted", 3, desired={"a": 1, "b": 2}, reported={"b": 2}, delta={"a": 1})
    assert service.reports(1) == [{"a": 1}]
    assert applied == [{"a": 1}]
    assert service.settings.reported == {"a": 1, "b": 2}


@pytest.mark.fault("F-47a")
def test_a_delta_of_the_version_seen_last_is_not_dropped(service: Service, applied: list[Any]) -> None:
    service.told("get/accepted", 3, desired={}, reported={})
    service.told("update/delta", 3, a=1)
    assert service.reports(1) == [{"a": 1}]
    service.told("update/delta", 2, a=0)
    service.told("update/delta", 4, b=1)
    assert service.reports(2)[1:] == [{"b": 1}]
    assert applied == [{"a": 1}, {"b": 1}], "an older one is"


def test_a_lost_report_is_reported_again_and_nothing_is_applied_twice(service: Service, applied: list[Any]) -> None:
    service.told("update/delta", 1, a={"x": 1, "y": True})
    service.reports(1)
    service.told("get/accepted", 1, desired={"a": {"x": 1, "y": True}}, delta={"a": {"x": 1, "y": True}})
    assert service.reports(2)[1] == {"a": {"x": 1, "y": True}}
    assert applied == [{"a": {"x": 1, "y": True}}]


@pytest.mark.fault("F-47c")
@pytest.mark.parametrize("applies", [True, False], ids=["it applies settings", "it only reports"])
def test_a_report_that_was_lost_is_sent_again_at_the_next_connection(service: Service, *, applies: bool) -> None:
    if applies:
        service.settings.on_change(lambda _wanted: None)
    service.settings.report({"volume": 3, "led": {"on": True, "color": "red"}, "old": 1})
    service.settings.report({"led": {"color": None}, "old": None})
    service.sent.clear()
    service.settings.connected()
    if not applies:
        assert service.reports(1) == [{"volume": 3, "led": {"on": True, "color": None}, "old": None}]
        return
    service.told("get/accepted", 7, reported={"volume": 3, "led": {"color": "red"}, "old": 1, "other": 2})
    assert service.reports(1) == [{"led": {"on": True, "color": None}, "old": None}]
    assert service.settings.reported == {"volume": 3, "led": {"on": True}, "other": 2}
    service.told("get/accepted", 8, reported={"volume": 3, "led": {"on": True}, "other": 2})
    assert len(service.reports(1)) == 1, "nothing is lost now"
    service.settings.receive(f"{BASE}/get/rejected", b'{"code": 404}')
    assert service.reports(2)[1]["volume"] == 3, "the service has none any more"


def test_a_shadow_that_was_made_anew_begins_at_a_lower_version(service: Service, applied: list[Any]) -> None:
    service.told("update/delta", 9, a=1)
    service.reports(1)
    service.told("get/accepted", 1, desired={"a": 2}, delta={"a": 2})
    service.told("update/delta", 2, a=3)
    service.reports(2)
    wait_until(lambda: applied[-1] == {"a": 3})


def test_what_is_refused_is_not_reported_nor_tried_again_until_it_is_another(service: Service) -> None:
    asked: list[Any] = []
    turn = threading.Event()

    @service.settings.on_change
    def apply(wanted: dict[str, Any]) -> dict[str, Any]:
        asked.append(wanted)
        turn.set()
        if wanted["a"] < 0:
            raise SettingsRefused("a is at least 0")
        if wanted["a"] > 10:
            raise ZeroDivisionError
        return {"a": min(wanted["a"], 5)}

    for version, a in ((1, -1), (2, -1), (3, 11), (4, 3)):
        service.told("update/delta", version, a=a)
        if version != 2:
            assert turn.wait(20)
            turn.clear()
    assert service.reports(1) == [{"a": 3}]
    assert asked == [{"a": -1}, {"a": 11}, {"a": 3}]


def test_what_it_has_otherwise_is_reported_so_and_not_tried_again(service: Service) -> None:
    asked: list[Any] = []

    @service.settings.on_change
    def apply(wanted: dict[str, Any]) -> dict[str, Any]:
        asked.append(wanted)
        return {"a": 5}

    service.told("update/delta", 1, a=7)
    assert service.reports(1) == [{"a": 5}]
    service.told("update/delta", 2, a=7)
    service.told("update/delta", 3, a=8)
    service.reports(2)
    assert asked == [{"a": 7}, {"a": 8}]


@pytest.mark.parametrize("payload", [b"\xff", b"[]", b"{}", b'{"version": "1", "state": {}}', b'{"version": 1}'])
def test_what_cannot_be_read_is_dropped(service: Service, applied: list[Any], payload: bytes) -> None:
    for kind in ("update/delta", "get/accepted", "get/rejected"):
        service.settings.receive(f"{BASE}/{kind}", payload)
    assert (service.sent, applied) == ([], [])


def test_it_asks_again_until_there_is_an_answer(service: Service, applied: list[Any]) -> None:
    service.settings.connected()
    due = service.settings.turn(0)
    service.settings.turn(due)
    assert service.sent == [("get", {})] * 2
    service.settings.receive(f"{BASE}/get/rejected", b'{"code": 404}')
    assert service.settings.turn(due) > due
    assert len(service.sent) == 2
    assert applied == []


def test_nothing_is_subscribed_or_asked_where_nobody_applies(service: Service) -> None:
    service.settings.connected()
    assert (service.settings.filters, service.sent) == ([], [])


def test_a_device_over_mqtt_and_tls_applies_what_was_wanted_while_it_was_away(
    broker: Broker, credentials: dict[str, Any], tmp_path: Path
) -> None:
    """The real client against the engine's broker and shadows, with the policy that devices have."""
    shadows, thing = broker.client("iot-data"), credentials["thing_name"]
    applied: list[Any] = []

    def want(**desired: Any) -> None:
        payload = json.dumps({"state": {"desired": desired}})
        shadows.update_thing_shadow(thingName=thing, shadowName="settings", payload=payload)

    def state() -> Any:
        found = shadows.get_thing_shadow(thingName=thing, shadowName="settings")
        return json.loads(found["payload"].read())["state"]

    def device() -> Device:
        made = Device(DeviceConfig.from_credentials(credentials, state_dir=tmp_path / "state"))
        made.settings.on_change(applied.append)
        return made

    with device() as first:
        assert first.wait_ready(20)
        want(interval_s=30)
        wait_until(lambda: state().get("reported") == {"interval_s": 30}, what="the first report")
    want(interval_s=60, led={"on": True})
    with device() as second:
        assert second.wait_ready(20)
        wait_until(lambda: "delta" not in state(), what="the report of what was wanted meanwhile")
        second.settings.report({"button": 1})
        wait_until(lambda: state()["reported"].get("button") == 1, what="a report that nobody asked for")
    assert applied == [{"interval_s": 30}, {"interval_s": 60, "led": {"on": True}}]
