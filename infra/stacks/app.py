"""The code: functions behind their APIs, queues, streams and schedules."""

from aws_cdk import Duration, Fn
from constructs import Construct

from infra.artifacts import Artifacts
from infra.catalog import FUNCTIONS, FunctionName, TableName
from infra.config import StageSettings
from infra.constructs.alarms import alarm, http_5xx, url_5xx
from infra.constructs.edge import Edge
from infra.constructs.fleet_provisioning import FleetProvisioning
from infra.constructs.function_url import FunctionUrl
from infra.constructs.http_api import FunctionHttpApi
from infra.constructs.layers import Layers
from infra.constructs.python_function import PythonFunction
from infra.constructs.release import CanaryReleases
from infra.constructs.triggers import QUEUE_BATCH, QueueTrigger, StreamTrigger, SweepSchedules
from infra.constructs.websocket_api import FunctionWebsocketApi
from infra.grants import OBJECT_PREFIXES
from infra.stacks.base import StageStack
from infra.stacks.data import DataStack
from infra.stacks.devices import DevicesStack
from infra.stream_filters import STREAM_FILTERS

WEBHOOK_PATH = "/webhooks/stripe"
FIGURES_WINDOW = Duration.seconds(30)
"""Time for which a change of a run waits for more: a short run is then counted once, with its end (docs/adr/0054)."""
SHORT_WORKERS = 10
"""Processes for titles and expired questions, of 2 s each: 300 a minute, beside those for runs."""


