"""Roles as AWS would have them, and the engine's judgement of what they allow.

Intrinsic functions are resolved to names and ARNs made of logical ids, by the rules of each resource type; so the table
that a function's variable names and the table that its role names are one only if the template says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from infra.catalog import FunctionName
from tests.infra.synthesized import Json, Synthesized
from tests.support.recorded_calls.needs import ANY, Need

ACCOUNT = "123456789012"
REGION = "us-east-1"
_PSEUDO = {"AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT, "AWS::URLSuffix": "amazonaws.com"}


def _arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


_REFS: dict[str, Callable[[str, Json], str]] = {
    "AWS::SQS::Queue": lambda logical, _: f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{logical}",
    "AWS::SecretsManager::Secret": lambda logical, _: _arn("secretsmanager", f"secret:{logical}-AbCdEf"),
    "AWS::SES::EmailIdentity": lambda _, properties: str(properties["EmailIdentity"]),
}
"""Values of `Ref` by resource type, where that is not the name, which is the logical id here."""
_ATTRIBUTES: dict[tuple[str, str], Callable[[str], str]] = {
    ("AWS::DynamoDB::Table", "Arn"): lambda logical: _arn("dynamodb", f"table/{logical}"),
    ("AWS::DynamoDB::Table", "StreamArn"): lambda logical: _arn("dynamodb", f"table/{logical}/stream/2026"),
    ("AWS::SQS::Queue", "Arn"): lambda logical: _arn("sqs", logical),
    ("AWS::S3::Bucket", "Arn"): lambda logical: f"arn:aws:s3:::{logical}",
    ("AWS::SecretsManager::Secret", "Id"): lambda logical: _arn("secretsmanager", f"secret:{logical}-AbCdEf"),
    ("AWS::IAM::Role", "Arn"): lambda logical: f"arn:aws:iam::{ACCOUNT}:role/{logical}",
    ("AWS::Logs::LogGroup", "Arn"): lambda logical: _arn("logs", f"log-group:{logical}:*"),
}


def resolve(synthesized: Synthesized, part: str, value: Any) -> str:
    """Answer what CloudFormation would put in the place of a value of a stack."""
    if not isinstance(value, dict):
        return str(value)
    ((function, argument),) = value.items()
    resources = synthesized.templates[part]["Resources"]
    match function:
        case "Ref" if argument in _PSEUDO:
            return _PSEUDO[argument]
        case "Ref":
            kind = resources[argument]["Type"]
            answer_ref = _REFS.get(kind)
            return answer_ref(argument, resources[argument].get("Properties", {})) if answer_ref else str(argument)
        case "Fn::GetAtt":
            logical, attribute = argument
            answer = _ATTRIBUTES.get((resources[logical]["Type"], attribute))
            return answer(logical) if answer else f"{logical}.{attribute}"
        case "Fn::Join":
            separator, items = argument
            joined: str = separator.join(resolve(synthesized, part, item) for item in items)
            return joined
        case "Fn::ImportValue":
            source = argument.partition(":")[0].rpartition("-")[2]
            outputs = synthesized.templates[source]["Outputs"].values()
            (found,) = [item["Value"] for item in outputs if item.get("Export", {}).get("Name") == argument]
            return resolve(synthesized, source, found)
        case "Fn::Select":
            index, items = argument
            return resolve(synthesized, part, items[int(index)])
    raise AssertionError(f"unexpected {function}: {argument}")


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class Asked:
    """Action on an ARN that a role needs, and the resource's name for people."""

    action: str
    arn: str
    name: str

    def __str__(self) -> str:
        return f"{self.action} on {self.name}"


