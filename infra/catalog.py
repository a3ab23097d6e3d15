"""The functions and tables of the backend, as data: stacks wire what is listed here, tests walk it.

Names are those that the code reads: handler paths, environment variables (upper case = field of the function's
settings model). One file of more than 450 lines: it is one table, which is read as a whole.
"""

from dataclasses import dataclass
from enum import StrEnum


class FunctionName(StrEnum):
    """One Lambda a trigger, one for sweeps of like rights; a dotted name is a module of the package before the dot."""

    API = "api"
    AGENT_STREAM = "agent_stream"
    EXECUTION = "agent_stream.execution"
    DEVICE_INGEST = "device_ingest"
    DEVICE_FILES = "device_ingest.files"
    PROVISIONING = "device_ingest.provisioning"
    BILLING_WEBHOOK = "billing_webhook"
    REALTIME = "realtime"
    INBOX = "background.inbox"
    RUNS = "background.runs"
    DELETION = "background.deletion"
    FILES = "background.files"
    PREVIEWS = "previews"
    SEGMENTS = "segments"
    ROUTER = "background.router"
    METRICS = "background.metrics"
    SAMPLES = "background.samples"
    EVENTS = "background.events"
    WORK_ROUTER = "background.work_router"
    IDENTITY_ROUTER = "background.identity_router"
    PUSHES = "background.pushes"
    WEBHOOKS = "background.webhooks"
    MAIL = "background.mail"
    SCHEDULES = "background.schedules"
    TELEMETRY = "background.telemetry"
    QUEUE_SWEEPS = "background.sweeps.queues"
    TABLE_SWEEPS = "background.sweeps.tables"
    FILE_SWEEP = "background.sweeps.files"
    DEVICE_SWEEP = "background.sweeps.devices"
    FIRMWARE_SWEEP = "background.sweeps.firmware"

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
    SEARCH = "search"


