"""Consumer of the queue of fires: begins the runs of schedules (karma/schedules/firing.py) and of alarms.

Commands of schedules are made here, and sent by ingest.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any

from karma.agents.configurable import built_in_components
from karma.agents.domain import MODELS
from karma.agents.repository import AgentRepository
from karma.agents.service import Catalogue
from karma.alarms.repository.alarms import AlarmRepository
from karma.alarms.repository.rules import AlarmRuleRepository
from karma.alarms.run_requests import AlarmKey, read_alarm_run
from karma.alarms.run_starting import AlarmRunStarter
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.subscriptions import SubscriptionService
from karma.configuration.current import CurrentConfiguration
from karma.configuration.repository import ConfigurationRepository
from karma.conversations.attachments import Library
from karma.core.batch import Ids, each_message
from karma.core.clock import Clock, SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.errors import AppError
from karma.core.ids import UserId
from karma.core.records import Record
from karma.core.settings import FunctionSettings, load
from karma.devices.lookup import DeviceLookup, SharedLookup
from karma.devices.repository.devices import DeviceRepository
from karma.files.entries import Entries
from karma.files.reading import FileReader
from karma.files.repository.files import FileRepository
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.integrations.fetch import Fetcher
from karma.integrations.kms import KmsSeal
from karma.integrations.s3 import S3Attachments, S3Files
from karma.integrations.sqs import SqsQueue
from karma.mcp.offering import McpTools
from karma.mcp.repository import McpServerRepository
from karma.mcp.secrets import Endpoints
from karma.runs import known
from karma.runs.background import BackgroundRuns
from karma.runs.plan import RunLimits
from karma.runs.recording import RunRecorder
from karma.runs.repository import RunRepository
from karma.runs.watchdog import QueuedExecutions, QueueWatchdog
from karma.schedules.domain import FireKey
from karma.schedules.firing import Fires
from karma.schedules.repository import ScheduleRepository
from karma.schedules.rights import ScheduleRights
from karma.schedules.sweeps import read_fire
from karma.tools.server_tools import declared_tools

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from karma.mcp.ports import McpClients
    from karma.schedules.commanding import ScheduledCommands


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    devices_table: str
    agents_table: str
    billing_table: str
    work_table: str
    files_bucket: str
    runs_queue_url: str
    executions_queue_url: str
    fires_queue_url: str
    ingest_queue_url: str
    """Queue of parts of bulk commands."""
    model_id: str
    """Model of the built-in agent."""
    vault_key_arn: str
    mcp_loopback: str = ""
    """Not empty: MCP servers of this machine may be asked. For stages on a developer's machine."""


class Services(Record, kw_only=True):
    """Services that handle a message."""

    fires: Fires
    alarm_runs: AlarmRunStarter


@cache
def services() -> Services:
    """Build what begins the runs of schedules and of alarms, once a process."""
    settings = load(Settings)
    bind_tables(settings)
    clock = SystemClock()
    runs, rights = _runs(settings, clock), ScheduleRights(UserRepository(), ApiKeyRepository(), clock)
    fires = Fires(
        ScheduleRepository(),
        queue=SqsQueue(settings.fires_queue_url),
        runs=runs,
        started=RunRepository(),
        commands=cache(lambda: _commands(settings, clock)),
        caller_by_now=rights.caller_by_now,
        plan_of=SubscriptionService(subscriptions=SubscriptionRepository(), clock=clock).plan,
        clock=clock,
    )
    alarm_runs = AlarmRunStarter(
        AlarmRepository(),
        AlarmRuleRepository(),
        runs=runs,
        started=RunRepository(),
        caller_by_now=lambda rule, run: rights.of(rule.user_id, run.api_key_id),
        clock=clock,
    )
    return Services(fires=fires, alarm_runs=alarm_runs)


