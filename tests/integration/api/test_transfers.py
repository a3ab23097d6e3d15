"""Routes of transfers: who may ask, who may answer, what both are told, and a death at each call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from karma.core.clock import SystemClock
from karma.core.ids import UserId, new_id
from tests.fakes.devices import FakeClock
from tests.integration.api.conftest import ENTRY, PASSWORD, Api, reopen_if_open
from tests.support.accounts import open_account
from tests.support.crash import CrashReport, CrashTest
from tests.support.devices import World
from tests.support.stack import HttpEvent, Stack
from tests.support.transfers import Transfers

V1 = "/api/v1"


class Two:
    """Two people who are logged in; Ada has a device."""

    def __init__(self, stack: Stack, api: Api) -> None:
        self.people = {name: api.register(verified=True) for name in ("ada", "bob")}
        self.ada, self.bob = (
            api.as_(authorization="Bearer " + api.log_in(each["email"])["access_token"])
            for each in self.people.values()
        )
        self.world = World(stack, user=UserId(self.people["ada"]["id"]))
        self.device_id = self.world.create(tags=("north",)).current.device.id
        self.path = f"{V1}/devices/{self.device_id}/transfer"

    def bob_named(self, **more: Any) -> dict[str, Any]:
        return {"user_id": self.people["bob"]["id"], **more}


@pytest.fixture
def two(stack: Stack, api: Api) -> Two:
    return Two(stack, api)


@pytest.mark.req("R-K-11")
def test_a_device_is_offered_seen_accepted_and_read_by_its_receiver_alone(two: Two) -> None:
    ada, bob, path = two.ada, two.bob, two.path
    offered = ada.call("POST", path, two.bob_named())
    assert offered.status == 201, offered.text
    shown = offered.data["transfer"]
    assert (shown["device_id"], shown["user_id"], shown["declined"]) == (two.device_id, two.people["bob"]["id"], False)
    assert ada.call("GET", path).data["transfer"] == shown

    received = bob.call("GET", f"{V1}/transfers").data
    assert received["total"] == 1
    [seen] = received["transfers"]
    assert (seen["device_id"], seen["device_name"], seen["offered_by"]) == (
        two.device_id,
        "Greenhouse",
        two.people["ada"]["id"],
    )
    assert bob.call("GET", f"{V1}/devices/{two.device_id}").status == 404
    assert bob.call("GET", path).status == 404, "the offer as its owner sees it is the owner's"

    taken = bob.call("POST", f"{path}/accept")
    assert taken.status == 200, taken.text
    device = taken.data["device"]
    assert taken.headers["etag"]
    assert (device["user_id"], device["tags"], device["latest"]) == (two.people["bob"]["id"], [], {})
    assert bob.call("GET", f"{V1}/devices/{device['id']}").status == 200
    assert bob.call("POST", f"{path}/accept").data["device"]["id"] == device["id"]
    for who, device_id in ((ada, two.device_id), (ada, device["id"]), (bob, two.device_id)):
        assert who.call("GET", f"{V1}/devices/{device_id}").status == 404
    assert ada.call("GET", f"{V1}/devices").data["devices"] == []
    assert ada.call("DELETE", path).status == 404
    assert bob.call("GET", f"{V1}/transfers").data["total"] == 0


def test_both_are_told(two: Two, stored: Callable[[str], list[dict[str, Any]]]) -> None:
    two.ada.call("POST", two.path, two.bob_named())
    [notice] = [each for each in two.bob.call("GET", f"{V1}/notices").data["notices"] if "device" in each["type"]]
    assert (notice["type"], notice["data"]) == ("device_offered", {"device_id": two.device_id})
    assert [each["kind"]["S"] for each in stored("identity") if each.get("type") == {"S": "mail"}].count(
        "device_offered"
    ) == 1
    two.bob.call("POST", f"{two.path}/accept")
    [given] = [each for each in two.ada.call("GET", f"{V1}/notices").data["notices"] if "device" in each["type"]]
    assert (given["type"], given["severity"]) == ("device_given", "warning")
    events = [each["event"] for each in two.ada.call("GET", f"{V1}/audit").data["entries"]]
    assert {"device.offered", "device.given"} <= set(events)


def test_an_address_is_asked_and_declines(two: Two) -> None:
    answer = two.ada.call("POST", two.path, {"email": two.people["bob"]["email"]})
    assert (answer.status, answer.data) == (202, {"accepted": True})
    nobody = two.ada.call("POST", two.path, {"email": f"{new_id()}@example.com"})
    assert (nobody.status, nobody.data) == (answer.status, answer.data), "it does not tell whose address has an account"
    two.ada.call("POST", two.path, {"email": two.people["bob"]["email"]})
    for _ in range(2):
        assert two.bob.call("POST", f"{two.path}/decline").status == 204
    assert two.ada.call("GET", two.path).data["transfer"]["declined"] is True
    again = two.ada.call("POST", two.path, two.bob_named())
    assert (again.status, again.code) == (409, "OFFER_DECLINED")
    assert two.bob.call("POST", f"{two.path}/accept").status == 404


def test_who_offers_proves_it(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    from api.services import identity

    class Later(SystemClock):
        def now(self) -> Any:
            return super().now() + timedelta(minutes=11)

    monkeypatch.setattr(identity, "clock", Later)
    stale = two.ada.call("POST", two.path, two.bob_named())
    assert (stale.status, stale.code) == (403, "FRESH_PROOF_REQUIRED")
    wrong = two.ada.call("POST", two.path, two.bob_named(current_password="wrong horse battery"))
    assert wrong.status == 403
    assert two.bob.call("GET", f"{V1}/transfers").data["total"] == 0
    assert two.ada.call("POST", two.path, two.bob_named(current_password=PASSWORD)).status == 201


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "user_id"),
        ({"user_id": "x", "email": "a@example.com"}, "email"),
        ({"email": "nobody"}, "email"),
        ({"user_id": 5}, "user_id"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "x", "role": "owner"}, "role"),
        ({"user_id": "x", "current_password": "p" * 513}, "current_password"),
    ],
    ids=["nobody", "both", "no address", "a number", "nothing", "an unknown field", "a long password"],
)
def test_a_body_that_names_nobody_is_refused(two: Two, body: dict[str, Any], field: str) -> None:
    answer = two.ada.call("POST", two.path, body)
    assert answer.status == 422, answer.text
    assert field in answer.text
    assert two.ada.call("GET", two.path).status == 404


def test_an_account_that_is_none_and_a_device_that_is_not_mine(two: Two) -> None:
    assert two.ada.call("POST", two.path, {"user_id": new_id()}).status == 404
    mine = two.ada.call("POST", two.path, {"user_id": two.people["ada"]["id"]})
    assert (mine.status, mine.code) == (409, "ALREADY_EXISTS")
    assert two.bob.call("POST", two.path, {"user_id": two.people["ada"]["id"]}).status == 404
    for device_id in ("x", new_id()):
        path = f"{V1}/devices/{device_id}/transfer"
        for method, where in (("GET", ""), ("DELETE", ""), ("POST", "/accept"), ("POST", "/decline")):
            assert two.ada.call(method, path + where).status == 404


def test_a_plan_without_room_is_402_and_the_offer_stays(two: Two) -> None:
    allowed = next(
        each["allowed"] for each in two.bob.call("GET", f"{V1}/usage").data["usage"] if each["metric"] == "devices"
    )
    world = World(two.world.stack, user=UserId(two.people["bob"]["id"]))
    for _ in range(allowed):
        world.create()
    two.ada.call("POST", two.path, two.bob_named())
    refused = two.bob.call("POST", f"{two.path}/accept")
    assert (refused.status, refused.code) == (402, "QUOTA_EXCEEDED")
    assert two.ada.call("GET", f"{V1}/devices/{two.device_id}").status == 200
    assert two.bob.call("GET", f"{V1}/transfers").data["total"] == 1


class Crashes:
    """A device and two people, made anew for each death."""

    TABLES = ("devices", "identity", "billing")

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.ada, self.bob = UserId(new_id()), UserId(new_id())
        self.device_id = ""

    def seed(self) -> None:
        for user_id in (self.ada, self.bob):
            open_account(user_id)
        # Behind the real one: what it offers is offered when the request comes.
        world = World(self.stack, user=self.ada, clock=FakeClock(SystemClock().now()))
        self.device_id = world.create(serial_number="EOS-crash").current.device.id
        Transfers(world.clock).offer(self.ada, self.device_id, self.bob)

    def rows(self) -> Counter[tuple[str, ...]]:
        """Return what is stored, without ids and times that each death makes anew."""
        found: Counter[tuple[str, ...]] = Counter()
        names = {self.ada: "ada", self.bob: "bob"}
        for table in self.TABLES:
            answer = self.stack.aws("dynamodb").scan(TableName=self.stack.tables[table], ConsistentRead=True)
            for item in answer["Items"]:
                kind = item.get("type", {"S": ""})["S"]
                if not (kind.startswith("device") or kind in {"thing", "audit_entry", "notice", "mail", "usage"}):
                    continue
                text = str([item.get(name) for name in ("user_id", "state", "value", "event", "kind", "declined_at")])
                text = "declined" if "declined_at" in item else text
                where = item["pk"]["S"] if table != "identity" else ""
                for user_id, name in names.items():
                    text, where = text.replace(user_id, name), where.replace(user_id, name)
                found[kind, where if "-" not in where or "EOS-" in where else "", text] += 1
        return found


@pytest.fixture
def die(stack: Stack, http_event: HttpEvent) -> Callable[..., CrashReport]:
    stack.use("api")
    crashes = Crashes(stack)

    from api.services import process
    from karma.identity.sessions import tokens

    def run(method: str, path: str, *, by: str, accept: set[int]) -> Any:
        def seed() -> dict[str, Any]:
            crashes.seed()
            user_id = getattr(crashes, by)
            token = tokens.issue(user_id, ring=process.key_ring(), now=process.clock().now())
            sent = {"authorization": f"Bearer {token}"}
            return http_event(method, f"{V1}/devices/{crashes.device_id}/transfer{path}", headers=sent)

        def redeliver(event: dict[str, Any]) -> dict[str, Any]:
            reopen_if_open(stack)
            return event

        report = CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables[name] for name in Crashes.TABLES],
            seed=seed,
            redeliver=redeliver,
            normalise=lambda _item: None,
            other_state=crashes.rows,
            accept=lambda answer: answer["statusCode"] in accept,
        ).run()
        return report, crashes

    return run


@pytest.mark.fault("F-35b")
def test_while_it_accepts_leaves_one_device_of_the_receiver_s(die: Callable[..., Any]) -> None:
    report, crashes = die("POST", "/accept", by="bob", accept={200})
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
    kinds = Counter(kind for kind, *_ in crashes.rows().elements())
    assert (kinds["device"], kinds["thing"], kinds["device_offer"], kinds["device_tombstone"]) == (1, 1, 0, 1)


def test_while_it_declines_leaves_the_no(die: Callable[..., Any]) -> None:
    report, crashes = die("POST", "/decline", by="bob", accept={204})
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
    assert Counter(kind for kind, *_ in crashes.rows().elements())["device_refusal"] == 1


def test_while_it_withdraws_leaves_no_offer(die: Callable[..., Any]) -> None:
    # A death after the write: the repeat finds no offer any more.
    report, crashes = die("DELETE", "", by="ada", accept={204, 404})
    assert "after dynamodb.DeleteItem" in " ".join(report.at)
    assert not [kind for kind, *_ in crashes.rows() if kind == "device_offer"]


def test_while_it_offers_leaves_one_offer(stack: Stack, api: Api, http_event: HttpEvent) -> None:
    crashes = Crashes(stack)

    def seed() -> dict[str, Any]:
        open_account(crashes.bob)
        user = api.register(f"{new_id()}@example.com", verified=True)
        token = api.log_in(user["email"])["access_token"]
        world = World(stack, user=UserId(user["id"]), clock=FakeClock(SystemClock().now()))
        crashes.ada, crashes.device_id = world.user, world.create(serial_number="EOS-more").current.device.id
        sent = {"authorization": f"Bearer {token}", "idempotency-key": new_id()}
        path = f"{V1}/devices/{crashes.device_id}/transfer"
        return http_event("POST", path, body={"user_id": crashes.bob}, headers=sent)

    def redeliver(event: dict[str, Any]) -> dict[str, Any]:
        reopen_if_open(stack)
        return event

    def offers() -> list[tuple[str, ...]]:
        return sorted(key for key in crashes.rows() if key[0] == "device_offer")

    report = CrashTest(
        entry=ENTRY,
        aws=stack.aws,
        tables=[stack.tables[name] for name in Crashes.TABLES],
        seed=seed,
        redeliver=redeliver,
        normalise=lambda _item: None,
        other_state=lambda: len(offers()),
        accept=lambda answer: answer["statusCode"] == 201,
    ).run()
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
    assert len(offers()) == 1
