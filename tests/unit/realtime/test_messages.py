"""Messages over a WebSocket are read, answered or refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.core.errors import Forbidden, InvalidRequest, StorageThrottled
from karma.core.ids import UserId, new_id
from karma.core.live import Channel, LiveSource, by_kind, declared
from karma.realtime import wire
from karma.realtime.domain import MOST_HELD, Connection, Held, Subscribed
from karma.realtime.live import LiveAccount
from karma.realtime.messages import Action, answer, error_message, parse
from karma.realtime.service import ConnectionService
from tests.fakes.identity import MovableClock
from tests.fakes.live import LiveThings, piece, state
from tests.fakes.realtime import MemoryChannels, MemoryRealtime

SCHEMA_TEXT = (Path(__file__).parents[3] / "docs" / "realtime.schema.json").read_text()
SCHEMA = json.loads(SCHEMA_TEXT)
# With the kind of channel that the fake has.
VALID = jsonschema_rs.validator_for(json.loads(SCHEMA_TEXT.replace("(user|device|", "(user|thing|device|")))
USER = UserId(new_id())


@pytest.fixture
def things() -> LiveThings:
    return LiveThings()


@pytest.fixture
def service(things: LiveThings) -> ConnectionService:
    store, clock = MemoryRealtime(), MovableClock()
    store.connections["c1"] = Connection(id="c1", user_id=USER, connected_at=clock.now(), missed=2)
    sources: list[LiveSource] = [LiveAccount(), things]
    return ConnectionService(store=store, channels=MemoryChannels(store), sources=sources, clock=clock)


def ask(service: ConnectionService, **request: object) -> dict[str, Any]:
    """Send a request and return its answer as JSON has it, both checked against the schema."""
    VALID.validate(request)
    said: dict[str, Any] = json.loads(orjson.dumps(answer(service, "c1", parse(json.dumps(request)))))
    VALID.validate(said)
    return said


def test_a_ping_is_answered_with_its_id_and_what_the_connection_did_not_take(service: ConnectionService) -> None:
    assert ask(service, action="ping", id="7") == {"type": "pong", "missed": 2, "id": "7"}
    assert ask(service, action="ping") == {"type": "pong", "missed": 2}


def test_a_subscription_is_acknowledged_with_what_is_missing(service: ConnectionService, things: LiveThings) -> None:
    things.things[USER, "a"], things.logs[USER, "a"] = 4, 3
    held = {"objects": {"thing:a": 4, "log:a": 1}}
    said = ask(service, action="subscribe", channel="thing:a", held=held, id="1")
    assert said["objects"] == {"thing:a": 4, "log:a": 3}
    assert [(each["object"], each["seq"], each["prev"]) for each in said["events"]] == [
        ("log:a", 2, 1),
        ("log:a", 3, 2),
    ]
    assert (said["missed"], said["id"]) == (2, "1")
    assert ask(service, action="unsubscribe", channel="thing:a") == {
        "type": "ack",
        "action": "unsubscribe",
        "channel": "thing:a",
    }


def test_a_collection_is_acknowledged_with_its_number_and_whether_it_has_changed(service: ConnectionService) -> None:
    name = f"user:{USER}"
    said = ask(service, action="subscribe", channel=name)
    assert (said["head"]["seq"], said["gap"]) == (0, False)
    for held, gap in (
        (said["head"], False),
        ({"epoch": "another", "seq": 0}, True),
        ({**said["head"], "seq": 5}, True),
    ):
        assert ask(service, action="subscribe", channel=name, held={"head": held})["gap"] is gap


class TestWhatIsTooLong:
    """No frame has more than 32 KB: what does not fit is said by reference. Bytes count, not characters."""

    @pytest.mark.parametrize(("more", "whole"), [(0, True), (1, False)])
    def test_is_said_by_reference(self, more: int, whole: bool) -> None:
        channel = Channel(USER, "thing", "a")
        short = wire.encoded(wire.event(channel, state("a", 1)))
        text = "\u00e9" * ((wire.MAX_MESSAGE_BYTES - len(short)) // 2)
        data = {"version": 1, "text": text + "x" * ((wire.MAX_MESSAGE_BYTES - len(short)) % 2 + more)}
        body = wire.encoded(wire.event(channel, replace(state("a", 1), data=data)))
        assert (len(body) == wire.MAX_MESSAGE_BYTES) is whole
        said = json.loads(body)
        VALID.validate(said)
        assert ("data" in said) is whole
        assert said["ref"] == "/api/v1/things/a"

    @pytest.mark.parametrize("size", [100, 3_000, 29_000])
    def test_in_an_acknowledgement_is_said_by_one_reference_for_a_log(self, size: int) -> None:
        channel = Channel(USER, "thing", "a")
        states = [state("a", 5, size=size), *(piece("a", n, size=size) for n in range(3, 20))]
        found = Subscribed(channel=channel, states=states, head=None, missed=0)
        body = orjson.dumps(wire.acknowledgement(found, Held(objects={"log:a": 2})))
        assert len(body) <= wire.MAX_MESSAGE_BYTES
        said = json.loads(body)
        VALID.validate(said)
        [changed, *appended] = said["events"]
        assert changed["version"] == 5
        assert (appended[0]["prev"], appended[-1]["seq"]) == (2, 19)
        if size > 100:
            [reference] = appended
            assert "data" not in reference
            assert reference["ref"] == "/api/v1/things/a/log?after=2"
        else:
            assert len(appended) == 17


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "INVALID_JSON"),
        ("{", "INVALID_JSON"),
        ('{"action": NaN}', "INVALID_JSON"),
        ("[" * 3000, "INVALID_MESSAGE"),
        ("[" * 65 + "]" * 65, "INVALID_MESSAGE"),
        ("x" * 25_000, "INVALID_MESSAGE"),
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


@pytest.mark.parametrize(
    "held",
    [
        1,
        [],
        {"other": 1},
        {"objects": []},
        {"objects": {"a": "1"}},
        {"objects": {"a": True}},
        {"objects": {"a": 1.5}},
        {"objects": {"a": 1 << 53}},
        {"objects": {str(number): 1 for number in range(MOST_HELD + 1)}},
        {"head": 1},
        {"head": {"epoch": 1, "seq": 1}},
        {"head": {"epoch": "e"}},
    ],
)
def test_what_is_held_is_whole_numbers_by_name(held: object) -> None:
    text = json.dumps({"action": "subscribe", "channel": "device:a", "held": held})
    assert not VALID.is_valid(json.loads(text))
    with pytest.raises(InvalidRequest, match="held"):
        parse(text)


class TestTheSchema:
    def test_names_the_requests_that_are_read(self) -> None:
        actions = [_values(each["properties"]["action"]) for each in SCHEMA["$defs"]["request"]["oneOf"]]
        assert sorted(name for names in actions for name in names) == sorted(Action)

    def test_names_the_channels_that_there_are(self) -> None:
        kinds = re.match(r"\^\(([a-z|]+)\)", SCHEMA["$defs"]["channel"]["pattern"])
        assert kinds is not None
        assert set(kinds[1].split("|")) == set(by_kind(declared()))

    def test_has_the_fields_of_an_error(self) -> None:
        VALID.validate(error_message(Forbidden("no"), parse('{"action": "ping", "id": "1"}')))
        VALID.validate(error_message(StorageThrottled("busy"), None))


def _values(schema: dict[str, Any]) -> list[str]:
    return [schema["const"]] if "const" in schema else list(schema["enum"])
