"""Idempotency-Keys: which requests they tell apart, and under which keys records that are stored already stand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

import pytest

from karma.core.dynamo.requests import request_key
from karma.core.ids import DeviceId, UserId
from karma.core.requests import IdempotencyKey, repeatable
from karma.devices.repository.items import command_request_key
from tests.support.requests import asked, key
from tests.support.rows import NOW


@dataclass(frozen=True)
class New:
    name: str
    ends_at: datetime = NOW


def test_a_request_without_a_key_has_no_record() -> None:
    assert repeatable(None, New("a"), at=NOW) is None


@pytest.mark.parametrize("other", [{"caller": "b"}, {"route": "/b"}, {"value": "b"}])
def test_the_value_of_another_caller_or_route_is_another_key(other: dict[str, str]) -> None:
    same = {"caller": "a", "route": "/a", "value": "a"}
    assert IdempotencyKey(**same).token == IdempotencyKey(**same).token
    assert IdempotencyKey(**same).token != IdempotencyKey(**{**same, **other}).token


def test_what_is_asked_is_compared_by_value_and_not_by_order() -> None:
    hashes = [asked("k", *what).request_hash for what in ((New("a"), {"x": 1, "y": 2}), (New("a"), {"y": 2, "x": 1}))]
    assert hashes[0] == hashes[1]
    assert asked("k", New("b"), {"x": 1, "y": 2}).request_hash != hashes[0]


def test_records_stand_where_they_stood() -> None:
    request = asked("k", "move", {"x": 1}, 60, False)
    token = hashlib.sha256(b"ada\0/things\0k").hexdigest()
    digest = hashlib.sha256(b"commands:d1\0k").hexdigest()[:32]
    assert request_key("TASKS#u", request) == ("TASKS#u", f"REQUEST#{token}")
    assert command_request_key(UserId("u"), DeviceId("d1"), request) == ("USER#u", f"IDEMPOTENCY#{digest}")
    assert request.key == key("k")
    assert request.request_hash == hashlib.sha256(b'["move",{"x":1},60,false]').hexdigest()