INDEXED_TABLES = frozenset(
    {
        TableName.IDENTITY,
        TableName.DEVICES,
        TableName.TELEMETRY,
        TableName.WORK,
        TableName.AGENTS,
        TableName.BILLING,
        TableName.REALTIME,
    }
)
"""Tables with the sparse, overloaded index `gsi1`."""
STREAMED_TABLES = {
    TableName.IDENTITY: "NEW_AND_OLD_IMAGES",
    TableName.DEVICES: "NEW_AND_OLD_IMAGES",
    TableName.WORK: "NEW_AND_OLD_IMAGES",
    TableName.AGENTS: "NEW_AND_OLD_IMAGES",
    TableName.TELEMETRY: "KEYS_ONLY",
}
"""Tables whose streams are read, with what these bring of each change.

Each is read by its router; that of the agents also by what folds runs into figures. A stream has at most two readers.
"""


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
                "SEARCH_TABLE",
                "AUTH_SECRET_ARN",
                "MODEL_ID",
                "INBOX_QUEUE_URL",
                "FILES_BUCKET",
                "FILES_QUEUE_URL",
                "SEGMENTS_QUEUE_URL",
                "INGEST_QUEUE_URL",
                "RUNS_QUEUE_URL",
                "EXECUTIONS_QUEUE_URL",
                "TELEMETRY_QUEUE_URL",
                "MAIL_QUEUE_URL",
                "DELETIONS_QUEUE_URL",
                "WEBHOOKS_QUEUE_URL",
                "DEVICE_POLICY_NAME",
                "CLAIM_POLICY_NAME",
                "PROVISIONING_TEMPLATE",
                "MQTT_HOST",
                "MQTT_PORT",
                "MQTT_CA_PEM",
                "BASIC_INGEST_RULE",
                "IOT_DATA_ENDPOINT",
                "VAULT_KEY_ARN",
                "MCP_LOOPBACK",
                "WEBHOOK_LOOPBACK",
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
            memory_mb=384,  # benchmarks/memory.py measures what it needs; docs/adr/0003-streaming-runtime.md
            snap_start=True,
            streaming=True,
            environment=(
                "IDENTITY_TABLE",
                "DEVICES_TABLE",
                "WORK_TABLE",
                "AGENTS_TABLE",
                "REALTIME_TABLE",
                "BILLING_TABLE",
                "SEARCH_TABLE",
                "FILES_BUCKET",
                "AUTH_SECRET_ARN",
                "MODEL_SECRET_ARN",
                "MODEL_BASE_URL",
                "MODEL_ID",
                "RUNS_QUEUE_URL",
                "EXECUTIONS_QUEUE_URL",
                "SHORT_WORK_QUEUE_URL",
                "EXECUTION_WORKERS",
                "SEGMENTS_QUEUE_URL",
                "INGEST_QUEUE_URL",
                "IOT_DATA_ENDPOINT",
                "VAULT_KEY_ARN",
                "MCP_LOOPBACK",
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
                "IDENTITY_TABLE",
                "DEVICES_TABLE",
                "WORK_TABLE",
                "AGENTS_TABLE",
                "BILLING_TABLE",
                "SEARCH_TABLE",
                "FILES_BUCKET",
                "MODEL_SECRET_ARN",
                "MODEL_BASE_URL",
                "MODEL_ID",
                "RUNS_QUEUE_URL",
                "EXECUTIONS_QUEUE_URL",
                "FREE_RUNS_QUEUE_URL",
                "SHORT_WORK_QUEUE_URL",
                "EXECUTION_WORKERS",
                "SEGMENTS_QUEUE_URL",
                "INGEST_QUEUE_URL",
                "IOT_DATA_ENDPOINT",
                "VAULT_KEY_ARN",
                "MCP_LOOPBACK",
            ),
        ),
        FunctionSpec(
            name=FunctionName.DEVICE_INGEST,
            handler="device_ingest.handler.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("DEVICES_TABLE", "TELEMETRY_TABLE", "WORK_TABLE", "INGEST_QUEUE_URL", "IOT_DATA_ENDPOINT"),
        ),
        FunctionSpec(
            name=FunctionName.DEVICE_FILES,
            handler="device_ingest.files.lambda_handler",
            # Ten asks of some 15 calls each.
            timeout_s=30,
            memory_mb=512,
            environment=(
                "IDENTITY_TABLE",
                "DEVICES_TABLE",
                "BILLING_TABLE",
                "FILES_BUCKET",
                "FILES_QUEUE_URL",
                "IOT_DATA_ENDPOINT",
            ),
        ),
        FunctionSpec(
            name=FunctionName.PROVISIONING,
            handler="device_ingest.provisioning.lambda_handler",
            # AWS IoT waits for 5 seconds; what has begun by then may end: the device finds it when it asks again.
            timeout_s=10,
            memory_mb=1024,
            environment=("IDENTITY_TABLE", "DEVICES_TABLE", "BILLING_TABLE"),
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
            environment=("IDENTITY_TABLE", "REALTIME_TABLE", "DEVICES_TABLE", "WORK_TABLE", "AGENTS_TABLE"),
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
            environment=("AGENTS_TABLE", "BILLING_TABLE", "RUNS_QUEUE_URL", "EXECUTIONS_QUEUE_URL"),
        ),
        FunctionSpec(
            name=FunctionName.FILES,
            handler="background.files.lambda_handler",
            # The largest file, read at 20 MB/s.
            timeout_s=300,
            memory_mb=1769,  # one whole processor: two digests are computed
            environment=("DEVICES_TABLE", "BILLING_TABLE", "FILES_BUCKET", "FILES_QUEUE_URL"),
        ),
        FunctionSpec(
            name=FunctionName.PREVIEWS,
            handler="previews.handler.lambda_handler",
            # The largest file at 20 MB/s, and a child that is killed after 25 s.
            timeout_s=60,
            memory_mb=1024,  # a child of up to 600 MB; docs/adr/0063-previews.md measures it
            environment=("DEVICES_TABLE", "FILES_BUCKET"),
        ),
        FunctionSpec(
            name=FunctionName.SEGMENTS,
            handler="segments.handler.lambda_handler",
            # 500,000 rows: docs/adr/0072-search-segments.md. Nobody else makes the account's segment meanwhile.
            timeout_s=300,
            memory_mb=3008,
            environment=("SEARCH_TABLE", "FILES_BUCKET"),
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
                "SEARCH_TABLE",
                "DELETIONS_QUEUE_URL",
                "EXECUTIONS_QUEUE_URL",
                "FILES_BUCKET",
                "DEVICE_POLICY_NAME",
                "CLAIM_POLICY_NAME",
                "IOT_DATA_ENDPOINT",
                "STRIPE_API_SECRET_ARN",
                "STRIPE_API_BASE",
            ),
        ),
        FunctionSpec(
            name=FunctionName.ROUTER,
            handler="background.router.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=(
                "IDENTITY_TABLE",
                "DEVICES_TABLE",
                "REALTIME_TABLE",
                "SEARCH_TABLE",
                "PUSHES_QUEUE_URL",
                "WEBHOOKS_QUEUE_URL",
                "MAIL_QUEUE_URL",
                "PREVIEWS_QUEUE_URL",
                "FIRES_QUEUE_URL",
            ),
        ),
        FunctionSpec(
            name=FunctionName.WORK_ROUTER,
            handler="background.work_router.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("IDENTITY_TABLE", "WORK_TABLE", "REALTIME_TABLE", "SEARCH_TABLE", "PUSHES_QUEUE_URL"),
        ),
        FunctionSpec(
            name=FunctionName.IDENTITY_ROUTER,
            handler="background.identity_router.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("IDENTITY_TABLE", "REALTIME_TABLE", "PUSHES_QUEUE_URL", "WEBSOCKET_URL"),
        ),
        FunctionSpec(
            name=FunctionName.PUSHES,
            handler="background.pushes.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("REALTIME_TABLE", "WEBSOCKET_URL"),
        ),
        FunctionSpec(
            name=FunctionName.METRICS,
            handler="background.metrics.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("IDENTITY_TABLE", "AGENTS_TABLE"),
        ),
        FunctionSpec(
            name=FunctionName.SAMPLES,
            handler="background.samples.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("TELEMETRY_TABLE",),
        ),
        FunctionSpec(
            name=FunctionName.EVENTS,
            handler="background.events.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=(
                "IDENTITY_TABLE",
                "REALTIME_TABLE",
                "SEARCH_TABLE",
                "WEBHOOKS_QUEUE_URL",
                "PUSHES_QUEUE_URL",
            ),
        ),
        FunctionSpec(
            name=FunctionName.WEBHOOKS,
            handler="background.webhooks.lambda_handler",
            # Attempts begin within 25 s, and take 15 s.
            timeout_s=60,
            memory_mb=512,
            environment=(
                "IDENTITY_TABLE",
                "REALTIME_TABLE",
                "WEBHOOKS_QUEUE_URL",
                "VAULT_KEY_ARN",
                "WEBHOOK_LOOPBACK",
            ),
        ),
        FunctionSpec(
            name=FunctionName.MAIL,
            handler="background.mail.lambda_handler",
            timeout_s=60,
            memory_mb=512,
            environment=("IDENTITY_TABLE", "PUBLIC_URL", "MAIL_SENDER", "MAIL_CONFIGURATION_SET"),
        ),
        FunctionSpec(
            name=FunctionName.SCHEDULES,
            handler="background.schedules.lambda_handler",
            # A fire may wait for MCP servers to list their tools.
            timeout_s=60,
            memory_mb=1024,
            environment=(
                "IDENTITY_TABLE",
                "DEVICES_TABLE",
                "WORK_TABLE",
                "AGENTS_TABLE",
                "BILLING_TABLE",
                "FILES_BUCKET",
                "RUNS_QUEUE_URL",
                "EXECUTIONS_QUEUE_URL",
                "FIRES_QUEUE_URL",
                "INGEST_QUEUE_URL",
                "MODEL_ID",
                "VAULT_KEY_ARN",
                "MCP_LOOPBACK",
            ),
        ),
        FunctionSpec(
            name=FunctionName.TELEMETRY,
            handler="background.telemetry.lambda_handler",
            # Ten hours of a device that sends all it may, or an attempt at an export.
            timeout_s=60,
            memory_mb=1024,
            environment=(
                "TELEMETRY_TABLE",
                "DEVICES_TABLE",
                "WORK_TABLE",
                "BILLING_TABLE",
                "FILES_BUCKET",
                "TELEMETRY_QUEUE_URL",
            ),
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
                "REALTIME_TABLE",
                "TELEMETRY_TABLE",
                "INBOX_QUEUE_URL",
                "MAIL_QUEUE_URL",
                "DELETIONS_QUEUE_URL",
                "INGEST_QUEUE_URL",
                "SHORT_WORK_QUEUE_URL",
                "WEBHOOKS_QUEUE_URL",
                "FIRES_QUEUE_URL",
                "TELEMETRY_QUEUE_URL",
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
            environment=(
                "DEVICES_TABLE",
                "TELEMETRY_TABLE",
                "BILLING_TABLE",
                "WORK_TABLE",
                "FILES_BUCKET",
                "DEVICE_POLICY_NAME",
                "CLAIM_POLICY_NAME",
                "IOT_DATA_ENDPOINT",
            ),
        ),
        FunctionSpec(
            name=FunctionName.FIRMWARE_SWEEP,
            handler="background.sweeps.firmware.lambda_handler",
            timeout_s=50,
            memory_mb=512,
            environment=("DEVICES_TABLE", "FILES_BUCKET", "FIRMWARE_ROLE_ARN"),
        ),
    )
}

