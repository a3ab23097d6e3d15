"""Operations: alarms with their topic, and a dashboard."""

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.catalog import FunctionName
from infra.config import StageSettings
from infra.constructs.alarms import alarm, business_metric, crash_metric, http_5xx, http_p99, url_5xx
from infra.constructs.waivers import waive
from infra.stacks.app import AppStack
from infra.stacks.base import StageStack
from infra.stacks.data import DataStack
from infra.stacks.devices import DevicesStack

SLOW_API_MS = 3000
ITERATOR_AGE_LIMIT = Duration.minutes(5)
MODEL_CALLERS = (FunctionName.AGENT_STREAM, FunctionName.EXECUTION)
"""Functions that call models."""
BAD_FACTS = (
    (
        "IngestRejected",
        FunctionName.DEVICE_INGEST,
        100,
        "many device messages are refused: a bad firmware, or a foreign sender",
    ),
    (
        "StatementsFailed",
        FunctionName.DEVICE_INGEST,
        100,
        "messages are written one by one, for four times the price: a right is missing, or the table is too busy",
    ),
    (
        "FileAskDropped",
        FunctionName.DEVICE_FILES,
        100,
        "many asks of devices for files are not answered: a bad firmware, or a foreign sender",
    ),
    (
        "ProvisioningRefused",
        FunctionName.PROVISIONING,
        100,
        "many devices do not become anybody's, or get no new certificate: a batch without room, or a stolen claim",
    ),
    ("PushRefused", FunctionName.PUSHES, 1, "API Gateway refuses what is sent to clients: we lack a right"),
    (
        "MailRefused",
        FunctionName.MAIL,
        20,
        "SES takes no mail for many addresses: a robot registers them, or our sender",
    ),
    (
        "UnprovenMailDropped",
        FunctionName.API,
        1,
        "so many registrations that the day's mails to unproven addresses are used up: somebody registers by robots",
    ),
    ("WebhookRejected", FunctionName.BILLING_WEBHOOK, 10, "webhooks fail verification: a rolled secret, or a forger"),
    (
        "BillingUnnamedPrice",
        FunctionName.INBOX,
        1,
        "somebody pays for a price that names no plan, and has nothing of it: GET /billing/inbox?status=unnamed",
    ),
)


