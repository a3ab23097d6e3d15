"""Fleet provisioning by claim: one policy for all claims, one template, its hook, and the role by which AWS IoT acts.

Whose claim a certificate is, and what it may make, stands in our tables: AWS has 256 templates an account at the most,
and a policy a claim would say nothing that the hook does not decide (docs/adr/0077-provisioning-by-claim.md).
"""

from typing import Any

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_iot as iot
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.config import StageSettings
from infra.constructs.python_function import PythonFunction
from infra.constructs.waivers import waive
from infra.grants import WILDCARDS

CLIENT_IDS = "claim:*"
"""No serial number has a colon, so no connection of a claim ends that of a device."""


class ClaimPolicy(Construct):
    """The policy of all claims' certificates: the topics of fleet provisioning, and nothing else."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: StageSettings) -> None:
        super().__init__(scope, construct_id)
        stack = Stack.of(self)

        def arns(kind: str, *tails: str) -> list[str]:
            return [stack.format_arn(service="iot", resource=f"{kind}/{tail}") for tail in tails]

        asked = (
            "$aws/certificates/create/json",
            "$aws/certificates/create-from-csr/json",
            f"$aws/provisioning-templates/{settings.provisioning_template}/provision/json",
        )
        answered = tuple(f"{each}/{end}" for each in asked for end in ("accepted", "rejected"))
        self.policy = iot.CfnPolicy(
            self,
            "Policy",
            policy_name=f"{settings.stack_prefix}-claim",
            policy_document={
                "Version": "2012-10-17",
                "Statement": [
                    {"Effect": "Allow", "Action": "iot:Connect", "Resource": arns("client", CLIENT_IDS)},
                    {"Effect": "Allow", "Action": "iot:Publish", "Resource": arns("topic", *asked)},
                    {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": arns("topicfilter", *answered)},
                    {"Effect": "Allow", "Action": "iot:Receive", "Resource": arns("topic", *answered)},
                ],
            },
        )
        self.name = self.policy.ref


class FleetProvisioning(Construct):
    """The template by which a device with a claim's certificate gets one of its own, once the hook allows it."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: StageSettings,
        hook: PythonFunction,
        device_policy_name: str,
    ) -> None:
        super().__init__(scope, construct_id)
        stack = Stack.of(self)
        name = settings.provisioning_template
        template_arn = stack.format_arn(service="iot", resource="provisioningtemplate", resource_name=name)
        permission = lambda_.CfnPermission(
            self,
            "HookPermission",
            action="lambda:InvokeFunction",
            principal="iot.amazonaws.com",
            function_name=hook.target.function_arn,
            source_account=stack.account,
            source_arn=template_arn,
        )
        role = self._role(stack)
        template = iot.CfnProvisioningTemplate(
            self,
            "Template",
            template_name=name,
            template_type="FLEET_PROVISIONING",
            enabled=True,
            provisioning_role_arn=role.role_arn,
            pre_provisioning_hook=iot.CfnProvisioningTemplate.ProvisioningHookProperty(
                payload_version="2020-04-01", target_arn=hook.target.function_arn
            ),
            template_body=stack.to_json_string(template_body(device_policy_name, settings.basic_ingest_rule)),
        )
        # AWS IoT asks at the template's creation whether it may call the hook.
        template.node.add_dependency(permission)
        template.node.add_dependency(role)

    def _role(self, stack: Stack) -> iam.Role:
        def arn(tail: str) -> str:
            return stack.format_arn(service="iot", resource=tail)

        role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal(
                "iot.amazonaws.com", conditions={"StringEquals": {"aws:SourceAccount": stack.account}}
            ),
            description="AWS IoT makes things of devices that the hook allows by it",
            inline_policies={
                "provision": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            sid="Things",
                            actions=[
                                "iot:CreateThing",
                                "iot:DescribeThing",
                                "iot:UpdateThing",
                                "iot:ListThingPrincipals",
                                "iot:AttachThingPrincipal",
                            ],
                            resources=[arn("thing/*"), arn("cert/*")],
                        ),
                        iam.PolicyStatement(
                            sid="Certificates",
                            actions=[
                                "iot:DescribeCertificate",
                                "iot:UpdateCertificate",
                                "iot:AttachPolicy",
                                "iot:ListAttachedPolicies",
                            ],
                            resources=[arn("cert/*")],
                        ),
                    ]
                )
            },
        )
        head = "arn:<AWS::Partition>:iot:<AWS::Region>:<AWS::AccountId>:"
        for tail, resource in (("thing/*", "iot/things"), ("cert/*", "iot/certificates")):
            waive(role, f"AwsSolutions-IAM5[Resource::{head}{tail}]", WILDCARDS[resource])
        return role


def template_body(device_policy_name: str, basic_ingest_rule: str) -> dict[str, Any]:
    """Return what AWS IoT makes of a device; both parameters are the hook's, whatever the device has sent."""
    return {
        "Parameters": {"ThingName": {"Type": "String"}, "DeviceId": {"Type": "String"}},
        "Resources": {
            "thing": {
                "Type": "AWS::IoT::Thing",
                "Properties": {
                    "ThingName": {"Ref": "ThingName"},
                    "AttributePayload": {"device_id": {"Ref": "DeviceId"}},
                },
                # There is one already where a device comes again that has died before it had spoken.
                "OverrideSettings": {"AttributePayload": "REPLACE"},
            },
            "certificate": {
                "Type": "AWS::IoT::Certificate",
                "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"},
            },
            "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": device_policy_name}},
        },
        "DeviceConfiguration": {"device_id": {"Ref": "DeviceId"}, "basic_ingest_rule": basic_ingest_rule},
    }
