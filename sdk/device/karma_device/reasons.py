"""Describes why a connection could not be made or has ended, and what to do: one sentence for the log.

A connection fails in this order: the credentials are read; the host's name is looked up; TCP connects; TLS checks the
broker's certificate, and the broker the device's; MQTT's CONNECT is answered by CONNACK. Later either end may close.
Under TLS 1.3 a broker refuses the device's certificate only after the handshake, so that refusal is seen when the
first bytes are read.
"""

import socket
import ssl
from collections.abc import Mapping
from typing import Final

from paho.mqtt.reasoncodes import ReasonCode

from karma_device.config import DeviceConfig
from karma_device.errors import CredentialsInvalid

_CLOCK: Final = "check the clock of this device"
_CA: Final = "check `ca`: it must be the root of the certificate that this broker shows (AWS IoT: Amazon Root CA 1)"
_OWN: Final = "check `certificate`: the account must know it, and it must be active"
_POLICY: Final = "check that the certificate is active, is attached to this thing, and that its policy lets it connect"
_TAKEN: Final = "another client has connected under this name: run one process a device, with a name of its own"
_AT_PORT: Final = f"check that MQTT over TLS is at this port; {_OWN}"

_KEEP_ALIVE: Final = 0x8D
HEARD_BYTES: Final = 4
"""First bytes that are kept of a peer's answer: enough for a CONNACK of MQTT 3.1.1."""

_VERIFICATION: Final[Mapping[int, str]] = {
    9: f"is not valid yet: {_CLOCK}",
    10: f"has expired: {_CLOCK}; otherwise the broker's certificate has to be renewed",
    18: f"is signed by itself: {_CA}",
    19: f"is signed by a root that is not trusted here: {_CA}",
    20: f"is signed by an authority that is not trusted here: {_CA}",
    21: f"is signed by an authority that is not trusted here: {_CA}",
    62: "is another host's: check `host` (mqtt_host of the credentials)",
    64: "is not of this address: connect by the broker's name, not by its address",
}
"""OpenSSL's results of X509_verify_cert (openssl-verification-options)."""

_ALERTS: Final[Mapping[str, str]] = {
    "UNKNOWN_CA": f"it does not know who signed this device's certificate: {_OWN}",
    "CERTIFICATE_EXPIRED": f"this device's certificate has expired: {_CLOCK}, or have the certificate renewed",
    "CERTIFICATE_REVOKED": "this device's certificate was revoked: have a new one made",
    "CERTIFICATE_UNKNOWN": f"it does not take this device's certificate: {_OWN}",
    "CERTIFICATE_REQUIRED": f"it got no certificate of this device: {_OWN}",
    "BAD_CERTIFICATE": f"it does not take this device's certificate: {_OWN}",
    "UNSUPPORTED_CERTIFICATE": "it does not take certificates of this kind: have one made by the account",
    "ACCESS_DENIED": f"it does not let this certificate in: {_POLICY}",
    "DECRYPT_ERROR": "the signature is wrong: check that `private_key` belongs to `certificate`",
    "HANDSHAKE_FAILURE": f"no agreement was found: it takes TLS 1.2 or later with a client certificate; {_OWN}",
    "PROTOCOL_VERSION": "it speaks another version of TLS; this device speaks 1.2 and 1.3",
    "UNRECOGNIZED_NAME": "it knows no such host: check `host` (mqtt_host of the credentials)",
}
"""Meanings of a broker's refusal, by OpenSSL's names of TLS alerts without their prefixes."""

_MQTT_3_1_1: Final[Mapping[int, str]] = {
    1: "it does not speak MQTT 5: use AWS IoT Core or another broker that does",
    2: "it does not take the client id: check `thing_name`",
    3: "it cannot serve now; the device tries again",
    4: "it wants a user name and password, which this device has not: use mutual TLS",
    5: f"it does not let this device in: {_POLICY}",
}
"""CONNACK codes of brokers that answer as MQTT 3.1.1 does."""

