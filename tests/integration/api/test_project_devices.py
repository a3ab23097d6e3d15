"""A device that a project shows: who reads it, who controls it, and what ends that."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.core.clock import epoch_ms, iso
from karma.core.happenings import ItemChange
from karma.core.ids import DeviceId, new_id
from karma.core.live import Channel, RightsChange
from karma.devices.live import LiveDevices
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.samples import read_telemetry
from karma.projects.live import LiveProjects
from karma.projects.removal import SharesOfDevices
from karma.projects.repository.devices import ProjectDeviceRepository
from karma.projects.shares import MAX_PROJECTS_OF_A_DEVICE
from tests.integration.api.conftest import Api
from tests.support.devices import World
from tests.support.projects import invitations, join
from tests.support.stack import Stack
from tests.support.teams import MEMBERS, Team
from tests.support.transfers import Transfers


@pytest.fixture
def team(stack: Stack, api: Api) -> Team:
    return Team(stack, api)


@pytest.mark.req("R-K-17")
def test_each_role_may_what_the_table_says(team: Team) -> None:
    for name in (*MEMBERS, "eve"):
        assert team.reads(name) == {404}
        assert team.sends(name).status == 404
    shared = team.share()
    assert shared.status == 201, shared.text
    assert shared.data["share"]["owner_id"] == team.ids["ada"]
    for name in MEMBERS:
        assert team.reads(name) == {200}
        assert team.listed(name) == [team.device]
        assert team.call(name, "GET", "/devices").data["devices"] == [], "their own list has their own devices"
        sent = team.sends(name)
        assert (sent.status, name) == (403 if name == "vic" else 201, name)
        for method, path in (("PATCH", ""), ("DELETE", ""), ("GET", "/certificates"), ("GET", "/projects")):
            body = {"name": "Mine"} if method == "PATCH" else None
            assert team.call(name, method, f"/devices/{team.device}{path}", body).status == 404
        assert team.space(name) == team.ids["ada"]
    assert team.reads("eve") == {404}
    assert team.call("eve", "GET", "/devices", query=f"project={team.project}").status == 404
    assert team.space("eve") == team.ids["eve"]
    assert team.call("ada", "GET", f"/devices/{team.device}").data["device"]["name"] == "Greenhouse"


@pytest.mark.fault("F-45e")
def test_a_member_sends_no_commands_that_change_a_device_s_certificate(team: Team) -> None:
    team.share()
    path = f"/devices/{team.device}/commands"
    for name in ("certificate.request", "certificate.install"):
        refused = team.call("mia", "POST", path, {"command": name})
        assert (refused.status, refused.code) == (403, "FORBIDDEN")
        assert team.call("ada", "POST", path, {"command": name}).status == 201
    assert len(team.call("ada", "GET", path).data["commands"]) == 2


@pytest.mark.fault("F-48e")
def test_a_member_schedules_no_commands_that_change_a_device_s_certificate(team: Team) -> None:
    team.share()
    at = iso(datetime.now(UTC) + timedelta(hours=1))
    command = {"device_id": team.device, "command": "certificate.request"}
    refused = team.call("mia", "POST", "/schedules", {"name": "s", "at": at, "command": command})
    assert (refused.status, refused.code) == (403, "FORBIDDEN")
    other = {**command, "command": "ping"}
    made = team.call("mia", "POST", "/schedules", {"name": "s", "at": at, "command": other}).data["schedule"]
    refused = team.call("mia", "PATCH", f"/schedules/{made['id']}", {"command": command})
    assert (refused.status, refused.code) == (403, "FORBIDDEN")
    assert team.call("ada", "POST", "/schedules", {"name": "s", "at": at, "command": command}).status == 201


def test_a_member_s_command_is_the_owner_s_and_says_whose_it_was(team: Team) -> None:
    team.share()
    key = {"idempotency_key": "one"}
    path, body = f"/devices/{team.device}/commands", {"command": "blink", "ttl_s": 3600}
    mine = team.call("mia", "POST", path, body, **key).data["command"]
    hers = team.call("ada", "POST", path, {**body, "command": "move"}, **key)
    assert hers.status == 201, "the same key of two people is two keys"
    assert team.call("mia", "POST", path, body, **key).data["command"]["id"] == mine["id"]
    at = f"{path}/{mine['id']}"
    assert team.call("ada", "GET", at).data["command"]["requested_by"] == f"member:{team.ids['mia']}"
    assert team.call("vic", "GET", at).status == 200
    assert team.call("vic", "DELETE", at).status == 403
    assert team.call("mia", "DELETE", at).data["command"]["status"] == "cancelled"
    assert {each["id"] for each in team.call("vic", "GET", path).data["commands"]} == {
        mine["id"],
        hers.data["command"]["id"],
    }


def test_members_read_telemetry_and_filter_the_list(team: Team) -> None:
    now_ms = epoch_ms(datetime.now(UTC))
    body = b'{"boot": "b", "seq": 1, "samples": [{"ts": %d, "m": {"temp_c": 21.5}}]}' % now_ms
    [batch] = read_telemetry(body, received_ms=now_ms).batches
    TelemetryRepository().store(team.device, batch, owner=team.ids["ada"])
    team.share()
    points = team.call("vic", "GET", f"/devices/{team.device}/telemetry", query="resolution=raw").data["points"]
    assert [each["value"] for each in points] == [21.5]
    for query, found in (("tag=north", 1), ("tag=south", 0), ("q=green", 1), ("status=online", 0), ("sort=name", 1)):
        answer = team.call("vic", "GET", "/devices", query=f"project={team.project}&{query}")
        assert (answer.data["total"], query) == (found, query)
    more = [team.world.create(name=f"d{n}").current.device.id for n in range(3)]
    for device_id in more:
        team.call("ada", "POST", f"/projects/{team.project}/devices", {"device_id": device_id})
    page = team.call("vic", "GET", "/devices", query=f"project={team.project}&limit=3").data
    rest = team.call("vic", "GET", "/devices", query=f"project={team.project}&limit=3&cursor={page['next_cursor']}")
    seen = [each["id"] for each in [*page["devices"], *rest.data["devices"]]]
    assert sorted(seen) == sorted([team.device, *more])
    assert rest.data["next_cursor"] is None


def _taken_back(team: Team) -> None:
    assert team.call("ada", "DELETE", f"/projects/{team.project}/devices/{team.device}").status == 204


def _by_an_administrator(team: Team) -> None:
    assert team.call("adam", "DELETE", f"/projects/{team.project}/devices/{team.device}").status == 204


def _owner_left(team: Team) -> None:
    team.leave("ada")


def _owner_left_and_came_back(team: Team) -> None:
    team.leave("ada")
    join(invitations(team.store, team.clock), team.project, team.ids["ada"], by=team.ids["owen"])


def _project_deleted(team: Team) -> None:
    assert team.call("ada", "DELETE", f"/projects/{team.project}").status == 204


def _device_deleted(team: Team) -> None:
    team.world.devices.delete(team.ids["ada"], team.device)


def _device_given(team: Team) -> None:
    Transfers(team.clock).hand_over(team.ids["ada"], team.device, team.ids["eve"])


def _member_left(team: Team) -> None:
    for name in MEMBERS:
        team.leave(name)


ENDS = [
    _taken_back,
    _by_an_administrator,
    _owner_left,
    _owner_left_and_came_back,
    _project_deleted,
    _device_deleted,
    _device_given,
    _member_left,
]
"""Whatever ends that members see a device."""


@pytest.mark.fault("F-35c")
@pytest.mark.parametrize("end", ENDS)
def test_nobody_sees_it_any_more_once(team: Team, end: Callable[[Team], None]) -> None:
    team.share()
    assert team.reads("vic") == {200}
    end(team)
    for name in MEMBERS:
        assert team.reads(name) == {404}
        assert team.sends(name).status == 404
        states = LiveDevices().states(Channel(team.ids["ada"], "device", team.device), team.ids[name], {})
        assert not states, "of what they listened to nothing is read"
        listed = team.call(name, "GET", "/devices", query=f"project={team.project}")
        assert listed.status == 404 or listed.data["devices"] == []


def test_who_may_share_and_take_out(team: Team) -> None:
    assert team.share("mia").status == 404, "the device is not hers"
    assert team.share("eve").status == 404
    theirs = World(team.world.stack, user=team.ids["vic"]).create().current.device.id
    refused = team.call("vic", "POST", f"/projects/{team.project}/devices", {"device_id": theirs})
    assert refused.status == 403, "a viewer shows nothing"
    assert team.share().status == 201
    assert team.share().status == 201, "a repeat renews it"
    for name, status in (("eve", 404), ("vic", 403), ("mia", 403)):
        assert team.call(name, "DELETE", f"/projects/{team.project}/devices/{team.device}").status == status
    shares = team.call("ada", "GET", f"/devices/{team.device}/projects").data
    assert [each["project_id"] for each in shares["shares"]] == [team.project]
    assert team.call("ada", "DELETE", f"/projects/{team.project}/devices/{team.device}").status == 204
    assert team.call("ada", "DELETE", f"/projects/{team.project}/devices/{team.device}").status == 404
    assert team.call("ada", "GET", f"/devices/{team.device}/projects").data["total"] == 0
    for project, device, body in (
        (new_id(), team.device, {"device_id": team.device}),
        ("x", "x", {"device_id": team.device}),
        (team.project, new_id(), {"device_id": new_id()}),
        (team.project, "x", {"device_id": "x"}),
    ):
        assert team.call("ada", "POST", f"/projects/{project}/devices", body).status == 404
        assert team.call("ada", "DELETE", f"/projects/{project}/devices/{device}").status == 404
    for wrong in ({}, {"device_id": ""}, {"device_id": 1}, {"device_id": team.device, "role": "viewer"}):
        assert team.call("ada", "POST", f"/projects/{team.project}/devices", wrong).status == 422


@pytest.mark.fault("F-44b")
def test_a_late_repeat_of_a_share_that_was_taken_back_shares_nothing(team: Team) -> None:
    path, body = f"/projects/{team.project}/devices", {"device_id": team.device}
    first = team.call("ada", "POST", path, body, idempotency_key="once")
    assert first.status == 201, first.text
    assert team.call("ada", "DELETE", f"{path}/{team.device}").status == 204
    team.call("ada", "POST", path, body, idempotency_key="once")
    assert team.reads("vic") == {404}
    assert team.listed("vic") == []


def test_who_takes_their_own_out_twice_is_told_that_it_is_not_there(team: Team) -> None:
    theirs = World(team.world.stack, user=team.ids["mia"]).create().current.device.id
    path = f"/projects/{team.project}/devices"
    assert team.call("mia", "POST", path, {"device_id": theirs}).status == 201
    assert [team.call("mia", "DELETE", f"{path}/{theirs}").status for _ in range(2)] == [204, 404]
    assert team.call("eve", "DELETE", f"{path}/{theirs}").status == 404


def test_a_device_is_in_few_projects(team: Team) -> None:
    for _ in range(MAX_PROJECTS_OF_A_DEVICE):
        assert team.share(project=team.make_project()).status == 201
    refused = team.share()
    assert (refused.status, refused.code) == (409, "TOO_MANY_OBJECTS")


def test_nothing_of_it_stays_behind(team: Team, stored: Callable[[str], list[dict[str, Any]]]) -> None:
    def left() -> int:
        return sum(each["type"]["S"] == "project_device" for each in stored("work"))

    team.share()
    other = team.make_project()
    team.share(project=other)
    assert left() == 2
    team.call("ada", "DELETE", f"/projects/{other}")
    assert left() == 1
    assert SharesOfDevices(ProjectDeviceRepository()).remove(DeviceId(team.device), limit=5) == 1
    assert left() == 0


def image(item: dict[str, Any]) -> dict[str, Any]:
    return {name: {"S": value} for name, value in item.items()}


@pytest.mark.fault("F-35c")
def test_listeners_are_looked_at_again_when_a_share_or_a_membership_ends(team: Team) -> None:
    team.share()
    live, channel = LiveDevices(), Channel(team.ids["ada"], "device", team.device)
    share = image({"type": "project_device", "owner_id": team.ids["ada"], "device_id": team.device})
    assert list(live.rights(ItemChange(share, None))) == [RightsChange(channel, None)]
    assert not live.rights(ItemChange(None, share))
    for name, who in (("vic", team.ids["vic"]), ("ada", None)):
        member = image({"type": "project_member", "project_id": team.project, "user_id": team.ids[name]})
        assert list(live.rights(ItemChange(member, None))) == [RightsChange(channel, who)]
        assert not live.rights(ItemChange(member, member))


def test_a_projects_channel_tells_what_it_shows(team: Team, stored: Callable[[str], list[dict[str, Any]]]) -> None:
    assert team.share().status == 201
    [item] = [each for each in stored("work") if each["type"]["S"] == "project_device"]
    [shown], [gone] = (LiveProjects().updates(each) for each in (ItemChange(None, item), ItemChange(item, None)))
    channel = Channel(team.project, "project", team.project)
    assert (list(shown.channels), list(gone.channels)) == ([channel], [channel])
    for update, data in ((shown, {"device_id": team.device, "owner_id": team.ids["ada"]}), (gone, {})):
        assert update.state is not None
        assert update.name == f"share:{team.project}/{team.device}"
        assert data.items() <= (update.state.data or {}).items()
        assert (update.state.deleted, update.state.data is None) == (not data, not data)
    assert shown.state is not None
    assert gone.state is not None
    assert gone.state.version > shown.state.version
