"""Hostile messages over the WebSocket: each gets its error, nothing is stored, nothing raises."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from karma.core.clock import SystemClock
from karma.core.ids import new_id
from karma.realtime.repository import RealtimeRepository
from karma.realtime.service import TicketService
from tests.integration.realtime.test_handler import CALLER, Socket
from tests.support.accounts import open_account
from tests.support.stack import Context, Stack

OWN = f"device:{new_id()}"


@pytest.fixture
def socket(stack: Stack, lambda_context: Context) -> Socket:
    stack.use("realtime")
    return Socket(stack, lambda_context)


def subscribe(channel: object, **more: object) -> str:
    return json.dumps({"action": "subscribe", "channel": channel, **more})


MESSAGES: dict[str, tuple[str, str]] = {
    "empty": ("", "INVALID_JSON"),
    "not json": ("subscribe me", "INVALID_JSON"),
    "cut": ('{"action": "ping"', "INVALID_JSON"),
    "two values": ('{"action": "ping"}{}', "INVALID_JSON"),
    "comment": ('{"action": "ping" /* x */}', "INVALID_JSON"),
    "NaN": ('{"action": "ping", "id": NaN}', "INVALID_JSON"),
    "lone surrogate, escaped": ('{"action": "\\ud800"}', "INVALID_JSON"),
    "lone surrogate": ('{"action": "\ud800"}', "INVALID_JSON"),
    "nul": ("\x00", "INVALID_JSON"),
    "two byte order marks": ('\ufeff\ufeff{"action": "ping"}', "INVALID_JSON"),
    "number of 4,000 digits": ('{"id": ' + "9" * 4000 + "}", "INVALID_JSON"),
    "nested deeply": ("[" * 2000 + "]" * 2000, "INVALID_MESSAGE"),
    "128 KB": ("x" * 131_072, "INVALID_MESSAGE"),
    "10 MB": ('"' + "x" * 10_000_000 + '"', "INVALID_MESSAGE"),
    "null": ("null", "INVALID_MESSAGE"),
    "list": ("[]", "INVALID_MESSAGE"),
    "string": ('"ping"', "INVALID_MESSAGE"),
    "no action": ("{}", "INVALID_MESSAGE"),
    "action null": ('{"action": null}', "INVALID_MESSAGE"),
    "action a list": ('{"action": ["ping"]}', "INVALID_MESSAGE"),
    "action an object": ('{"action": {"ping": 1}}', "INVALID_MESSAGE"),
    "action unknown": ('{"action": "publish", "channel": "x"}', "INVALID_MESSAGE"),
    "action in capitals": ('{"action": "PING"}', "INVALID_MESSAGE"),
    "unknown field": (subscribe(OWN, owner=str(new_id())), "INVALID_MESSAGE"),
    "ping with a channel": (json.dumps({"action": "ping", "channel": OWN}), "INVALID_MESSAGE"),
    "id a huge number": ('{"action": "ping", "id": 123456789012345678901234567890}', "INVALID_MESSAGE"),
    "id of 65 characters": (json.dumps({"action": "ping", "id": "x" * 65}), "INVALID_MESSAGE"),
    "no channel": ('{"action": "subscribe"}', "INVALID_MESSAGE"),
    "channel a number": (subscribe(7), "INVALID_MESSAGE"),
    "channel a list": (subscribe([OWN]), "INVALID_MESSAGE"),
    "channel of 129 characters": (subscribe("device:" + "x" * 122), "INVALID_MESSAGE"),
    "channel empty": (subscribe(""), "NOT_FOUND"),
    "channel with our separator": (subscribe(f"{OWN}#x"), "NOT_FOUND"),
    "channel with a line break": (subscribe(f"{OWN}\r\n"), "NOT_FOUND"),
    "channel with a nul": (subscribe(f"{OWN}\x00"), "NOT_FOUND"),
    "channel of another kind": (subscribe(f"admin:{new_id()}"), "NOT_FOUND"),
    "channel of no id": (subscribe("device:*"), "NOT_FOUND"),
    "another person": (subscribe(f"user:{new_id()}"), "FORBIDDEN"),
    "leaving another person": (json.dumps({"action": "unsubscribe", "channel": f"user:{new_id()}"}), "FORBIDDEN"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_refused_and_stores_nothing(socket: Socket, name: str) -> None:
    assert socket.connect(socket.ticket()) == 200
    before = socket.items()
    text, code = MESSAGES[name]
    answer = socket.ask(text)
    assert (answer["type"], answer["code"], answer["retryable"]) == ("error", code, False)
    assert socket.items() == before


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_an_unknown_connection_is_refused(socket: Socket, name: str) -> None:
    assert socket.ask(MESSAGES[name][0], "never-connected=")["type"] == "error"
    assert socket.items() == []


def old_ticket(socket: Socket) -> str:
    class Yesterday(SystemClock):
        def now(self) -> Any:
            return super().now() - timedelta(days=1)

    open_account(CALLER.user_id)
    return TicketService(store=RealtimeRepository(), clock=Yesterday(), url="wss://x").issue(CALLER).ticket


class TestConnecting:
    @pytest.mark.parametrize(
        "ticket",
        ["", " ", "x", "x" * 100_000, "\x00", "a\r\nx: y", "\ud800", "ü" * 43, "TICKET#x", "../x", "%00", "9" * 43],
    )
    def test_with_what_is_no_ticket(self, socket: Socket, ticket: str) -> None:
        assert socket.connect(ticket) == 401
        assert socket.items() == []

    @pytest.mark.parametrize("query", [None, {}, {"Ticket": "x"}, {"ticket": None}, {"token": "x"}])
    def test_without_one(self, socket: Socket, query: dict[str, str] | None) -> None:
        event = {**socket.event("$connect"), "queryStringParameters": query}
        assert socket.send(event)["statusCode"] == 401
        assert socket.items() == []

    def test_with_an_altered_one(self, socket: Socket) -> None:
        ticket = socket.ticket()
        before = socket.items()
        for altered in (ticket[:-1], ticket + "=", ticket.swapcase(), ticket[::-1]):
            assert socket.connect(altered) == 401
        assert socket.items() == before

    def test_with_an_old_one(self, socket: Socket) -> None:
        ticket = old_ticket(socket)
        before = socket.items()
        assert socket.connect(ticket) == 401
        assert socket.items() == before

    def test_with_a_used_one(self, socket: Socket) -> None:
        ticket = socket.ticket()
        assert socket.connect(ticket) == 200
        before = socket.items()
        for _ in range(2):
            assert socket.connect(ticket, "thief=") == 401
        assert socket.items() == before
