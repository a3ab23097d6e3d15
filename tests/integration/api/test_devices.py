"""The device routes through the API's handler, over real tables, things and certificates of the engine."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi.routing import APIRoute

from karma.core import paging
from karma.core.ids import UserId, new_id
from tests.support.crash import CrashTest
from tests.support.devices import World
from tests.support.queues import delayed_messages
from tests.support.stack import Context, HttpEvent, Stack

POLICY = "karma-device"


@dataclass
class Client:
    """A registered user."""

    call: Callable[..., Any]
    token: str = ""

    def __call__(self, method: str, path: str, body: Any = None, *, status: int = 200, **headers: str) -> Any:
        given = {"authorization": f"Bearer {self.token}"} if self.token else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.call(method, f"/api/v1{path}", body=body, headers=given)
        text = answer.get("body") or "{}"
        assert answer["statusCode"] == status, text
        found = json.loads(text)
        return found.get("data", found.get("error"))


@pytest.fixture
def user(stack: Stack, http_event: HttpEvent, lambda_context: Context) -> Callable[[], Client]:
    stack.use("api")
    stack.aws("iot").create_policy(
        policyName=POLICY, policyDocument=json.dumps({"Version": "2012-10-17", "Statement": []})
    )

    def call(method: str, path: str, *, body: Any = None, headers: Any = None) -> Any:
        from api.handler import lambda_handler

        path, _, query = path.partition("?")
        return lambda_handler(http_event(method, path, body=body, headers=headers, query=query), lambda_context)

    def register() -> Client:
        client = Client(call)
        account = {"email": f"{new_id()}@example.com", "password": f"pass-{new_id()}"}
        client("POST", "/auth/register", {**account, "name": "Ada"}, status=201)
        client.token = client("POST", "/auth/login", account)["access_token"]
        return client

    return register


def body(**fields: Any) -> dict[str, Any]:
    return {
        "name": "Greenhouse",
        "model": "EOS-3A",
        "mac": "aa-bb-cc-00-11-22",
        "serial_number": f"EOS-{new_id()[-12:]}",
        **fields,
    }


@pytest.mark.req("R-K-11", "R-K-13", "R-K-25", "R-K-28", "R-K-29", "R-K-31")
def test_the_life_of_a_device(stack: Stack, user: Callable[[], Client]) -> None:
    ada = user()
    made = ada("POST", "/devices", body(), status=201)
    device, credentials = made["device"], made["credentials"]
    assert (device["status"], device["mac"], device["tags"]) == ("offline", "AA:BB:CC:00:11:22", [])
    assert credentials["thing_name"] == device["serial_number"]
    assert credentials["private_key"].startswith("-----BEGIN RSA PRIVATE KEY-----")
    assert credentials["mqtt_port"] == stack.broker.port
    assert credentials["basic_ingest_rule"] == "karma_test_data"
    iot = stack.aws("iot")
    [principal] = iot.list_thing_principals(thingName=device["serial_number"])["principals"]
    assert principal.endswith(credentials["certificate_id"])
    described = iot.describe_certificate(certificateId=credentials["certificate_id"])
    assert described["certificateDescription"]["status"] == "ACTIVE"
    assert [each["policyName"] for each in iot.list_attached_policies(target=principal)["policies"]] == [POLICY]

    path = f"/devices/{device['id']}"
    assert ada("GET", path)["device"] == device
    listed = ada("GET", "/devices")
    assert (listed["devices"], listed["total"], listed["page"], listed["page_size"]) == ([device], 1, 1, 20)
    changed = ada("PATCH", path, {"name": "Cellar", "tags": ["wet", "wet"]}, if_match=f'"{device["version"]}"')[
        "device"
    ]
    assert (changed["name"], changed["tags"]) == ("Cellar", ["wet"])
    ada("PATCH", path, {"name": "X"}, if_match=f'"{device["version"]}"', status=409)
    ada("PATCH", path, {"name": None}, status=422)
    assert ada("GET", f"{path}/latest")["latest"] == {}
    assert ada("GET", f"{path}/telemetry?metric=temp_c")["points"] == []
    assert ada("GET", f"{path}/dead-letters")["dead_letters"] == []

    for query, shown in (("status=offline", 1), ("status=online", 0), ("model=EOS-3A", 1), ("model=EOS-3C", 0)):
        assert len(ada("GET", f"/devices?{query}")["devices"]) == shown
    failure = Client(ada.call)("GET", "/devices", status=401)
    assert (failure["code"], failure["message"]) == ("UNAUTHORIZED", "Authentication required")

    other = user()
    for method, where in (("GET", path), ("DELETE", path), ("GET", f"{path}/latest"), ("GET", f"{path}/commands")):
        failure = other(method, where, status=404)
        assert (failure["code"], failure["message"]) == ("NOT_FOUND", f"Device {device['id']} not found")
    assert other("GET", "/devices")["devices"] == []
    other("POST", "/devices", body(serial_number=device["serial_number"]), status=409)

    ada("DELETE", path, status=204)
    ada("GET", path, status=404)
    assert iot.list_things()["things"] == []
    assert iot.list_certificates()["certificates"] == []
    ada("POST", "/devices", body(serial_number=device["serial_number"]), status=201)


def test_a_key_of_the_devices_own(stack: Stack, user: Callable[[], Client]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "EOS")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = csr.public_bytes(serialization.Encoding.PEM).decode()
    ada = user()
    credentials = ada("POST", "/devices", body(csr=pem), status=201)["credentials"]
    assert "private_key" not in credentials
    certificate = x509.load_pem_x509_certificate(credentials["certificate_pem"].encode())
    assert certificate.public_key() == key.public_key()


def test_a_thing_that_is_there_already_is_taken(stack: Stack, user: Callable[[], Client]) -> None:
    """A creation that died has left its thing, while the serial number is free."""
    ada, iot = user(), stack.aws("iot")
    given = body()
    iot.create_thing(thingName=given["serial_number"], attributePayload={"attributes": {"device_id": "gone"}})
    device = ada("POST", "/devices", given, status=201)["device"]
    assert iot.describe_thing(thingName=device["serial_number"])["attributes"] == {"device_id": device["id"]}


def test_an_idempotency_key_shows_the_private_key_once(user: Callable[[], Client]) -> None:
    ada, given = user(), body()
    made = ada("POST", "/devices", given, idempotency_key="k", status=201)
    failure = ada("POST", "/devices", given, idempotency_key="k", status=409)
    assert (failure["code"], failure["details"]) == ("ALREADY_CREATED", {"id": made["device"]["id"]})
    assert len(ada("GET", "/devices")["devices"]) == 1


def test_an_idempotency_key_is_for_one_device(user: Callable[[], Client]) -> None:
    ada = user()
    first, second = (ada("POST", "/devices", body(), status=201)["device"]["id"] for _ in range(2))

    def send(device_id: str) -> str:
        sent = ada("POST", f"/devices/{device_id}/commands", {"command": "move"}, idempotency_key="k", status=201)
        assert sent["command"]["device_id"] == device_id
        return str(sent["command"]["id"])

    assert send(first) == send(first) != send(second)


@pytest.mark.req("R-K-26", "R-K-27")
def test_bounds_and_pages_of_lists(user: Callable[[], Client]) -> None:
    ada = user()
    ids = [ada("POST", "/devices", body(name=name), status=201)["device"]["id"] for name in ("b", "a", "c")]
    for wrong in (
        "page=0",
        "page_size=0",
        "page_size=101",
        "limit=101",
        "offset=-1",
        "sort=mac",
        "order=up",
        "status=on",
        "model=X",
    ):
        ada("GET", f"/devices?{wrong}", status=422)
    ada("GET", "/devices?page=11&page_size=100", status=400)
    ada("GET", "/devices?cursor=x", status=400)
    first = ada("GET", "/devices?limit=2")
    assert [device["id"] for device in first["devices"]] == ids[:0:-1]
    second = ada("GET", f"/devices?limit=2&cursor={first['next_cursor']}")
    assert ([device["id"] for device in second["devices"]], second["next_cursor"]) == ([ids[0]], None)
    user()("GET", f"/devices?limit=2&cursor={first['next_cursor']}", status=400)  # another caller's
    names = ada("GET", "/devices?sort=name&order=asc&page=2&page_size=2")
    assert [device["name"] for device in names["devices"]] == ["c"]


@pytest.mark.req("R-K-25", "R-K-26")
def test_filtered_lists_go_on_with_their_own_cursor(user: Callable[[], Client]) -> None:
    client = user()
    for n in range(3):
        client("POST", "/devices", body(serial_number=f"TAG-{n}", tags=["north"] if n else []), status=201)
    first = client("GET", "/devices?tag=north&q=tag-&limit=1")
    assert (first["total"], first["total_capped"]) == (2, False)
    second = client("GET", f"/devices?tag=north&q=tag-&limit=1&cursor={first['next_cursor']}")
    assert {first["devices"][0]["serial_number"], second["devices"][0]["serial_number"]} == {"TAG-1", "TAG-2"}
    assert second["next_cursor"] is None
    told = client("GET", f"/devices?tag=north&q=tag&limit=1&cursor={first['next_cursor']}", status=400)
    assert told["code"] == "INVALID_CURSOR"
    for query, field in (("tag=", "tag"), (f"tag={'x' * 51}", "tag"), (f"q={'x' * 201}", "q")):
        told = client("GET", f"/devices?{query}", status=422)
        assert (told["code"], [each["field"] for each in told["details"]]) == ("VALIDATION_ERROR", [field])


@pytest.mark.req("R-K-11", "R-K-12")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", "x" * 256), ("name", None), ("model", "EOS-9"), ("mac", "xx"), ("mac", None),
        ("serial_number", "a b"), ("serial_number", "a#b"), ("serial_number", "x" * 65), ("serial_number", "EOS-1\n"),
        ("serial_number", None), ("ip", "999.0.0.1"), ("tags", ["x"] * 51), ("tags", [""]),
        ("capabilities", {"x": "y" * 9000}), ("hardware", []), ("user_id", "me"), ("csr", ""),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(user: Callable[[], Client], field: str, value: Any) -> None:
    ada = user()
    failure = ada("POST", "/devices", body(**{field: value}), status=422)
    assert failure["code"] == "VALIDATION_ERROR"
    assert field in json.dumps(failure["details"])
    assert ada("GET", "/devices")["total"] == 0


@pytest.mark.fault("F-13e")
def test_below_a_device_that_is_deleted_nothing_is_there(user: Callable[[], Client]) -> None:
    """From that moment on, not when the last of its data is gone."""
    from api.app import build

    ada = user()
    device = ada("POST", "/devices", body(), status=201)["device"]["id"]
    command = ada("POST", f"/devices/{device}/commands", {"command": "move"}, status=201)["command"]["id"]
    ada("DELETE", f"/devices/{device}", status=204)
    tried = 0
    for path, methods in ((route.path, route.methods) for route in build().routes if isinstance(route, APIRoute)):
        if not path.startswith("/api/v1/devices/{device_id}"):
            continue
        below = path.removeprefix("/api/v1").replace("{device_id}", device).replace("{command_id}", command)
        for method in {"GET", "DELETE"} & set(methods or ()):
            query = "?path=a" if below.endswith("/files") else ""
            ada(method, re.sub(r"{[^}]*}", new_id(), below) + query, status=404)
            tried += 1
    assert tried > 8


def test_commands(user: Callable[[], Client]) -> None:
    ada = user()
    device = ada("POST", "/devices", body(), status=201)["device"]
    path = f"/devices/{device['id']}/commands"
    sent = ada("POST", path, {"command": "move", "params": {"x": 1}}, status=201)["command"]
    assert (sent["status"], sent["params"], sent["requested_by"]) == ("queued", {"x": 1}, "user")
    assert ada("GET", f"{path}/{sent['id']}?wait_s=0.1")["command"] == sent
    assert ada("GET", path)["commands"] == [sent]
    for query in ("?force=true", ""):
        assert ada("DELETE", f"{path}/{sent['id']}{query}")["command"]["status"] == "cancelled"
    for wrong in (
        {},
        {"command": ""},
        {"command": "a", "ttl_s": 0},
        {"command": "a", "wait_s": 21},
        {"command": "a", "x": 1},
    ):
        ada("POST", path, wrong, status=422)
    ada("POST", f"/devices/{new_id()}/commands", {"command": "a"}, status=404)


@pytest.mark.fault("F-11b")
def test_a_command_that_waits_behind_another_leaves_a_wake_up_call(stack: Stack, user: Callable[[], Client]) -> None:
    ada = user()
    world = World(stack, user=UserId(ada("POST", "/devices", body(), status=201)["device"]["user_id"]))
    made = world.create()
    world.clock.moment = datetime.now(UTC)
    world.connect(made)
    path = f"/devices/{made.current.device.id}/commands"
    first = ada("POST", path, {"command": "move", "serial": True, "ttl_s": 60}, status=201)["command"]
    assert (first["status"], first["late_result"], delayed_messages(stack, "ingest")) == ("sent", None, 0)
    second = ada("POST", path, {"command": "move", "ttl_s": 600}, status=201)["command"]
    assert (second["status"], delayed_messages(stack, "ingest")) == ("queued", 1)


def test_a_creation_that_dies_at_any_call_is_finished_by_a_repeat(
    stack: Stack, user: Callable[[], Client], http_event: HttpEvent
) -> None:
    ada = user()
    given = body(serial_number="EOS-crash")
    event = http_event("POST", "/api/v1/devices", body=given, headers={"authorization": f"Bearer {ada.token}"})
    iot = stack.aws("iot")

    def seed() -> Any:
        for thing in iot.list_things()["things"]:
            for principal in iot.list_thing_principals(thingName=thing["thingName"])["principals"]:
                iot.detach_thing_principal(thingName=thing["thingName"], principal=principal)
            iot.delete_thing(thingName=thing["thingName"])
        return event

    def active() -> Any:
        things = [thing["thingName"] for thing in iot.list_things()["things"]]
        principals = [iot.list_thing_principals(thingName=name)["principals"] for name in things]
        return things, [len(each) for each in principals]

    def blank(item: dict[str, Any]) -> dict[str, Any] | None:
        kind = "#".join(part for part in item["sk"].split("#") if "-" not in part)
        return {
            **item,
            "sk": kind,
            "device_id": "",
            "gsi1sk": "",
            "certificate_ids": len(item.get("certificate_ids", ())),
        }

    def comparable(item: dict[str, Any]) -> dict[str, Any] | None:
        found = blank(item)
        assert found is not None
        item.update(found)
        return item

    def done(response: Any) -> bool:
        # A death after the last write leaves a finished device: the repeat is told so.
        return response["statusCode"] == 201 or (response["statusCode"] == 409 and "exists already" in response["body"])

    report = CrashTest(
        entry="api.handler:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["devices"], stack.tables["billing"]],
        seed=seed,
        normalise=comparable,
        other_state=active,
        accept=done,
    ).run()
    assert {"iot.CreateThing", "iot.CreateKeysAndCertificate", "dynamodb.TransactWriteItems"} <= set(report.calls)


@pytest.mark.fault("F-26a")
def test_few_requests_of_an_account_wait_at_once(user: Callable[[], Client]) -> None:
    from api.services import waiting
    from karma.identity.limits import WAITING_REQUESTS

    ada, ben = user(), user()
    commands = []
    for each in (ada, ben):
        device = each("POST", "/devices", body(), status=201)["device"]["id"]
        path = f"/devices/{device}/commands"
        commands.append((path, f"{path}/{each('POST', path, {'command': 'blink'}, status=201)['command']['id']}"))
    (adas, ada_waits), (_, ben_waits) = commands
    # In other processes, which do not tell this one.
    ada_id = UserId(ada("GET", "/users/me")["user"]["id"])
    open_elsewhere = [waiting.requests().open(ada_id, until=None) for _ in range(WAITING_REQUESTS.places)]
    assert ada("GET", f"{ada_waits}?wait_s=1", status=429)["details"]["limit"] == "waiting_requests"
    ada("POST", adas, {"command": "blink", "wait_s": 1}, status=429)
    assert len(ada("GET", adas)["commands"]) == 1, "the refused one sent nothing"
    ada("GET", ada_waits)
    ben("GET", f"{ben_waits}?wait_s=0.1")
    waiting.requests().close(open_elsewhere[0])
    for _ in range(2):  # what ends gives its place back
        ada("GET", f"{ada_waits}?wait_s=0.1")


@pytest.mark.fault("F-24i")
def test_pages_that_end_by_bytes_lose_and_repeat_nothing(
    user: Callable[[], Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = user()
    made = [ada("POST", "/devices", body(name=name), status=201)["device"] for name in ("b", "A", "a")]
    path = f"/devices/{made[0]['id']}/commands"
    sent = [ada("POST", path, {"command": "move", "params": {"n": n}}, status=201)["command"]["id"] for n in range(4)]
    ids = sorted(each["id"] for each in made)
    orders = ("sort=created_at", "sort=name&order=asc", "sort=status", "model=EOS-3A&order=asc")
    lists = [(path, "commands", sorted(sent)), *((f"/devices?{order}", "devices", ids) for order in orders)]
    for most in (1, 1_500):
        monkeypatch.setattr(paging, "MAX_PAGE_BYTES", most)
        for where, name, expected in lists:
            found: list[str] = []
            cursor = ""
            while True:
                page = ada("GET", f"{where}{'&' if '?' in where else '?'}limit=100{cursor}")
                assert page[name]
                found += [each["id"] for each in page[name]]
                assert len(found) <= len(expected)
                if page["next_cursor"] is None:
                    break
                cursor = f"&cursor={page['next_cursor']}"
            assert sorted(found) == expected, where
