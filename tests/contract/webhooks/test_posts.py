"""The sender of payloads against real servers: honest ones, and those that hang, break off, mislead or never stop."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from karma.integrations.guard import is_public, is_public_or_loopback
from karma.integrations.webhooks import WebhookPosts
from karma.webhooks.domain import DeliveryError, ReceiverAnswer
from karma.webhooks.ports import PostFailed
from tests.support.webhook_receiver import BUSY_S, Receiver, receiver

TIME_S = 1.0
SLOW_S = 5.0
"""Seconds that a slow machine may add; what is not bounded takes longer."""
PAYLOAD = b'{"type":"run.finished"}'


@pytest.fixture(scope="module")
def server() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def posts(**more: object) -> WebhookPosts:
    return WebhookPosts(**{"is_allowed": is_public_or_loopback, "time_s": TIME_S, **more})  # type: ignore[arg-type]


def failure(url: str, sender: WebhookPosts | None = None) -> DeliveryError:
    with pytest.raises(PostFailed) as caught:
        (sender or posts()).post(url, PAYLOAD, {"webhook-id": "m"})
    return caught.value.code


def test_the_payload_comes_byte_for_byte_with_its_headers(server: Receiver) -> None:
    del server.got[:]
    assert posts().post(f"{server.url}/ok?a=b", PAYLOAD, {"webhook-id": "m"}) == ReceiverAnswer(status_code=204)
    [got] = server.got
    assert (got.path, got.body) == ("/ok?a=b", PAYLOAD)
    assert got.headers["host"] == server.url.removeprefix("http://")
    assert got.headers["content-type"] == "application/json"
    assert got.headers["webhook-id"] == "m"
    assert int(got.headers["content-length"]) == len(PAYLOAD)
    assert got.headers["user-agent"] == "Karma-Webhooks/1.0"


@pytest.mark.parametrize("status", [200, 201, 400, 404, 410, 418, 500, 503])
def test_a_status_is_an_answer(server: Receiver, status: int) -> None:
    assert posts().post(f"{server.url}/status/{status}", PAYLOAD, {}).status_code == status


def test_redirects_are_not_followed(server: Receiver) -> None:
    del server.got[:]
    assert posts().post(f"{server.url}/redirect", PAYLOAD, {}).status_code == 301
    assert [got.path for got in server.got] == ["/redirect"]


def test_retry_after_is_read(server: Receiver) -> None:
    assert posts().post(f"{server.url}/busy", PAYLOAD, {}).retry_after == timedelta(seconds=BUSY_S)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/hang", DeliveryError.TIMED_OUT),
        ("/drip", DeliveryError.TIMED_OUT),
        ("/reset", DeliveryError.UNREACHABLE),
        ("/endless", DeliveryError.BAD_ANSWER),
        ("/garbage", DeliveryError.BAD_ANSWER),
    ],
)
def test_whatever_a_receiver_does_is_over_in_time(server: Receiver, path: str, error: DeliveryError) -> None:
    began = time.monotonic()
    assert failure(f"{server.url}{path}") is error
    assert time.monotonic() - began < TIME_S + SLOW_S


def test_a_hundred_megabytes_are_not_read(server: Receiver) -> None:
    before = psutil.Process().memory_info().rss
    began = time.monotonic()
    assert posts().post(f"{server.url}/huge", PAYLOAD, {}).status_code == 200
    assert time.monotonic() - began < TIME_S
    assert psutil.Process().memory_info().rss - before < 20 * 1024 * 1024


def test_a_closed_port_and_a_name_of_nobody(server: Receiver) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert failure(f"http://127.0.0.1:{closed.getsockname()[1]}/") is DeliveryError.UNREACHABLE

    def nobody(_: str, __: int) -> Sequence[str]:
        raise socket.gaierror("unknown")

    assert failure("https://nobody.invalid/", posts(resolve=nobody)) is DeliveryError.ADDRESS_REFUSED
    assert server.url


def test_a_resolver_that_hangs_is_left_behind() -> None:
    over = threading.Event()

    def hang(_: str, __: int) -> Sequence[str]:
        over.wait(30)
        return []

    began = time.monotonic()
    assert failure("https://slow.example/", posts(resolve=hang)) is DeliveryError.TIMED_OUT
    assert time.monotonic() - began < TIME_S + SLOW_S
    over.set()


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
)
def test_no_name_leads_into_a_network_of_ours(server: Receiver, address: str) -> None:
    """Also where it has a public address beside it, and where it changes between two answers of DNS."""
    del server.got[:]
    asked: list[str] = []

    def rebinding(host: str, _: int) -> Sequence[str]:
        asked.append(host)
        return ["93.184.216.34", address]

    sender = posts(is_allowed=is_public, resolve=rebinding)
    assert (
        failure(f"https://app.example.com:{server.url.rpartition(':')[2]}/ok", sender) is DeliveryError.ADDRESS_REFUSED
    )
    assert asked == ["app.example.com"], "what was checked is what is connected to"
    assert not server.got


def test_loopback_is_refused_on_a_deployed_stage(server: Receiver) -> None:
    assert failure(f"{server.url}/ok", posts(is_allowed=is_public)) is DeliveryError.ADDRESS_REFUSED


def test_the_next_address_is_tried_where_one_is_not_reached(server: Receiver) -> None:
    port = server.url.rpartition(":")[2]
    sender = posts(resolve=lambda _, __: ["127.0.0.9", "127.0.0.1"])
    assert sender.post(f"http://localhost:{port}/ok", PAYLOAD, {}).status_code == 204


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a certificate for localhost, with its key, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_certificate_must_be_valid_for_the_name(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with receiver(tls=tls) as server:
        port = server.url.rpartition(":")[2]
        assert failure(f"{server.url}/ok") is DeliveryError.TLS_FAILED, "nobody has signed it"
        elsewhere = posts(tls=lambda: trusting, resolve=lambda _, __: ["127.0.0.1"])
        assert failure(f"https://other.example:{port}/ok", elsewhere) is DeliveryError.TLS_FAILED
        assert not server.got
        assert posts(tls=lambda: trusting).post(f"{server.url}/ok", PAYLOAD, {}).status_code == 204


def test_a_handshake_that_never_ends_is_over_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        assert failure(f"https://localhost:{silent.getsockname()[1]}/") is DeliveryError.TIMED_OUT
        assert time.monotonic() - began < TIME_S + SLOW_S
