"""Rules of alarms and alarms as the API shows them; and a request that dies before or after each of its AWS calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from karma.alarms.domain import Alarm, raised_alarm
from karma.alarms.repository.alarms import AlarmRepository
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.core.clock import epoch_ms, iso, parse_iso
from karma.core.ids import DeviceId, UserId, new_id
from karma.devices.repository.devices import DeviceRepository
from karma.devices.repository.telemetry import TelemetryRepository
from karma.devices.samples import Batch
from tests.integration.api.conftest import Api, reopen
from tests.support.crash import CrashReport
from tests.support.devices import provisioning_device
from tests.support.plans import reserved

RULES, ALARMS = "/api/v1/alarm-rules", "/api/v1/alarms"
FIRST: dict[str, Any] = {"name": "Too hot", "tag": "greenhouse", "trigger": "above", "metric": "temp_c", "high": 40.5}
NOW = datetime.now(UTC)


def create(api: Api, **more: Any) -> Any:
    answer = api.call("POST", RULES, {**FIRST, **more})
    assert answer.status == 201, answer.text
    return answer.data["alarm_rule"]


@pytest.fixture
def other(api: Api) -> Api:
    user = api.register()
    return api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])


def alarm_of(api: Api, rule: dict[str, Any], *, at: datetime = NOW) -> Alarm:
    """Store an alarm of a rule, as ingest does."""
    user_id = api.call("GET", "/api/v1/users/me").data["user"]["id"]
    stored = AlarmRuleRepository().get(user_id, rule["id"])
    assert stored is not None
    ms = epoch_ms(at)
    alarm = raised_alarm(stored, DeviceId(new_id()), since_ms=ms - 9, raised_ms=ms, value=41.0, now=at)
    AlarmRepository().add([alarm])
    return alarm


def test_a_rule_is_shown_as_it_was_made(ada: Api) -> None:
    made = create(ada)
    assert {name: made[name] for name in FIRST} == FIRST
    assert (made["device_id"], made["low"], made["margin"], made["for_s"], made["keep_s"]) == (None, None, 0, 0, 0)
    assert (made["severity"], made["actions"], made["silences"], made["enabled"]) == ("warning", ["notice"], [], True)
    shown = ada.call("GET", f"{RULES}/{made['id']}")
    assert (shown.data, shown.headers["etag"]) == ({"alarm_rule": made}, '"1"')
    quiet = [{"days": [6, 7], "from_time": "22:00", "to_time": "06:30"}]
    night = create(ada, silences=quiet, time_zone="Europe/Berlin", actions=[])
    assert (night["silences"], night["time_zone"], night["actions"]) == (quiet, "Europe/Berlin", [])


def test_one_is_made_for_an_idempotency_key(ada: Api, stack: Any) -> None:
    first = ada.call("POST", RULES, FIRST, idempotency_key="once")
    again = ada.call("POST", RULES, FIRST, idempotency_key="once")
    reopen(stack, expired=True)
    after_a_crash = ada.call("POST", RULES, FIRST, idempotency_key="once")
    assert [each.status for each in (first, again, after_a_crash)] == [201, 201, 201]
    assert first.data == again.data == after_a_crash.data
    assert ada.call("GET", RULES).data["alarm_rules"] == [first.data["alarm_rule"]]


WRONG: list[tuple[dict[str, Any], list[str]]] = [
    ({"name": " "}, ["name"]),
    ({"trigger": "hot"}, ["trigger"]),
    ({"metric": "x\x00"}, ["metric"]),
    ({"metric": "x" * 65}, ["metric"]),
    ({"high": "40"}, ["high"]),
    ({"high": 1e13}, ["high"]),
    ({"margin": -1}, ["margin"]),
    ({"for_s": -1}, ["for_s"]),
    ({"for_s": 604_801}, ["for_s"]),
    ({"keep_s": 604_801}, ["keep_s"]),
    ({"actions": ["phone"]}, ["actions.0"]),
    ({"silences": [{"days": [8], "from_time": "22:00", "to_time": "06:00"}]}, ["silences.0.days.0"]),
    ({"silences": [{"days": [1], "from_time": "24:00", "to_time": "06:00"}]}, ["silences.0.from_time"]),
    ({"time_zone": "Mars/Phobos"}, ["time_zone"]),
    ({"user_id": "me"}, ["user_id"]),
    ({"low": 1}, ["low"]),
    ({"trigger": "below"}, ["low", "high"]),
    ({"trigger": "outside", "low": 50}, ["high"]),
    ({"trigger": "outside", "low": 40, "margin": 0.3}, ["margin"]),
    ({"trigger": "rate", "high": 0}, ["high"]),
    ({"trigger": "offline", "for_s": 59}, ["for_s", "metric", "high"]),
]


def test_a_body_that_is_wrong_is_refused_by_its_field_and_stores_nothing(
    ada: Api, stored: Callable[[str], list[Any]]
) -> None:
    for wrong, fields in WRONG:
        answer = ada.call("POST", RULES, {**FIRST, **wrong})
        assert (answer.status, [each["field"] for each in answer.json["error"]["details"]]) == (422, fields), wrong
    for missing in ("metric", "high", "tag"):
        body = {name: value for name, value in FIRST.items() if name != missing}
        [entry] = ada.call("POST", RULES, body).json["error"]["details"]
        assert entry["field"] == {"tag": "device_id"}.get(missing, missing)
    for device_id in (new_id(), "x"):
        [entry] = ada.call("POST", RULES, {**FIRST, "tag": None, "device_id": device_id}).json["error"]["details"]
        assert entry["field"] == "device_id"
    assert stored("devices") == []


def test_a_change_shows_and_a_stale_one_is_refused(ada: Api) -> None:
    made = create(ada)
    path = f"{RULES}/{made['id']}"
    changed = ada.call("PATCH", path, {"margin": 2, "version": 1})
    assert (changed.status, changed.headers["etag"]) == (200, '"2"')
    rule = changed.data["alarm_rule"]
    assert rule == {**made, "margin": 2, "updated_at": rule["updated_at"], "version": 2}
    for stale in (
        ada.call("PATCH", path, {"name": "x", "version": 1}),
        ada.call("PATCH", path, {"name": "x"}, if_match='"1"'),
        ada.call("DELETE", path, if_match='"1"'),
    ):
        assert (stale.status, stale.code) == (409, "STALE_VERSION")
    [entry] = ada.call("PATCH", path, {"high": None}).json["error"]["details"]
    assert entry["field"] == "high"
    assert ada.call("GET", path).data == changed.data
    assert ada.call("DELETE", path, if_match='"2"').status == 204
    assert ada.call("GET", path).status == ada.call("DELETE", path).status == 404


def test_lists_go_on_with_their_cursors(ada: Api, other: Api) -> None:
    theirs = create(other)
    made = [create(ada, name=f"{n}")["id"] for n in range(3)][::-1]
    first = ada.call("GET", RULES, query="limit=2").data
    rest = ada.call("GET", RULES, query=f"limit=2&cursor={first['next_cursor']}").data
    assert [rule["id"] for rule in first["alarm_rules"] + rest["alarm_rules"]] == made
    assert other.call("GET", RULES, query=f"cursor={first['next_cursor']}").code == "INVALID_CURSOR"
    assert ada.call("GET", f"{RULES}/{theirs['id']}").status == 404


def test_an_alarm_is_listed_acknowledged_and_superseded_with_its_rule(ada: Api, other: Api) -> None:
    rule = create(ada)
    alarms = [alarm_of(ada, rule, at=datetime.fromtimestamp(NOW.timestamp() + n, UTC)) for n in range(3)]
    open_ = ada.call("GET", ALARMS, query="limit=2").data
    rest = ada.call("GET", ALARMS, query=f"limit=2&cursor={open_['next_cursor']}").data
    assert [each["id"] for each in open_["alarms"] + rest["alarms"]] == [each.id for each in alarms[::-1]]
    of_one = ada.call("GET", ALARMS, query=f"device_id={alarms[0].device_id}").data["alarms"]
    assert [each["id"] for each in of_one] == [alarms[0].id]
    assert ada.call("GET", ALARMS, query="device_id=x").data["alarms"] == []
    assert ada.call("GET", ALARMS, query="state=some").status == 422

    path = f"{ALARMS}/{alarms[0].id}"
    assert (other.call("GET", path).status, other.call("POST", f"{path}/acknowledge").status) == (404, 404)
    seen = ada.call("POST", f"{path}/acknowledge").data["alarm"]
    assert (seen["state"], seen["value"], seen["rule_id"]) == ("acknowledged", 41.0, rule["id"])
    assert ada.call("POST", f"{path}/acknowledge").data["alarm"] == seen

    assert ada.call("PATCH", f"{RULES}/{rule['id']}", {"name": "Other"}).status == 200
    assert len(ada.call("GET", ALARMS).data["alarms"]) == 3
    assert ada.call("PATCH", f"{RULES}/{rule['id']}", {"high": 50}).status == 200
    assert ada.call("GET", ALARMS).data["alarms"] == []
    past = ada.call("GET", ALARMS, query="state=past").data["alarms"]
    assert [(each["state"], each["cleared_at"]) for each in past] == [("superseded", None)] * 3
    assert ada.call("GET", path).data["alarm"]["acknowledged_at"] == seen["acknowledged_at"]
    again = alarm_of(ada, rule)
    assert ada.call("DELETE", f"{RULES}/{rule['id']}").status == 204
    assert ada.call("GET", f"{ALARMS}/{again.id}").data["alarm"]["state"] == "superseded"


class TestARequestThatDies:
    def test_while_it_makes_one_makes_one(self, die: Callable[..., CrashReport]) -> None:
        report = die("POST", lambda: RULES, table="devices", accept={201}, body=FIRST)
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_changes_one_changes_it_once(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        report = die("PATCH", lambda: f"{RULES}/{create(ada)['id']}", table="devices", accept={200}, body={"high": 9})
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_deletes_one_leaves_nothing(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        report = die("DELETE", lambda: f"{RULES}/{create(ada)['id']}", table="devices", accept={204, 404})
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


def sampled(api: Api, *, tag: str, values: list[float], every_s: int = 60) -> DeviceId:
    """Make a device that has sent a value of temp_c each minute, the last one a minute ago."""
    owner = UserId(api.call("GET", "/api/v1/users/me").data["user"]["id"])
    devices, made = DeviceRepository(), replace(provisioning_device(owner), tags=(tag,))
    devices.claim(made, reservation=reserved(owner), attempt="a", now=NOW)
    devices.activate(made, attempt="a", certificate_id="c", now=NOW)
    first = epoch_ms(NOW) - every_s * 1000 * len(values)
    for number, value in enumerate(values):
        ts = first + every_s * 1000 * number
        text = orjson.dumps([[ts, {"temp_c": value}]])
        TelemetryRepository().store(made.id, Batch("b", number, ts, ts, 1, text, "d", {}))
    return made.id


def tried(api: Api, **rule: Any) -> Any:
    answer = api.call("POST", f"{RULES}/test", {"metric": "temp_c", **rule})
    assert answer.status == 200, answer.text
    return answer.data["devices"]


def test_a_rule_is_tried_on_what_its_devices_have_sent(ada: Api, other: Api) -> None:
    """R-K-13: the owner sees what a rule had raised before relying on it, and nothing is stored."""
    quiet = sampled(ada, tag="a", values=[20, 20, 45, 46, 20, 20, 20, 20, 20, 20, 20, 44])
    loud = sampled(ada, tag="a", values=[50.0] * 30)
    sampled(ada, tag="b", values=[50.0])
    sampled(other, tag="a", values=[50.0])
    first, second = tried(ada, tag="a", trigger="above", high=40)
    assert (first["device_id"], first["samples"], first["raised"], first["warnings"]) == (loud, 30, 1, ["every_sample"])
    assert (second["device_id"], second["samples"], second["raised"]) == (quiet, 12, 2)
    begin, end = second["alarms"]
    assert (begin["value"], end["value"], end["cleared_at"], second["read_to"]) == (45, 44, None, None)
    assert parse_iso(begin["cleared_at"]) - parse_iso(begin["raised_at"]) == timedelta(minutes=2)
    [one] = tried(ada, device_id=quiet, trigger="above", high=40, for_s=60)
    assert one["raised"] == 1
    [one] = tried(ada, device_id=quiet, trigger="no_data", for_s=60)
    assert (one["raised"], one["warnings"], one["alarms"][0]["value"]) == (12, ["every_sample"], None)
    [one] = tried(ada, device_id=loud, trigger="rate", high=0.1)
    assert one["raised"] == 0
    assert tried(ada, tag="nobody", trigger="above", high=40) == []
    assert ada.call("GET", RULES).data["alarm_rules"] == ada.call("GET", ALARMS).data["alarms"] == []


def test_a_rule_that_flaps_is_warned_of(ada: Api) -> None:
    device = sampled(ada, tag="a", values=[39.9, 40.1] * 20)
    [one] = tried(ada, device_id=device, trigger="above", high=40)
    assert (one["raised"], one["warnings"]) == (20, ["flapping"])
    [one] = tried(ada, device_id=device, trigger="above", high=40, margin=1)
    assert (one["raised"], one["warnings"]) == (1, [])


def test_what_cannot_be_tried_is_refused_by_its_field(ada: Api) -> None:
    base = {"tag": "a", "trigger": "above", "metric": "temp_c", "high": 40}
    days_ago = iso(NOW - timedelta(days=8))
    for wrong, field in (
        ({"trigger": "offline", "metric": None, "high": None, "for_s": 60}, "trigger"),
        ({"begins_at": days_ago}, "begins_at"),
        ({"ends_at": days_ago, "begins_at": iso(NOW)}, "begins_at"),
        ({"high": None}, "high"),
        ({"name": "x"}, "name"),
        ({"tag": None, "device_id": new_id()}, "device_id"),
    ):
        answer = ada.call("POST", f"{RULES}/test", {**base, **wrong})
        assert (answer.status, [each["field"] for each in answer.json["error"]["details"]]) == (422, [field]), wrong


def test_a_plan_says_how_many_rules_an_account_has(ada: Api) -> None:
    for _ in range(5):
        create(ada)
    refused = ada.call("POST", RULES, FIRST)
    assert (refused.status, refused.code) == (402, "QUOTA_EXCEEDED")
    assert refused.json["error"]["details"]["limit"] == "alarm_rules"


@pytest.mark.fault("F-45d")
def test_a_rule_may_begin_runs_for_who_may_run_agents(ada: Api) -> None:
    run = {"agent_id": "karma", "message": "Switch the fan on."}
    asked = {"name": "Hot", "tag": "north", "trigger": "above", "metric": "temp_c", "high": 40}
    made = ada.call("POST", "/api/v1/alarm-rules", {**asked, "actions": ["run"], "run": run})
    assert (made.status, made.data["alarm_rule"]["actions"], made.data["alarm_rule"]["run"]) == (201, ["run"], run)
    path = f"/api/v1/alarm-rules/{made.data['alarm_rule']['id']}"
    for wrong in ({"actions": ["run"]}, {"actions": ["run"], "run": {**run, "message": ""}}):
        assert ada.call("POST", "/api/v1/alarm-rules", {**asked, **wrong}).status == 422
    assert ada.call("PATCH", path, {"run": None}).status == 422
    other = {**run, "message": "Switch it off."}
    assert ada.call("PATCH", path, {"run": other}).data["alarm_rule"]["run"] == other
    key = ada.call("POST", "/api/v1/api-keys", {"name": "k", "scopes": ["alarm:write", "alarm:read"]}).data["key"]
    with_key = ada.as_(x_api_key=key)
    refused = with_key.call("POST", "/api/v1/alarm-rules", {**asked, "actions": ["run"], "run": run})
    assert (refused.status, refused.json["error"]["details"]["permission"]) == (403, "agent:run")
    assert with_key.call("PATCH", path, {"run": run}).status == 403
    for change in ({"high": 1}, {"tag": "south"}, {"actions": ["notice"], "run": None}):
        refused = with_key.call("PATCH", path, change)
        assert (refused.status, refused.json["error"]["details"]["permission"]) == (403, "agent:run")
    assert with_key.call("GET", path).data["alarm_rule"]["high"] == 40
    assert ada.call("PATCH", path, {"run": None, "actions": ["notice"]}).data["alarm_rule"]["run"] is None
