"""Moves the alias `live` to a new version by canary, and back when an alarm is raised.

Before any traffic moves, infra/hooks/release_check.py calls the new version once; CodeDeploy rolls back if it reports a
failure.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_codedeploy as codedeploy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.catalog import SWEEPS, FunctionName
from infra.config import StageSettings
from infra.constructs.alarms import crash_alarm
from infra.constructs.python_function import RUNTIME_REASON, PythonFunction, retention_of
from infra.constructs.waivers import waive
from infra.hooks import release_check

HOOK_PREFIX = "CodeDeployHook_"
"""Prefix of the names of functions that the managed policy of CodeDeploy's role lets it call."""
_NOBODY = "00000000-0000-7000-8000-000000000000"
_CHECK_TIMEOUT = Duration.seconds(60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """An event that changes nothing, and the values that members of a working version's answer may have."""

    event: Mapping[str, Any]
    expected: Mapping[str, Sequence[Any]]


def _request(method: str, path: str, *statuses: int) -> Check:
    http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "release"}
    gateway = {"requestId": "release-check", "routeKey": "$default", "stage": "$default", "http": http}
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "localhost", "accept": "application/json"},
        "requestContext": {**gateway, "domainName": "localhost", "timeEpoch": 0},
        "isBase64Encoded": False,
    }
    return Check(event=event, expected={"statusCode": statuses})


def _message(body: str) -> Check:
    record = {
        "messageId": "release-check",
        "receiptHandle": "release-check",
        "body": body,
        "attributes": {"ApproximateReceiveCount": "1"},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:release-check",
        "awsRegion": "us-east-1",
    }
    return Check(event={"Records": [record]}, expected={"batchItemFailures": [[]]})


_EMPTY_BATCH = Check(event={"Records": []}, expected={"batchItemFailures": [[]]})
_CHECKS = {
    # Behind CloudFront the API asks for its secret header, which this call has not: 403 is the app's own answer.
    FunctionName.API: _request("GET", "/api/health", 200, 403),
    FunctionName.AGENT_STREAM: _request("GET", "/health", 200),
    FunctionName.BILLING_WEBHOOK: _request("GET", "/webhooks/stripe", 405),
    FunctionName.REALTIME: Check(
        event={"requestContext": {"routeKey": "$disconnect", "connectionId": "release-check", "requestId": "release"}},
        expected={"statusCode": [200]},
    ),
    # Powertools refuses a batch of nothing: messages about a run, a file and an account that there are not.
    FunctionName.RUNS: _message(json.dumps({"user_id": "release-check", "run_id": "release-check"})),
    FunctionName.FILES: _message(json.dumps({"device_id": _NOBODY, "file_id": _NOBODY})),
    FunctionName.PREVIEWS: _message(json.dumps({"device_id": _NOBODY, "file_id": _NOBODY})),
    FunctionName.SEGMENTS: _message(json.dumps({"user_id": _NOBODY, "instead_of": ""})),
    FunctionName.DELETION: _message(_NOBODY),
    # A device with a certificate that is nobody's claim: it is let in by none.
    FunctionName.PROVISIONING: Check(
        event={
            "templateArn": "arn:aws:iot:us-east-1:000000000000:provisioningtemplate/release-check",
            "certificateId": "release-check",
            "claimCertificateId": "release-check",
            "parameters": {"SerialNumber": "release-check"},
        },
        expected={"allowProvisioning": [False]},
    ),
    # What the next minute's call would do, only sooner.
    **{name: Check(event={"sweep": sweep}, expected={}) for sweep, name in SWEEPS.items()},
}


def check_of(name: FunctionName) -> Check:
    """Return the check of a function's new version; consumers of batches get an empty batch."""
    return _CHECKS.get(name, _EMPTY_BATCH)


class CanaryReleases(Construct):
    """One CodeDeploy application and role; a deployment group and a check for each function."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: StageSettings) -> None:
        super().__init__(scope, construct_id)
        self._settings = settings
        self._application = codedeploy.LambdaApplication(self, "Application")
        role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("codedeploy.amazonaws.com"))
        role.add_managed_policy(
            iam.ManagedPolicy.from_aws_managed_policy_name("service-role/AWSCodeDeployRoleForLambdaLimited")
        )
        waive(
            role,
            "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AWSCodeDeployRoleForLambdaLimited]",
            "AWS keeps this policy in step with what CodeDeploy does to aliases; it is its narrow variant",
        )
        self._role = role.without_policy_updates()

    def add(self, function: PythonFunction, *, alarms: Sequence[cloudwatch.IAlarm] = ()) -> None:
        """Release a function by canary: a tenth of the traffic for five minutes, rolled back on an alarm."""
        if function.alias is None:
            return
        label = function.spec.name.label
        group = codedeploy.LambdaDeploymentGroup(
            self,
            label,
            application=self._application,
            alias=function.alias,
            role=self._role,
            deployment_config=codedeploy.LambdaDeploymentConfig.CANARY_10_PERCENT_5_MINUTES,
            alarms=[crash_alarm(self, f"{label}Crashes", function), *alarms],
            auto_rollback=codedeploy.AutoRollbackConfig(
                failed_deployment=True, stopped_deployment=True, deployment_in_alarm=True
            ),
        )
        group.add_pre_hook(
            PreTrafficCheck(self, f"{label}Check", settings=self._settings, function=function, group=group).hook
        )


class PreTrafficCheck(Construct):
    """The function that checks another function's new version."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: StageSettings,
        function: PythonFunction,
        group: codedeploy.LambdaDeploymentGroup,
    ) -> None:
        super().__init__(scope, construct_id)
        version = function.function.current_version.function_arn
        log_group = logs.LogGroup(
            self,
            "Logs",
            retention=retention_of(settings),
            removal_policy=RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY,
        )
        allowed = (
            ("lambda:InvokeFunction", version),
            ("codedeploy:PutLifecycleEventHookExecutionStatus", group.deployment_group_arn),
            ("logs:CreateLogStream", log_group.log_group_arn),
            ("logs:PutLogEvents", log_group.log_group_arn),
        )
        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            inline_policies={
                "check": iam.PolicyDocument(
                    statements=[iam.PolicyStatement(actions=[action], resources=[arn]) for action, arn in allowed]
                )
            },
        )
        check = check_of(function.spec.name)
        self.hook = lambda_.Function(
            self,
            "Function",
            function_name=f"{HOOK_PREFIX}{settings.stack_prefix}-{function.spec.name.label}",
            description=f"Tries a new version of {function.spec.name} ({settings.stage})",
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler="index.lambda_handler",
            code=lambda_.Code.from_inline(Path(release_check.__file__).read_text(encoding="utf-8")),
            timeout=_CHECK_TIMEOUT,
            memory_size=256,
            role=role.without_policy_updates(),
            log_group=log_group,
            logging_format=lambda_.LoggingFormat.JSON,
            environment={
                "VERSION_ARN": version,
                "EVENT": json.dumps(check.event),
                "EXPECTED": json.dumps(check.expected),
            },
        )
        for rule in ("AwsSolutions-L1", "Serverless-LambdaLatestVersion"):
            waive(self.hook, rule, RUNTIME_REASON)
        waive(self.hook, "Serverless-LambdaDLQ", "CodeDeploy waits for its report; none is a failed release")
        waive(self.hook, "Serverless-LambdaTracing", "it runs once a release")
