import contextlib
import logging
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from karma_device.config import DeviceConfig, tls_context
from karma_device.messages import Topics
from karma_device.reasons import HEARD_BYTES, why_lost, why_not_accepted, why_refused, why_told_to_leave

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IncomingRequest:
    """A message on the request topic, not yet parsed."""

    payload: bytes
    response_topic: str | None
    correlation: bytes | None


@dataclass(frozen=True)
class Acknowledgement:
    """The broker's PUBACK for packet `mid`; a code of 128 and above is a refusal."""

    mid: int
    code: int


class _TlsSocket(ssl.SSLSocket):
    """A socket that is closed when its handshake fails, which paho leaves to the garbage collector."""

    failure: OSError | None = None
    """Error with which reading ended. Under TLS 1.3 the broker's refusal of our certificate is first seen here."""
    heard: bytes = b""
    """The first bytes that were received: if they are no MQTT 5 answer, paho only says that the connection is lost."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            data = super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as exc:
            self.failure = exc
            raise
        if len(self.heard) < HEARD_BYTES:
            self.heard += data[:HEARD_BYTES]
        return data

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class Link:
    """One MQTT connection, from TLS handshake to its end; never reused.

    A new paho client for each connection keeps unconfirmed messages in our buffer only: paho would resend its own.
     Callbacks run on paho's network thread. They only set flags and append to `acknowledgements`,
    because paho calls them with its locks held; the owner of the link reads those after `wake`.

    Args:
        config: The device's configuration.
        on_request: Called with each message on the request topic; it is confirmed to the broker if this returns True.
        wake: Set whenever the state or `acknowledgements` changed.
        filters: What to subscribe to besides, at most 7.
        on_other: Called with topic and payload of each message on these; it must not wait.
    """

    def __init__(
        self,
        config: DeviceConfig,
        *,
        on_request: Callable[[IncomingRequest], bool],
        wake: threading.Event,
        filters: Sequence[str] = (),
        on_other: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._config = config
        self._topics = Topics(config.thing_name)
        self._on_request = on_request
        self._filters = tuple(filters)
        self._on_other = on_other
        self._wake = wake
        self._ended = threading.Event()
        self.acknowledgements: deque[Acknowledgement] = deque()
        self.connected = False
        self.subscribed = False
        self.reason: str | None = None
        """Reason why the connection was refused or has ended; None: it is open, or this end closed it."""
        self._leaving = False
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=config.thing_name,
            protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = config.connect_timeout_s
        client.max_inflight_messages_set(0)  # the window is ours (max_inflight), so paho never holds a message back
        client.on_socket_open = self._opened
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_disconnect = self._disconnected
        client.on_publish = self._published
        client.on_message = self._message
        self._client = client
        self._socket: socket.socket | None = None

    @property
    def closed(self) -> bool:
        """Tell whether the connection has ended."""
        return self._ended.is_set()

    @property
    def local_address(self) -> str | None:
        """Return the local address of this connection, without an IPv6 zone, which is valid on this device only."""
        if self._socket is None:
            return None
        try:
            return str(self._socket.getsockname()[0]).partition("%")[0]
        except OSError:
            return None

    def open(self, *, clean_start: bool = False) -> None:
        """Connect and start the network thread; `connected` is set once the broker has accepted.

        Credentials are read anew each time, so that a rotated certificate is used from the next connection on.

        Args:
            clean_start: The broker forgets the session that it keeps under this client id, with what is queued in it.

        Raises:
            OSError: The broker cannot be reached, does not answer in time, or TLS failed.
        """
        context = tls_context(self._config)
        context.sslsocket_class = _TlsSocket
        self._client.tls_set_context(context)
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._config.session_expiry_s
        self._client.connect(
            self._config.host,
            self._config.port,
            keepalive=self._config.keepalive_s,
            clean_start=clean_start,
            properties=properties,
        )
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, *, correlation: bytes | None = None) -> int:
        """Send with QoS 1 and return the packet id that its acknowledgement will carry."""
        properties = None
        if correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = correlation
        return self._client.publish(topic, payload, qos=1, properties=properties).mid

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Disconnect from the broker and end the network thread. The broker keeps the session."""
        self._leaving = True
        self._client.disconnect()
        if not self._ended.wait(timeout_s):
            log.warning("connection.close_timeout: the broker did not close within %g s", timeout_s)
        self.abort()

    def abort(self) -> None:
        """End the connection now, whatever state it is in."""
        self._leaving = True
        if self._socket is not None and not self._ended.is_set():
            # The network thread leaves only when its output has drained, which a dead peer never lets happen.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        # paho's network thread clears the attribute that loop_stop is about to join; then there is nothing to join.
        with contextlib.suppress(AttributeError):
            self._client.loop_stop()
        if self._socket is not None:
            # When the network thread was told to end while it read a message, it left the socket open.
            self._socket.close()
        self._ended.set()

    def _opened(self, _client: mqtt.Client, _userdata: object, sock: object) -> None:
        if isinstance(sock, socket.socket):
            self._socket = sock

    def _connected(
        self, client: mqtt.Client, _userdata: object, _flags: mqtt.ConnectFlags, code: ReasonCode, _properties: object
    ) -> None:
        if code.is_failure:
            self.reason = why_refused(code)
            return
        self.connected = True
        client.subscribe([(each, 1) for each in (self._topics.request, *self._filters)])
        self._wake.set()

    def _subscribed(
        self, _client: mqtt.Client, _userdata: object, _mid: int, codes: list[ReasonCode], _properties: object
    ) -> None:
        if refused := [each for each, code in zip(self._filters, codes[1:], strict=False) if code.is_failure]:
            log.error("topics.subscribe_refused: nothing arrives there, the policy forbids %s", ", ".join(refused))
        if codes[0].is_failure:
            # Telemetry still works; the policy has to be mended in the account, which no retry from here would do.
            log.error(
                "commands.subscribe_refused: no command arrives, the policy forbids to subscribe to %s (%s)",
                self._topics.request,
                codes[0],
            )
            return
        self.subscribed = True
        self._wake.set()

    def _disconnected(
        self,
        _client: mqtt.Client,
        _userdata: object,
        flags: mqtt.DisconnectFlags,
        code: ReasonCode,
        _properties: object,
    ) -> None:
        if self.reason is None and not self._leaving:
            self.reason = self._why_ended(code, by_broker=flags.is_disconnect_packet_from_server)
        self._ended.set()
        self._wake.set()

    def _why_ended(self, code: ReasonCode, *, by_broker: bool) -> str:
        sock = self._socket if isinstance(self._socket, _TlsSocket) else None
        failure, heard = (sock.failure, sock.heard) if sock is not None else (None, b"")
        if by_broker:
            return why_told_to_leave(code)
        if self.connected:
            return why_lost(code, failure, self._config)
        return why_not_accepted(failure, heard, self._config)

    def _published(
        self, _client: mqtt.Client, _userdata: object, mid: int, code: ReasonCode, _properties: object
    ) -> None:
        self.acknowledgements.append(Acknowledgement(mid=mid, code=code.value))
        self._wake.set()

    def _message(self, client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        if message.topic != self._topics.request and self._on_other is not None:
            self._on_other(message.topic, bytes(message.payload))
            client.ack(message.mid, message.qos)
            return
        properties = message.properties
        request = IncomingRequest(
            payload=bytes(message.payload),
            response_topic=getattr(properties, "ResponseTopic", None),
            correlation=getattr(properties, "CorrelationData", None),
        )
        try:
            confirmed = self._on_request(request)
        except Exception:
            # Edge of the network thread: an error here must not end the connection. Unconfirmed, it comes again.
            log.exception("command.receive_failed: it stays unconfirmed and comes again")
            return
        if confirmed:
            client.ack(message.mid, message.qos)
