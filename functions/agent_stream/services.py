"""Composition root of the stream function: every object that lives as long as the process, built on first use.

Imported at the top is what every run needs. What only some do is imported by its builder: other providers of models,
MCP servers, direct calls, readers of logs, and what only `agent_stream.execution` uses.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from agent_stream.settings import Settings, WorkerSettings
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
from karma.identity.domain import Caller
from karma.identity.limits import OPEN_STREAMS, OpenRequests, Throttle
from karma.identity.sessions.authentication import Authenticator
from karma.identity.sessions.signing_keys import NEWER_MAX_AGE_S, KeyRings
from karma.integrations.fetch import Fetcher
from karma.integrations.s3 import S3Attachments
from karma.integrations.sqs import SqsQueue
from karma.mcp.offering import McpTools
from karma.mcp.repository import McpServerRepository
from karma.models.domain import ANTHROPIC, OPENAI
from karma.models.retrying import RetryingModel
from karma.models.router import RoutedModel
from karma.runs import known
from karma.runs.execution import Executor
from karma.runs.plan import RunLimits
from karma.runs.recording import RunRecorder
from karma.runs.repository import RunRepository
from karma.runs.service import RunService
from karma.runs.watchdog import QueuedExecutions, QueueWatchdog
from karma.tools.device_tools import DeviceServices
from karma.tools.server_tools import server_tools
from karma.tools.toolbox import Tool

if TYPE_CHECKING:
    from karma.conversations.domain import ThreadKey
    from karma.core.leases import Pool
    from karma.files.awaiting import AwaitedFiles
    from karma.files.reading import FileReader
    from karma.integrations.mcp import McpClient
    from karma.mcp.secrets import Endpoints
    from karma.models.ports import Model
    from karma.realtime.streaming import StreamService
    from karma.runs.direct import DirectCalls
    from karma.runs.expiry import Expiry
    from karma.runs.places import Places
    from karma.runs.reading import RunReader
    from karma.threads.titles import TitleProposals


@cache
def settings() -> Settings:
    """Read the environment of the stream function once, and tell the process which tables it names."""
    loaded = load(Settings)
    bind_tables(loaded)
    return loaded


@cache
def execution_settings() -> WorkerSettings:
    """Read the part of the environment that executing runs needs, once, as `settings` does."""
    loaded = load(WorkerSettings)
    bind_tables(loaded)
    return loaded


@cache
def clock() -> Clock:
    """Return the process's clock."""
    return SystemClock()