@dataclass(frozen=True)
class Role:
    """A function's role in one stage, resolved, and the calls that others than its code make with it."""

    function: FunctionName
    environment: dict[str, str]
    document: Json
    by_service: tuple[Asked, ...]

    def asked(self, needs: Iterable[Need]) -> list[Asked]:
        """Return recorded needs as actions on ARNs of this stage, without those of resources that it lacks."""
        found = [(need, self._arn(need.resource)) for need in sorted(needs)]
        return [Asked(need.action, arn, need.resource) for need, arn in found if arn]

    def _arn(self, resource: str) -> str:
        kind, _, name = resource.partition("/")
        variable = name.partition("/")[0].upper().replace("-", "_")
        match kind:
            case "table":
                return _arn("dynamodb", f"table/{self.environment[f'{variable}_TABLE']}")
            case "index":
                index = name.partition("/")[2]
                return _arn("dynamodb", f"table/{self.environment[f'{variable}_TABLE']}/index/{index}")
            case "queue":
                return _arn("sqs", self.environment[f"{variable}_QUEUE_URL"].rpartition("/")[2])
            case "secret":
                # Empty in a stage that has none.
                return self.environment[f"{variable}_SECRET_ARN"]
            case "key":
                return self.environment["VAULT_KEY_ARN"]
            case "bucket":
                return f"arn:aws:s3:::{self.environment[f'{variable}_BUCKET']}"
            case "object":
                return f"arn:aws:s3:::{self.environment[f'{variable}_BUCKET']}/{name.partition('/')[2]}"
            case "ses" if name == "sender":
                return _arn("ses", f"identity/{self.environment['MAIL_SENDER'].rpartition('@')[2].rstrip('>')}")
            case "ses":
                return _arn("ses", f"configuration-set/{self.environment['MAIL_CONFIGURATION_SET']}")
            case "role":
                return self.environment[f"{variable}_ROLE_ARN"]
            case "thing" | "cert" | "topic" | "job":
                return _arn("iot", resource)
            case "websocket":
                return self._connection({"connections": "DELETE", "messages": "POST"}[name])
            case _ if resource == ANY:
                return ANY
        raise AssertionError(f"no rule makes an ARN of {resource}")

    def _connection(self, verb: str) -> str:
        """Return a connection of the WebSocket API that the variable names; "": the stage has none."""
        host, _, stage = self.environment["WEBSOCKET_URL"].removeprefix("wss://").partition("/")
        api = host.partition(".")[0]
        return _arn("execute-api", f"{api}/{stage}/{verb}/@connections/c1=") if ".execute-api." in host else ""

    def statements(self) -> Iterator[tuple[str, list[str], str]]:
        """Yield Sid, actions and pattern of each statement, once for each of its resources."""
        for statement in self.document["Statement"]:
            for resource in as_list(statement["Resource"]):
                yield statement["Sid"], as_list(statement["Action"]), resource


def roles(synthesized: Synthesized) -> dict[FunctionName, Role]:
    """Return every function's role."""
    return {name: _role(synthesized, name, properties) for name, properties in synthesized.functions().items()}


