"""The functions and tables of the backend, as data: stacks wire what is listed here, tests walk it.

Names are those that the code reads: handler paths, environment variables (upper case = field of the function's
settings model).
"""

from dataclasses import dataclass
from enum import StrEnum


class FunctionName(StrEnum):
    """One Lambda a trigger, one for sweeps of like rights; a dotted name is a module of the package before the dot."""

    API = "api"
    AGENT_STREAM = "agent_stream"
    EXECUTION = "agent_stream.execution"
    DEVICE_INGEST = "device_ingest"
    BILLING_WEBHOOK = "billing_webhook"
    REALTIME = "realtime"
    INBOX = "background.inbox"
    RUNS = "background.runs"
    DELETION = "background.deletion"
    FILES = "background.files"
    ROUTER = "background.router"
    MAIL = "background.mail"
    QUEUE_SWEEPS = "background.sweeps.queues"
    TABLE_SWEEPS = "background.sweeps.tables"
    FILE_SWEEP = "background.sweeps.files"
    DEVICE_SWEEP = "background.sweeps.devices"

    @property
    def package(self) -> str:
        """Return the folder under `functions/`, which is also the name of the requirement file."""
        return self.partition(".")[0]

    @property
    def label(self) -> str:
        """Return the construct id and suffix of output names, e.g. `BackgroundInbox`."""
        return "".join(part.capitalize() for part in self.replace(".", "_").split("_"))


class TableName(StrEnum):
    """Tables by lifecycle and grants; each has the items of several types."""

    IDENTITY = "identity"
    DEVICES = "devices"
    TELEMETRY = "telemetry"
    WORK = "work"
    AGENTS = "agents"
    BILLING = "billing"
    REALTIME = "realtime"


