"""A connection that fails says why, and what to do: by real sockets and TLS, against a peer that fails in each way."""

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from karma_device.config import DeviceConfig, tls_context
from karma_device.device import Device
from karma_device.reasons import why_not_opened, why_refused, why_told_to_leave
from karma_device_testing.cloud import Cloud, MakeDevice, wait_until

pytestmark = pytest.mark.fault("F-14a")

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
YES = bytes([0x20, 3, 0, 0, 0])
"""CONNACK: accepted."""


@dataclass(frozen=True)
class Certified:
    """A certificate with its key, in PEM."""

    certificate: str
    key: str
    own: ec.EllipticCurvePrivateKey
    name: x509.Name

    def context(self, trusted: "Certified", folder: Path) -> ssl.SSLContext:
        """Make a broker's context that wants certificates of devices."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for name, text in (("certificate", self.certificate), ("key", self.key)):
            (folder / name).write_text(text)
        context.load_cert_chain(folder / "certificate", folder / "key")
        context.load_verify_locations(cadata=trusted.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def certified(
    name: str, by: Certified | None = None, *, host: str = "localhost", start: datetime = NOW - DAY, days: int = 2
) -> Certified:
    own = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.name if by else subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + days * DAY)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(by.own if by else own, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    return Certified(built.public_bytes(pem).decode(), key, own, subject)


ROOT, OTHER_ROOT = certified("root"), certified("other root")
BROKER, DEVICE = certified("broker", ROOT), certified("device", ROOT)


class Peer:
    """A listener in place of a broker: after a handshake, if any, it sends `answers` to what it gets, and closes."""

    def __init__(self, context: ssl.SSLContext | None, *answers: bytes, hold: bool = False) -> None:
        self._context, self._answers, self._hold = context, answers, hold
        self._server = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self.port = int(self._server.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            with near, suppress(OSError):
                self._speak(near)

    def _speak(self, near: socket.socket) -> None:
        if self._context is None:
            self._say(near)
            return
        with self._context.wrap_socket(near, server_side=True, do_handshake_on_connect=False) as secure:
            try:
                secure.do_handshake()
            except ssl.SSLError:
                # Read to the end: closing before that would take the alert back (TCP's reset).
                while socket.socket.recv(secure, 65536):
                    pass
                return
            secure.recv(65536)
            self._say(secure)
            with suppress(OSError):
                secure.unwrap()

    def _say(self, near: socket.socket) -> None:
        for answer in self._answers:
            near.sendall(answer)
        if self._hold:
            self._over.wait(20)


Reason = Callable[..., str]


@pytest.fixture
def reason(tmp_path: Path) -> Iterator[Reason]:
    """Let a device try to connect; return the reason that it gives for its failure."""
    with ExitStack() as stack:

        def why(peer: Peer | int, **overrides: Any) -> str:
            if isinstance(peer, Peer):
                stack.callback(peer.close)
            config: dict[str, Any] = {
                "host": "localhost", "port": peer if isinstance(peer, int) else peer.port, "thing_name": "EOS-1",
                "ca": ROOT.certificate, "certificate": DEVICE.certificate, "private_key": DEVICE.key,
                "state_dir": str(tmp_path), "reconnect_min_s": 30.0, "reconnect_max_s": 30.0,
            }  # fmt: skip
            device = Device(DeviceConfig(**{**config, **overrides}))
            try:
                device.start()
                wait_until(lambda: device.stats.last_failure, what="a reason")
                return str(device.stats.last_failure)
            finally:
                device.close()

        yield why


@pytest.fixture
def broker_context(tmp_path: Path) -> ssl.SSLContext:
    return BROKER.context(ROOT, tmp_path)


class TestTheNetwork:
    def test_where_nothing_listens(self, reason: Reason) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        assert f"nothing listens at localhost:{port}: check `host` and `port`" in reason(port)

    def test_a_name_that_is_none(self, reason: Reason) -> None:
        assert "DNS: 'a..b' is no name of a host: check `host`" in reason(1, host="a..b")

    def test_a_name_that_nobody_knows(self) -> None:
        config = DeviceConfig(host="h", thing_name="t", ca="", certificate="", private_key="")
        told = why_not_opened(socket.gaierror(socket.EAI_NONAME, "Name or service not known"), config)
        assert told.startswith("DNS: no address is known for 'h' (Name or service not known): check `host`")

    def test_silence(self, reason: Reason) -> None:
        assert "did not answer within 0.3 s: check the network" in reason(Peer(None, hold=True), connect_timeout_s=0.3)

    @pytest.mark.parametrize("said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", YES])
    def test_something_that_speaks_no_tls(self, reason: Reason, said: bytes) -> None:
        assert "does not speak TLS: check `port`" in reason(Peer(None, said, hold=True))

    def test_an_end_during_the_handshake(self, reason: Reason) -> None:
        assert "closed the connection during the handshake: check that MQTT over TLS is at this port" in reason(
            Peer(None)
        )


class TestTheBrokersCertificate:
    @pytest.mark.parametrize(
        ("broker", "told"),
        [
            (certified("broker", OTHER_ROOT), "authority that is not trusted here: check `ca`"),
            (certified("itself"), "is signed by itself: check `ca`"),
            (certified("broker", ROOT, host="other.example"), "is another host's: check `host`"),
            (certified("broker", ROOT, start=NOW - 3 * DAY), "has expired: check the clock of this device"),
            (certified("broker", ROOT, start=NOW + DAY), "is not valid yet: check the clock of this device"),
        ],
        ids=["unknown authority", "signed by itself", "another host", "expired", "not yet valid"],
    )
    def test_that_is_not_taken(self, reason: Reason, tmp_path: Path, broker: Certified, told: str) -> None:
        found = reason(Peer(broker.context(ROOT, tmp_path), YES))
        assert found.startswith("TLS: the certificate of localhost:")
        assert told in found


class TestTheDevicesCertificate:
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    @pytest.mark.parametrize(
        ("device", "told"),
        [
            (certified("device", OTHER_ROOT), "it does not know who signed this device's certificate"),
            (certified("device", ROOT, start=NOW - 3 * DAY), "this device's certificate has expired: check the clock"),
        ],
        ids=["unknown", "expired"],
    )
    def test_that_the_broker_refuses(
        self, reason: Reason, broker_context: ssl.SSLContext, version: ssl.TLSVersion, device: Certified, told: str
    ) -> None:
        broker_context.maximum_version = version
        found = reason(Peer(broker_context, YES), certificate=device.certificate, private_key=device.key)
        assert found.startswith("TLS: localhost:")
        assert f"refused this device: {told}" in found

    def test_that_cannot_be_used_is_named_before_anything_is_sent(self, reason: Reason, tmp_path: Path) -> None:
        (tmp_path / "binary").write_bytes(b"\x30\x82\xff")
        encrypted = DEVICE.own.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        ).decode()
        wrong = {
            "`ca` names the file /nowhere/ca.pem, which cannot be read: No such file or directory": {
                "ca": "/nowhere/ca.pem"
            },
            f"`certificate` names {tmp_path}/binary, which is not PEM text": {"certificate": str(tmp_path / "binary")},
            "`certificate` or `private_key` is not what it should be in PEM": {"private_key": DEVICE.certificate},
            "`private_key` does not belong to `certificate`": {"private_key": BROKER.key},
            "`private_key` is encrypted; give one without a password": {"private_key": encrypted},
        }
        assert [told for told, fields in wrong.items() if told not in reason(1, **fields)] == []


class TestTheBrokersAnswer:
    @pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
    def test_of_mqtt_3_1_1(self, reason: Reason, broker_context: ssl.SSLContext, code: int) -> None:
        found = reason(Peer(broker_context, bytes([0x20, 2, 0, code])))
        assert found.startswith("MQTT: the broker refused the connection (CONNACK")
        assert "reason that MQTT does not know" not in found

    @pytest.mark.parametrize("code", [0x87, 0x88])
    def test_of_mqtt_5(self, reason: Reason, broker_context: ssl.SSLContext, code: int) -> None:
        found = reason(Peer(broker_context, bytes([0x20, 3, 0, code, 0])))
        assert found.startswith(f"MQTT: the broker refused the connection (CONNACK {code}, ")

    @pytest.mark.parametrize(
        ("packet", "why"), [(PacketTypes.CONNACK, why_refused), (PacketTypes.DISCONNECT, why_told_to_leave)]
    )
    def test_each_refusal_of_the_specification_has_its_advice(
        self, packet: int, why: Callable[[ReasonCode], str]
    ) -> None:
        names = [
            name
            for value, kinds_by_name in ReasonCode(packet, "Unspecified error").names.items()
            for name, kinds in kinds_by_name.items()
            if value >= 0x80 and packet in kinds
        ]
        told = [why(ReasonCode(packet, name)) for name in names]
        assert len(told) > 15
        assert [each for each in told if "MQTT 5 does not know" in each] == []

    @pytest.mark.parametrize("answers", [(b"\x20\x00",), (b"GET / HTTP/1.1\r\n\r\n",)], ids=["short", "not MQTT"])
    def test_that_cannot_be_read(self, reason: Reason, broker_context: ssl.SSLContext, answers: tuple[bytes]) -> None:
        assert reason(Peer(broker_context, *answers), connect_timeout_s=2).startswith("MQTT: ")

    def test_that_never_comes(self, reason: Reason, broker_context: ssl.SSLContext) -> None:
        found = reason(Peer(broker_context, hold=True), connect_timeout_s=0.3)
        assert "did not answer CONNECT within 0.3 s" in found

    def test_an_end_instead_of_one(self, reason: Reason, broker_context: ssl.SSLContext) -> None:
        found = reason(Peer(broker_context))
        assert "closed the connection before it answered CONNECT" in found
        assert "check that the certificate is active" in found


class TestTheEnd:
    @pytest.mark.parametrize(
        ("code", "told"),
        [(0x8E, "another client has connected under this name"), (0x8D, "it has heard nothing for 1.5 times")],
    )
    def test_that_the_broker_gives_a_reason_for(
        self, reason: Reason, broker_context: ssl.SSLContext, code: int, told: str
    ) -> None:
        found = reason(Peer(broker_context, YES, bytes([0xE0, 2, code, 0])))
        assert f"(DISCONNECT {code}, " in found
        assert told in found

    def test_without_a_reason(self, reason: Reason, broker_context: ssl.SSLContext) -> None:
        found = reason(Peer(broker_context, YES))
        assert "closed the connection without a reason" in found
        assert "another client has connected under this name" in found

    def test_by_silence_for_the_keep_alive(self, reason: Reason, broker_context: ssl.SSLContext) -> None:
        found = reason(Peer(broker_context, YES, hold=True), keepalive_s=1)
        assert "was silent for the keep-alive of 1 s" in found

    def test_by_another_client_with_the_same_name_on_a_real_broker(
        self, cloud: Cloud, make_device: MakeDevice, caplog: pytest.LogCaptureFixture
    ) -> None:
        device = make_device(reconnect_min_s=30.0, reconnect_max_s=30.0)
        config = DeviceConfig.from_credentials(cloud.credentials)
        rival = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=config.thing_name, protocol=mqtt.MQTTv5)
        rival.tls_set_context(tls_context(config))
        with device:
            assert device.wait_ready(20)
            assert device.stats.last_failure is None
            rival.connect(config.host, config.port)
            rival.loop_start()
            wait_until(lambda: device.stats.last_failure, what="a reason")
            rival.disconnect()
            rival.loop_stop()
        assert "another client has connected under this name" in str(device.stats.last_failure)
        [told] = [record for record in caplog.records if record.getMessage().startswith("connection.failed")]
        assert (told.levelno, told.getMessage()) == (logging.WARNING, f"connection.failed: {device.stats.last_failure}")


def test_no_log_hides_what_it_says_in_fields_that_an_ordinary_format_leaves_out() -> None:
    sources = Path(__file__).parents[1].joinpath("karma_device").glob("*.py")
    assert [source.name for source in sources if "extra=" in source.read_text()] == []