_UNUSED: Final = "it names something that this device does not use: this is a fault of this package or of the broker"
_MQTT_5: Final[Mapping[int, str]] = {
    0x80: "it gives no reason; AWS IoT: see the broker's own logs",
    0x81: "it could not read what was sent: this is a fault of this package or of something between",
    0x82: "it holds what was sent to be against the protocol: this is a fault of this package or of something between",
    0x83: "what was sent is right but it does not take it: see the broker's own logs",
    0x84: "it does not speak MQTT 5: use AWS IoT Core or another broker that does",
    0x85: "it does not take the client id: check `thing_name`",
    0x86: "it wants a user name and password, which this device has not: use mutual TLS",
    0x87: f"it does not let this device in: {_POLICY}",
    0x88: "it cannot serve now; the device tries again",
    0x89: "it is busy; the device tries again",
    0x8A: "it has banned this client: ask who runs it",
    0x8B: "it is shutting down; the device tries again",
    0x8C: "it wants another way of authentication: use mutual TLS",
    0x8D: "it has heard nothing for 1.5 times the keep-alive: the network is too slow or was gone; see `keepalive_s`",
    0x8E: _TAKEN,
    0x8F: "it does not take the topic that is subscribed to: check `thing_name`",
    0x90: "it does not take a topic: check the policy and `basic_ingest_rule`",
    0x93: "too many messages were under way: lower `max_inflight`",
    0x94: _UNUSED,
    0x95: "a message is larger than it takes: lower `batch_max_bytes`",
    0x96: "messages come too fast: lower `publish_rate_per_s`",
    0x97: "a quota of the account is used up; the device tries again",
    0x98: "its administrator has ended the connection: ask who runs it",
    0x99: "it holds a payload to be of another format than was said",
    0x9A: _UNUSED,
    0x9B: "it does not offer the quality of service that is needed (QoS 1)",
    0x9C: "it wants this device to use another server: have `host` (mqtt_host) looked up anew",
    0x9D: "it has moved: have `host` (mqtt_host) looked up anew",
    0x9E: _UNUSED,
    0x9F: "connections come too fast: are two processes fighting for this name? the device tries again later",
    0xA0: "the connection has lasted as long as it may; the device connects anew",
    0xA1: _UNUSED,
    0xA2: _UNUSED,
}
"""Reason codes of CONNACK and DISCONNECT that a device may meet (MQTT 5, 2.4)."""


_PUBACK: Final[Mapping[int, str]] = {
    0x80: "it gives no reason; the message is sent again",
    0x83: "something there failed; the message is sent again",
    0x87: "the certificate's policy does not let it publish there; the message is given up",
    0x90: "it does not take the topic: check `basic_ingest_rule`; the message is given up",
    0x91: "its number is in use; the message is sent again",
    0x97: "a quota of the account is used up; the message is sent again",
    0x99: "it wants another format; the message is given up",
}


def why_not_opened(exc: OSError | UnicodeError, config: DeviceConfig) -> str:
    """Say why TCP or TLS could not be opened."""
    where = f"{config.host}:{config.port}"
    match exc:
        case CredentialsInvalid():
            return str(exc)
        case ssl.SSLCertVerificationError():
            told = _VERIFICATION.get(exc.verify_code, f"cannot be trusted ({exc.verify_message}): {_CA}")
            return f"TLS: the certificate of {where} {told}"
        case ssl.SSLError():
            return _tls(exc, where)
        case UnicodeError():
            return f"DNS: {config.host!r} is no name of a host: check `host` (mqtt_host of the credentials)"
        case socket.gaierror():
            told = "check `host` (mqtt_host of the credentials) and the network's DNS"
            return f"DNS: no address is known for {config.host!r} ({exc.strerror}): {told}"
        case ConnectionRefusedError():
            return f"TCP: nothing listens at {where}: check `host` and `port`, and that the broker runs"
        case TimeoutError():
            told = "check the network, and that no firewall stands between; AWS IoT listens at 8883 and at 443"
            return f"TCP or TLS: {where} did not answer within {config.connect_timeout_s:g} s: {told}"
        case ConnectionError():
            return f"TLS: {where} closed the connection during the handshake: {_AT_PORT}"
    return f"{where} cannot be reached ({type(exc).__name__}: {exc}): check the network and its routes"


