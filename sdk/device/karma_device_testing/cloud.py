# ruff: noqa: D102, D103, S101, S106, S310 - a kit for tests
"""The cloud's side of the tests: a real MQTT broker with mutual TLS, IoT rules and queues (MiniStack), started here."""

import base64
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from karma_device.config import DeviceConfig, tls_context
from karma_device.device import Device
from karma_device.messages import Json

REPOSITORY = Path(__file__).resolve().parents[3]
ENGINE = REPOSITORY / ".engine" / "venv" / "bin" / "ministack"
MakeDevice = Callable[..., Device]
"""Keyword arguments are DeviceConfig fields."""

POLICY = "karma-device"
RULE = "karma_sdk_data"
ACCOUNT_ARN = "arn:aws:iot:us-east-1:000000000000"
THING = "${iot:Connection.Thing.ThingName}"


def wait_until(condition: Callable[[], object], *, timeout_s: float = 20.0, what: str = "") -> None:
    """Poll until the condition holds; fail the test at the deadline."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() >= deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what or condition}")
        pause.wait(0.02)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Broker:
    """A MiniStack process that can be stopped and started again with its state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gateway_port = free_port()
        self.mqtt_port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.gateway_port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.things: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        environment = {
            **os.environ,
            "GATEWAY_PORT": str(self.gateway_port),
            "IOT_MTLS_ENABLED": "1",
            "IOT_MTLS_PORT": str(self.mqtt_port),
            "BIND_HOST": "127.0.0.1",
            "AUTH": "true",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.folder / "state"),
            "TMPDIR": str(self.folder),
        }
        with (self.folder / "engine.log").open("ab") as log:
            self._process = subprocess.Popen([str(ENGINE)], env=environment, stdout=log, stderr=log, cwd=self.folder)
        wait_until(self._answers, timeout_s=60, what="the engine answers")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
            self._process = None

    def client(self, service: str) -> Any:
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def prepare(self) -> None:
        """Create the resources that infra creates in AWS: the fleet's policy, the queue, the data rule."""
        iot = self.client("iot")
        self.queue_url = self.client("sqs").create_queue(QueueName="ingest")["QueueUrl"]
        said = [f"dt/karma/{THING}/*", f"$aws/rules/{RULE}/dt/karma/{THING}/telemetry"]
        both = [f"cmd/karma/{THING}/*", f"file/karma/{THING}/*"]
        both += [f"$aws/things/{THING}/{each}/*" for each in ("jobs", "shadow/name/settings")]

        def resources(kind: str, *topics: str) -> list[str]:
            return [f"{ACCOUNT_ARN}:{kind}/{each}" for each in topics]

        statements = [
            {
                "Effect": "Allow",
                "Action": "iot:Connect",
                "Resource": f"{ACCOUNT_ARN}:client/{THING}",
                "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}},
            },
            {"Effect": "Allow", "Action": "iot:Publish", "Resource": resources("topic", *said)},
            {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": resources("topic", *both)},
            {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": resources("topicfilter", *both)},
        ]
        iot.create_policy(
            policyName=POLICY, policyDocument=json.dumps({"Version": "2012-10-17", "Statement": statements})
        )
        everything = {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}
        iot.create_policy(
            policyName="observer", policyDocument=json.dumps({"Version": "2012-10-17", "Statement": [everything]})
        )
        self._add_rules()

    def _add_rules(self) -> None:
        iot = self.client("iot")
        self.asks_url = self.client("sqs").create_queue(QueueName="asks")["QueueUrl"]
        select = "SELECT encode(*, 'base64') AS payload_b64, topic() AS topic, principal() AS principal"
        trust = {"Effect": "Allow", "Principal": {"Service": "iot.amazonaws.com"}, "Action": "sts:AssumeRole"}
        role = self.client("iam").create_role(
            RoleName="rule", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        )["Role"]["Arn"]
        iot.create_topic_rule(
            ruleName=RULE,
            topicRulePayload={
                "sql": f"{select} FROM 'dt/karma/+/+'",
                "awsIotSqlVersion": "2016-03-23",
                "actions": [{"sqs": {"queueUrl": self.queue_url, "roleArn": role, "useBase64": False}}],
            },
        )
        iot.create_topic_rule(
            ruleName=f"{RULE}_asks",
            topicRulePayload={
                "sql": "SELECT *, topic(3) AS thing FROM 'file/karma/+/ask'",
                "awsIotSqlVersion": "2016-03-23",
                "actions": [{"sqs": {"queueUrl": self.asks_url, "roleArn": role, "useBase64": False}}],
            },
        )

    def ca_pem(self) -> str:
        with urllib.request.urlopen(f"{self.endpoint}/_ministack/iot/ca.pem", timeout=5) as response:
            return str(response.read().decode())

    def create_thing(self, *, policy: str = POLICY) -> dict[str, Any]:
        """Create a thing with a certificate; return the credentials object of the API."""
        iot = self.client("iot")
        name = f"EOS-{uuid.uuid4().hex[:12]}"
        iot.create_thing(thingName=name)
        created = iot.create_keys_and_certificate(setAsActive=True)
        iot.attach_policy(policyName=policy, target=created["certificateArn"])
        iot.attach_thing_principal(thingName=name, principal=created["certificateArn"])
        return {
            "thing_name": name,
            "certificate_pem": created["certificatePem"],
            "private_key": created["keyPair"]["PrivateKey"],
            "ca_pem": self.ca_pem(),
            "mqtt_host": "localhost",
            "mqtt_port": self.mqtt_port,
            "certificate_id": created["certificateId"],
        }

    def replace_policy(self, credentials: dict[str, Any], statements: list[dict[str, Any]]) -> None:
        """Give one certificate these permissions instead of the fleet's."""
        iot = self.client("iot")
        name = f"only-{credentials['thing_name']}"
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iot.create_policy(policyName=name, policyDocument=document)
        certificate = iot.describe_certificate(certificateId=credentials["certificate_id"])
        target = certificate["certificateDescription"]["certificateArn"]
        iot.attach_policy(policyName=name, target=target)
        iot.detach_policy(policyName=POLICY, target=target)

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            pytest.fail((self.folder / "engine.log").read_text()[-2000:])
        try:
            with urllib.request.urlopen(f"{self.endpoint}/_ministack/health", timeout=1):
                pass
            with socket.create_connection(("127.0.0.1", self.mqtt_port), timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            return False


@dataclass(frozen=True)
class Seen:
    """A message that the cloud's side received."""

    topic: str
    payload: bytes
    correlation: bytes | None

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.payload)
        return body


@dataclass
class Cloud:
    """Observes one device by a second MQTT client, and sends it commands as the service does."""

    broker: Broker
    credentials: dict[str, Any]
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thing = str(self.credentials["thing_name"])
        self._data = self.broker.client("iot-data")
        observer = self.broker.create_thing(policy="observer")
        config = DeviceConfig.from_credentials(observer)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=config.thing_name, protocol=mqtt.MQTTv5)
        self._client.tls_set_context(tls_context(config))
        subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe(
            [
                (f"dt/karma/{self.thing}/+", 1),
                (f"cmd/karma/{self.thing}/ready", 1),
                (f"cmd/karma/{self.thing}/response", 1),
            ]
        )
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = self._take
        self._client.connect(config.host, config.port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def on(self, kind: str) -> list[Seen]:
        return [message for message in list(self.seen) if message.topic.endswith("/" + kind)]

    def answers(self, command_id: str) -> list[dict[str, Any]]:
        return [m.body for m in self.on("response") if m.body["id"] == command_id]

    def statuses(self, command_id: str) -> list[str]:
        return [str(answer["status"]) for answer in self.answers(command_id)]

    def final(self, command_id: str) -> dict[str, Any]:
        def finals() -> list[dict[str, Any]]:
            return [a for a in self.answers(command_id) if a["status"] != "acknowledged"]

        wait_until(finals, what=f"a final answer to {command_id}")
        return finals()[0]

    def request(
        self, command: str, params: Json = None, *, command_id: str | None = None, ttl_ms: int = 60_000
    ) -> dict[str, Any]:
        now = time.time_ns() // 1_000_000
        return {
            "id": command_id or uuid.uuid4().hex,
            "command": command,
            "params": params if params is not None else {},
            "issued_at": now,
            "expires_at": now + ttl_ms,
            "serial": False,
        }

    def send(self, body: dict[str, Any] | bytes, *, response_topic: str | None = None) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        correlation = b"-" if isinstance(body, bytes) else str(body["id"]).encode()
        self._data.publish(
            topic=f"cmd/karma/{self.thing}/request",
            qos=1,
            payload=raw,
            responseTopic=response_topic or f"cmd/karma/{self.thing}/response",
            correlationData=base64.b64encode(correlation).decode(),
            messageExpiry=60,
        )

    def command(self, name: str, params: Json = None, **options: Any) -> str:
        body = self.request(name, params, **options)
        self.send(body)
        return str(body["id"])

    def _take(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        correlation = getattr(message.properties, "CorrelationData", None)
        self.seen.append(Seen(topic=message.topic, payload=bytes(message.payload), correlation=correlation))


class Ingest:
    """The messages that the IoT rule put on the queue for one thing: the path of telemetry in AWS."""

    def __init__(self, broker: Broker, thing: str) -> None:
        self._broker = broker
        self._thing = thing
        self.messages: list[tuple[dict[str, Any], bytes]] = []

    def poll(self) -> list[tuple[dict[str, Any], bytes]]:
        sqs = self._broker.client("sqs")
        while received := sqs.receive_message(QueueUrl=self._broker.queue_url, MaxNumberOfMessages=10).get("Messages"):
            for message in received:
                body = json.loads(message["Body"])
                if f"/{self._thing}/" in body["topic"]:
                    self.messages.append((body, base64.b64decode(body["payload_b64"])))
                sqs.delete_message(QueueUrl=self._broker.queue_url, ReceiptHandle=message["ReceiptHandle"])
        return self.messages

    def values(self, metric: str) -> list[Any]:
        """Return the values of a metric in order of (boot, seq), each pair once; repeats must be the same message."""
        unique: dict[tuple[str, int], bytes] = {}
        for _, payload in self.poll():
            body = json.loads(payload)
            if "samples" in body:
                assert unique.setdefault((body["boot"], body["seq"]), payload) == payload
        ordered = (json.loads(unique[key]) for key in sorted(unique))
        return [sample["m"][metric] for body in ordered for sample in body["samples"] if metric in sample["m"]]


class Proxy:
    """A TCP proxy in front of the broker that can hold back the broker's bytes, and cut every connection."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.muted = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for sock in pair:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                return
            self._pairs.append((near, far))
            done = threading.Barrier(2)
            for source, sink, heard in ((near, far, lambda: True), (far, near, lambda: not self.muted)):
                thread = threading.Thread(target=_copy, args=(source, sink, heard, done), daemon=True)
                self._threads.append(thread)
                thread.start()


def _copy(source: socket.socket, sink: socket.socket, heard: Callable[[], bool], done: threading.Barrier) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            if heard():
                sink.sendall(data)
    for sock in (source, sink):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
    done.wait(10)
    source.close()
