"""Our small client of the WebSocket's endpoint, against one that answers whatever AWS may answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from karma.integrations import pushes
from karma.integrations.pushes import PushClient
from karma.realtime.ports import Delivered
from tests.support.socket_endpoint import CountingEndpoint, counting_endpoint

KINDS = {
    "c": Delivered.SENT,
    "gone": Delivered.GONE,
    "large": Delivered.TOO_LARGE,
    "refused": Delivered.REFUSED,
    "busy": Delivered.BUSY,
    "again": Delivered.SENT,
    "later": Delivered.SENT,
    "slow": Delivered.SENT,
    "drop": Delivered.SENT,
}


def _note(asked: list[str], name: str, _body: bytes) -> None:
    asked.append(name)


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setattr(pushes, "_PAUSE_S", 0.01)


@pytest.fixture
def endpoint() -> Iterator[tuple[CountingEndpoint, str]]:
    with counting_endpoint() as found:
        yield found


def test_says_what_became_of_each_message(endpoint: tuple[CountingEndpoint, str]) -> None:
    counted, url = endpoint
    client = PushClient(url)
    names = [f"{kind}{number}=" for number in range(3) for kind in KINDS]
    outcomes = client.send_all([(name, f"to {name}".encode()) for name in names])
    client.close()
    assert dict(zip(names, outcomes, strict=True)) == {name: KINDS[name.rstrip("0123456789=")] for name in names}
    tries = {"busy": 4, "again": 2, "later": 2}
    assert counted.posts == {name: tries.get(name.rstrip("0123456789="), 1) for name in names}
    assert {body for name in names for body in counted.bodies[name]} == {f"to {name}".encode() for name in names}


def test_keeps_its_connections_and_never_has_more_on_the_way(endpoint: tuple[CountingEndpoint, str]) -> None:
    counted, url = endpoint
    client = PushClient(url, in_flight=8)
    for _ in range(2):
        sent = client.send_all([(f"c{number}", b"x") for number in range(400)])
        assert set(sent) == {Delivered.SENT}
    client.close()
    assert counted.posts.total() == 800
    assert counted.most_in_flight <= 8
    assert counted.tcp_connections <= 16


def test_nobody_waits_for_those_that_are_throttled(endpoint: tuple[CountingEndpoint, str]) -> None:
    """One after the other: the first is asked again behind the last, and its own messages stay in their order."""
    counted, url = endpoint
    client = PushClient(url, in_flight=1)
    names = ["later1", "again1", *(f"c{number}" for number in range(20))]
    bodies = [b"first", b"second"]
    asked: list[str] = []
    counted.sockets = {name: partial(_note, asked, name) for name in names}
    assert set(client.send_all([(name, body) for body in bodies for name in names])) == {Delivered.SENT}
    client.close()
    assert asked[:40] == [name for name in names[2:] for _ in bodies]
    assert counted.bodies["later1"] == counted.bodies["again1"] == [b"first", *bodies]


def test_keeps_the_order_of_what_one_connection_is_sent(endpoint: tuple[CountingEndpoint, str]) -> None:
    counted, url = endpoint
    client = PushClient(url)
    client.send_all([(f"c{number % 3}", str(number).encode()) for number in range(90)])
    client.close()
    for number in range(3):
        assert [int(body) for body in counted.bodies[f"c{number}"]] == list(range(number, 90, 3))


def test_a_connection_that_was_closed_while_it_waited_is_made_anew(endpoint: tuple[CountingEndpoint, str]) -> None:
    counted, url = endpoint
    client = PushClient(url, in_flight=1)
    assert client.send_all([("drop1", b"x"), ("c1", b"y"), ("drop2", b"x"), ("c2", b"y")]) == [Delivered.SENT] * 4
    client.close()
    assert counted.posts == {"drop1": 1, "c1": 1, "drop2": 1, "c2": 1}


def test_who_hangs_costs_the_time_limit_and_nobody_else(endpoint: tuple[CountingEndpoint, str]) -> None:
    _, url = endpoint
    client = PushClient(url, timeout_s=0.2)
    names = ["hang1", *(f"c{number}" for number in range(50))]
    outcomes = client.send_all([(name, b"x") for name in names])
    client.close()
    assert outcomes == [Delivered.UNREACHED, *[Delivered.SENT] * 50]


def test_nobody_there_is_unreached() -> None:
    client = PushClient("ws://127.0.0.1:9/live")
    assert client.send_all([("c1", b"x"), ("c2", b"x")]) == [Delivered.UNREACHED] * 2


@pytest.mark.parametrize("token", [None, "a/session+token="])
def test_signs_as_botocore_does(token: str | None) -> None:
    """Also for the `=` in which the ids of connections end, which is encoded twice in what is signed."""
    credentials = Credentials("AKIDEXAMPLE", "secret", token).get_frozen_credentials()
    signer = pushes._Signer("abc.execute-api.eu-west-1.amazonaws.com", "/live/@connections/", credentials, "eu-west-1")
    digest = hashlib.sha256(b"body").hexdigest()
    for connection in ("L0SM9cOFvHcCIhw=", "a+b/c=="):
        head = signer.request(connection, b"body", digest).decode().split("\r\n\r\n")[0].split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:])
        url = f"https://{headers['Host']}{head[0].split(' ')[1]}"
        request = AWSRequest("POST", url, data=b"body")
        request.context["timestamp"] = headers["X-Amz-Date"]
        theirs = SigV4Auth(Credentials("AKIDEXAMPLE", "secret", token), "execute-api", "eu-west-1")
        request.headers["X-Amz-Date"] = headers["X-Amz-Date"]
        if token:
            request.headers["X-Amz-Security-Token"] = token
        text = theirs.string_to_sign(request, theirs.canonical_request(request))
        assert headers["Authorization"].endswith(f"Signature={theirs.signature(text, request)}")