SWEEPS: dict[str, FunctionName] = {
    "inbox": FunctionName.QUEUE_SWEEPS,
    "subscriptions": FunctionName.QUEUE_SWEEPS,
    "mail": FunctionName.QUEUE_SWEEPS,
    "deletions": FunctionName.QUEUE_SWEEPS,
    "commands": FunctionName.QUEUE_SWEEPS,
    "bulks": FunctionName.QUEUE_SWEEPS,
    "interrupts": FunctionName.QUEUE_SWEEPS,
    "webhooks": FunctionName.QUEUE_SWEEPS,
    "schedules": FunctionName.QUEUE_SWEEPS,
    "alarms": FunctionName.QUEUE_SWEEPS,
    "rollups": FunctionName.QUEUE_SWEEPS,
    "projects": FunctionName.TABLE_SWEEPS,
    "tasks": FunctionName.TABLE_SWEEPS,
    "runs": FunctionName.TABLE_SWEEPS,
    "files": FunctionName.FILE_SWEEP,
    "orphans": FunctionName.DEVICE_SWEEP,
    "rotations": FunctionName.DEVICE_SWEEP,
    "provisioning": FunctionName.DEVICE_SWEEP,
    "rollouts": FunctionName.FIRMWARE_SWEEP,
}
"""Scheduled sweeps, each with the function that is called every minute with `{"sweep": <name>}`.

Sweeps share a function when they need the same services of AWS (docs/adr/0041).
"""
