"""Members use devices that a project shows by role: several at once, in the background, by the clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.alarms.domain import raised_alarm
from karma.alarms.repository.alarms import AlarmRepository
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.core.clock import epoch_ms, iso
from karma.core.ids import new_id
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.samples import read_telemetry
from tests.integration.api.conftest import Answer, Api
from tests.integration.api.test_bulk_commands import deliver
from tests.integration.api.test_project_devices import ENDS
from tests.integration.devices.test_bulk_commands import Bulks
from tests.support.devices import World
from tests.support.queues import received
from tests.support.stack import Context, Stack
from tests.support.teams import MEMBERS, Team


@pytest.fixture
def team(stack: Stack, api: Api) -> Team:
    """Return a team whose project shows Ada's device, which has told one value."""
    made = Team(stack, api)
    made.share()
    now_ms = epoch_ms(datetime.now(UTC))
    body = b'{"boot": "b", "seq": 1, "samples": [{"ts": %d, "m": {"temp_c": 21.5}}]}' % now_ms
    [batch] = read_telemetry(body, received_ms=now_ms).batches
    TelemetryRepository().store(made.device, batch, owner=made.ids["ada"])
    return made


def query(team: Team, name: str, *more: str) -> Answer:
    body = {"devices": [team.device, *more], "metrics": ["temp_c"], "resolution": "raw"}
    return team.call(name, "POST", "/telemetry/query", body)


@pytest.mark.fault("F-44c")
def test_telemetry_of_several_devices_is_read_by_each_role(team: Team) -> None:
    own = World(team.world.stack, user=team.ids["vic"]).create().current.device.id
    for name in MEMBERS:
        [series] = query(team, name).data["series"]
        assert [each["value"] for each in series["points"]] == [21.5]
    assert [each["device_id"] for each in query(team, "vic", own).data["series"]] == [team.device, own]
    assert query(team, "mia", own).status == 404, "the other one is shown to nobody"
    assert query(team, "eve").status == 404


@pytest.mark.fault("F-35c")
@pytest.mark.parametrize("end", ENDS[::3])
def test_it_is_read_no_more_once(team: Team, end: Callable[[Team], None]) -> None:
    end(team)
    for name in MEMBERS:
        assert query(team, name).status == 404


def export(team: Team, name: str) -> Answer:
    body = {"devices": [team.device], "metrics": ["temp_c"], "resolution": "raw", "format": "csv"}
    return team.call(name, "POST", "/telemetry/exports", body)


def work(team: Team, context: Context) -> None:
    from background.telemetry import lambda_handler

    stack = team.world.stack
    stack.use("telemetry")
    while bodies := received(stack, "telemetry"):
        records = [{"messageId": f"m{at}", "body": each} for at, each in enumerate(bodies)]
        assert lambda_handler({"Records": records}, context) == {"batchItemFailures": []}
    stack.use("api")


@pytest.mark.fault("F-44c")
def test_an_export_is_its_makers_and_ends_with_the_membership(team: Team, lambda_context: Context) -> None:
    made = export(team, "vic")
    assert made.status == 202, made.text
    path = f"/telemetry/exports/{made.data['export']['id']}"
    work(team, lambda_context)
    done = team.call("vic", "GET", path).data["export"]
    assert (done["state"], done["rows"], bool(done["url"])) == ("succeeded", 1, True)
    assert team.call("ada", "GET", path).status == 404
    late = export(team, "vic")
    team.leave("vic")
    assert team.call("vic", "GET", path).data["export"]["url"] is None
    work(team, lambda_context)
    failed = team.call("vic", "GET", f"/telemetry/exports/{late.data['export']['id']}").data["export"]
    assert (failed["state"], failed["error"]["code"]) == ("failed", "NOT_FOUND")
    assert export(team, "vic").status == 404


