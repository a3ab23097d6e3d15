"""Settings of a device over the engine's shadows: changes, conflicts, members, history, a former owner's, deaths."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from karma.audit.domain import NOWHERE
from karma.core.clock import SystemClock, iso
from karma.core.errors import StaleVersion
from karma.core.ids import UserId
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.settings_changes import SettingsChangeRepository
from karma.devices.settings import Asker, SettingsService
from karma.devices.shadow import Shadow
from karma.integrations.iot_shadows import IotShadows
from tests.integration.api.conftest import Api
from tests.support.devices import World
from tests.support.stack import Stack
from tests.support.teams import MEMBERS, Team

V1 = "/api/v1"
pytestmark = pytest.mark.needs("iot")


class OneDevice:
    """Ada, logged in, with a device whose thing the engine knows."""

    def __init__(self, stack: Stack, api: Api) -> None:
        self.user = api.register(verified=True)
        self.api = api.as_(authorization="Bearer " + api.log_in(self.user["email"])["access_token"])
        self.stack = stack
        device = World(stack, user=UserId(self.user["id"])).create().current.device
        self.device_id, self.thing = device.id, device.serial_number
        self.path = f"{V1}/devices/{device.id}/settings"
        self.shadows = stack.aws("iot-data")

    def report(self, **values: Any) -> None:
        self.write({"reported": values})

    def write(self, state: dict[str, Any]) -> None:
        self.shadows.update_thing_shadow(
            thingName=self.thing, shadowName="settings", payload=json.dumps({"state": state}).encode()
        )

    def patch(self, desired: Any, **more: Any) -> Any:
        return self.api.call("PATCH", self.path, {"desired": desired}, **more)

    def settings(self) -> Any:
        answer = self.api.call("GET", self.path)
        assert answer.status == 200, answer.text
        return answer.data["settings"]

    def changes(self) -> Any:
        return self.api.call("GET", f"{self.path}/changes").data["changes"]


@pytest.fixture
def one(stack: Stack, api: Api) -> OneDevice:
    return OneDevice(stack, api)


def test_what_is_desired_is_shown_until_the_device_reports_it(one: OneDevice) -> None:
    empty = {"desired": {}, "reported": {}, "delta": {}, "desired_at": {}, "reported_at": {}, "version": 0}
    assert one.settings() == empty
    answer = one.patch({"interval_s": 30, "led": {"color": "red", "on": True}})
    assert answer.status == 200, answer.text
    made = answer.data["settings"]
    assert made["desired"] == made["delta"] == {"interval_s": 30, "led": {"color": "red", "on": True}}
    assert set(made["desired_at"]) == {"interval_s", "led"}
    assert answer.headers["etag"] == f'"{made["version"]}"'
    one.report(interval_s=30, led={"color": "red", "on": False}, own=1)
    after = one.settings()
    assert (after["delta"], after["reported"]["own"]) == ({"led": {"on": True}}, 1)
    assert after["version"] == made["version"] + 1
    assert one.patch({"led": None}).data["settings"]["desired"] == {"interval_s": 30}


def test_a_change_for_another_version_is_refused_and_one_that_changes_nothing_writes_nothing(one: OneDevice) -> None:
    version = one.patch({"a": 1}).data["settings"]["version"]
    one.report(a=1)
    refused = one.patch({"a": 2}, if_match=f'"{version}"')
    assert (refused.status, refused.code) == (409, "STALE_VERSION")
    assert one.patch({"a": 1}).data["settings"]["version"] == version + 1
    assert one.patch({"a": 2}, if_match=f'"{version + 1}"').status == 200
    assert [(each["patch"], each["state"]) for each in one.changes()] == [({"a": 2}, "applied"), ({"a": 1}, "applied")]


def test_changes_tell_who_and_the_audit_log_has_them(one: OneDevice) -> None:
    for value in range(3):
        one.patch({"a": value})
    first = one.api.call("GET", f"{one.path}/changes", query="limit=2").data
    assert [each["patch"]["a"] for each in first["changes"]] == [2, 1]
    assert {each["changed_by"] for each in first["changes"]} == {one.user["id"]}
    rest = one.api.call("GET", f"{one.path}/changes", query=f"limit=2&cursor={first['next_cursor']}").data
    assert ([each["patch"]["a"] for each in rest["changes"]], rest["next_cursor"]) == ([0], None)
    entries = one.api.call("GET", f"{V1}/audit", query="event=device.settings_changed").data["entries"]
    assert [each["details"]["device_id"] for each in entries] == [one.device_id] * 3


@pytest.mark.parametrize(
    "desired", [{"a": "x" * 5_000}, {"a": [None]}, {"": 1}, [], None], ids=["large", "null", "name", "list", "none"]
)
def test_what_no_shadow_holds_is_422_and_writes_nothing(one: OneDevice, desired: Any) -> None:
    refused = one.patch(desired)
    assert (refused.status, refused.code) == (422, "VALIDATION_ERROR")
    assert (one.settings()["version"], one.changes()) == (0, [])


def test_together_changes_are_limited_too(one: OneDevice) -> None:
    assert one.patch({"a": "x" * 3_000}).status == 200
    assert one.patch({"b": "x" * 3_000}).status == 422


@pytest.mark.req("R-K-17")
def test_members_of_a_project_read_and_change_them_as_their_role_lets_them(stack: Stack, api: Api) -> None:
    team = Team(stack, api)
    path = f"/devices/{team.device}/settings"
    for name in (*MEMBERS, "eve"):
        assert team.call(name, "GET", path).status == 404
        assert team.call(name, "PATCH", path, {"desired": {"a": 1}}).status == 404
    team.share()
    for name in MEMBERS:
        assert team.call(name, "GET", path).status == team.call(name, "GET", f"{path}/changes").status == 200
        changed = team.call(name, "PATCH", path, {"desired": {"by": name}})
        assert (changed.status, name) == (403 if name == "vic" else 200, name)
    assert {team.call("eve", *each).status for each in (("GET", path), ("GET", f"{path}/changes"))} == {404}
    changes = team.call("ada", "GET", f"{path}/changes").data["changes"]
    assert [each["changed_by"] for each in changes] == [team.ids[name] for name in reversed(MEMBERS) if name != "vic"]


class Overtaken(IotShadows):
    """Shadows of a device that reports right after they were read, a few times."""

    def __init__(self, device: OneDevice, reports: int) -> None:
        super().__init__(endpoint_url=device.stack.engine.endpoint_url)
        self._device, self.reports = device, reports

    def read(self, thing: str) -> Shadow:
        """Read, then be late."""
        found = super().read(thing)
        if self.reports:
            self.reports -= 1
            self._device.report(n=self.reports)
        return found


@pytest.mark.fault("F-47f")
def test_a_report_between_reading_and_changing_costs_nobody_a_change(one: OneDevice) -> None:
    one.patch({"a": 1})
    shadows = Overtaken(one, 2)
    service = SettingsService(DeviceRepository(), SettingsChangeRepository(), shadows, SystemClock())
    owner = UserId(one.user["id"])
    by = Asker(user_id=owner, source=NOWHERE)
    service.change(owner, one.device_id, {"a": 2}, by=by)
    assert (shadows.reports, one.settings()["desired"]) == (0, {"a": 2})
    shadows.reports, version = 1, one.settings()["version"]
    with pytest.raises(StaleVersion):
        service.change(owner, one.device_id, {"a": 3}, by=by, version=version)
    assert [each["state"] for each in one.changes()] == ["refused", "applied", "applied"]


@pytest.mark.fault("F-47g")
def test_the_first_change_may_name_the_version_zero(one: OneDevice) -> None:
    assert one.settings()["version"] == 0
    body = {"desired": {"a": 1}, "version": 0}
    assert one.api.call("PATCH", one.path, body).status == 200
    assert one.api.call("PATCH", one.path, {"desired": {"a": 2}, "version": 0}).status == 409


@pytest.mark.fault("F-47h")
@pytest.mark.parametrize("levels", [40, 70, 200])
def test_what_a_device_nests_without_end_costs_itself(one: OneDevice, levels: int) -> None:
    value: Any = 1
    for _ in range(levels):
        value = {"v": value}
    one.report(deep=value, flat=1)
    assert one.settings()["reported"] == {"flat": 1}
    assert one.patch({"a": 1}).status == 200


def test_who_takes_a_device_over_finds_no_settings_of_before(one: OneDevice, stack: Stack) -> None:
    one.patch({"a": 1})
    one.report(a=1)
    # The deletion of the shadow did not come through, and the row is younger: what is left is a former owner's.
    later, devices = SystemClock().now() + timedelta(seconds=5), DeviceRepository()
    service = SettingsService(
        devices, SettingsChangeRepository(), IotShadows(endpoint_url=stack.engine.endpoint_url), SystemClock()
    )
    row = f"DEVICE#{one.device_id}"
    stack.aws("dynamodb").update_item(
        TableName=stack.tables["devices"],
        Key={"pk": {"S": f"USER#{one.user['id']}"}, "sk": {"S": row}},
        UpdateExpression="SET created_at = :at",
        ExpressionAttributeValues={":at": {"S": iso(later)}},
    )
    seen = service.get(UserId(one.user["id"]), one.device_id)
    assert (seen.desired, seen.reported) == ({}, {})


def test_a_device_takes_its_settings_along_when_it_is_deleted(one: OneDevice) -> None:
    one.patch({"a": 1})
    assert one.api.call("DELETE", f"{V1}/devices/{one.device_id}").status == 204
    with pytest.raises(one.shadows.exceptions.ResourceNotFoundException):
        one.shadows.get_thing_shadow(thingName=one.thing, shadowName="settings")
