"""Stateful resources: tables, bucket, secrets, the credential vault's key, work queues."""

from functools import partial

from aws_cdk import RemovalPolicy
from aws_cdk import aws_kms as kms
from constructs import Construct

from infra.catalog import FUNCTIONS, INDEXED_TABLES, STREAMED_TABLES, FunctionName, TableName
from infra.config import StageSettings
from infra.constructs.file_bucket import FileBucket
from infra.constructs.firmware_reader import FirmwareReader
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
                stream=STREAMED_TABLES.get(name),
            ).table
            for name in TableName
        }
        self.files = FileBucket(self, "Files", settings=settings).bucket
        self.firmware_role = FirmwareReader(self, "FirmwareReader", bucket=self.files).role
        self.secrets = Secrets(self, "Secrets", settings=settings)
        self.vault_key = kms.Key(
            self,
            "VaultKey",
            description=f"Karma {settings.stage}: wraps the data keys of the credential vault",
            enable_key_rotation=True,
            removal_policy=RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY,
        )
        work_queue = partial(self._work_queue, settings)
        self.inbox = work_queue("Inbox", FunctionName.INBOX)
        self.runs = work_queue("Runs", FunctionName.RUNS)
        self.executions = work_queue("Executions", FunctionName.EXECUTION)
        self.free_runs = work_queue("FreeRuns", FunctionName.EXECUTION)
        self.short_work = work_queue("ShortWork", FunctionName.EXECUTION)
        self.file_checks = work_queue("FileChecks", FunctionName.FILES)
        self.previews = work_queue("Previews", FunctionName.PREVIEWS)
        self.segments = work_queue("Segments", FunctionName.SEGMENTS)
        self.mail = work_queue("Mail", FunctionName.MAIL)
        self.mail_sender = MailSender(self, "MailSender", settings=settings)
        self.deletions = work_queue("Deletions", FunctionName.DELETION)
        self.webhooks = work_queue("Webhooks", FunctionName.WEBHOOKS)
        self.fires = work_queue("Fires", FunctionName.SCHEDULES)
        self.telemetry_jobs = work_queue("TelemetryJobs", FunctionName.TELEMETRY)
        self.pushes = work_queue("Pushes", FunctionName.PUSHES)
        self._failures(settings)
        self._outputs()

    def _work_queue(self, settings: StageSettings, name: str, consumer: FunctionName) -> WorkQueue:
        return WorkQueue(self, name, settings=settings, consumer_timeout_s=FUNCTIONS[consumer].timeout_s)

    def _failures(self, settings: StageSettings) -> None:
        """Make a queue for the records of each stream's reader that failed each time."""
        self.work_router_failures = DeadLetterQueue(self, "WorkRouterFailures", settings=settings, redriven=False)
        self.identity_router_failures = DeadLetterQueue(
            self, "IdentityRouterFailures", settings=settings, redriven=False
        )
        self.router_failures = DeadLetterQueue(self, "RouterFailures", settings=settings, redriven=False)
        self.metrics_failures = DeadLetterQueue(self, "MetricsFailures", settings=settings, redriven=False)
        self.events_failures = DeadLetterQueue(self, "EventsFailures", settings=settings, redriven=False)
        self.samples_failures = DeadLetterQueue(self, "SamplesFailures", settings=settings, redriven=False)

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
        self.output("QueueUrlFreeRuns", self.free_runs.queue.queue_url)
        self.output("QueueUrlFreeRunsDlq", self.free_runs.dead_letters.queue.queue_url)
        self.output("QueueUrlShortWork", self.short_work.queue.queue_url)
        self.output("QueueUrlShortWorkDlq", self.short_work.dead_letters.queue.queue_url)
        self.output("QueueUrlFiles", self.file_checks.queue.queue_url)
        self.output("QueueUrlFilesDlq", self.file_checks.dead_letters.queue.queue_url)
        self.output("QueueUrlPreviews", self.previews.queue.queue_url)
        self.output("QueueUrlPreviewsDlq", self.previews.dead_letters.queue.queue_url)
        self.output("QueueUrlSegments", self.segments.queue.queue_url)
        self.output("QueueUrlSegmentsDlq", self.segments.dead_letters.queue.queue_url)
        self.output("QueueUrlMail", self.mail.queue.queue_url)
        self.output("QueueUrlMailDlq", self.mail.dead_letters.queue.queue_url)
        self.output("QueueUrlDeletions", self.deletions.queue.queue_url)
        self.output("QueueUrlDeletionsDlq", self.deletions.dead_letters.queue.queue_url)
        self.output("QueueUrlWebhooks", self.webhooks.queue.queue_url)
        self.output("QueueUrlWebhooksDlq", self.webhooks.dead_letters.queue.queue_url)
        self.output("QueueUrlEventsFailures", self.events_failures.queue.queue_url)
        self.output("QueueUrlFires", self.fires.queue.queue_url)
        self.output("QueueUrlFiresDlq", self.fires.dead_letters.queue.queue_url)
        self.output("QueueUrlTelemetry", self.telemetry_jobs.queue.queue_url)
        self.output("QueueUrlTelemetryDlq", self.telemetry_jobs.dead_letters.queue.queue_url)
        self.output("QueueUrlSamplesFailures", self.samples_failures.queue.queue_url)
        self.output("QueueUrlPushes", self.pushes.queue.queue_url)
        self.output("QueueUrlPushesDlq", self.pushes.dead_letters.queue.queue_url)
        self.output("QueueUrlWorkRouterFailures", self.work_router_failures.queue.queue_url)
        self.output("QueueUrlIdentityRouterFailures", self.identity_router_failures.queue.queue_url)
        self.output("QueueUrlRouterFailures", self.router_failures.queue.queue_url)
        self.output("QueueUrlMetricsFailures", self.metrics_failures.queue.queue_url)