@pytest.mark.fault("F-44c")
@pytest.mark.fault("F-49k")
def test_members_see_the_alarms_of_a_device_and_rules_are_its_owners(team: Team) -> None:
    rule = {"name": "Too hot", "device_id": team.device, "trigger": "above", "metric": "temp_c", "high": 40.5}
    made = team.call("ada", "POST", "/alarm-rules", rule).data["alarm_rule"]
    stored = AlarmRuleRepository().get(team.ids["ada"], made["id"])
    assert stored is not None
    now = datetime.now(UTC)
    alarm = raised_alarm(stored, team.device, since_ms=epoch_ms(now) - 9, raised_ms=epoch_ms(now), value=41.0, now=now)
    AlarmRepository().add([alarm])
    for name in ("ada", *MEMBERS):
        listed = team.call(name, "GET", "/alarms", query=f"device_id={team.device}").data["alarms"]
        assert [each["id"] for each in listed] == [alarm.id]
        past = team.call(name, "GET", "/alarms", query=f"device_id={team.device}&state=past").data["alarms"]
        assert past == []
        shown = team.call(name, "GET", f"/alarms/{alarm.id}", query=f"device_id={team.device}")
        assert shown.data["alarm"] == listed[0]
        assert team.call(name, "GET", f"/alarms/{alarm.id}", query=f"device_id={new_id()}").status == 404
    for name in (*MEMBERS, "eve"):
        assert team.call(name, "GET", "/alarms").data["alarms"] == []
        assert team.call(name, "GET", f"/alarms/{alarm.id}").status == 404
        assert team.call(name, "POST", f"/alarms/{alarm.id}/acknowledge").status == 404
        refused = team.call(name, "POST", "/alarm-rules", rule)
        assert (refused.status, refused.code) == (422, "VALIDATION_ERROR")
        assert "device of yours" in refused.text
    assert team.call("eve", "GET", "/alarms", query=f"device_id={team.device}").data["alarms"] == []
    team.leave("vic")
    assert team.call("vic", "GET", "/alarms", query=f"device_id={team.device}").data["alarms"] == []
    for name in ("eve", "vic"):
        assert team.call(name, "GET", f"/alarms/{alarm.id}", query=f"device_id={team.device}").status == 404
    for wrong in ("x", new_id()):
        assert team.call("mia", "GET", "/alarms", query=f"device_id={wrong}").data["alarms"] == []


def bulk(team: Team, name: str, *more: str) -> Answer:
    order = {"device_ids": [team.device, *more], "command": "blink", "ttl_s": 600}
    return team.call(name, "POST", "/commands/bulk", order)


def results(team: Team, name: str, made: Answer) -> dict[str, Any]:
    found = team.call(name, "GET", f"/commands/bulk/{made.data['bulk']['id']}/results").data["results"]
    return {each["device_id"]: each for each in found}


@pytest.mark.fault("F-44c")
def test_a_bulk_command_reaches_what_its_sender_may_control(team: Team, lambda_context: Context) -> None:
    own = World(team.world.stack, user=team.ids["mia"]).create().current.device.id
    made = {name: bulk(team, name, own) for name in ("mia", "vic", "eve")}
    assert {each.status for each in made.values()} == {202}
    deliver(team.world.stack, lambda_context)
    sent = results(team, "mia", made["mia"])
    assert sent[own]["command"]["requested_by"] == f"bulk:{made['mia'].data['bulk']['id']}"
    command = sent[team.device]["command"]
    assert (command["status"], command["requested_by"]) == ("queued", f"member:{team.ids['mia']}")
    at = f"/devices/{team.device}/commands/{command['id']}"
    assert team.call("ada", "GET", at).data["command"]["id"] == command["id"], "it is in the owner's queue"
    assert results(team, "vic", made["vic"])[team.device]["refusal"]["code"] == "FORBIDDEN"
    assert results(team, "eve", made["eve"])[team.device]["refusal"]["code"] == "NOT_FOUND"
    path = f"/commands/bulk/{made['mia'].data['bulk']['id']}"
    team.leave("mia")
    assert team.call("mia", "DELETE", path).status == 200
    deliver(team.world.stack, lambda_context)
    assert team.call("ada", "GET", at).data["command"]["status"] == "cancelled", "what she sent she takes back"


@pytest.mark.fault("F-44c")
def test_a_part_that_comes_again_sends_nothing_again(team: Team) -> None:
    made = bulk(team, "mia")
    bulks = Bulks(World(team.world.stack, user=team.ids["mia"]))
    bulks.queue.bodies += received(team.world.stack, "ingest")
    bulks.deliver(times=2)
    [command] = team.call("ada", "GET", f"/devices/{team.device}/commands").data["commands"]
    assert results(team, "mia", made)[team.device]["command"]["id"] == command["id"]


@pytest.mark.fault("F-44c")
def test_a_schedule_sends_to_a_shown_device_while_its_owner_may(team: Team) -> None:
    at = iso(datetime.now(UTC) + timedelta(hours=1))
    body = {"name": "Night", "at": at, "command": {"command": "blink", "device_id": team.device}}
    assert {name: team.call(name, "POST", "/schedules", body).status for name in (*MEMBERS, "eve")} == {
        "adam": 201,
        "mia": 201,
        "owen": 201,
        "vic": 403,
        "eve": 404,
    }
    by_serial = {**body, "command": {"command": "blink", "device_id": team.made.current.device.serial_number}}
    made = team.call("mia", "POST", "/schedules", by_serial)
    assert made.data["schedule"]["command"]["device_id"] == team.device
    hidden = team.call("eve", "POST", "/schedules", by_serial)
    assert (hidden.status, team.device in hidden.text) == (404, False)