def _runs(settings: Settings, clock: Clock) -> BackgroundRuns:
    """Build what begins runs without a client; they are executed elsewhere, so their tools are only named."""
    executions = QueuedExecutions(SqsQueue(settings.executions_queue_url))
    tools = declared_tools()
    mcp = McpTools(
        McpServerRepository(),
        lambda: _mcp_lists(settings),
        lambda: Endpoints(KmsSeal(settings.vault_key_arn)),
        clock,
    )
    recorder = RunRecorder(
        store=RunRepository(),
        watchdog=QueueWatchdog(SqsQueue(settings.runs_queue_url)),
        executions=executions,
        tools=tools,
        limits=RunLimits(),
        mcp=mcp,
        agents=Catalogue(
            AgentRepository(), clock, models=(settings.model_id, *MODELS), tools=sorted(tool.name for tool in tools)
        ),
        configuration=CurrentConfiguration(ConfigurationRepository(), built_in=built_in_components(settings.model_id)),
        library=Library(S3Attachments(settings.files_bucket), _files(settings, clock), Fetcher()),
        known=known.reader(mcp, clock),
        clock=clock,
    )
    return BackgroundRuns(recorder, executions)


def _commands(settings: Settings, clock: Clock) -> ScheduledCommands:
    """Build what makes the commands of schedules; imported here because most fires begin runs."""
    from karma.devices.bulk_commands import BulkCommandService
    from karma.devices.bulk_parts import QueuedBulkParts
    from karma.devices.repository.bulk_commands import BulkCommandRepository
    from karma.devices.repository.commands import CommandRepository
    from karma.schedules.commanding import ScheduledCommands

    queue = QueuedBulkParts(SqsQueue(settings.ingest_queue_url))
    devices = DeviceRepository()
    bulks = BulkCommandService(BulkCommandRepository(), devices, CommandRepository(), queue, clock)
    return ScheduledCommands(bulks, SharedLookup(devices, "control_devices"))


def _mcp_lists(settings: Settings) -> McpClients:
    """Return what asks MCP servers for their tools; imported here because most fires have none."""
    from karma.integrations.guard import is_public, is_public_or_loopback
    from karma.integrations.mcp_blocking import BlockingMcp

    return BlockingMcp(is_allowed=is_public_or_loopback if settings.mcp_loopback else is_public).in_loops()


class _Files(Record):
    """Files of devices, for runs."""

    reader: FileReader

    def read(self, user_id: UserId, device_id: str, file_id: str, *, max_bytes: int) -> bytes:
        """Return a ready file's bytes, as karma.files.reading does."""
        return self.reader.read(user_id, device_id, file_id, max_bytes=max_bytes)


def _files(settings: Settings, clock: Clock) -> _Files:
    entries = Entries(FileRepository(), DeviceLookup(DeviceRepository()), clock)
    return _Files(FileReader(entries, S3Files(settings.files_bucket)))


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Begin the runs of fires and alarms; messages that fail come again, and end in the dead-letter queue."""
    return each_message(event, context.aws_request_id, name="schedule.fire", read=_read, handle=_begin)


def _read(body: str) -> tuple[FireKey | AlarmKey, Ids]:
    if '"alarm"' in body:
        alarm = read_alarm_run(body)
        return alarm, {"device_id": alarm.device_id, "alarm_id": alarm.alarm_id}
    key = read_fire(body)
    return key, {"user_id": key.user_id, "schedule_id": key.schedule_id, "run_id": key.run_id}


def _begin(key: FireKey | AlarmKey) -> str:
    try:
        if isinstance(key, AlarmKey):
            return asyncio.run(services().alarm_runs.start(key))
        return asyncio.run(services().fires.fire(key))
    except AppError:
        raise
    except Exception:
        # It goes to the log and comes again; once it was tried for long enough, the schedule or the alarm shows it.
        if isinstance(key, AlarmKey):
            asyncio.run(services().alarm_runs.give_up(key))
        else:
            asyncio.run(services().fires.give_up(key))
        raise
