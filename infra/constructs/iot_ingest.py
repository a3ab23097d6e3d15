"""Permissions of devices at the broker, and the rules that send their messages to the ingest queue, asks to another.

Rules forward the unchanged payload in base64, so that a malformed one also becomes a dead letter of its owner, with the
topic, the certificate (`principal()`, by which ingest refuses foreign senders) and the broker's time.
"""

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_iot as iot
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.catalog import FUNCTIONS, FunctionName
from infra.config import StageSettings
from infra.constructs.queue import DeadLetterQueue, WorkQueue
from infra.iot_rules import IOT_RULES, IOT_SELECT, IOT_SQL_VERSION

THING = "${iot:Connection.Thing.ThingName}"


class DevicePolicy(Construct):
    """The policy of all devices: variables bind each connection to its own thing's topics."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: StageSettings) -> None:
        super().__init__(scope, construct_id)
        stack = Stack.of(self)

        def arn(tail: str) -> str:
            return stack.format_arn(service="iot", resource=tail)

        telemetry = f"dt/karma/{THING}/telemetry"
        said = [f"dt/karma/{THING}/*", f"$aws/rules/{settings.basic_ingest_rule}/{telemetry}"]
        # AWS takes a document of 2,048 characters, so what goes either way is one list. A device may thereby also send
        # itself a command or an answer about a file: only it hears that, and no rule takes it from there.
        both = [
            f"cmd/karma/{THING}/*",
            f"file/karma/{THING}/*",
            f"$aws/things/{THING}/jobs/*",
            # Its settings (docs/adr/0080); what it could do to them by other topics of theirs, it can by `update`.
            f"$aws/things/{THING}/shadow/name/settings/*",
            # Requests for a new certificate near the end of the old one, and their answers (docs/adr/0077).
            "$aws/certificates/create-from-csr/*",
            f"$aws/provisioning-templates/{settings.provisioning_template}/*",
        ]
        self.policy = iot.CfnPolicy(
            self,
            "Policy",
            policy_name=f"{settings.stack_prefix}-device",
            policy_document={
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Action": "iot:Connect",
                        "Resource": arn(f"client/{THING}"),
                        "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}},
                    },
                    {
                        "Effect": "Allow",
                        "Action": "iot:Publish",
                        "Resource": [arn(f"topic/{each}") for each in said],
                    },
                    {
                        "Effect": "Allow",
                        "Action": ["iot:Publish", "iot:Receive"],
                        "Resource": [arn(f"topic/{each}") for each in both],
                    },
                    {
                        "Effect": "Allow",
                        "Action": "iot:Subscribe",
                        "Resource": [arn(f"topicfilter/{each}") for each in both],
                    },
                ],
            },
        )
        self.name = self.policy.ref


class IotIngest(Construct):
    """Rules -> SQS -> device_ingest, for asks device_ingest.files; what a rule cannot deliver has its own queue."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: StageSettings) -> None:
        super().__init__(scope, construct_id)
        timeout_s = FUNCTIONS[FunctionName.DEVICE_INGEST].timeout_s
        self.ingest = WorkQueue(self, "Ingest", settings=settings, consumer_timeout_s=timeout_s)
        timeout_s = FUNCTIONS[FunctionName.DEVICE_FILES].timeout_s
        self.asks = WorkQueue(self, "Asks", settings=settings, consumer_timeout_s=timeout_s)
        self.errors = DeadLetterQueue(self, "Errors", settings=settings, redriven=False)
        self.rules: dict[str, str] = {}
        if settings.iot:
            self._add_rules(settings)

    def _add_rules(self, settings: StageSettings) -> None:
        role = iam.Role(
            self,
            "RuleRole",
            assumed_by=iam.ServicePrincipal("iot.amazonaws.com"),
            inline_policies={
                "send": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            actions=["sqs:SendMessage"],
                            resources=[each.queue.queue_arn for each in (self.ingest, self.asks, self.errors)],
                        )
                    ]
                )
            },
        )
        queues = {"ingest": self.ingest.queue, "asks": self.asks.queue}
        for spec in IOT_RULES:
            rule = iot.CfnTopicRule(
                self,
                spec.name.capitalize(),
                rule_name=f"{settings.rule_prefix}_{spec.name}",
                topic_rule_payload=iot.CfnTopicRule.TopicRulePayloadProperty(
                    sql=IOT_SELECT.format(spec.topic_filter),
                    aws_iot_sql_version=IOT_SQL_VERSION,
                    rule_disabled=False,
                    actions=[_send_to(queues[spec.queue], role)],
                    error_action=_send_to(self.errors.queue, role),
                ),
            )
            self.rules[spec.name] = rule.ref


def _send_to(queue: sqs.IQueue, role: iam.IRole) -> iot.CfnTopicRule.ActionProperty:
    return iot.CfnTopicRule.ActionProperty(
        sqs=iot.CfnTopicRule.SqsActionProperty(queue_url=queue.queue_url, role_arn=role.role_arn, use_base64=False)
    )