def why_unanswered(config: DeviceConfig) -> str:
    """Say that CONNECT was not answered in time."""
    told = "check that a broker of MQTT over TLS is at this port; the device tries again"
    return f"MQTT: {config.host}:{config.port} did not answer CONNECT within {config.connect_timeout_s:g} s: {told}"


def why_unconfirmed(config: DeviceConfig) -> str:
    """Say that a message was not confirmed in time."""
    told = "the network is gone or too slow, or the broker hangs; it is sent again"
    return f"MQTT: the broker did not confirm a message within {config.ack_timeout_s:g} s (PUBACK): {told}"


def why_not_published(code: int, kind: str) -> str:
    """Say why a broker did not take a message of this kind."""
    told = _PUBACK.get(code) or _MQTT_5.get(code, "it gives a reason that MQTT does not know")
    return f"MQTT: the broker did not take a message of {kind} (PUBACK {code}): {told}"


def why_refused(code: ReasonCode) -> str:
    """Say why a broker answered CONNECT with a refusal."""
    value = int(code.value)
    told = _MQTT_5.get(value, "it gives a reason that MQTT 5 does not know")
    return f"MQTT: the broker refused the connection (CONNACK {value}, {code}): {told}"


def why_told_to_leave(code: ReasonCode) -> str:
    """Say why a broker ended a connection with DISCONNECT."""
    value = int(code.value)
    told = _MQTT_5.get(value, "it gives a reason that MQTT 5 does not know")
    return f"MQTT: the broker ended the connection (DISCONNECT {value}, {code}): {told}"


def why_not_accepted(failure: OSError | None, heard: bytes, config: DeviceConfig) -> str:
    """Say why a connection ended before CONNECT was answered in the words of MQTT 5.

    Args:
        failure: error with which reading ended; None: it was none.
        heard: the first bytes that were received.
        config: the device's configuration.
    """
    where = f"{config.host}:{config.port}"
    if isinstance(failure, ssl.SSLError):
        return _tls(failure, where)
    if heard[:2] == b"\x20\x02" and (told := _MQTT_3_1_1.get(heard[3])):
        return f"MQTT: the broker refused the connection (CONNACK {heard[3]} of MQTT 3.1.1): {told}"
    if heard:
        return f"MQTT: {where} answered CONNECT with what cannot be read: check that it speaks MQTT 5"
    how = f" ({type(failure).__name__}: {failure})" if failure is not None else ""
    return f"MQTT: {where} closed the connection before it answered CONNECT{how}: {_POLICY}"


def why_lost(code: ReasonCode, failure: OSError | None, config: DeviceConfig) -> str:
    """Say why an accepted connection ended without DISCONNECT."""
    where = f"{config.host}:{config.port}"
    if int(code.value) == _KEEP_ALIVE:
        return f"MQTT: {where} was silent for the keep-alive of {config.keepalive_s} s: the network is gone or too slow"
    how = f" ({type(failure).__name__}: {failure})" if failure is not None else ""
    return f"MQTT: {where} closed the connection without a reason{how}: the network was lost, or {_TAKEN}"


def _tls(exc: ssl.SSLError, where: str) -> str:
    reason = str(exc.reason or "")
    for alert, told in _ALERTS.items():
        if reason.endswith(f"ALERT_{alert}"):
            return f"TLS: {where} refused this device: {told}"
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE"):
        return f"TLS: what listens at {where} does not speak TLS: check `port` (AWS IoT: 8883, or 443)"
    if isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return f"TLS: {where} closed the connection during the handshake: {_AT_PORT}"
    return f"TLS: no secure connection to {where} ({reason or exc}): check `ca`, `certificate` and `private_key`"
