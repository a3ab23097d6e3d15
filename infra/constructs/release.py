"""Move the alias `live` to a new version by canary, back on the first sign of trouble."""

from collections.abc import Sequence

from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_codedeploy as codedeploy
from aws_cdk import aws_iam as iam
from constructs import Construct

from infra.constructs.alarms import crash_alarm
from infra.constructs.python_function import PythonFunction
from infra.constructs.waivers import waive


class CanaryReleases(Construct):
    """One CodeDeploy application and role; one deployment group a function."""

    def __init__(self, scope: Construct, construct_id: str) -> None:
        super().__init__(scope, construct_id)
        self._application = codedeploy.LambdaApplication(self, "Application")
        self._role = iam.Role(self, "Role", assumed_by=iam.ServicePrincipal("codedeploy.amazonaws.com"))
        waive(
            self._role,
            "AwsSolutions-IAM4[Policy::arn:<AWS::Partition>:iam::aws:policy/service-role/AWSCodeDeployRoleForLambdaLimited]",
            "AWS keeps this policy in step with what CodeDeploy does to aliases; it is its narrow variant",
        )

    def add(self, function: PythonFunction, *, alarms: Sequence[cloudwatch.IAlarm] = ()) -> None:
        """Release a function by canary: a tenth of the traffic for five minutes, rolled back on an alarm."""
        if function.alias is None:
            return
        codedeploy.LambdaDeploymentGroup(
            self,
            function.spec.name.label,
            application=self._application,
            alias=function.alias,
            role=self._role,
            deployment_config=codedeploy.LambdaDeploymentConfig.CANARY_10_PERCENT_5_MINUTES,
            alarms=[crash_alarm(self, f"{function.spec.name.label}Crashes", function), *alarms],
            auto_rollback=codedeploy.AutoRollbackConfig(
                failed_deployment=True, stopped_deployment=True, deployment_in_alarm=True
            ),
        )
