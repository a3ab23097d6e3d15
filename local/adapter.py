"""The only code that knows the quirks of the embedded engine (MiniStack 1.5.33).

What it does beyond CloudFormation:

| quirk | what is done here |
| --- | --- |
| asset buckets do not exist | made, and archives uploaded under the names that the templates use |
| time to live of tables is dropped from templates | `UpdateTimeToLive` after deployment |
| CORS of HTTP APIs is dropped | `UpdateApi` after deployment |
| stream mappings skip records after a restart of the engine | deleted and made anew, from the oldest record |
| every request in flight starts a function instance, which takes about a second | `warm` calls each function once, |
| | queue mappings run two batches at a time, `local.front` lets two requests through, a schedule has one |
| | instance: on a slow machine a sweep would begin every minute beside those that have not ended |
| `iot:AttachPolicy`, `iot:DetachPolicy` and `ses:SendEmail` are checked against `*`, not the certificate or the
| | identity | roles that may do so get that |
| `SendMessageBatch` is checked as an action of its own, where AWS asks for `sqs:SendMessage` | granted with it |
| queues are known by their URL, with the engine's port | `move_state` rewrites the saved state for another port |
| hosts such as `<api>.execute-api.localhost` do not resolve | addresses by path |
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from local.engine import MiniStack
from local.stacks import AT_ONCE, RUNS_AT_ONCE, StackFiles, Stacks
from local.upstream import Upstream

_WEBSOCKET_API, _WEBSOCKET_STAGE = "4b617277", "live"
_TABLE_TYPES = ("AWS::DynamoDB::Table", "AWS::DynamoDB::GlobalTable")


class Adapter(Stacks):
    """Deploys synthesized stacks to one embedded engine."""

    def __init__(self, engine: MiniStack, *, access_key: str = "test") -> None:
        super().__init__(engine, access_key=access_key)
        self._ministack = engine

    def before_start(self) -> None:
        """Adapt the saved state to the engine's port."""
        move_state(self._ministack)

    def after_restart(self) -> None:
        """Let streams be read again."""
        self.resume_streams()

    # What templates say and the engine does not hear

    def _complete(self, stack: StackFiles) -> None:
        physical = self._physical_ids(stack.name)
        for logical, schedules in scheduled_functions(stack.template).items():
            self.client("lambda").put_function_concurrency(
                FunctionName=physical[logical], ReservedConcurrentExecutions=schedules
            )
        for logical, resource in stack.template["Resources"].items():
            properties = resource.get("Properties", {})
            if resource["Type"] in _TABLE_TYPES and "TimeToLiveSpecification" in properties:
                self._set_time_to_live(physical[logical], properties["TimeToLiveSpecification"]["AttributeName"])
            if resource["Type"] == "AWS::ApiGatewayV2::Api" and "CorsConfiguration" in properties:
                self.client("apigatewayv2").update_api(
                    ApiId=physical[logical], CorsConfiguration=properties["CorsConfiguration"]
                )
            if resource["Type"] == "AWS::Lambda::EventSourceMapping" and "ScalingConfig" in properties:
                at_once = RUNS_AT_ONCE if "Executions" in json.dumps(properties["EventSourceArn"]) else AT_ONCE
                self.client("lambda").update_event_source_mapping(
                    UUID=physical[logical], ScalingConfig={"MaximumConcurrency": at_once}
                )
            if resource["Type"] == "AWS::IAM::Role":
                self._widen_grants(physical[logical], properties)

    def _set_time_to_live(self, table: str, attribute: str) -> None:
        dynamodb = self.client("dynamodb")
        current = dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
        if current.get("TimeToLiveStatus") != "ENABLED":
            dynamodb.update_time_to_live(
                TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": attribute}
            )

    def _widen_grants(self, role: str, properties: Mapping[str, Any]) -> None:
        granted = {
            action
            for policy in properties.get("Policies", [])
            for statement in policy["PolicyDocument"]["Statement"]
            for action in _listed(statement["Action"])
        }
        wider = granted & {"iot:AttachPolicy", "iot:DetachPolicy", "ses:SendEmail"}
        if "sqs:SendMessage" in granted:
            wider.add("sqs:SendMessageBatch")
        if wider:
            statement = {"Effect": "Allow", "Action": sorted(wider), "Resource": "*"}
            self.client("iam").put_role_policy(
                RoleName=role,
                PolicyName="local-engine",
                PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
            )

    def resume_streams(self) -> int:
        """Create the mappings of DynamoDB streams again, as needed after a restart of the engine; return their number.

        The engine forgets stream records when it stops but remembers how many a mapping had read, and would skip as
        many of the new ones.
        """
        functions = self.client("lambda")
        found = 0
        for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
            if ":dynamodb:" not in mapping["EventSourceArn"]:
                continue
            kept = {
                name: mapping[name]
                for name in (
                    "EventSourceArn",
                    "BatchSize",
                    "MaximumBatchingWindowInSeconds",
                    "BisectBatchOnFunctionError",
                    "MaximumRetryAttempts",
                    "MaximumRecordAgeInSeconds",
                    "FunctionResponseTypes",
                    "DestinationConfig",
                    "FilterCriteria",
                )
                if mapping.get(name)
            }
            functions.delete_event_source_mapping(UUID=mapping["UUID"])
            functions.create_event_source_mapping(
                FunctionName=mapping["FunctionArn"], StartingPosition="TRIM_HORIZON", **kept
            )
            found += 1
        return found

    # Functions

    def function_credentials(self, name: str) -> dict[str, str]:
        """Return the credentials under which the engine itself runs a function, as environment variables.

        The function has to have been invoked since the engine started. They are derived from the function and its
        role (`ministack.core.lambda_runtime.execution_credentials`), do not expire, and carry the role's grants.
        """
        configuration = self.client("lambda").get_function_configuration(FunctionName=name)
        digest = hashlib.sha256(f"{configuration['FunctionArn']}:{configuration['Role']}".encode()).hexdigest()
        return {
            "AWS_ACCESS_KEY_ID": f"ASIA{digest[:16].upper()}",
            "AWS_SECRET_ACCESS_KEY": hashlib.sha256(f"secret:{digest}".encode()).hexdigest(),
            "AWS_SESSION_TOKEN": hashlib.sha256(f"token:{digest}".encode()).hexdigest(),
        }

    # Addresses

    def api(self, outputs: Mapping[str, str]) -> Upstream:
        """Return the address of the API."""
        return Upstream(self.http_api_url(outputs["ApiId"]))

    def billing_webhook(self, outputs: Mapping[str, str]) -> Upstream:
        """Return the address of Stripe's webhook."""
        return Upstream(self.http_api_url(outputs["BillingWebhookApiId"]))

    def stage_settings(self) -> dict[str, object]:
        """Return the settings of the broker and of the WebSocket API, whose id is fixed."""
        engine = self._ministack
        return {
            "mqtt_host": engine.mqtt_host,
            "mqtt_port": engine.mqtt_port,
            "mqtt_ca_pem": engine.ca_path.read_text(),
            "iot_data_endpoint": engine.endpoint_url,
            "execution_workers": RUNS_AT_ONCE,
            "websocket_url": self.websocket_url(_WEBSOCKET_API, _WEBSOCKET_STAGE),
        }

    def http_api_url(self, api_id: str) -> str:
        """Return the engine's URL of an HTTP API's `$default` stage, without a trailing slash."""
        return f"{self._engine.endpoint_url}/_aws/execute-api/{api_id}/$default"

    def websocket_url(self, api_id: str, stage: str) -> str:
        """Return the engine's URL of a WebSocket API."""
        return f"ws://localhost:{self._ministack.port}/_aws/execute-api/{api_id}/{stage}"