class AppStack(StageStack):
    """All resources that a release replaces."""

    def __init__(
        self, scope: Construct, *, settings: StageSettings, artifacts: Artifacts, data: DataStack, devices: DevicesStack
    ) -> None:
        super().__init__(scope, "app", settings=settings)
        self._layers = Layers(self, "Layers", settings=settings, artifacts=artifacts)
        arns = _grantable(data, devices)
        values = _environment(settings, data, devices)

        def build(name: FunctionName) -> PythonFunction:
            spec = FUNCTIONS[name]
            return PythonFunction(
                self,
                name.label,
                spec=spec,
                settings=settings,
                artifacts=artifacts,
                layers=self._layers,
                environment={variable: values[variable] for variable in spec.environment},
                arns=arns,
            )

        # The realtime function comes first: the API's environment names the address in front of it.
        realtime = build(FunctionName.REALTIME)
        ids = settings.api_ids
        self.websocket: FunctionWebsocketApi | None = None
        values["WEBSOCKET_URL"] = settings.overrides.websocket_url
        if settings.websockets:
            self.websocket = FunctionWebsocketApi(
                self, "Websocket", settings=settings, target=realtime.target, engine_id=ids.websocket if ids else None
            )
            values["WEBSOCKET_URL"] = settings.overrides.websocket_url or self.websocket.url
            arns["websocket/connections"] = self.websocket.connections_arn
            arns["websocket/messages"] = self.websocket.messages_arn
        self.functions = {name: realtime if name is FunctionName.REALTIME else build(name) for name in FunctionName}

        self._addresses(settings)
        self._triggers(settings, data, devices)
        if settings.iot:
            FleetProvisioning(
                self,
                "Fleet",
                settings=settings,
                hook=self.functions[FunctionName.PROVISIONING],
                device_policy_name=devices.policy_name,
            )
        self._edge(settings, data)
        if settings.released:
            self._releases(settings)
        self._outputs(settings)

    def _addresses(self, settings: StageSettings) -> None:
        ids = settings.api_ids
        self.api = FunctionHttpApi(
            self,
            "Http",
            settings=settings,
            target=self.functions[FunctionName.API].target,
            name="api",
            route="$default",
            cors=True,
            rate_per_s=2000,
            burst=4000,
            open_because="the app checks token or API key on every route that is not public; a test walks all routes",
            engine_id=ids.http if ids else None,
        )
        self.billing_webhook = FunctionHttpApi(
            self,
            "BillingWebhookHttp",
            settings=settings,
            target=self.functions[FunctionName.BILLING_WEBHOOK].target,
            name="billing-webhook",
            route=f"POST {WEBHOOK_PATH}",
            cors=False,
            rate_per_s=200,
            burst=400,
            open_because="Stripe signs each call; the function verifies the signature over the raw bytes",
            engine_id=ids.billing_webhook if ids else None,
        )
        stream_function = self.functions[FunctionName.AGENT_STREAM]
        self.stream = FunctionUrl(
            self, "Stream", settings=settings, target=stream_function.target, streaming=True, cors=True
        )

    def _triggers(self, settings: StageSettings, data: DataStack, devices: DevicesStack) -> None:
        for name, queue, concurrency, batch in (
            (FunctionName.DEVICE_INGEST, devices.iot.ingest.queue, 50, QUEUE_BATCH),
            # A device waits for its answer.
            (FunctionName.DEVICE_FILES, devices.iot.asks.queue, 20, QUEUE_BATCH),
            (FunctionName.INBOX, data.inbox.queue, 5, QUEUE_BATCH),
            (FunctionName.RUNS, data.runs.queue, 20, QUEUE_BATCH),
            # Its time is for one run.
            (FunctionName.EXECUTION, data.executions.queue, settings.overrides.execution_workers, 1),
            # Its time is for one file of the largest size.
            (FunctionName.FILES, data.file_checks.queue, 20, 1),
            # Its time is for one file, and its memory for one child process.
            (FunctionName.PREVIEWS, data.previews.queue, 10, 1),
            # Its time and memory are for one account.
            (FunctionName.SEGMENTS, data.segments.queue, 5, 1),
            (FunctionName.MAIL, data.mail.queue, 5, QUEUE_BATCH),
            (FunctionName.DELETION, data.deletions.queue, 5, QUEUE_BATCH),
            # Its time is for one receiver, who may be slow.
            (FunctionName.WEBHOOKS, data.webhooks.queue, 50, 1),
            # Many schedules name the same minute. A batch is handled one after the other.
            (FunctionName.SCHEDULES, data.fires.queue, 50, 1),
            # A message names up to ten hours or days, or an export to write on for some seconds.
            (FunctionName.TELEMETRY, data.telemetry_jobs.queue, 20, 1),
            # Ten jobs of a hundred connections each.
            (FunctionName.PUSHES, data.pushes.queue, 20, QUEUE_BATCH),
        ):
            QueueTrigger(
                self,
                f"{name.label}Queue",
                function=self.functions[name],
                queue=queue,
                concurrency=concurrency,
                batch=batch,
            )
        # Free accounts, which anybody has as many of as of addresses of mail, never hold the processes of all.
        QueueTrigger(
            self,
            "FreeRunsQueue",
            function=self.functions[FunctionName.EXECUTION],
            queue=data.free_runs.queue,
            concurrency=max(2, settings.overrides.execution_workers // 2),
            batch=1,
        )
        # Titles and expired questions, so that none waits for a process behind runs of minutes (docs/adr/0049).
        QueueTrigger(
            self,
            "ShortWorkQueue",
            function=self.functions[FunctionName.EXECUTION],
            queue=data.short_work.queue,
            concurrency=SHORT_WORKERS,
            batch=1,
        )
        self._streams(data)
        SweepSchedules(self, "Sweeps", functions=self.functions)

    def _streams(self, data: DataStack) -> None:
        self.router_trigger = StreamTrigger(
            self,
            "RouterStream",
            function=self.functions[FunctionName.ROUTER],
            table=data.tables[TableName.DEVICES],
            failures=data.router_failures.queue,
        )
        self.metrics_trigger = StreamTrigger(
            self,
            "MetricsStream",
            function=self.functions[FunctionName.METRICS],
            table=data.tables[TableName.AGENTS],
            failures=data.metrics_failures.queue,
            filters=STREAM_FILTERS[FunctionName.METRICS],
            window=FIGURES_WINDOW,
        )
        self.events_trigger = StreamTrigger(
            self,
            "EventsStream",
            function=self.functions[FunctionName.EVENTS],
            table=data.tables[TableName.AGENTS],
            failures=data.events_failures.queue,
            filters=STREAM_FILTERS[FunctionName.EVENTS],
        )
        self.work_trigger = StreamTrigger(
            self,
            "WorkStream",
            function=self.functions[FunctionName.WORK_ROUTER],
            table=data.tables[TableName.WORK],
            failures=data.work_router_failures.queue,
            filters=STREAM_FILTERS[FunctionName.WORK_ROUTER],
        )
        self.identity_trigger = StreamTrigger(
            self,
            "IdentityStream",
            function=self.functions[FunctionName.IDENTITY_ROUTER],
            table=data.tables[TableName.IDENTITY],
            failures=data.identity_router_failures.queue,
            filters=STREAM_FILTERS[FunctionName.IDENTITY_ROUTER],
        )
        self.samples_trigger = StreamTrigger(
            self,
            "SamplesStream",
            function=self.functions[FunctionName.SAMPLES],
            table=data.tables[TableName.TELEMETRY],
            failures=data.samples_failures.queue,
            filters=STREAM_FILTERS[FunctionName.SAMPLES],
            batch=1_000,
            window=Duration.seconds(10),
        )

    def _edge(self, settings: StageSettings, data: DataStack) -> None:
        self.edge: Edge | None = None
        if settings.edge and data.secrets.origin_header is not None:
            self.edge = Edge(
                self,
                "Edge",
                settings=settings,
                api_host=self.api.host,
                stream_host=self.stream.host,
                header=data.secrets.origin_header,
            )

    def _releases(self, settings: StageSettings) -> None:
        releases = CanaryReleases(self, "Releases", settings=settings)
        stream = self.functions[FunctionName.AGENT_STREAM]
        answers = {
            FunctionName.API: http_5xx(self.api.api_id),
            FunctionName.BILLING_WEBHOOK: http_5xx(self.billing_webhook.api_id),
            FunctionName.AGENT_STREAM: url_5xx(stream),
        }
        for name, function in self.functions.items():
            watched = answers.get(name)
            alarms = (
                [
                    alarm(
                        self,
                        f"{name.label}Release5xx",
                        watched,
                        description=f"{name} answers 5xx during a release",
                        threshold=3,
                    )
                ]
                if watched
                else []
            )
            releases.add(function, alarms=alarms)

    def _outputs(self, settings: StageSettings) -> None:
        if settings.http_apis:
            self.output("ApiId", self.api.api_id)
            self.output("BillingWebhookApiId", self.billing_webhook.api_id)
        self.output("ApiUrl", f"https://{self.api.host}")
        self.output("BillingWebhookUrl", f"https://{self.billing_webhook.host}{WEBHOOK_PATH}")
        if self.websocket is not None:
            self.output("WebsocketApiId", self.websocket.api_id)
            self.output("WebsocketUrl", self.websocket.url)
        self.output("StreamUrl", self.stream.url)
        if self.edge is not None:
            self.output("PublicUrl", self.edge.url)
        for name, function in self.functions.items():
            self.output(f"Function{name.label}", function.function.function_name)
        self.output("RouterMappingId", self.router_trigger.mapping_id)
        self.output("MetricsMappingId", self.metrics_trigger.mapping_id)
        self.output("EventsMappingId", self.events_trigger.mapping_id)
        self.output("SamplesMappingId", self.samples_trigger.mapping_id)
        self.output("WorkRouterMappingId", self.work_trigger.mapping_id)
        self.output("IdentityRouterMappingId", self.identity_trigger.mapping_id)


def _grantable(data: DataStack, devices: DevicesStack) -> dict[str, str]:
    """Return ARNs by the names that `infra/grants.py` uses."""
    arns: dict[str, str] = {
        "queue/inbox": data.inbox.queue.queue_arn,
        "queue/runs": data.runs.queue.queue_arn,
        "queue/executions": data.executions.queue.queue_arn,
        "queue/free-runs": data.free_runs.queue.queue_arn,
        "queue/short-work": data.short_work.queue.queue_arn,
        "queue/deletions": data.deletions.queue.queue_arn,
        "queue/files": data.file_checks.queue.queue_arn,
        "queue/previews": data.previews.queue.queue_arn,
        "queue/segments": data.segments.queue.queue_arn,
        "queue/fires": data.fires.queue.queue_arn,
        "queue/telemetry": data.telemetry_jobs.queue.queue_arn,
        "bucket/files": data.files.bucket_arn,
        # By its export, whose name cdk-nag gives to what it finds.
        **{
            resource: Fn.join("/", [data.export_value(data.files.bucket_arn), keys])
            for resource, keys in OBJECT_PREFIXES.items()
        },
        "queue/mail": data.mail.queue.queue_arn,
        "ses/sender": data.mail_sender.identity_arn,
        "ses/configuration": data.mail_sender.configuration_set_arn,
        "queue/webhooks": data.webhooks.queue.queue_arn,
        "queue/pushes": data.pushes.queue.queue_arn,
        "queue/work-router-failures": data.work_router_failures.queue.queue_arn,
        "queue/identity-router-failures": data.identity_router_failures.queue.queue_arn,
        "queue/events-failures": data.events_failures.queue.queue_arn,
        "queue/metrics-failures": data.metrics_failures.queue.queue_arn,
        "queue/samples-failures": data.samples_failures.queue.queue_arn,
        "queue/router-failures": data.router_failures.queue.queue_arn,
        "key/vault": data.vault_key.key_arn,
        "role/firmware": data.firmware_role.role_arn,
        "queue/asks": devices.iot.asks.queue.queue_arn,
        "queue/ingest": devices.iot.ingest.queue.queue_arn,
    }
    for name, table in data.tables.items():
        arns[f"table/{name}"] = table.table_arn
        arns[f"index/{name}"] = Fn.join("/", [table.table_arn, "index", "gsi1"])
        if table.table_stream_arn:
            arns[f"stream/{name}"] = table.table_stream_arn
    for secret_name, arn in data.secrets.arns().items():
        arns[f"secret/{secret_name}"] = arn
    return arns


def _environment(settings: StageSettings, data: DataStack, devices: DevicesStack) -> dict[str, str]:
    """Return every variable that a function may need, by name; unused optional ones are empty."""
    given = settings.overrides
    secrets = data.secrets.arns()
    return {
        **{f"{name.upper()}_TABLE": table.table_name for name, table in data.tables.items()},
        "AUTH_SECRET_ARN": secrets["auth"],
        "MODEL_SECRET_ARN": secrets["model"],
        "STRIPE_API_SECRET_ARN": secrets["stripe-api"],
        "STRIPE_WEBHOOK_SECRET_ARN": secrets["stripe-webhook"],
        "ORIGIN_SECRET_ARN": secrets.get("origin", ""),
        "INBOX_QUEUE_URL": data.inbox.queue.queue_url,
        "RUNS_QUEUE_URL": data.runs.queue.queue_url,
        "EXECUTIONS_QUEUE_URL": data.executions.queue.queue_url,
        "FREE_RUNS_QUEUE_URL": data.free_runs.queue.queue_url,
        "SHORT_WORK_QUEUE_URL": data.short_work.queue.queue_url,
        "DELETIONS_QUEUE_URL": data.deletions.queue.queue_url,
        "FILES_BUCKET": data.files.bucket_name,
        "FILES_QUEUE_URL": data.file_checks.queue.queue_url,
        "PREVIEWS_QUEUE_URL": data.previews.queue.queue_url,
        "SEGMENTS_QUEUE_URL": data.segments.queue.queue_url,
        "FIRMWARE_ROLE_ARN": data.firmware_role.role_arn,
        "FIRES_QUEUE_URL": data.fires.queue.queue_url,
        "TELEMETRY_QUEUE_URL": data.telemetry_jobs.queue.queue_url,
        "INGEST_QUEUE_URL": devices.iot.ingest.queue.queue_url,
        "WEBHOOKS_QUEUE_URL": data.webhooks.queue.queue_url,
        "PUSHES_QUEUE_URL": data.pushes.queue.queue_url,
        "MAIL_QUEUE_URL": data.mail.queue.queue_url,
        "PUBLIC_URL": settings.public_url,
        "MAIL_SENDER": settings.mail_sender,
        "MAIL_CONFIGURATION_SET": data.mail_sender.configuration_set_name,
        "DEVICE_POLICY_NAME": devices.policy_name,
        "CLAIM_POLICY_NAME": devices.claim_policy_name,
        "PROVISIONING_TEMPLATE": settings.provisioning_template,
        "MQTT_HOST": given.mqtt_host,
        "MQTT_PORT": str(given.mqtt_port),
        "MQTT_CA_PEM": given.mqtt_ca_pem,
        "BASIC_INGEST_RULE": settings.basic_ingest_rule,
        "IOT_DATA_ENDPOINT": given.iot_data_endpoint,
        "MODEL_BASE_URL": given.model_base_url,
        "MODEL_ID": given.model_id,
        "STRIPE_API_BASE": given.stripe_api_base,
        "EXECUTION_WORKERS": str(given.execution_workers),
        "PAYMENT_RETRY_DAYS": str(given.payment_retry_days),
        "API_URL": given.public_api_url or (f"https://{given.public_domain}" if given.public_domain else ""),
        "FRONTEND_ORIGINS": ",".join([*settings.cors_origins, *settings.loopback_origins]),
        "OAUTH_SECRET_ARN": secrets["oauth"],
        "VAULT_KEY_ARN": data.vault_key.key_arn,
        "MCP_LOOPBACK": "1" if settings.loopback_origins else "",
        "WEBHOOK_LOOPBACK": "1" if settings.loopback_origins else "",
        "GITHUB_URL": given.github_url,
        "GITHUB_API_URL": given.github_api_url,
        "GOOGLE_ISSUER": given.google_issuer,
    }
