"""The role by which AWS IoT signs links to releases of firmware when a device asks for the document of its job."""

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.constructs.waivers import waive
from infra.grants import OBJECT_PREFIXES, WILDCARDS

_OBJECTS = "objects/firmware"


class FirmwareReader(Construct):
    """A role that reads releases and nothing else; AWS IoT takes it for our account's jobs alone."""

    def __init__(self, scope: Construct, construct_id: str, *, bucket: s3.IBucket) -> None:
        super().__init__(scope, construct_id)
        stack = Stack.of(self)
        own = {"StringEquals": {"aws:SourceAccount": stack.account}}
        self.role = iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("iot.amazonaws.com", conditions=own),
            description="AWS IoT signs links to releases of firmware by it",
            inline_policies={
                "read": iam.PolicyDocument(
                    statements=[
                        iam.PolicyStatement(
                            actions=["s3:GetObject"],
                            resources=[bucket.arn_for_objects(OBJECT_PREFIXES[_OBJECTS])],
                        )
                    ]
                )
            },
        )
        [name, _] = stack.resolve(bucket.bucket_arn)["Fn::GetAtt"]
        finding = f"Resource::<{name}.Arn>/{OBJECT_PREFIXES[_OBJECTS]}"
        waive(self.role, f"AwsSolutions-IAM5[{finding}]", WILDCARDS[_OBJECTS])