@cache
def authenticator() -> Authenticator:
    """Return the authenticator of callers."""
    secret_arn, rings = settings().auth_secret_arn, KeyRings()
    return Authenticator(
        users=UserRepository(),
        api_keys=ApiKeyRepository(),
        key_ring=lambda: rings.of(secrets.get(secret_arn)),
        newer_key_ring=lambda: rings.of(secrets.get(secret_arn, max_age_s=NEWER_MAX_AGE_S)),
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
    return OpenRequests(DynamoLeases("agents"), clock(), pool=OPEN_STREAMS)


@cache
def open_requests(pool: Pool) -> OpenRequests:
    """Return the count of requests that a pool limits."""
    return OpenRequests(DynamoLeases(), clock(), pool=pool)


@cache
def live_streams() -> StreamService:
    """Return the service of streams of what changes."""
    from karma.core.live import declared
    from karma.realtime.channel_repository import ChannelRepository
    from karma.realtime.inbox_repository import StreamInboxRepository
    from karma.realtime.repository import RealtimeRepository
    from karma.realtime.service import ConnectionService
    from karma.realtime.streaming import StreamService

    settings()
    store = RealtimeRepository()
    connections = ConnectionService(store=store, channels=ChannelRepository(), sources=declared(), clock=clock())
    return StreamService(connections=connections, store=store, inboxes=StreamInboxRepository(), clock=clock())


@cache
def subscription_service() -> SubscriptionService:
    """Return the service that knows the plan of each account."""
    return SubscriptionService(subscriptions=SubscriptionRepository(), clock=clock())


@cache
def allowances() -> Allowances:
    """Return the reader of allowances."""
    return Allowances(terms_of=subscription_service().terms, clock=clock())


@cache
def run_store() -> RunRepository:
    """Return the store of runs and their logs."""
    return RunRepository()


@cache
def model() -> RoutedModel:
    """Return the models of all providers; each provider's are made when a run first names one."""
    return RoutedModel({ANTHROPIC: _anthropic, OPENAI: _openai})


def _anthropic() -> Model:
    from karma.integrations.anthropic import AnthropicModel

    return RetryingModel(
        AnthropicModel(secret_arn=execution_settings().model_secret_arn, base_url=execution_settings().model_base_url)
    )


def _openai() -> Model:
    from karma.integrations.openai import OpenAIModel

    return RetryingModel(OpenAIModel(secret_arn=execution_settings().model_secret_arn))


@cache
def executions() -> QueuedExecutions:
    """Return the queue of runs that a process of its own goes on with."""
    return QueuedExecutions(SqsQueue(execution_settings().executions_queue_url))


@cache
def library() -> Library:
    """Return the attachments of conversations."""
    return Library(S3Attachments(execution_settings().files_bucket), OwnFiles(), Fetcher())


@cache
def own_tools() -> Sequence[Tool]:
    """Return the server's tools."""
    return server_tools(device_services, awaited_files)


@cache
def catalogue() -> Catalogue:
    """Return the agents that runs can execute."""
    models = (execution_settings().model_id, *MODELS)
    return Catalogue(AgentRepository(), clock(), models=models, tools=sorted(tool.name for tool in own_tools()))


@cache
def executor() -> Executor:
    """Return what executes runs, for this function and for `agent_stream.execution`."""
    return Executor(
        store=run_store(),
        executions=executions(),
        model=model(),
        tools=own_tools(),
        library=library(),
        allowances=allowances(),
        clock=clock(),
        limits=RunLimits(),
        mcp=mcp_tools(),
        agents=catalogue(),
        configuration=configuration(),
        ask_title=_ask_title,
        places=places,
    )


@cache
def places() -> Places:
    """Return the places of accounts among those who execute runs, for `agent_stream.execution`."""
    from karma.runs.places import Places

    return Places(
        DynamoLeases("agents"),
        clock(),
        plan_of=lambda user_id: subscription_service().terms(user_id).plan.name,
        executions=executions(),
        workers=execution_settings().execution_workers,
    )


def _ask_title(thread: ThreadKey) -> None:
    from karma.threads.titles import QueuedTitles

    QueuedTitles(SqsQueue(execution_settings().short_work_queue_url)).ask(thread)


@cache
def mcp_client() -> McpClient:
    """Return the client of MCP servers; it connects to public addresses, and to this machine where that may be."""
    from karma.integrations.guard import is_public, is_public_or_loopback
    from karma.integrations.mcp import McpClient

    return McpClient(is_allowed=is_public_or_loopback if execution_settings().mcp_loopback else is_public)


@cache
def _endpoints() -> Endpoints:
    from karma.integrations.kms import KmsSeal
    from karma.mcp.secrets import Endpoints

    return Endpoints(KmsSeal(execution_settings().vault_key_arn))


@cache
def mcp_tools() -> McpTools:
    """Return what offers tools of MCP servers; its client is made when a run first has one."""
    return McpTools(McpServerRepository(), mcp_client, _endpoints, clock())


@cache
def titles() -> TitleProposals:
    """Return what proposes titles of threads, for `agent_stream.execution`."""
    from karma.conversations.repository import ThreadRepository
    from karma.conversations.title_repository import TitleRepository
    from karma.threads.titles import TitleProposals

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
    from karma.runs.direct import DirectCalls

    return DirectCalls(
        store=run_store(),
        model=model(),
        configuration=configuration(),
        allowances=allowances(),
        clock=clock(),
        default=settings().model_id,
    )


@cache
def recorder() -> RunRecorder:
    """Return what records runs, for this function and for `agent_stream.execution`."""
    return RunRecorder(
        store=run_store(),
        watchdog=QueueWatchdog(SqsQueue(execution_settings().runs_queue_url)),
        executions=executions(),
        tools=own_tools(),
        limits=executor().limits,
        mcp=mcp_tools(),
        agents=catalogue(),
        configuration=configuration(),
        library=library(),
        known=known.reader(mcp_tools(), clock()),
        clock=clock(),
        prepare=model().prepare,
    )


@cache
def run_service() -> RunService:
    """Return the service that starts runs."""
    return RunService(recorder(), executor(), store=run_store(), clock=clock())


@cache
def expiry() -> Expiry:
    """Return what deals with questions that nobody answered in time, for `agent_stream.execution`."""
    from karma.runs.background import BackgroundRuns
    from karma.runs.expiry import Expiry

    runs = BackgroundRuns(recorder(), executions())
    return Expiry(store=run_store(), runs=runs, caller_by_now=caller_by_now, clock=clock())


def caller_by_now(caller: Caller) -> Caller | None:
    """Return a caller of an earlier request with the account's rights of today; None: it is gone or disabled."""
    user = UserRepository().read_user(caller.user_id)
    if user is None or user.disabled_at is not None:
        return None
    return replace(caller, role=user.role, email_verified=user.email_verified)


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
def awaited_files() -> AwaitedFiles:
    """Return what looks at files that are being uploaded."""
    from karma.devices.lookup import DeviceLookup
    from karma.devices.repository.devices import DeviceRepository
    from karma.files.awaiting import AwaitedFiles
    from karma.files.entries import Entries
    from karma.files.repository.files import FileRepository
    from karma.integrations.s3 import S3Files

    files, devices = FileRepository(), DeviceLookup(DeviceRepository())
    store = S3Files(execution_settings().files_bucket)
    return AwaitedFiles(Entries(files, devices, clock()), store, devices)


@cache
def configuration() -> CurrentConfiguration:
    """Return the current configuration of components."""
    built_in = built_in_components(execution_settings().model_id)
    return CurrentConfiguration(ConfigurationRepository(), built_in=built_in)


@cache
def run_reader() -> RunReader:
    """Return the reader of runs."""
    from karma.runs.reading import RunReader

    return RunReader(run_store(), linked=library().linked)


@cache
def device_services() -> DeviceServices:
    """Build the services of the device tools; imported here because most first requests do without them."""
    from agent_stream import finding

    return finding.device_services(execution_settings(), clock())


@cache
def build() -> None:
    """Build all that every run needs, without garbage collections in between: a seventh of the first request."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        authenticator()
        run_service()
        aws.client("secretsmanager")
        aws.client("sqs")
    finally:
        if collecting:
            gc.enable()


def origin_secrets() -> tuple[str, ...]:
    """Return the values of the header by which CloudFront proves itself; () where none is required."""
    return secrets.strings(settings().origin_secret_arn, "secrets")