def scheduled_functions(template: Mapping[str, Any]) -> Counter[str]:
    """Return the number of schedules that call each function of a template, by logical id."""
    resources: Mapping[str, Any] = template["Resources"]
    targets = [
        target["Arn"]
        for resource in resources.values()
        for properties in [resource.get("Properties", {})]
        if resource["Type"] in ("AWS::Events::Rule", "AWS::Scheduler::Schedule")
        if "ScheduleExpression" in properties
        for target in [*properties.get("Targets", []), *filter(None, [properties.get("Target")])]
    ]
    named = Counter(arn["Fn::GetAtt"][0] for arn in targets if isinstance(arn, dict) and "Fn::GetAtt" in arn)
    return Counter({name: n for name, n in named.items() if resources[name]["Type"] == "AWS::Lambda::Function"})


def move_state(engine: MiniStack) -> None:
    """Adapt the saved state of an engine that is about to start to its port, if that has changed.

    The engine stores queues under their URLs, and copies those into mappings, rules and functions' variables.
    """
    marker = engine.places.state / "engine-port"
    was = marker.read_text() if marker.exists() else ""
    if was and was != str(engine.port):
        for file in (engine.places.state / "engine").glob("*.json"):
            text = file.read_text()
            moved = re.sub(rf"\b(localhost|127\.0\.0\.1):{was}\b", rf"\g<1>:{engine.port}", text)
            if moved != text:
                file.write_text(moved)
    marker.write_text(str(engine.port))


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value