def _role(synthesized: Synthesized, name: FunctionName, properties: Json) -> Role:
    resources = synthesized.templates["app"]["Resources"]
    role = resources[properties["Role"]["Fn::GetAtt"][0]]["Properties"]
    statements = [
        {
            "Sid": statement["Sid"],
            "Effect": statement["Effect"],
            "Action": as_list(statement["Action"]),
            "Resource": [resolve(synthesized, "app", each) for each in as_list(statement["Resource"])],
        }
        for policy in role["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if {*statement} == {"Sid", "Effect", "Action", "Resource"}
    ]
    assert len(statements) == sum(len(policy["PolicyDocument"]["Statement"]) for policy in role["Policies"]), (
        f"{name}: a statement has a part that nothing here knows how to ask about"
    )
    variables = properties["Environment"]["Variables"]
    return Role(
        function=name,
        environment={variable: resolve(synthesized, "app", value) for variable, value in variables.items()},
        document={"Version": "2012-10-17", "Statement": statements},
        by_service=tuple(_by_service(synthesized, properties)),
    )


POLLER_OF_QUEUE = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
"""Actions of AWSLambdaSQSQueueExecutionRole, without those of logs."""
POLLER_OF_STREAM = ("dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator")
"""Actions of AWSLambdaDynamoDBExecutionRole, without those of logs and `ListStreams`, which has no resource."""
LOGS = ("logs:CreateLogStream", "logs:PutLogEvents")
TRACES = ("xray:PutTraceSegments", "xray:PutTelemetryRecords")


def _by_service(synthesized: Synthesized, properties: Json) -> Iterator[Asked]:
    """Yield the actions that Lambda itself needs of the function's role, each with the property that causes it."""
    logs = _ATTRIBUTES["AWS::Logs::LogGroup", "Arn"](properties["LoggingConfig"]["LogGroup"]["Ref"])
    for action in LOGS:
        yield Asked(action, logs.replace(":*", ":log-stream:one"), "its log group")
    if properties.get("TracingConfig", {}).get("Mode") == "Active":
        for action in TRACES:
            yield Asked(action, ANY, "X-Ray")
    mappings = synthesized.of_type("AWS::Lambda::EventSourceMapping", "app")
    for mapping in (each["Properties"] for each in mappings.values()):
        if _function_of(synthesized, mapping["FunctionName"]) != properties:
            continue
        source = resolve(synthesized, "app", mapping["EventSourceArn"])
        is_queue = source.startswith("arn:aws:sqs:")
        for action in POLLER_OF_QUEUE if is_queue else POLLER_OF_STREAM:
            yield Asked(action, source, "what it is called by")
        if not is_queue:
            yield Asked("dynamodb:ListStreams", ANY, "what it is called by")
        failures = mapping.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
        if failures:
            yield Asked("sqs:SendMessage", resolve(synthesized, "app", failures), "where its failures go")


def _function_of(synthesized: Synthesized, value: Any) -> Json:
    """Return the properties of the function that a reference to it, or to its alias, names."""
    resources = synthesized.templates["app"]["Resources"]
    (found,) = [
        resources[logical]
        for logical in _referred(value)
        if resources.get(logical, {}).get("Type") in ("AWS::Lambda::Function", "AWS::Lambda::Alias")
    ]
    properties: Json = found["Properties"]
    return _function_of(synthesized, properties["FunctionName"]) if "Alias" in found["Type"] else properties


def _referred(value: Any) -> Iterator[str]:
    """Yield the logical ids that a value names, at any depth."""
    match value:
        case {"Ref": logical} | {"Fn::GetAtt": [logical, *_]}:
            yield logical
        case dict():
            for each in value.values():
                yield from _referred(each)
        case list():
            for each in value:
                yield from _referred(each)


class Judge:
    """Asks `iam:SimulateCustomPolicy`: in the engine it is the code that allows or denies calls under `AUTH=true`."""

    def __init__(self, iam: Any) -> None:
        self._iam = iam

    def allowed(self, document: Json, asked: Iterable[Asked]) -> set[Asked]:
        """Return what a policy allows; one request for each ARN."""
        by_arn: dict[str, list[Asked]] = {}
        for each in asked:
            by_arn.setdefault(each.arn, []).append(each)
        text, found = json.dumps(document), set()
        for arn, those in by_arn.items():
            actions = sorted({each.action for each in those})
            answer = self._iam.simulate_custom_policy(PolicyInputList=[text], ActionNames=actions, ResourceArns=[arn])
            decisions = {each["EvalActionName"]: each["EvalDecision"] for each in answer["EvaluationResults"]}
            found |= {each for each in those if decisions[each.action] == "allowed"}
        return found

    def missing(self, role: Role, asked: Iterable[Asked]) -> list[str]:
        """List what is asked of a role and not allowed by it."""
        asked = set(asked)
        return sorted(str(each) for each in asked - self.allowed(role.document, asked))

    def unused(self, role: Role, asked: Iterable[Asked]) -> list[str]:
        """List what a role allows and nobody asks of it: an action of a statement, on one of its resources."""
        asked, found = list(asked), []
        for sid, actions, resource in role.statements():
            statement = {"Sid": sid, "Effect": "Allow", "Action": actions, "Resource": [resource]}
            candidates = [each for each in asked if each.action in actions]
            used = self.allowed({"Version": "2012-10-17", "Statement": [statement]}, candidates)
            found += [f"{each} on {resource}" for each in sorted(set(actions) - {each.action for each in used})]
        return found
