"""One Python Lambda function: runtime, layers, log group, role, tracing, version, alias and canary in one place."""

from collections.abc import Mapping

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.artifacts import Artifacts
from infra.catalog import METRICS_NAMESPACE, STREAM_WRAPPER, FunctionSpec
from infra.config import StageSettings
from infra.constructs.layers import Layers
from infra.constructs.roles import FunctionRole
from infra.constructs.waivers import waive
from infra.layers import layer_python

ALIAS = "live"
RUNTIME_REASON = "python3.13 is chosen: wheels and bytecode of the layers are built and tested for it"
NO_ASYNC_REASON = (
    "callers wait for the answer, queues and streams have their own dead letters, "
    "and a lost sweep is made up a minute later"
)


def retention_of(settings: StageSettings) -> logs.RetentionDays:
    """Return the retention of every log group of a stage."""
    days = {1: logs.RetentionDays.ONE_DAY, 14: logs.RetentionDays.TWO_WEEKS, 90: logs.RetentionDays.THREE_MONTHS}
    return days[settings.log_retention_days]


class PythonFunction(Construct):
    """A function of the catalog. Callers use `target`: the alias `live` in released stages, else the function."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        spec: FunctionSpec,
        settings: StageSettings,
        artifacts: Artifacts,
        layers: Layers,
        environment: Mapping[str, str],
        arns: Mapping[str, str],
    ) -> None:
        super().__init__(scope, construct_id)
        self.spec = spec
        log_group = logs.LogGroup(
            self,
            "Logs",
            retention=retention_of(settings),
            removal_policy=RemovalPolicy.RETAIN if settings.retain_data else RemovalPolicy.DESTROY,
        )
        log_arn = log_group.log_group_arn
        role = FunctionRole(self, "Access", name=spec.name, settings=settings, arns=arns, log_group_arn=log_arn)
        code = artifacts.code[spec.name.package]
        unmanaged = spec.streaming and not settings.managed_stream_runtime
        self.function = lambda_.Function(
            self,
            "Function",
            description=f"{spec.name} ({settings.stage})",
            runtime=lambda_.Runtime.PROVIDED_AL2023 if unmanaged else lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler=spec.handler,
            code=lambda_.Code.from_asset(str(code.path), asset_hash=code.digest),
            layers=[] if unmanaged else layers.of(spec.name.package),
            timeout=Duration.seconds(spec.timeout_s),
            memory_size=spec.memory_mb,
            role=role.for_function,
            log_group=log_group,
            logging_format=lambda_.LoggingFormat.JSON,
            system_log_level_v2=lambda_.SystemLogLevel.WARN,
            # The logger decides (POWERTOOLS_LOG_LEVEL, or DEBUG where it is sampled); Lambda drops nothing of it.
            application_log_level_v2=lambda_.ApplicationLogLevel.DEBUG,
            tracing=lambda_.Tracing.ACTIVE if settings.tracing else lambda_.Tracing.DISABLED,
            snap_start=lambda_.SnapStartConf.ON_PUBLISHED_VERSIONS if spec.snap_start and settings.snap_start else None,
            reserved_concurrent_executions=settings.reserved_streams if spec.streaming else None,
            environment={**_environment(spec, settings, unmanaged=unmanaged), **environment},
            current_version_options=lambda_.VersionOptions(removal_policy=RemovalPolicy.RETAIN),
        )
        for rule in ("AwsSolutions-L1", "Serverless-LambdaLatestVersion"):
            waive(self.function, rule, RUNTIME_REASON)
        waive(self.function, "Serverless-LambdaDLQ", NO_ASYNC_REASON)
        if spec.snap_start and settings.released:
            waive(self.function, "@aws-cdk/aws-lambda:snapStartRequirePublish", "the alias publishes each release")
        self.alias: lambda_.Alias | None = None
        self.target: lambda_.IFunction = self.function
        if settings.released:
            self.alias = lambda_.Alias(self, "Live", alias_name=ALIAS, version=self.function.current_version)
            self.target = self.alias


def _environment(spec: FunctionSpec, settings: StageSettings, *, unmanaged: bool) -> dict[str, str]:
    """Return the variables that every function has."""
    return {
        "STAGE": settings.stage.value,
        "POWERTOOLS_SERVICE_NAME": spec.name.value,
        "POWERTOOLS_METRICS_NAMESPACE": METRICS_NAMESPACE,
        "POWERTOOLS_LOG_LEVEL": settings.log_level,
        "POWERTOOLS_LOGGER_SAMPLE_RATE": str(settings.log_sample_rate),
        **({"AWS_LAMBDA_EXEC_WRAPPER": STREAM_WRAPPER} if spec.streaming and not unmanaged else {}),
        **({"KARMA_PYTHON": str(layer_python(settings))} if unmanaged else {}),
    }
