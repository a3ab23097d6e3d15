"""A DynamoDB table as every context uses it: `pk`/`sk`, on demand, encrypted, expiring by `expires_at`."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from constructs import Construct

from infra.config import StageSettings

EXPIRY_ATTRIBUTE = "expires_at"
INDEX_NAME = "gsi1"


class ContextTable(Construct):
    """One table of a lifecycle; no physical name, so that a replacement never collides."""

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: StageSettings, indexed: bool, stream: str | None
    ) -> None:
        """Build the table; `stream` says what its stream brings of each change: None, it has none."""
        super().__init__(scope, construct_id)
        text = dynamodb.AttributeType.STRING
        self.table = dynamodb.Table(
            self,
            "Table",
            partition_key=dynamodb.Attribute(name="pk", type=text),
            sort_key=dynamodb.Attribute(name="sk", type=text),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.AWS_MANAGED,
            time_to_live_attribute=EXPIRY_ATTRIBUTE,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=settings.point_in_time_recovery
            ),
            deletion_protection=settings.deletion_protection,
            removal_policy=RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY,
            stream=dynamodb.StreamViewType(stream) if stream else None,
        )
        if indexed:
            self.table.add_global_secondary_index(
                index_name=INDEX_NAME,
                partition_key=dynamodb.Attribute(name="gsi1pk", type=text),
                sort_key=dynamodb.Attribute(name="gsi1sk", type=text),
                projection_type=dynamodb.ProjectionType.ALL,
            )
