"""IoT rules carry everything to the ingest queue, and asks to their own; a policy binds a device to its own topics."""

import json
import re
from typing import Any

import pytest
from paho.mqtt.client import topic_matches_sub

from infra.catalog import FUNCTIONS, FunctionName
from infra.config import Stage
from infra.constructs.fleet_provisioning import template_body
from infra.iot_rules import IOT_RULES
from tests.infra.synthesized import Synthesized

SELECT = (
    "SELECT encode(*, 'base64') AS payload_b64, topic() AS topic, principal() AS principal, "
    "timestamp() AS received_ms FROM "
)
TOPICS = {
    "data": "dt/karma/+/+",
    "ready": "cmd/karma/+/ready",
    "response": "cmd/karma/+/response",
    "presence": "$aws/events/presence/+/+",
    "settings": "$aws/things/+/shadow/name/settings/update/documents",
    "ask": "file/karma/+/ask",
}

MAX_POLICY_CHARS = 2_048
"""Characters without whitespace that AWS takes in a policy of IoT Core."""


def queue_url(synthesized: Synthesized, part: str, fragment: str) -> object:
    (found,) = [path for path in synthesized.of_type("AWS::SQS::Queue", part) if fragment in path]
    return {"Ref": found.partition("/")[2]}


@pytest.mark.parametrize("name", list(TOPICS))
def test_rules_forward_the_raw_payload_with_an_error_action(aws: Synthesized, name: str) -> None:
    rules = {item["Properties"]["RuleName"]: item["Properties"] for item in aws.of_type("AWS::IoT::TopicRule").values()}
    payload = rules[f"karma_{aws.settings.stage}_{name}"]["TopicRulePayload"]
    assert len(rules) == len(TOPICS)
    assert payload["AwsIotSqlVersion"] == "2016-03-23"
    assert payload["Sql"] == f"{SELECT}'{TOPICS[name]}'"
    assert payload["RuleDisabled"] is False
    (action,) = payload["Actions"]
    assert action["Sqs"]["QueueUrl"] == queue_url(aws, "devices", "AsksQueue" if name == "ask" else "IngestQueue")
    assert action["Sqs"]["UseBase64"] is False
    assert payload["ErrorAction"]["Sqs"]["QueueUrl"] == queue_url(aws, "devices", "ErrorsQueue")


def policy_of(aws: Synthesized, name: str) -> Any:
    found = [item["Properties"] for item in aws.of_type("AWS::IoT::Policy").values()]
    [policy] = [each for each in found if each["PolicyName"] == f"karma-{aws.settings.stage}-{name}"]
    return policy


THING = "${iot:Connection.Thing.ThingName}"
REPLACED: dict[str, str] = {"AWS::Partition": "aws-us-gov", "AWS::Region": "ap-northeast-1", "AWS::AccountId": "1" * 12}
"""The longest name of each kind; no partition has both."""


def written(value: object) -> Any:
    """Return a part of a template with the longest names in the places that CloudFormation fills."""
    if isinstance(value, dict) and set(value) == {"Fn::Join"}:
        return "".join(written(each) for each in value["Fn::Join"][1])
    if isinstance(value, dict) and set(value) == {"Ref"}:
        return REPLACED[value["Ref"]]
    if isinstance(value, dict):
        return {name: written(each) for name, each in value.items()}
    return [written(each) for each in value] if isinstance(value, list) else value


def allowed(aws: Synthesized) -> dict[str, list[str]]:
    """Return what the policy of devices allows: the ends of resources by action."""
    found: dict[str, list[str]] = {}
    for item in written(policy_of(aws, "device")["PolicyDocument"])["Statement"]:
        assert item["Effect"] == "Allow"
        if item["Action"] == "iot:Connect":
            assert item["Condition"] == {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}
        resources = item["Resource"] if isinstance(item["Resource"], list) else [item["Resource"]]
        for action in item["Action"] if isinstance(item["Action"], list) else [item["Action"]]:
            found.setdefault(action, []).extend(each.split(":", 5)[5] for each in resources)
    return found


def test_the_device_policy_is_bound_to_the_things_own_topics(aws: Synthesized) -> None:
    both = {
        f"cmd/karma/{THING}/*",
        f"file/karma/{THING}/*",
        f"$aws/things/{THING}/jobs/*",
        f"$aws/things/{THING}/shadow/name/settings/*",
        "$aws/certificates/create-from-csr/*",
        f"$aws/provisioning-templates/{aws.settings.provisioning_template}/*",
    }
    said = {f"dt/karma/{THING}/*", f"$aws/rules/{aws.settings.basic_ingest_rule}/dt/karma/{THING}/telemetry"}
    assert {action: set(resources) for action, resources in allowed(aws).items()} == {
        "iot:Connect": {f"client/{THING}"},
        "iot:Publish": {f"topic/{each}" for each in both | said},
        "iot:Receive": {f"topic/{each}" for each in both},
        "iot:Subscribe": {f"topicfilter/{each}" for each in both},
    }


