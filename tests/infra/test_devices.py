"""IoT rules carry everything to the ingest queue, and asks to their own; a policy binds a device to its own topics."""

import json

import pytest

from infra.catalog import FUNCTIONS, FunctionName
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
    "ask": "file/karma/+/ask",
}


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


def test_the_device_policy_is_bound_to_the_things_own_topics(aws: Synthesized) -> None:
    (policy,) = aws.of_type("AWS::IoT::Policy").values()
    assert policy["Properties"]["PolicyName"] == f"karma-{aws.settings.stage}-device"
    by_action = {item["Action"]: item for item in policy["Properties"]["PolicyDocument"]["Statement"]}
    assert set(by_action) == {"iot:Connect", "iot:Publish", "iot:Subscribe", "iot:Receive"}
    assert by_action["iot:Connect"]["Condition"] == {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}
    for action, statement in by_action.items():
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        for resource in resources:
            text = json.dumps(resource)
            assert "${iot:Connection.Thing.ThingName}" in text, action
            before, _, _ = text.partition("${iot:Connection.Thing.ThingName}")
            assert "*" not in before, action
    published = json.dumps(by_action["iot:Publish"])
    assert "/jobs/*" in published, "what a job did, and what to do next"
    for action in ("iot:Subscribe", "iot:Receive"):
        assert "$aws/things/${iot:Connection.Thing.ThingName}/jobs/*" in json.dumps(by_action[action])
    assert "/request" not in published, "a device sends no requests"
    assert f"$aws/rules/{aws.settings.basic_ingest_rule}/dt/karma/" in published


def test_the_device_policy_has_no_more_characters_than_aws_takes(aws: Synthesized) -> None:
    (policy,) = aws.of_type("AWS::IoT::Policy").values()

    def whole(value: object) -> object:
        """Put the longest names of a partition, a region and an account where CloudFormation does."""
        if isinstance(value, dict) and set(value) == {"Fn::Join"}:
            return "".join(str(whole(each)) for each in value["Fn::Join"][1])
        if isinstance(value, dict) and set(value) == {"Ref"}:
            return {"AWS::Partition": "aws-cn", "AWS::Region": "ap-northeast-1", "AWS::AccountId": "1" * 12}[
                value["Ref"]
            ]
        if isinstance(value, dict):
            return {name: whole(each) for name, each in value.items()}
        return [whole(each) for each in value] if isinstance(value, list) else value

    document = json.dumps(whole(policy["Properties"]["PolicyDocument"]), separators=(",", ":"))
    assert len(document) <= 2_048


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
