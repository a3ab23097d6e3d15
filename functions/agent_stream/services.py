"""Composition root of the stream function: every object that lives as long as the process, built on first use."""

from __future__ import annotations

import gc
from functools import cache
from typing import TYPE_CHECKING

from agent_stream.settings import ExecutionSettings, Settings
from karma.agents.configurable import built_in_components
from karma.agents.domain import MODELS
from karma.agents.repository import AgentRepository
from karma.agents.service import Catalogue
from karma.billing.allowances import Allowances
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.subscriptions import SubscriptionService
from karma.configuration.current import CurrentConfiguration
from karma.configuration.repository import ConfigurationRepository
from karma.conversations.attachments import Library
from karma.conversations.repository import ThreadRepository
from karma.conversations.title_repository import TitleRepository
from karma.core import aws, secrets
from karma.core.clock import Clock, SystemClock
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.dynamo.leases import DynamoLeases
from karma.core.dynamo.tables import bind_tables
from karma.core.ids import UserId
from karma.core.ratelimit import LocalBuckets
from karma.core.settings import load
from karma.http.admission import Admission
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.limits import OPEN_STREAMS, OpenRequests, Throttle
from karma.identity.sessions.authentication import Authenticator
from karma.identity.sessions.signing_keys import NEWER_MAX_AGE_S, KeyRing
from karma.integrations.anthropic import AnthropicModel
from karma.integrations.fetch import Fetcher
from karma.integrations.openai import OpenAIModel
from karma.integrations.s3 import S3Attachments
from karma.integrations.sqs import SqsQueue
from karma.models.domain import ANTHROPIC, OPENAI
from karma.models.retrying import RetryingModel
from karma.models.router import RoutedModel
from karma.runs.direct import DirectCalls
from karma.runs.execution import Executor
from karma.runs.plan import RunLimits
from karma.runs.reading import RunReader
from karma.runs.repository import RunRepository
from karma.runs.service import RunService
from karma.runs.watchdog import QueuedExecutions, QueueWatchdog
from karma.threads.titles import QueuedTitles, TitleProposals
from karma.tools.device_tools import DeviceServices, DeviceTools

if TYPE_CHECKING:
    from karma.files.reading import FileReader


@cache
def settings() -> Settings:
    """Read the environment of the stream function once, and tell the process which tables it names."""
    loaded = load(Settings)
    bind_tables(loaded)
    return loaded


@cache
def execution_settings() -> ExecutionSettings:
    """Read the part of the environment that executing runs needs, once, as `settings` does."""
    loaded = load(ExecutionSettings)
    bind_tables(loaded)
    return loaded


@cache
def clock() -> Clock:
    """Return the process's clock."""
    return SystemClock()


@cache
def authenticator() -> Authenticator:
    """Return the authenticator of callers."""
    secret_arn = settings().auth_secret_arn
    return Authenticator(
        users=UserRepository(),
        api_keys=ApiKeyRepository(),
        key_ring=lambda: KeyRing.parse(secrets.get(secret_arn)),
        newer_key_ring=lambda: KeyRing.parse(secrets.get(secret_arn, max_age_s=NEWER_MAX_AGE_S)),
        clock=clock(),
    )


@cache
def throttle() -> Throttle:
    """Return the rate limits; only stored rows cost calls, only those by plan read the plan."""
    return Throttle(
        stored=DynamoBuckets(),
        local=LocalBuckets(),
        clock=clock(),
        plan_of=lambda user_id: subscription_service().plan(user_id).name,
    )


@cache
def admission() -> Admission:
    """Let requests in."""
    return Admission(authenticator=authenticator, throttle=throttle, origin_secrets=origin_secrets)


@cache
def open_streams() -> OpenRequests:
    """Return the count of streams that each account has open."""
    return OpenRequests(DynamoLeases(), clock(), pool=OPEN_STREAMS)


@cache
def subscription_service() -> SubscriptionService:
    """Return the service that knows the plan of each account."""
    return SubscriptionService(subscriptions=SubscriptionRepository(), clock=clock())


@cache
def allowances() -> Allowances:
    """Return the reader of allowances."""
    return Allowances(plan_of=subscription_service().plan, clock=clock())


@cache
def run_store() -> RunRepository:
    """Return the store of runs and their logs."""
    return RunRepository()


@cache
def model() -> RoutedModel:
    """Return the models of all providers; their clients are made at the first call."""
    secret_arn, base_url = execution_settings().model_secret_arn, execution_settings().model_base_url
    return RoutedModel(
        {
            ANTHROPIC: RetryingModel(AnthropicModel(secret_arn=secret_arn, base_url=base_url)),
            OPENAI: RetryingModel(OpenAIModel(secret_arn=secret_arn)),
        }
    )


