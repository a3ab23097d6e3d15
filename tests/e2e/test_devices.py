"""A real device client over TLS, through broker, rules, queue and functions, to what its owner sees."""

import time
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from karma_device.config import DeviceConfig, tls_context
from karma_device.device import Device
from karma_device.errors import FileRefused
from local.api_client import ApiRefused

from .conftest import Robot, User

Eventually = Callable[..., Any]


class TestTelemetry:
    @pytest.mark.req("R-K-01")
    def test_what_a_device_sends_is_read_back(self, user: User, robot: Robot, eventually: Eventually) -> None:
        now = time.time_ns() // 1_000_000
        for number in range(5):
            robot.client.record({"temp_c": 40.0 + number}, ts=now - 5_000 + number * 1_000)
        robot.client.flush()

        def points() -> list[dict[str, Any]]:
            path = f"/devices/{robot.id}/telemetry"
            found: list[dict[str, Any]] = user.api.call("GET", path, metric="temp_c", resolution="raw")["points"]
            return found if len(found) == 5 else []

        values = [point["value"] for point in eventually(points, "five readings")]
        assert sorted(values) == [40.0, 41.0, 42.0, 43.0, 44.0]

    @pytest.mark.req("R-K-12")
    def test_the_list_shows_it_online_with_its_newest_values(
        self, user: User, robot: Robot, eventually: Eventually
    ) -> None:
        robot.client.record({"battery_pct": 87.5})
        robot.client.flush()

        def shown() -> dict[str, Any] | None:
            (device,) = user.api.call("GET", "/devices")["devices"]
            return device if device["status"] == "online" and "battery_pct" in device["latest"] else None

        device = eventually(shown, "the device online with a reading")
        assert device["id"] == robot.id
        assert device["latest"]["battery_pct"]["value"] == 87.5

    def test_a_device_that_leaves_is_shown_offline(self, user: User, robot: Robot, eventually: Eventually) -> None:
        def status() -> str:
            return str(user.api.call("GET", f"/devices/{robot.id}")["device"]["status"])

        eventually(lambda: status() == "online", "the device online")
        robot.client.stop()
        eventually(lambda: status() == "offline", "the device offline")

    def test_somebody_elses_device_does_not_exist(self, robot: Robot, make_user: Callable[[], User]) -> None:
        with pytest.raises(ApiRefused) as refused:
            make_user().api.call("GET", f"/devices/{robot.id}")
        assert refused.value.status == 404


class TestCommands:
    def test_a_command_reaches_the_device_once_and_its_answer_comes_back(
        self, user: User, robot: Robot, eventually: Eventually
    ) -> None:
        body = {"command": "move", "params": {"x": 12, "y": -3}, "ttl_s": 60}
        sent = user.api.call("POST", f"/devices/{robot.id}/commands", body)["command"]

        def ended() -> dict[str, Any] | None:
            found: dict[str, Any] = user.api.call("GET", f"/devices/{robot.id}/commands/{sent['id']}")["command"]
            return found if found["status"] == "succeeded" else None

        answered = eventually(ended, "the command succeeded")
        assert answered["result"] == {"position": {"x": 12, "y": -3}}
        assert [(each.id, each.params) for each in robot.commands] == [(sent["id"], {"x": 12, "y": -3})]

    def test_a_command_waits_for_a_device_that_is_away(self, user: User, robot: Robot, eventually: Eventually) -> None:
        robot.client.stop()
        body = {"command": "ping", "params": {}, "ttl_s": 120}
        sent = user.api.call("POST", f"/devices/{robot.id}/commands", body)["command"]
        robot.client.start()

        def status() -> str:
            return str(user.api.call("GET", f"/devices/{robot.id}/commands/{sent['id']}")["command"]["status"])

        eventually(lambda: status() == "succeeded", "the command succeeded after the device came back")
        assert [each.id for each in robot.commands] == [sent["id"]]


