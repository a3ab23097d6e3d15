"""Stateful resources: tables, bucket, secrets, the credential vault's key, work queues."""

from aws_cdk import RemovalPolicy
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.catalog import FUNCTIONS, INDEXED_TABLES, STREAMED_TABLES, FunctionName, TableName
from infra.config import StageSettings
from infra.constructs.file_bucket import FileBucket
from infra.constructs.mail_sender import MailSender
from infra.constructs.queue import DeadLetterQueue, WorkQueue
from infra.constructs.secrets import Secrets
from infra.constructs.table import ContextTable
from infra.stacks.base import StageStack


class DataStack(StageStack):
    """Resources that outlive every release of the code."""

    def __init__(self, scope: Construct, *, settings: StageSettings) -> None:
        super().__init__(scope, "data", settings=settings)
        self.tables = {
            name: ContextTable(
                self,
                name.capitalize(),
                settings=settings,
                indexed=name in INDEXED_TABLES,
                streamed=name in STREAMED_TABLES,
            ).table
            for name in TableName
        }
        self.files = FileBucket(self, "Files", settings=settings).bucket
        self.secrets = Secrets(self, "Secrets", settings=settings)
        self.vault_key = kms.Key(
            self,
            "VaultKey",
            description=f"Karma {settings.stage}: wraps the data keys of the credential vault",
            enable_key_rotation=True,
            removal_policy=RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY,
        )
        self.inbox = WorkQueue(
            self, "Inbox", settings=settings, consumer_timeout_s=FUNCTIONS[FunctionName.INBOX].timeout_s
        )
        self.runs = WorkQueue(
            self, "Runs", settings=settings, consumer_timeout_s=FUNCTIONS[FunctionName.RUNS].timeout_s
        )
        self.executions = WorkQueue(
            self, "Executions", settings=settings, consumer_timeout_s=FUNCTIONS[FunctionName.EXECUTION].timeout_s
        )
        self.file_checks = WorkQueue(
            self, "FileChecks", settings=settings, consumer_timeout_s=FUNCTIONS[FunctionName.FILES].timeout_s
        )
        self.mail = WorkQueue(
            self, "Mail", settings=settings, consumer_timeout_s=FUNCTIONS[FunctionName.MAIL].timeout_s
        )
        self.mail_sender = MailSender(self, "MailSender", settings=settings)
        self.deletions = WorkQueue(
            self, "Deletions", settings=settings, consumer_timeout_s=FUNCTIONS[FunctionName.DELETION].timeout_s
        )
        self.router_failures = DeadLetterQueue(self, "RouterFailures", settings=settings, redriven=False)
        self._outputs()

    def _outputs(self) -> None:
        for name, table in self.tables.items():
            self.output(f"Table{name.capitalize()}", table.table_name)
        self.output("BucketName", self.files.bucket_name)
        for secret_name, arn in self.secrets.arns().items():
            label = "".join(part.capitalize() for part in secret_name.split("-"))
            self.output(f"Secret{label}Arn", arn)
        self.output("VaultKeyArn", self.vault_key.key_arn)
        self.output("QueueUrlInbox", self.inbox.queue.queue_url)
        self.output("QueueUrlInboxDlq", self.inbox.dead_letters.queue.queue_url)
        self.output("QueueUrlRuns", self.runs.queue.queue_url)
        self.output("QueueUrlRunsDlq", self.runs.dead_letters.queue.queue_url)
        self.output("QueueUrlExecutions", self.executions.queue.queue_url)
        self.output("QueueUrlExecutionsDlq", self.executions.dead_letters.queue.queue_url)
        self.output("QueueUrlFiles", self.file_checks.queue.queue_url)
        self.output("QueueUrlFilesDlq", self.file_checks.dead_letters.queue.queue_url)
        self.output("QueueUrlMail", self.mail.queue.queue_url)
        self.output("QueueUrlMailDlq", self.mail.dead_letters.queue.queue_url)
        self.output("QueueUrlDeletions", self.deletions.queue.queue_url)
        self.output("QueueUrlDeletionsDlq", self.deletions.dead_letters.queue.queue_url)
        self.output("QueueUrlRouterFailures", self.router_failures.queue.queue_url)
