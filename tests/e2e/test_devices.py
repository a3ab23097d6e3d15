"""A real device client over TLS, through broker, rules, queue and functions, to what its owner sees."""

import time
from collections.abc import Callable
from typing import Any

import pytest

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
