"""Builds a function's role from its lines of `infra/grants.py`, and from nothing else."""

from collections.abc import Mapping

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.catalog import FunctionName
from infra.config import StageSettings
from infra.constructs.waivers import waive
from infra.grants import EDGE_ONLY, GRANTS, IOT_RESOURCES, WEBSOCKETS_ONLY, WILDCARDS, Grant

TRACING = Grant("any/tracing", ("xray:PutTraceSegments", "xray:PutTelemetryRecords"))
LOGS = Grant("own/logs", ("logs:CreateLogStream", "logs:PutLogEvents"))


def grants_of(name: FunctionName, settings: StageSettings) -> tuple[Grant, ...]:
    """Return the grants of a function in a stage, with the two that every function has."""
    left_out = (frozenset() if settings.edge else EDGE_ONLY) | (frozenset() if settings.websockets else WEBSOCKETS_ONLY)
    listed = tuple(grant for grant in GRANTS[name] if grant.resource not in left_out)
    return (*listed, LOGS, *((TRACING,) if settings.tracing else ()))


class FunctionRole(Construct):
    """Role of one function. CDK's helpers may add nothing to it: `for_function` is the role without policy updates."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: FunctionName,
        settings: StageSettings,
        arns: Mapping[str, str],
        log_group_arn: str,
    ) -> None:
        super().__init__(scope, construct_id)
        grants = grants_of(name, settings)
        stack = Stack.of(self)
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            description=f"{name} ({settings.stage}), from infra/grants.py",
            inline_policies={
                "grants": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            sid=_sid(grant.resource),
                            actions=sorted(grant.actions),
                            resources=_resources(stack, grant.resource, arns, log_group_arn),
                        )
                        for grant in grants
                    ]
                )
            },
        )
        for grant in grants:
            for finding in _findings(stack, grant.resource, arns):
                waive(role, f"AwsSolutions-IAM5[{finding}]", WILDCARDS[grant.resource])
        waive(role, "Serverless-LambdaStarPermissions", "each `*` is listed with its reason in infra/grants.py")
        self.for_function = role.without_policy_updates()


def _sid(resource: str) -> str:
    return "".join(part.capitalize() for part in resource.replace("/", "-").split("-"))


def _resources(stack: Stack, resource: str, arns: Mapping[str, str], log_group_arn: str) -> list[str]:
    kind = resource.partition("/")[0]
    if kind == "any":
        return ["*"]
    if kind == "own":
        return [log_group_arn]
    if kind == "iot":
        return [stack.format_arn(service="iot", resource=tail) for tail in IOT_RESOURCES[resource]]
    return [arns[resource]]


def _findings(stack: Stack, resource: str, arns: Mapping[str, str]) -> list[str]:
    """Return the names that cdk-nag gives to the wildcards of a resource."""
    kind = resource.partition("/")[0]
    if kind == "any":
        return ["Resource::*"]
    if kind == "objects":
        bucket, objects = stack.resolve(arns[resource])["Fn::Join"][1]
        return [f"Resource::{bucket['Fn::ImportValue']}/{objects}"]
    if kind == "websocket":
        parts = stack.resolve(arns[resource])["Fn::Join"][1]
        return ["Resource::" + "".join(part if isinstance(part, str) else f"<{part['Ref']}>" for part in parts)]
    if kind == "iot":
        head = "arn:<AWS::Partition>:iot:<AWS::Region>:<AWS::AccountId>:"
        return [f"Resource::{head}{tail}" for tail in IOT_RESOURCES[resource]]
    return []
