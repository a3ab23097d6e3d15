from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from karma.core.dynamo.access import upsert
from karma.core.ids import UserId, new_id
from karma.identity.domain import Caller, Role
from karma.realtime.domain import MAX_OPEN
from karma.realtime.items import OpenConnections, open_key
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.stack import Context, Stack

CONNECT = json.loads((Path(__file__).parents[2] / "events" / "websocket_connect.json").read_text())
ENTRY = "realtime.handler:lambda_handler"
CALLER = Caller(
    user_id=UserId(new_id()),
    role=Role.USER,
    method="jwt",
    scopes=frozenset(),
    email_verified=True,
    name="Ada",
    avatar=None,
)


class Socket:
    """The realtime function, called in process as API Gateway does."""

    def __init__(self, stack: Stack, context: Context) -> None:
        self.stack = stack
        self.context = context

    def ticket(self) -> str:
        from karma.core.clock import SystemClock
        from karma.realtime.repository import RealtimeRepository
        from karma.realtime.service import TicketService

        open_account(CALLER.user_id)
        service = TicketService(store=RealtimeRepository(), clock=SystemClock(), url="wss://live.example.com")
        return service.issue(CALLER).ticket

    def event(self, route: str, *, connection: str = "c1=", body: str | None = None, **query: str) -> dict[str, Any]:
        event: dict[str, Any] = copy.deepcopy(CONNECT)
        event["requestContext"] |= {"routeKey": route, "connectionId": connection}
        event["queryStringParameters"] = query or None
        if body is not None:
            event["body"] = body
        return event

    def send(self, event: dict[str, Any]) -> dict[str, Any]:
        from realtime.handler import lambda_handler

        return lambda_handler(event, self.context)

    def connect(self, ticket: str, connection: str = "c1=") -> int:
        status: int = self.send(self.event("$connect", connection=connection, ticket=ticket))["statusCode"]
        return status

    def ask(self, message: object, connection: str = "c1=") -> Any:
        body = message if isinstance(message, str) else json.dumps(message)
        answer = self.send(self.event("$default", connection=connection, body=body))
        assert answer["statusCode"] == 200
        return json.loads(answer["body"])

    def items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.stack.aws("dynamodb").scan(TableName=self.stack.tables["realtime"])["Items"]
        return items


@pytest.fixture
def socket(stack: Stack, lambda_context: Context) -> Socket:
    stack.use("realtime")
    return Socket(stack, lambda_context)


@pytest.mark.req("R-K-01")
class TestConnecting:
    def test_uses_the_ticket_up(self, socket: Socket) -> None:
        ticket = socket.ticket()
        assert socket.connect(ticket) == 200
        assert socket.connect(ticket, "c2=") == 401
        connections = [item for item in socket.items() if item["type"] == {"S": "connection"}]
        assert [item["pk"]["S"] for item in connections] == ["CONN#c1="]
        assert int(connections[0]["expires_at"]["N"]) > 0

    def test_without_a_good_ticket_stores_nothing(self, socket: Socket) -> None:
        for ticket in ("", "unknown", "x" * 5000, "\u00fc\x00"):
            assert socket.connect(ticket) == 401
        assert socket.send(socket.event("$connect"))["statusCode"] == 401
        assert socket.items() == []

    @pytest.mark.fault("F-22c")
    def test_is_refused_to_an_account_that_has_enough(self, socket: Socket) -> None:
        ticket = socket.ticket()
        now_ms = int(time.time() * 1000)
        entries = {f"{now_ms:013d}#c{number}" for number in range(MAX_OPEN)}
        upsert(OpenConnections(*open_key(CALLER.user_id)), [OpenConnections.open_ids.add(entries)])
        assert socket.connect(ticket) == 429
        upsert(OpenConnections(*open_key(CALLER.user_id)), [OpenConnections.open_ids.delete({f"{now_ms:013d}#c0"})])
        assert [socket.connect(ticket), socket.connect(ticket), socket.connect(socket.ticket(), "c2=")] == [
            200,
            200,
            429,
        ]

    def test_stores_no_ticket(self, socket: Socket) -> None:
        ticket = socket.ticket()
        socket.connect(ticket)
        assert ticket not in repr(socket.items())