class TestFiles:
    @pytest.mark.req("R-K-14", "R-K-15")
    def test_what_a_device_sends_is_its_owners_and_comes_back(
        self, user: User, robot: Robot, tmp_path: Path, eventually: Eventually
    ) -> None:
        sent = tmp_path / "run-7.log"
        sent.write_bytes(b"a line of a log\n" * 10_000)

        uploaded = robot.client.files.upload(sent, to="/logs", category="diagnosis", within_s=60)

        files = f"/devices/{robot.id}/files"
        [listed] = user.api.call("GET", f"{files}?path=/logs")["files"]
        shown = (listed["id"], listed["name"], listed["category"], listed["status"])
        assert shown == (uploaded.id, "run-7.log", "diagnosis", "ready")
        with pytest.raises(FileRefused) as refused:
            robot.client.files.upload(sent, to="/logs", within_s=60)
        assert refused.value.code == "ALREADY_EXISTS"
        back = robot.client.files.download(path="/logs/run-7.log", to=tmp_path / "back.log", within_s=60)
        assert back.read_bytes() == sent.read_bytes()
        assert [each.id for each in robot.client.files.list("/logs")] == [uploaded.id]

        def found() -> list[dict[str, Any]]:
            results: list[dict[str, Any]] = user.api.call("GET", "/search", q="run-7")["results"]
            return results

        eventually(lambda: [each["id"] for each in found()] == [uploaded.id], "the file in the search")
        user.api.call("DELETE", f"{files}/{uploaded.id}")
        with pytest.raises(FileRefused):
            robot.client.files.download(uploaded.id, to=tmp_path / "gone.log", within_s=60)

    def test_a_device_hears_no_answers_of_another(self, user: User, make_robot: Callable[..., Robot]) -> None:
        robot, other = make_robot(user), make_robot(user)
        robot.client.stop()
        config = DeviceConfig.from_credentials(robot.credentials)
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=robot.serial, protocol=mqtt.MQTTv5)
        client.tls_set_context(tls_context(config))
        told: Queue[bool] = Queue()
        topics = [(f"file/karma/{each.serial}/answer", 1) for each in (robot, other)]

        def subscribe(connected: mqtt.Client, *_: object) -> None:
            connected.subscribe(topics)

        def hear(_client: object, _data: object, _mid: int, codes: list[ReasonCode], _more: object) -> None:
            for code in codes:
                told.put(not code.is_failure)

        client.on_connect, client.on_subscribe = subscribe, hear
        client.connect(config.host, config.port)
        client.loop_start()
        try:
            assert [told.get(timeout=20) for _ in range(2)] == [True, False]
        finally:
            client.disconnect()
            client.loop_stop()


class TestCertificates:
    @pytest.mark.req("R-K-11")
    @pytest.mark.fault("F-31aa")
    def test_a_device_goes_over_to_a_new_certificate_and_loses_nothing(
        self, user: User, robot: Robot, tmp_path: Path, eventually: Eventually
    ) -> None:
        made = user.api.call("POST", f"/devices/{robot.id}/certificates", {})
        assert made["device"]["certificates"] == 2
        now = time.time_ns() // 1_000_000
        robot.client.record({"temp_c": 1.0}, ts=now - 2_000)
        assert not robot.client.stop(), "the old certificate still connects"
        config = DeviceConfig.from_credentials(made["credentials"], state_dir=tmp_path / "new", batch_max_age_s=0.2)
        with Device(config) as renewed:
            renewed.record({"temp_c": 2.0}, ts=now - 1_000)

            def values() -> list[float]:
                path = f"/devices/{robot.id}/telemetry"
                points = user.api.call("GET", path, metric="temp_c", resolution="raw")["points"]
                return sorted(point["value"] for point in points)

            eventually(lambda: values() == [1.0, 2.0], "a reading by each certificate")

            def device() -> dict[str, Any]:
                found: dict[str, Any] = user.api.call("GET", f"/devices/{robot.id}")["device"]
                return found

            eventually(lambda: device()["certificates"] == 1, "the old certificate gone")
            assert device()["rotation"] is None
            eventually(lambda: device()["status"] == "online", "the device online")

    @pytest.mark.fault("F-31ad")
    def test_a_device_that_is_told_makes_its_own_key_and_changes_over(
        self, user: User, robot: Robot, eventually: Eventually
    ) -> None:
        def tell(command: str, **params: str) -> dict[str, Any]:
            path = f"/devices/{robot.id}/commands"
            sent = user.api.call("POST", path, {"command": command, "params": params, "ttl_s": 60})["command"]

            def ended() -> dict[str, Any] | None:
                found: dict[str, Any] = user.api.call("GET", f"{path}/{sent['id']}")["command"]
                return found if found["status"] not in {"queued", "sent", "acknowledged"} else None

            answered: dict[str, Any] = eventually(ended, f"{command} answered")
            assert answered["status"] == "succeeded", answered
            return answered

        asked = {"csr": tell("certificate.request")["result"]["csr"]}
        made = user.api.call("POST", f"/devices/{robot.id}/certificates", asked)["credentials"]
        assert "private_key" not in made
        tell("certificate.install", certificate_pem=made["certificate_pem"])

        def ids() -> list[str]:
            found = user.api.call("GET", f"/devices/{robot.id}/certificates")["certificates"]
            return [each["id"] for each in found]

        eventually(lambda: ids() == [made["certificate_id"]], "the new certificate alone")

    def test_a_certificate_that_its_owner_removes_connects_no_more(
        self, user: User, robot: Robot, eventually: Eventually
    ) -> None:
        user.api.call("POST", f"/devices/{robot.id}/certificates", {})
        user.api.call("DELETE", f"/devices/{robot.id}/certificates/{robot.credentials['certificate_id']}")
        robot.client.reconnect()
        eventually(lambda: robot.client.stats.last_failure is not None, "the broker refuses the old certificate")
        assert robot.client.stats.connections == 1