INDEXED_TABLES = frozenset(
    {
        TableName.IDENTITY,
        TableName.DEVICES,
        TableName.WORK,
        TableName.AGENTS,
        TableName.BILLING,
        TableName.REALTIME,
    }
)
"""Tables with the sparse, overloaded index `gsi1`."""
STREAMED_TABLES = frozenset({TableName.DEVICES})
"""Tables whose streams the router reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """Sizing and environment of one function."""

    name: FunctionName
    handler: str
    timeout_s: int
    memory_mb: int
    environment: tuple[str, ...]
    """Variables besides those that every function has."""
    snap_start: bool = False
    streaming: bool = False


COMMON_ENVIRONMENT = (
    "STAGE",
    "POWERTOOLS_SERVICE_NAME",
    "POWERTOOLS_METRICS_NAMESPACE",
    "POWERTOOLS_LOG_LEVEL",
    "POWERTOOLS_LOGGER_SAMPLE_RATE",
)
METRICS_NAMESPACE = "Karma"
STREAM_WRAPPER = "/var/task/agent_stream/bootstrap"

FUNCTIONS: dict[FunctionName, FunctionSpec] = {
    spec.name: spec
    for spec in (
        FunctionSpec(
            name=FunctionName.API,
            handler="api.handler.lambda_handler",
            timeout_s=29,
            memory_mb=1024,
            snap_start=True,
            environment=(
                "IDENTITY_TABLE",
                "DEVICES_TABLE",
                "TELEMETRY_TABLE",
                "WORK_TABLE",
                "AGENTS_TABLE",
                "BILLING_TABLE",
                "REALTIME_TABLE",
                "AUTH_SECRET_ARN",
                "MODEL_ID",
                "INBOX_QUEUE_URL",
                "FILES_BUCKET",
                "FILES_QUEUE_URL",
                "INGEST_QUEUE_URL",
                "RUNS_QUEUE_URL",
                "EXECUTIONS_QUEUE_URL",
                "MAIL_QUEUE_URL",
                "DELETIONS_QUEUE_URL",
                "DEVICE_POLICY_NAME",
                "MQTT_HOST",
                "MQTT_PORT",
                "MQTT_CA_PEM",
                "BASIC_INGEST_RULE",
                "IOT_DATA_ENDPOINT",
                "WEBSOCKET_URL",
                "ORIGIN_SECRET_ARN",
                "API_URL",
                "FRONTEND_ORIGINS",
                "OAUTH_SECRET_ARN",
                "GITHUB_URL",
                "GITHUB_API_URL",
                "GOOGLE_ISSUER",
            ),
        ),
        FunctionSpec(
            name=FunctionName.AGENT_STREAM,
            handler="agent_stream.app:app",
            timeout_s=900,
            memory_mb=1024,
            snap_start=True,
            streaming=True,
            environment=(
                "IDENTITY_TABLE",
                "DEVICES_TABLE",
                "AGENTS_TABLE",
                "BILLING_TABLE",
                "FILES_BUCKET",
                "AUTH_SECRET_ARN",
                "MODEL_SECRET_ARN",
                "MODEL_BASE_URL",
                "MODEL_ID",
                "RUNS_QUEUE_URL",
                "EXECUTIONS_QUEUE_URL",
                "INGEST_QUEUE_URL",
                "IOT_DATA_ENDPOINT",
                "ORIGIN_SECRET_ARN",
            ),
        ),
        FunctionSpec(
            name=FunctionName.EXECUTION,
            handler="agent_stream.execution.lambda_handler",
            # A run that needs longer hands itself over.
            timeout_s=900,
            memory_mb=1024,
            environment=(
                "DEVICES_TABLE",
                "AGENTS_TABLE",
                "BILLING_TABLE",
                "FILES_BUCKET",
                "MODEL_SECRET_ARN",
                "MODEL_BASE_URL",
                "MODEL_ID",
                "EXECUTIONS_QUEUE_URL",
                "INGEST_QUEUE_URL",
                "IOT_DATA_ENDPOINT",
            ),
        ),
        FunctionSpec(
            name=FunctionName.DEVICE_INGEST,
            handler="device_ingest.handler.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("DEVICES_TABLE", "TELEMETRY_TABLE", "INGEST_QUEUE_URL", "IOT_DATA_ENDPOINT"),
        ),
        FunctionSpec(
            name=FunctionName.BILLING_WEBHOOK,
            handler="billing_webhook.handler.lambda_handler",
            timeout_s=10,
            memory_mb=512,
            environment=("BILLING_TABLE", "INBOX_QUEUE_URL", "STRIPE_WEBHOOK_SECRET_ARN"),
        ),
        FunctionSpec(
            name=FunctionName.REALTIME,
            handler="realtime.handler.lambda_handler",
            timeout_s=10,
            memory_mb=512,
            environment=("IDENTITY_TABLE", "REALTIME_TABLE"),
        ),
        FunctionSpec(
            name=FunctionName.INBOX,
            handler="background.inbox.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=(
                "IDENTITY_TABLE",
                "BILLING_TABLE",
                "PAYMENT_RETRY_DAYS",
                "STRIPE_API_SECRET_ARN",
                "STRIPE_API_BASE",
            ),
        ),
        FunctionSpec(
            name=FunctionName.RUNS,
            handler="background.runs.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("AGENTS_TABLE", "RUNS_QUEUE_URL", "EXECUTIONS_QUEUE_URL"),
        ),
        FunctionSpec(
            name=FunctionName.FILES,
            handler="background.files.lambda_handler",
            # The largest file, read at 20 MB/s.
            timeout_s=300,
            memory_mb=1769,  # one whole processor: two digests are computed
            environment=("DEVICES_TABLE", "BILLING_TABLE", "FILES_BUCKET"),
        ),
        FunctionSpec(
            name=FunctionName.DELETION,
            handler="background.deletion.lambda_handler",
            timeout_s=300,
            memory_mb=512,
            environment=(
                "IDENTITY_TABLE",
                "DEVICES_TABLE",
                "TELEMETRY_TABLE",
                "WORK_TABLE",
                "AGENTS_TABLE",
                "BILLING_TABLE",
                "REALTIME_TABLE",
                "DELETIONS_QUEUE_URL",
                "FILES_BUCKET",
                "DEVICE_POLICY_NAME",
                "STRIPE_API_SECRET_ARN",
                "STRIPE_API_BASE",
            ),
        ),
        FunctionSpec(
            name=FunctionName.ROUTER,
            handler="background.router.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("IDENTITY_TABLE", "DEVICES_TABLE"),
        ),
        FunctionSpec(
            name=FunctionName.MAIL,
            handler="background.mail.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("IDENTITY_TABLE", "PUBLIC_URL", "MAIL_SENDER", "MAIL_CONFIGURATION_SET"),
        ),
        FunctionSpec(
            name=FunctionName.QUEUE_SWEEPS,
            handler="background.sweeps.queues.lambda_handler",
            timeout_s=50,
            memory_mb=512,
            environment=(
                "IDENTITY_TABLE",
                "BILLING_TABLE",
                "DEVICES_TABLE",
                "AGENTS_TABLE",
                "INBOX_QUEUE_URL",
                "MAIL_QUEUE_URL",
                "DELETIONS_QUEUE_URL",
                "INGEST_QUEUE_URL",
            ),
        ),
        FunctionSpec(
            name=FunctionName.TABLE_SWEEPS,
            handler="background.sweeps.tables.lambda_handler",
            timeout_s=50,
            memory_mb=512,
            environment=("WORK_TABLE", "AGENTS_TABLE", "BILLING_TABLE"),
        ),
        FunctionSpec(
            name=FunctionName.FILE_SWEEP,
            handler="background.sweeps.files.lambda_handler",
            timeout_s=50,
            memory_mb=512,
            environment=("DEVICES_TABLE", "BILLING_TABLE", "FILES_BUCKET", "FILES_QUEUE_URL"),
        ),
        FunctionSpec(
            name=FunctionName.DEVICE_SWEEP,
            handler="background.sweeps.devices.lambda_handler",
            timeout_s=50,
            memory_mb=512,
            environment=("DEVICES_TABLE", "TELEMETRY_TABLE", "BILLING_TABLE", "FILES_BUCKET", "DEVICE_POLICY_NAME"),
        ),
    )
}

SWEEPS: dict[str, FunctionName] = {
    "inbox": FunctionName.QUEUE_SWEEPS,
    "subscriptions": FunctionName.QUEUE_SWEEPS,
    "mail": FunctionName.QUEUE_SWEEPS,
    "deletions": FunctionName.QUEUE_SWEEPS,
    "commands": FunctionName.QUEUE_SWEEPS,
    "projects": FunctionName.TABLE_SWEEPS,
    "tasks": FunctionName.TABLE_SWEEPS,
    "runs": FunctionName.TABLE_SWEEPS,
    "files": FunctionName.FILE_SWEEP,
    "orphans": FunctionName.DEVICE_SWEEP,
}
"""Scheduled sweeps, each with the function that is called every minute with `{"sweep": <name>}`.

Sweeps share a function when they need the same services of AWS (docs/adr/0041).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSpec:
    """One IoT rule, with the topic that it selects."""

    name: str
    topic_filter: str


IOT_RULES: tuple[RuleSpec, ...] = (
    RuleSpec(name="data", topic_filter="dt/karma/+/+"),
    RuleSpec(name="ready", topic_filter="cmd/karma/+/ready"),
    RuleSpec(name="response", topic_filter="cmd/karma/+/response"),
    RuleSpec(name="presence", topic_filter="$aws/events/presence/+/+"),
)
IOT_SQL_VERSION = "2016-03-23"
"""Stated because CloudFormation's default is the version of 2015."""
IOT_SELECT = (
    "SELECT encode(*, 'base64') AS payload_b64, topic() AS topic, principal() AS principal, "
    "timestamp() AS received_ms FROM '{}'"
)

STREAM_PATHS = (
    "/api/agent",
    "/api/v1/agent",
    "/api/chat",
    "/api/v1/chat",
    "/api/v1/llm/messages",
    "/api/v1/runs/*/events",
)
"""Paths that CloudFront sends to the stream URL: those that functions/agent_stream serves."""