@cache
def executions() -> QueuedExecutions:
    """Return the queue of runs that a process of its own goes on with."""
    return QueuedExecutions(SqsQueue(execution_settings().executions_queue_url))


@cache
def library() -> Library:
    """Return the attachments of conversations."""
    return Library(S3Attachments(execution_settings().files_bucket), OwnFiles(), Fetcher())


@cache
def executor() -> Executor:
    """Return what executes runs, for this function and for `agent_stream.execution`."""
    return Executor(
        store=run_store(),
        executions=executions(),
        model=model(),
        tools=DeviceTools(device_services).tools(),
        library=library(),
        allowances=allowances(),
        clock=clock(),
        limits=RunLimits(),
        ask_title=QueuedTitles(SqsQueue(execution_settings().executions_queue_url)).ask,
    )


@cache
def titles() -> TitleProposals:
    """Return what proposes titles of threads, for `agent_stream.execution`."""
    return TitleProposals(
        threads=ThreadRepository(),
        titles=TitleRepository(),
        target_of=executor().target_of,
        model=model(),
        allowances=allowances(),
        clock=clock(),
    )


@cache
def direct_calls() -> DirectCalls:
    """Return the service of calls of a model without a run."""
    return DirectCalls(
        store=run_store(),
        model=model(),
        configuration=configuration(),
        allowances=allowances(),
        clock=clock(),
        default=settings().model_id,
    )


@cache
def run_service() -> RunService:
    """Return the service that starts runs."""
    models = (settings().model_id, *MODELS)
    return RunService(
        store=run_store(),
        watchdog=QueueWatchdog(SqsQueue(settings().runs_queue_url)),
        executions=executions(),
        executor=executor(),
        agents=Catalogue(AgentRepository(), clock(), models=models, tools=sorted(executor().own_tools)),
        configuration=configuration(),
        library=library(),
        allowances=allowances(),
        clock=clock(),
    )


class OwnFiles:
    """Files of devices, for runs; their code is imported when a user first shows one."""

    def read(self, user_id: UserId, device_id: str, file_id: str, *, max_bytes: int) -> bytes:
        """Return a ready file's bytes, as karma.files.reading does."""
        return file_reader().read(user_id, device_id, file_id, max_bytes=max_bytes)


@cache
def file_reader() -> FileReader:
    """Return the reader of devices' files."""
    from karma.devices.lookup import DeviceLookup
    from karma.devices.repository.devices import DeviceRepository
    from karma.files.entries import Entries
    from karma.files.reading import FileReader
    from karma.files.repository.files import FileRepository
    from karma.integrations.s3 import S3Files

    parent = DeviceLookup(DeviceRepository())
    entries = Entries(FileRepository(), parent, clock())
    return FileReader(entries, S3Files(execution_settings().files_bucket))


@cache
def configuration() -> CurrentConfiguration:
    """Return the current configuration of components."""
    built_in = built_in_components(settings().model_id)
    return CurrentConfiguration(ConfigurationRepository(), built_in=built_in)


@cache
def run_reader() -> RunReader:
    """Return the reader of runs."""
    return RunReader(run_store(), linked=library().linked)


@cache
def device_services() -> DeviceServices:
    """Build the services of the device tools; imported here because most first requests do without them."""
    from karma.devices.commands import CommandService
    from karma.devices.reading import DeviceReader
    from karma.devices.repository.commands import CommandRepository
    from karma.devices.repository.devices import DeviceRepository
    from karma.devices.wake_ups import QueuedWakeUps
    from karma.integrations.iot import IotPublisher

    devices = DeviceRepository()
    publisher = IotPublisher(endpoint_url=execution_settings().iot_data_endpoint)
    wake_ups = QueuedWakeUps(SqsQueue(execution_settings().ingest_queue_url))
    return DeviceServices(
        devices=DeviceReader(devices),
        commands=CommandService(devices, CommandRepository(), publisher, wake_ups, clock()),
    )


@cache
def build() -> None:
    """Build all that every run needs, without garbage collections in between: a seventh of the first request."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        authenticator()
        run_service()
        run_reader()
        aws.client("secretsmanager")
        aws.client("sqs")
    finally:
        if collecting:
            gc.enable()


def origin_secrets() -> tuple[str, ...]:
    """Return the values of the header by which CloudFront proves itself; () where none is required."""
    return secrets.strings(settings().origin_secret_arn, "secrets")
