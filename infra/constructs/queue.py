"""SQS queues: encrypted, with a dead-letter queue and a visibility timeout above the consumer's timeout."""

from aws_cdk import Duration
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.config import StageSettings
from infra.constructs.waivers import waive

VISIBILITY_FACTOR = 6
"""Visibility timeout as a multiple of the consumer's timeout: Lambda's advice, covers retries of throttled batches."""
MAX_RECEIVES = 5
DEAD_LETTER_RETENTION = Duration.days(14)


class DeadLetterQueue(Construct):
    """A queue without a consumer; an alarm is raised as soon as it has a message."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: StageSettings, redriven: bool = True) -> None:
        """Make the queue; `redriven` is false for one that a service fills, not an SQS redrive policy."""
        super().__init__(scope, construct_id)
        self.queue = sqs.Queue(
            self,
            "Queue",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=settings.tls_only,
            retention_period=DEAD_LETTER_RETENTION,
        )
        reason = "it is where undeliverable messages end; ops raises an alarm at the first one"
        waive(self.queue, "Serverless-SQSRedrivePolicy", reason)
        if not redriven:
            waive(self.queue, "AwsSolutions-SQS3", reason)


class WorkQueue(Construct):
    """A queue with one consuming function."""

    def __init__(
        self, scope: Construct, construct_id: str, *, settings: StageSettings, consumer_timeout_s: int
    ) -> None:
        super().__init__(scope, construct_id)
        self.dead_letters = DeadLetterQueue(self, "Dlq", settings=settings)
        self.queue = sqs.Queue(
            self,
            "Queue",
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=settings.tls_only,
            visibility_timeout=Duration.seconds(VISIBILITY_FACTOR * consumer_timeout_s),
            retention_period=Duration.days(4),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letters.queue, max_receive_count=MAX_RECEIVES),
        )
