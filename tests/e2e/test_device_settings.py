"""Settings of a device through a deployed stage: its owner wants them, the real client applies and reports them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from karma_device.config import DeviceConfig
from karma_device.device import Device

from .conftest import Robot, User

Eventually = Callable[..., Any]


@contextmanager
def applying(robot: Robot, folder: Path, applied: list[dict[str, Any]]) -> Iterator[Device]:
    """Start the program of a device anew, one that applies what is wanted."""
    device = Device(DeviceConfig.from_credentials(robot.credentials, state_dir=folder))

    @device.settings.on_change
    def apply(wanted: dict[str, Any]) -> None:
        applied.append(wanted)

    with device:
        assert device.wait_ready(60)
        yield device


@pytest.mark.needs("iot")
@pytest.mark.fault("F-47b")
def test_what_is_wanted_is_applied_reported_and_nobody_else_s(
    user: User, make_user: Callable[[], User], robot: Robot, tmp_path: Path, eventually: Eventually
) -> None:
    robot.client.close()
    path = f"/devices/{robot.id}/settings"
    applied: list[dict[str, Any]] = []

    def settled() -> bool:
        settings = user.api.call("GET", path)["settings"]
        return bool(settings["reported"]) and settings["delta"] == {}

    def kinds() -> list[tuple[str, Any]]:
        return [(each["state"], each["patch"]) for each in user.api.call("GET", f"{path}/changes")["changes"]]

    with applying(robot, tmp_path / "first", applied):
        user.api.call("PATCH", path, {"desired": {"interval_s": 30}})
        eventually(settled, "the report of what was wanted")
        eventually(lambda: len(kinds()) == 2, "the report among the changes")
        assert sorted(kinds()) == [("applied", {"interval_s": 30}), ("reported", {"interval_s": 30})]
    user.api.call("PATCH", path, {"desired": {"led": {"on": True}}})
    with applying(robot, tmp_path / "second", applied) as device:
        eventually(settled, "the report of what was wanted while it was away")
        assert applied == [{"interval_s": 30}, {"led": {"on": True}}]
        other = make_user()
        offer = {"user_id": other.id, "current_password": user.password}
        user.api.call("POST", f"/devices/{robot.id}/transfer", offer)
        mine = other.api.call("POST", f"/devices/{robot.id}/transfer/accept")["device"]["id"]
        its = f"/devices/{mine}/settings"
        seen = other.api.call("GET", its)["settings"]
        assert (seen["desired"], seen["reported"], seen["delta"]) == ({}, {}, {})
        assert other.api.call("GET", f"{its}/changes")["changes"] == []
        device.settings.report({"button": 1})
        eventually(lambda: other.api.call("GET", its)["settings"]["reported"] == {"button": 1}, "a report of now")

        def told() -> list[Any]:
            return [each["patch"] for each in other.api.call("GET", f"{its}/changes")["changes"]]

        eventually(lambda: told() == [{"button": 1}], "its history")