class TestMessages:
    @pytest.fixture(autouse=True)
    def _connected(self, socket: Socket) -> None:
        assert socket.connect(socket.ticket()) == 200

    def test_are_answered(self, socket: Socket) -> None:
        assert socket.ask({"action": "ping", "id": "1"}) == {"type": "pong", "missed": 0, "id": "1"}

    def test_subscribe_and_unsubscribe(self, socket: Socket) -> None:
        name = f"device:{new_id()}"
        for _ in range(2):
            assert socket.ask({"action": "subscribe", "channel": name})["type"] == "ack"
        keys = {
            (item["pk"]["S"], item["sk"]["S"])
            for item in socket.items()
            if item["type"] == {"S": "channel_subscription"}
        }
        assert keys == {("CONN#c1=", f"SUB#{name}"), (f"CHANNEL#{CALLER.user_id}#{name}", "CONN#c1=")}
        assert socket.ask({"action": "unsubscribe", "channel": name})["type"] == "ack"
        assert not [item for item in socket.items() if item["type"] == {"S": "channel_subscription"}]

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            ("nonsense", "INVALID_JSON"),
            ('{"action": NaN}', "INVALID_JSON"),
            ("[" * 4000, "INVALID_MESSAGE"),
            ("x" * 130_000, "INVALID_MESSAGE"),
            ({"action": "fly"}, "INVALID_MESSAGE"),
            ({"action": "subscribe", "channel": "avatar:1"}, "NOT_FOUND"),
            ({"action": "subscribe", "channel": f"user:{new_id()}"}, "FORBIDDEN"),
        ],
    )
    def test_that_nobody_means_well_with_are_refused(self, socket: Socket, message: object, code: str) -> None:
        before = socket.items()
        assert socket.ask(message)["code"] == code
        assert socket.items() == before

    def test_of_a_connection_that_is_gone_are_refused(self, socket: Socket) -> None:
        name = f"device:{new_id()}"
        socket.ask({"action": "subscribe", "channel": name})
        assert socket.send(socket.event("$disconnect"))["statusCode"] == 200
        assert {item["type"]["S"] for item in socket.items()} == {"ticket", "open_connections"}
        assert not any("open_ids" in item for item in socket.items())
        assert socket.ask({"action": "subscribe", "channel": name})["code"] == "NOT_FOUND"
        assert socket.send(socket.event("$disconnect"))["statusCode"] == 200


class TestACrash:
    def crash(self, socket: Socket, seed: Callable[[], Any]) -> int:
        stack = socket.stack
        report = CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables["realtime"]],
            seed=seed,
            normalise=_steady,
            accept=lambda answer: answer["statusCode"] == 200,
        ).run()
        return len(report.calls)

    def test_while_connecting(self, socket: Socket) -> None:
        assert self.crash(socket, lambda: socket.event("$connect", ticket=socket.ticket())) >= 2

    def test_while_subscribing(self, socket: Socket) -> None:
        body = json.dumps({"action": "subscribe", "channel": f"device:{new_id()}"})

        def seed() -> dict[str, Any]:
            socket.connect(socket.ticket())
            return socket.event("$default", body=body)

        assert self.crash(socket, seed) >= 2

    def test_while_disconnecting(self, socket: Socket) -> None:
        channels = [f"device:{new_id()}" for _ in range(2)]

        def seed() -> dict[str, Any]:
            socket.connect(socket.ticket())
            for channel in channels:
                socket.ask({"action": "subscribe", "channel": channel})
            return socket.event("$disconnect")

        assert self.crash(socket, seed) >= 4


def _steady(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item without what differs in each run: the random parts of tickets, and moments."""
    kept = {name: value for name, value in item.items() if name not in {"expires_at", "valid_until"}}
    if kept["type"] == "ticket":
        kept["pk"] = kept["gsi1sk"] = "TICKET"
    if kept.get("open_ids"):
        kept["open_ids"] = {entry.partition("#")[2] for entry in kept["open_ids"]}
    return kept