def test_what_a_device_may_publish_beyond_its_part_no_rule_takes(aws: Synthesized) -> None:
    """A device may send itself a command, or an answer about a file: nobody else hears it."""
    filters = [spec.topic_filter for spec in IOT_RULES]
    taken = {
        topic: [each for each in filters if topic_matches_sub(each, topic)]
        for topic in (
            "cmd/karma/EOS-1/request",
            "cmd/karma/EOS-1/request/ready",
            "file/karma/EOS-1/answer",
            "file/karma/EOS-1/ask/more",
            "cmd/karma/EOS-1/response",
        )
    }
    assert taken.pop("cmd/karma/EOS-1/response") == ["cmd/karma/+/response"], "the test sees what is taken"
    assert set(map(tuple, taken.values())) == {()}, taken
    assert len(filters) == len(TOPICS)


def test_the_device_policy_has_no_more_characters_than_aws_takes(aws: Synthesized) -> None:
    document = json.dumps(written(policy_of(aws, "device")["PolicyDocument"]), separators=(",", ":"))
    longest, own = max(Stage, key=len), aws.settings
    for name in (own.basic_ingest_rule, own.provisioning_template):
        document = document.replace(name, name.replace(own.stage, longest))
    room = MAX_POLICY_CHARS - len(re.sub(r"\s", "", document))
    assert room >= 0, f"the policy of devices has room for {room} characters"


@pytest.mark.fault("F-42c")
def test_a_claim_may_ask_and_nothing_else(aws: Synthesized) -> None:
    document = json.dumps(policy_of(aws, "claim")["PolicyDocument"])
    assert ":client/claim:*" in document, "no serial number has a colon"
    topics = set(re.findall(r"(?:topic|topicfilter)/([^\"]+)", document))
    assert all(each.startswith(("$aws/certificates/create", "$aws/provisioning-templates/")) for each in topics)
    assert not [each for each in topics if "*" in each]


@pytest.mark.fault("F-42c")
def test_a_template_asks_our_hook_and_makes_what_that_says(aws: Synthesized) -> None:
    [template] = [item["Properties"] for item in aws.of_type("AWS::IoT::ProvisioningTemplate").values()]
    assert template["TemplateName"] == aws.settings.provisioning_template
    assert len(template["TemplateName"]) <= 36
    assert template["PreProvisioningHook"]["PayloadVersion"] == "2020-04-01"
    [permission] = [
        item["Properties"]
        for item in aws.of_type("AWS::Lambda::Permission").values()
        if item["Properties"]["Principal"] == "iot.amazonaws.com"
    ]
    assert permission["FunctionName"] == template["PreProvisioningHook"]["TargetArn"]
    assert f"provisioningtemplate/{template['TemplateName']}" in json.dumps(permission["SourceArn"])
    made = template_body("device", "rule")["Resources"]
    assert made["thing"]["Properties"]["ThingName"] == {"Ref": "ThingName"}
    assert made["policy"]["Properties"] == {"PolicyName": "device"}


@pytest.mark.fault("F-14b")
def test_the_rule_that_devices_are_told_is_one_that_takes_their_telemetry(aws: Synthesized) -> None:
    told = {
        name
        for function in aws.of_type("AWS::Lambda::Function").values()
        if (name := function["Properties"].get("Environment", {}).get("Variables", {}).get("BASIC_INGEST_RULE"))
    }
    rules = {rule["Properties"]["RuleName"]: rule for rule in aws.of_type("AWS::IoT::TopicRule").values()}
    (name,) = told
    assert "'dt/karma/+/+'" in rules[name]["Properties"]["TopicRulePayload"]["Sql"]


def test_queues_are_encrypted_tls_only_and_never_lose_a_message(aws: Synthesized) -> None:
    queues = aws.of_type("AWS::SQS::Queue")
    tls_only = {
        reference["Ref"]
        for policy in aws.of_type("AWS::SQS::QueuePolicy").values()
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Deny" and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        for reference in policy["Properties"]["Queues"]
    }
    for path, queue in queues.items():
        properties = queue["Properties"]
        assert properties["SqsManagedSseEnabled"] is True, path
        assert path.partition("/")[2] in tls_only, path
        if any(word in path for word in ("Dlq", "Errors", "Failures")):
            assert properties["MessageRetentionPeriod"] == 14 * 24 * 3600, path
        else:
            assert properties["RedrivePolicy"]["maxReceiveCount"] == 5, path


def test_messages_stay_hidden_for_six_times_the_consumers_timeout(aws: Synthesized) -> None:
    consumers = {
        "devices/IotIngestQueue": FunctionName.DEVICE_INGEST,
        "devices/IotAsksQueue": FunctionName.DEVICE_FILES,
        "data/InboxQueue": FunctionName.INBOX,
        "data/RunsQueue": FunctionName.RUNS,
        "data/DeletionsQueue": FunctionName.DELETION,
        "data/FileChecksQueue": FunctionName.FILES,
        "data/WebhooksQueue": FunctionName.WEBHOOKS,
    }
    queues = aws.of_type("AWS::SQS::Queue")
    for prefix, name in consumers.items():
        (queue,) = [item["Properties"] for path, item in queues.items() if path.startswith(prefix)]
        assert queue["VisibilityTimeout"] == 6 * FUNCTIONS[name].timeout_s
