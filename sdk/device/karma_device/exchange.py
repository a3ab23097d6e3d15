"""AWS IoT's fleet provisioning over MQTT: a request for a certificate, and one to register with it."""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from karma_device.config import DeviceConfig, tls_context
from karma_device.errors import ProvisioningRefused
from karma_device.reasons import why_refused

SIGN: Final = "$aws/certificates/create-from-csr/json"
_ENDS: Final = ("accepted", "rejected")
_RETRIED: Final = frozenset(
    {"InternalFailure", "InternalError", "InvocationError", "ServiceUnavailable", "ThrottlingException", "Throttled"}
)
_SERVER_ERROR: Final = 500


def register_topic(template: str) -> str:
    """Return the topic on which a device registers by a template."""
    return f"$aws/provisioning-templates/{template}/provision/json"


class Exchange:
    """Requests for a certificate, and their answers, over one connection.

    What else the broker sends on it, as the commands of a session that it keeps, is not acknowledged, and comes again.

    Args:
        config: Address and credentials of the connection.
        client_id: Client id of the connection.
        template: Name of the template of fleet provisioning.
        timeout_s: Time for the connection, and for each answer.
        clean_start: The broker forgets the session that it keeps under this client id.
    """

    def __init__(
        self, config: DeviceConfig, *, client_id: str, template: str, timeout_s: float, clean_start: bool
    ) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._clean_start = clean_start
        self._came = threading.Condition()
        self._answers: dict[str, bytes] = {}
        self._subscribed = False
        self._failure = ""
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = timeout_s
        client.tls_set_context(tls_context(config))
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed_to
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        self._client = client
        register = register_topic(template)
        self._filters = [(f"{topic}/{end}", 1) for topic in (SIGN, register) for end in _ENDS]

    def open(self) -> None:
        """Connect and subscribe; raise OSError where that cannot be done in time."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        if not self._clean_start:
            properties.SessionExpiryInterval = self._config.session_expiry_s
        self._client.connect(
            self._config.host,
            self._config.port,
            keepalive=60,
            clean_start=self._clean_start,
            properties=properties,
        )
        self._client.loop_start()
        self._wait(lambda: self._subscribed, "the broker did not let this device ask")

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def __call__(self, topic: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send a request; return what is accepted, or raise ProvisioningRefused, OSError."""
        accepted, rejected = (f"{topic}/{end}" for end in _ENDS)
        self._client.publish(topic, json.dumps(body), qos=1)
        self._wait(lambda: accepted in self._answers or rejected in self._answers, f"no answer to {topic}")
        try:
            answer = json.loads(self._answers.get(accepted) or self._answers[rejected])
        except ValueError as exc:
            raise OSError(f"the answer to {topic} is not JSON") from exc
        if not isinstance(answer, dict):
            raise OSError(f"the answer to {topic} is not an object")
        if accepted in self._answers:
            return answer
        code, message = str(answer.get("errorCode", "")), str(answer.get("errorMessage", ""))
        if code in _RETRIED or int(answer.get("statusCode") or 0) >= _SERVER_ERROR:
            raise OSError(f"{code}: {message}")
        raise ProvisioningRefused(code, message)

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        with self._came:
            self._came.wait_for(lambda: done() or bool(self._failure), timeout=self._timeout_s)
            if not done():
                raise OSError(self._failure or what)

    def _tell(self, *, failure: str = "", subscribed: bool = False) -> None:
        with self._came:
            self._failure = self._failure or failure
            self._subscribed = self._subscribed or subscribed
            self._came.notify_all()

    def _connected(self, client: mqtt.Client, _data: object, _flags: object, code: ReasonCode, _more: object) -> None:
        if code.is_failure:
            self._tell(failure=why_refused(code))
        else:
            client.subscribe(self._filters)

    def _subscribed_to(
        self, _client: mqtt.Client, _data: object, _mid: int, codes: list[ReasonCode], _more: object
    ) -> None:
        refused = any(code.is_failure for code in codes)
        self._tell(subscribed=not refused, failure="the policy forbids to ask" if refused else "")

    def _disconnected(
        self, _client: mqtt.Client, _data: object, _flags: object, code: ReasonCode, _more: object
    ) -> None:
        self._tell(failure=f"the broker has ended the connection ({code})")

    def _message(self, client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        if message.topic not in {topic for topic, _ in self._filters}:
            return
        client.ack(message.mid, message.qos)
        with self._came:
            self._answers[message.topic] = bytes(message.payload)
            self._came.notify_all()
