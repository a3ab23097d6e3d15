"""The environment is this machine's alone, and its broker takes nobody without a certificate that it knows."""

from __future__ import annotations

import json
import socket
import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local.engine import Engine
from local.processes import Processes

if TYPE_CHECKING:
    from mypy_boto3_iot import IoTClient

pytestmark = [pytest.mark.needs("iot"), pytest.mark.fault("F-23a", "F-26b")]
CONNECT = {
    "3.1.1": b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a",
    "5": b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a",
}
CONNACK = 0x20


def answer_to(engine: Engine, packet: bytes, *, tls: ssl.TLSVersion, chain: Path | None) -> bytes:
    """Send an MQTT CONNECT and return what comes back; nothing when the connection is closed or refused."""
    broker = engine.broker
    assert broker is not None
    context = ssl.create_default_context(cafile=str(broker.ca_path))
    context.minimum_version = context.maximum_version = tls
    if chain is not None:
        context.load_cert_chain(chain)
    try:
        with (
            socket.create_connection((broker.host, broker.port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=broker.host) as secured,
        ):
            secured.sendall(packet)
            return secured.recv(64)
    except (ssl.SSLError, ConnectionError):
        return b""


def registered(engine: Engine, folder: Path) -> Path:
    """Return key and certificate of a thing that may connect."""
    client: IoTClient = boto3.client(
        "iot",
        endpoint_url=engine.endpoint_url,
        region_name=engine.region,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    made = client.create_keys_and_certificate(setAsActive=True)
    statement = {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    policy = client.create_policy(policyName=f"loopback-{made['certificateId'][:16]}", policyDocument=document)
    client.attach_policy(policyName=policy["policyName"], target=made["certificateArn"])
    client.close()
    chain = folder / "registered.pem"
    chain.write_text(made["certificatePem"] + made["keyPair"]["PrivateKey"])
    return chain


def unknown(folder: Path) -> Path:
    """Return a key and a certificate that signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a stranger")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pkcs8 = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())
    chain = folder / "unknown.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return chain


def test_nothing_listens_beyond_loopback(engine: Engine) -> None:
    found = set()
    for pid in Processes(engine.places).running().values():
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            found |= {each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN}
    assert engine.broker is not None
    assert {urlsplit(engine.endpoint_url).port, engine.broker.port} <= {address.port for address in found}
    assert [address for address in found if not ip_address(address.ip).is_loopback] == []


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("packet", CONNECT.values(), ids=CONNECT)
def test_a_client_is_heard_only_with_a_certificate_that_the_broker_knows(
    engine: Engine, tmp_path: Path, packet: bytes, tls: ssl.TLSVersion
) -> None:
    assert answer_to(engine, packet, tls=tls, chain=registered(engine, tmp_path))[:1] == bytes([CONNACK])
    assert answer_to(engine, packet, tls=tls, chain=None) == b""
    assert answer_to(engine, packet, tls=tls, chain=unknown(tmp_path)) == b""


@pytest.mark.parametrize("protocol", ["mqtt", "mqttv3.1", "chat, MQTT"])
def test_mqtt_over_websocket_is_no_way_around_it(engine: Engine, protocol: str) -> None:
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-protocol": protocol,
    }
    assert httpx.get(f"{engine.endpoint_url}/mqtt", headers=headers, timeout=30).status_code == 403


FOREIGN = [
    {"origin": "https://elsewhere.example"},
    {"origin": "null"},
    {"origin": "http://localhost.elsewhere.example:8080"},
    {"sec-fetch-site": "cross-site"},
    {"host": "elsewhere.example", "sec-fetch-site": "same-origin"},
    {"host": "elsewhere.example", "origin": "http://elsewhere.example"},
    {"host": "elsewhere.example"},
]
OWN: list[dict[str, str]] = [
    {},
    {"origin": "http://localhost:5173"},
    {"origin": "http://127.0.0.1:8080", "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_of_another_site_reaches_nothing(engine: Engine, headers: dict[str, str]) -> None:
    # Of the kind that browsers send without asking first: no preflight, a signature in the query that nobody checks.
    answer = httpx.post(
        f"{engine.endpoint_url}/?Action=CreateQueue&QueueName=foreign&X-Amz-Credential=test/20260101/us-east-1/sqs/aws4",
        headers={"content-type": "text/plain", **headers},
        trust_env=False,
    )
    # The engine would refuse it as well, since nobody signed it, but that of a better liar it would not.
    assert answer.json()["message"].startswith("this environment ")
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (403, None)


@pytest.mark.parametrize("headers", OWN)
def test_programs_and_pages_of_this_machine_get_through(engine: Engine, headers: dict[str, str]) -> None:
    assert httpx.get(f"{engine.endpoint_url}/_ministack/health", headers=headers, trust_env=False).status_code == 200
