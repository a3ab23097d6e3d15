"""Things, certificates and publishing on the engine's IoT, to a real MQTT client over TLS."""

from __future__ import annotations

import json
import queue
import ssl
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from infra.iot_rules import IOT_SELECT, IOT_SQL_VERSION
from karma.core.clock import from_epoch_ms
from karma.core.errors import Upstream, ValidationFailed
from karma.core.ids import new_id
from karma.devices.ports import CommandPublisher, Registry
from karma.devices.sweeps import sweep_orphans
from karma.devices.topics import request_topic, response_topic
from karma.integrations.iot import DeviceServiceUnavailable, IotPublisher, IotRegistry, data_host
from tests.fakes.devices import FakeClock, FakePublisher, FakeRegistry
from tests.support.stack import Stack

POLICY = "karma-device"
THING = "EOS-1"


def policy(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
def registry(stack: Stack) -> IotRegistry:
    stack.use("api")
    allow = {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}
    stack.aws("iot").create_policy(policyName=POLICY, policyDocument=policy(allow))
    return IotRegistry(policy_name=POLICY, mqtt_host="mqtt.example.com", data_endpoint_url=stack.engine.endpoint_url)


def test_the_stand_ins_have_the_shape_of_the_real_ones(registry: IotRegistry) -> None:
    registries: list[Registry] = [registry, FakeRegistry()]
    publishers: list[CommandPublisher] = [IotPublisher(), FakePublisher()]
    assert len(registries) == len(publishers)


def test_every_step_may_be_repeated(stack: Stack, registry: IotRegistry) -> None:
    iot = stack.aws("iot")
    for device_id in ("first", "second"):
        registry.create_thing(THING, device_id=device_id)
    assert iot.describe_thing(thingName=THING)["attributes"] == {"device_id": "second"}
    certificate = registry.create_certificate()
    assert certificate.private_key is not None
    assert certificate.private_key not in repr(certificate)
    for _ in range(2):
        registry.attach_certificate(THING, certificate)
    assert iot.describe_certificate(certificateId=certificate.id)["certificateDescription"]["status"] == "ACTIVE"
    for _ in range(2):
        registry.remove_certificate(certificate.arn, thing=THING)
        registry.remove_thing(THING)
    assert (iot.list_things()["things"], iot.list_certificates()["certificates"]) == ([], [])


@pytest.mark.fault("F-48b")
def test_the_end_of_a_device_leaves_a_certificate_by_which_another_one_speaks(
    stack: Stack, registry: IotRegistry
) -> None:
    iot, other = stack.aws("iot"), f"{THING}-2"
    certificate = registry.create_certificate()
    for thing in (THING, other):
        registry.create_thing(thing, device_id=thing)
        registry.attach_certificate(thing, certificate)
    registry.remove_thing(THING)
    assert iot.describe_certificate(certificateId=certificate.id)["certificateDescription"]["status"] == "ACTIVE"
    assert iot.list_principal_things(principal=certificate.arn)["things"] == [other]
    registry.remove_thing(other)
    assert (iot.list_things()["things"], iot.list_certificates()["certificates"]) == ([], [])


@pytest.mark.fault("F-48b")
@pytest.mark.parametrize("code", ["DeleteConflictException", "CertificateStateException", "VersionConflictException"])
def test_what_is_being_changed_is_to_be_tried_again(
    registry: IotRegistry, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    def fail(_: object, operation: str, __: object) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, operation)

    monkeypatch.setattr(BaseClient, "_make_api_call", fail)
    with pytest.raises(DeviceServiceUnavailable):
        registry.remove_certificate("arn:aws:iot:us-east-1:000000000000:cert/c", thing=THING)


def test_an_unreadable_signing_request_names_its_field(registry: IotRegistry) -> None:
    with pytest.raises(ValidationFailed) as failure:
        registry.create_certificate(csr="not a request")
    assert failure.value.details == [
        {"field": "csr", "message": "not a certificate signing request that can be signed", "type": "value_error"}
    ]


def test_certificates_that_nobody_heard_of_are_swept(stack: Stack, registry: IotRegistry) -> None:
    iot = stack.aws("iot")
    registry.create_thing(THING, device_id="d")
    used, orphan = registry.create_certificate(), registry.create_certificate()
    registry.attach_certificate(THING, used)
    made_at = iot.describe_certificate(certificateId=orphan.id)["certificateDescription"]["creationDate"]
    clock = FakeClock(from_epoch_ms(round(made_at.timestamp() * 1000)))
    assert sweep_orphans(clock=clock, registry=registry) == 0
    clock.pass_time(minutes=16)
    assert sweep_orphans(clock=clock, registry=registry) == 1
    assert [each["certificateId"] for each in iot.list_certificates()["certificates"]] == [used.id]


def test_the_endpoint_is_given_or_asked_for(registry: IotRegistry) -> None:
    endpoint = registry.endpoint()
    assert (endpoint.host, endpoint.port) == ("mqtt.example.com", 8883)
    assert endpoint.ca_pem.startswith("-----BEGIN CERTIFICATE-----")
    assert IotRegistry(policy_name=POLICY).endpoint().host == data_host() != ""


def test_no_answer_is_an_upstream_failure(stack: Stack) -> None:
    stack.use("api", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    with pytest.raises(Upstream):
        IotRegistry(policy_name=POLICY).create_thing(THING, device_id="d")
    with pytest.raises(Upstream):
        IotPublisher(endpoint_url="http://127.0.0.1:9").publish_command(THING, {}, command_id="c", expires_in_s=1)


def connected(stack: Stack, registry: IotRegistry, folder: Path) -> mqtt.Client:
    """Return a client with the certificate of a new thing; it connects when it is told to."""
    registry.create_thing(THING, device_id="d")
    certificate = registry.create_certificate()
    registry.attach_certificate(THING, certificate)
    (folder / "cert.pem").write_text(certificate.pem)
    (folder / "key.pem").write_text(certificate.private_key or "")
    context = ssl.create_default_context(cafile=str(stack.broker.ca_path))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=THING, protocol=mqtt.MQTTv5)
    client.tls_set_context(context)
    return client


def test_a_command_reaches_a_real_client_with_its_properties(
    stack: Stack, registry: IotRegistry, tmp_path: Path
) -> None:
    heard: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
    subscribed: queue.Queue[Any] = queue.Queue()
    client = connected(stack, registry, tmp_path)
    client.on_message = lambda _client, _data, message: heard.put(message)
    client.on_subscribe = lambda *given: subscribed.put(given[3])

    def subscribe(*_: Any) -> None:
        client.subscribe(request_topic(THING), options=SubscribeOptions(qos=1))

    client.on_connect = subscribe
    client.connect(stack.broker.host, stack.broker.port)
    client.loop_start()
    try:
        subscribed.get(timeout=20)
        command_id = new_id()
        publisher = IotPublisher(endpoint_url=stack.engine.endpoint_url)
        publisher.publish_command(THING, {"id": command_id, "command": "move"}, command_id=command_id, expires_in_s=30)
        message = heard.get(timeout=20)
    finally:
        client.disconnect()
        client.loop_stop()
    assert json.loads(message.payload) == {"id": command_id, "command": "move"}
    assert message.qos == 1
    properties: Any = message.properties
    found = properties.json()
    assert found["ResponseTopic"] == response_topic(THING)
    assert bytes.fromhex(found["CorrelationData"]).decode() == command_id
    assert 25 <= found["MessageExpiryInterval"] <= 30


@pytest.mark.fault("F-14c")
def test_a_message_that_no_parser_takes_is_acknowledged(stack: Stack, registry: IotRegistry, tmp_path: Path) -> None:
    deep = b'{"a":' * 15_000 + b"1" + b"}" * 15_000
    messages = [deep, b"[" * 60_000, b"\xff\x00", b"no JSON", b"", b'"\\ud800"', b"NaN", b"1" * 5_000]
    sent = stack.queues["ingest"]
    trust = {"Effect": "Allow", "Principal": {"Service": "iot.amazonaws.com"}, "Action": "sts:AssumeRole"}
    send = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": "*"}
    iam = stack.aws("iam")
    role = iam.create_role(RoleName="any-message", AssumeRolePolicyDocument=policy(trust))["Role"]["Arn"]
    iam.put_role_policy(RoleName="any-message", PolicyName="send", PolicyDocument=policy(send))
    action = {"sqs": {"queueUrl": sent, "roleArn": role, "useBase64": False}}
    sql = IOT_SELECT.format("dt/karma/+/+")
    rule = {"sql": sql, "awsIotSqlVersion": IOT_SQL_VERSION, "actions": [action]}
    stack.aws("iot").create_topic_rule(ruleName="any_message", topicRulePayload=rule)
    client = connected(stack, registry, tmp_path)
    client.connect(stack.broker.host, stack.broker.port)
    client.loop_start()
    try:
        for message in messages:
            published = client.publish(f"dt/karma/{THING}/telemetry", message, qos=1)
            published.wait_for_publish(20)
            assert published.is_published(), message[:20]
    finally:
        client.disconnect()
        client.loop_stop()
        stack.aws("iot").delete_topic_rule(ruleName="any_message")