class OpsStack(StageStack):
    """Alarms to one topic, and a dashboard. Nothing depends on it."""

    def __init__(
        self, scope: Construct, *, settings: StageSettings, data: DataStack, devices: DevicesStack, app: AppStack
    ) -> None:
        super().__init__(scope, "ops", settings=settings)
        topic = self._topic(settings)
        alarms = [*self._answers(app), *self._leftovers(data, devices), *self._facts(app)]
        for raised in alarms:
            raised.add_alarm_action(actions.SnsAction(topic))
        self._dashboard(settings, app, alarms)
        self.output("AlarmTopicArn", topic.topic_arn)

    def _topic(self, settings: StageSettings) -> sns.Topic:
        key = kms.Key(
            self, "AlarmKey", enable_key_rotation=True, description="Alarm messages on their way to operators"
        )
        # CloudWatch publishes under its own name, so the key must let it in; the service key of SNS does not.
        key.grant_encrypt_decrypt(iam.ServicePrincipal("cloudwatch.amazonaws.com"))
        topic = sns.Topic(self, "Alarms", master_key=key, enforce_ssl=True)
        topic.grant_publish(iam.ServicePrincipal("cloudwatch.amazonaws.com"))
        if settings.overrides.alarm_email:
            subscription = topic.add_subscription(subscriptions.EmailSubscription(settings.overrides.alarm_email))
            waive(
                subscription,
                "Serverless-SNSRedrivePolicy",
                "mail cannot be redriven; an alarm's state stays on the dashboard",
            )
        return topic

    def _answers(self, app: AppStack) -> list[cloudwatch.Alarm]:
        stream = app.functions[FunctionName.AGENT_STREAM]
        return [
            alarm(self, "Api5xx", http_5xx(app.api.api_id), description="The API answers 5xx"),
            alarm(self, "Webhook5xx", http_5xx(app.billing_webhook.api_id), description="Stripe's webhook gets 5xx"),
            alarm(self, "Stream5xx", url_5xx(stream), description="The stream URL answers 5xx"),
            alarm(
                self,
                "ApiSlow",
                http_p99(app.api.api_id),
                description="One API answer in a hundred is slow",
                threshold=SLOW_API_MS,
                periods=5,
            ),
        ]

    def _leftovers(self, data: DataStack, devices: DevicesStack) -> list[cloudwatch.Alarm]:
        queues: dict[str, sqs.Queue] = {
            "Ingest": devices.iot.ingest.dead_letters.queue,
            "Asks": devices.iot.asks.dead_letters.queue,
            "IngestErrors": devices.iot.errors.queue,
            "Inbox": data.inbox.dead_letters.queue,
            "Runs": data.runs.dead_letters.queue,
            "Executions": data.executions.dead_letters.queue,
            "FreeRuns": data.free_runs.dead_letters.queue,
            "ShortWork": data.short_work.dead_letters.queue,
            "Deletions": data.deletions.dead_letters.queue,
            "Fires": data.fires.dead_letters.queue,
            "Telemetry": data.telemetry_jobs.dead_letters.queue,
            "Files": data.file_checks.dead_letters.queue,
            "Previews": data.previews.dead_letters.queue,
            "Segments": data.segments.dead_letters.queue,
            "Mail": data.mail.dead_letters.queue,
            "Webhooks": data.webhooks.dead_letters.queue,
            "Pushes": data.pushes.dead_letters.queue,
            "WorkRouterFailures": data.work_router_failures.queue,
            "IdentityRouterFailures": data.identity_router_failures.queue,
            "EventsFailures": data.events_failures.queue,
            "RouterFailures": data.router_failures.queue,
            "MetricsFailures": data.metrics_failures.queue,
            "SamplesFailures": data.samples_failures.queue,
        }
        return [
            alarm(
                self,
                f"{name}Dlq",
                queue.metric_approximate_number_of_messages_visible(period=Duration.minutes(1), statistic="Maximum"),
                description=f"{name}: messages that nobody could handle",
            )
            for name, queue in queues.items()
        ]

    def _facts(self, app: AppStack) -> list[cloudwatch.Alarm]:
        found = [
            alarm(
                self,
                name,
                app.functions[function].target.metric("IteratorAge", statistic="Maximum", period=Duration.minutes(1)),
                description=meaning,
                threshold=ITERATOR_AGE_LIMIT.to_milliseconds(),
            )
            for name, function, meaning in (
                ("RouterLag", FunctionName.ROUTER, "The router falls behind the devices table's stream"),
                ("MetricsLag", FunctionName.METRICS, "The figures of runs fall behind the agents table's stream"),
                ("EventsLag", FunctionName.EVENTS, "Events fall behind the agents table's stream"),
                ("SamplesLag", FunctionName.SAMPLES, "Late samples are missing in rollups that are read"),
                ("WorkRouterLag", FunctionName.WORK_ROUTER, "The router falls behind the work table's stream"),
                ("IdentityRouterLag", FunctionName.IDENTITY_ROUTER, "Ended sessions are noticed late"),
            )
        ]
        found += [
            alarm(self, f"{name.label}Crash", crash_metric(function), description=f"{name} crashed: a bug")
            for name, function in app.functions.items()
        ]
        found += [
            alarm(
                self,
                name,
                business_metric(name, service, period=Duration.minutes(5)),
                description=meaning,
                threshold=limit,
            )
            for name, service, limit, meaning in BAD_FACTS
        ]
        return found

    def _dashboard(self, settings: StageSettings, app: AppStack, alarms: list[cloudwatch.Alarm]) -> None:
        functions = app.functions.values()
        board = cloudwatch.Dashboard(self, "Dashboard", dashboard_name=f"{settings.stack_prefix}")
        board.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", alarms=list(alarms), width=24, height=4))
        board.add_widgets(
            cloudwatch.GraphWidget(title="API: 5xx", left=[http_5xx(app.api.api_id)], right=[http_p99(app.api.api_id)]),
            cloudwatch.GraphWidget(title="Stream URL: 5xx", left=[url_5xx(app.functions[FunctionName.AGENT_STREAM])]),
            cloudwatch.GraphWidget(title="Crashes", left=[crash_metric(function) for function in functions]),
        )
        board.add_widgets(
            cloudwatch.GraphWidget(
                title="Invocations", left=[function.target.metric_invocations() for function in functions]
            ),
            cloudwatch.GraphWidget(
                title="Duration p99", left=[function.target.metric_duration(statistic="p99") for function in functions]
            ),
            cloudwatch.GraphWidget(
                title="Throttles", left=[function.target.metric_throttles() for function in functions]
            ),
        )
        board.add_widgets(
            cloudwatch.GraphWidget(
                title="Business", left=[business_metric(name, service) for name, service, _limit, _meaning in BAD_FACTS]
            ),
            _prompt_cache(),
        )


def _prompt_cache() -> cloudwatch.GraphWidget:
    """Return a graph of the tokens that models read, of which those from a provider's cache cost a tenth."""
    period = Duration.minutes(5)
    facts = {"input": "ModelInputTokens", "cached": "ModelCachedTokens", "written": "ModelCacheWrittenTokens"}
    sums = {
        name: cloudwatch.MathExpression(
            expression=" + ".join(f"FILL({name}{each.label}, 0)" for each in MODEL_CALLERS),
            using_metrics={f"{name}{each.label}": business_metric(fact, each, period=period) for each in MODEL_CALLERS},
            label=fact,
            period=period,
        )
        for name, fact in facts.items()
    }
    rate = cloudwatch.MathExpression(
        expression="100 * cached / input",
        using_metrics={"cached": sums["cached"], "input": sums["input"]},
        label="hit rate, %",
        period=period,
    )
    return cloudwatch.GraphWidget(
        title="Prompt cache", left=list(sums.values()), right=[rate], right_y_axis=cloudwatch.YAxisProps(min=0, max=100)
    )
