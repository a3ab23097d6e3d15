"""Messages over a WebSocket are read, answered or refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.errors import Forbidden, InvalidRequest, StorageThrottled
from karma.core.ids import UserId, new_id
from karma.realtime.domain import Connection
from karma.realtime.messages import Action, answer, error_message, parse
from karma.realtime.service import ConnectionService
from tests.fakes.identity import MovableClock
from tests.fakes.realtime import MemoryRealtime

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "realtime.schema.json").read_text())


@pytest.fixture
def service() -> ConnectionService:
    store, clock = MemoryRealtime(), MovableClock()
    store.connections["c1"] = Connection(id="c1", user_id=UserId(new_id()), connected_at=clock.now())
    return ConnectionService(store=store, clock=clock)


def test_a_ping_is_answered_with_its_id(service: ConnectionService) -> None:
    assert answer(service, "c1", parse('{"action": "ping", "id": "7"}')) == {"type": "pong", "id": "7"}
    assert answer(service, "c1", parse('{"action": "ping"}')) == {"type": "pong"}


@pytest.mark.parametrize("action", ["subscribe", "unsubscribe"])
def test_a_subscription_is_acknowledged(service: ConnectionService, action: str) -> None:
    channel = f"device:{new_id()}"
    asked = parse(json.dumps({"action": action, "channel": channel}))
    assert answer(service, "c1", asked) == {"type": "ack", "action": action, "channel": channel}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "INVALID_JSON"),
        ("{", "INVALID_JSON"),
        ('{"action": NaN}', "INVALID_JSON"),
        ("[" * 3000, "INVALID_MESSAGE"),
        ("[" * 65 + "]" * 65, "INVALID_MESSAGE"),
        ("x" * 5000, "INVALID_MESSAGE"),
        ("[]", "INVALID_MESSAGE"),
        ("1", "INVALID_MESSAGE"),
        ("{}", "INVALID_MESSAGE"),
        ('{"action": "fly"}', "INVALID_MESSAGE"),
        ('{"action": ["ping"]}', "INVALID_MESSAGE"),
        ('{"action": "ping", "extra": 1}', "INVALID_MESSAGE"),
        ('{"action": "ping", "id": 1}', "INVALID_MESSAGE"),
        ('{"action": "ping", "id": "' + "x" * 65 + '"}', "INVALID_MESSAGE"),
        ('{"action": "subscribe"}', "INVALID_MESSAGE"),
        ('{"action": "subscribe", "channel": 1}', "INVALID_MESSAGE"),
        ('{"action": "subscribe", "channel": "' + "x" * 129 + '"}', "INVALID_MESSAGE"),
    ],
)
def test_what_is_no_message_is_refused(text: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(text)
    assert caught.value.code == code


@given(st.text(max_size=200) | st.dictionaries(st.text(), st.integers()).map(json.dumps))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert parse(text).action in Action
    except InvalidRequest:
        return


def test_an_error_says_whether_to_try_again() -> None:
    asked = parse('{"action": "ping", "id": "7"}')
    assert error_message(Forbidden("no"), asked) == {
        "type": "error",
        "code": "FORBIDDEN",
        "message": "no",
        "retryable": False,
        "id": "7",
    }
    assert error_message(StorageThrottled("busy"), None)["retryable"] is True


class TestTheSchema:
    def test_names_the_requests_that_are_read(self) -> None:
        actions = [_values(each["properties"]["action"]) for each in SCHEMA["$defs"]["request"]["oneOf"]]
        assert {name for names in actions for name in names} == set(Action)

    def test_names_the_fields_that_are_answered(self, service: ConnectionService) -> None:
        channel = f"device:{new_id()}"
        subscribed = answer(service, "c1", parse(json.dumps({"action": "subscribe", "channel": channel, "id": "1"})))
        sent = {
            "pong": answer(service, "c1", parse('{"action": "ping", "id": "1"}')),
            "ack": subscribed,
            "error": error_message(Forbidden("no"), parse('{"action": "ping", "id": "1"}')),
        }
        for shape in SCHEMA["$defs"]["answer"]["oneOf"]:
            body = sent.pop(shape["properties"]["type"]["const"])
            assert set(body) == set(shape["properties"])
            assert set(shape["required"]) == set(body) - {"id"}
        assert not sent
        assert re.fullmatch(SCHEMA["$defs"]["channel"]["pattern"], channel)


def _values(schema: dict[str, Any]) -> list[str]:
    return [schema["const"]] if "const" in schema else list(schema["enum"])
