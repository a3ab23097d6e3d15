"""Composition root of the API: every object that lives as long as the process, built on first use.

Each builder is cached; tests clear them. A context's owner adds its own builders below its heading.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from fastapi.params import Depends as DependsParam
from starlette.types import Scope

from api.edge import LIMIT_HEADERS, REQUEST_ID, USER_ID, caller_address
from api.settings import Settings
from karma.core import aws, secrets
from karma.core.clock import Clock, SystemClock
from karma.core.cursors import CursorSigner
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.dynamo.items import bind
from karma.core.errors import Forbidden
from karma.core.health import Component, Health
from karma.core.observability import logger
from karma.core.ratelimit import Decision, LocalBuckets, network_of
from karma.core.settings import load
from karma.identity.audit import AuditReader, Source
from karma.identity.authentication import Authenticator
from karma.identity.domain import Caller
from karma.identity.keys import NEWER_MAX_AGE_S, KeyRing
from karma.identity.limits import RULES, Throttle
from karma.identity.permissions import canonical
from karma.identity.repository.api_keys import ApiKeyRepository
from karma.identity.repository.items import IdentityItem
from karma.identity.repository.users import UserRepository
from karma.realtime.repository import RealtimeItem, RealtimeRepository
from karma.realtime.service import TicketService

if TYPE_CHECKING:
    from karma.agents.catalogue.service import Catalogue
    from karma.agents.service import RunReader
    from karma.avatars.service import AvatarService
    from karma.billing.service import InboxKeeper, SubscriptionService
    from karma.configuration.current import CurrentConfiguration
    from karma.configuration.domain import Component as ConfiguredComponent
    from karma.configuration.repository import ConfigurationRepository
    from karma.configuration.service import ConfigurationService
    from karma.devices.commands import CommandService
    from karma.devices.parent import DeviceParent
    from karma.devices.repository.dead_letters import DeadLetterRepository
    from karma.devices.repository.devices import DeviceRepository
    from karma.devices.service import DeviceService
    from karma.devices.telemetry import TelemetryReader
    from karma.files.repository.files import FileRepository
    from karma.files.service import FileService
    from karma.files.uploads import UploadService
    from karma.identity.accounts import AccountService
    from karma.identity.administration import AdministrationService
    from karma.identity.api_keys import ApiKeyService
    from karma.identity.deletion import AccountDeletion
    from karma.identity.oauth.links import LinkService
    from karma.identity.oauth.service import OAuthService
    from karma.identity.password_changes import PasswordService
    from karma.identity.sessions import SessionService
    from karma.integrations.s3 import S3Files
    from karma.mail.service import PostOffice
    from karma.notices.service import NoticeService
    from karma.projects.members import MemberService
    from karma.projects.repository import ProjectRepository
    from karma.projects.service import ProjectService
    from karma.tasks.service import TaskService


@cache
def settings() -> Settings:
    """Read the environment once."""
    return load(Settings)


@cache
def clock() -> Clock:
    """Return the process's clock."""
    return SystemClock()


def key_ring() -> KeyRing:
    """Return the signing keys, at most five minutes old."""
    return KeyRing.parse(secrets.get(settings().auth_secret_arn))


def newer_key_ring() -> KeyRing:
    """Return the signing keys, at most thirty seconds old."""
    return KeyRing.parse(secrets.get(settings().auth_secret_arn, max_age_s=NEWER_MAX_AGE_S))


def cursor_signer() -> CursorSigner:
    """Sign list cursors with the keys that sign tokens."""
    ring = key_ring()
    return CursorSigner(current=ring.current, keys=ring.keys)


# Identity


@cache
def users() -> UserRepository:
    """Bind the identity table."""
    bind(IdentityItem, settings().identity_table)
    return UserRepository()


@cache
def authenticator() -> Authenticator:
    """Tell who calls."""
    return Authenticator(
        users=users(),
        api_keys=ApiKeyRepository(),
        key_ring=key_ring,
        newer_key_ring=newer_key_ring,
        clock=clock(),
    )


@cache
def accounts() -> AccountService:
    """Make and show accounts."""
    from karma.identity.accounts import AccountService
    from karma.identity.passwords import Argon2Passwords
    from karma.identity.repository.one_time import OneTimeRepository

    return AccountService(
        accounts=users(),
        tokens=OneTimeRepository(),
        passwords=Argon2Passwords(),
        post_office=post_office(),
        buckets=DynamoBuckets(settings().identity_table),
        clock=clock(),
        on_change=authenticator().forget,
    )


@cache
def password_changes() -> PasswordService:
    """Reset and change passwords."""
    from karma.identity.password_changes import PasswordService
    from karma.identity.passwords import Argon2Passwords
    from karma.identity.repository.one_time import OneTimeRepository

    return PasswordService(
        accounts=users(),
        tokens=OneTimeRepository(),
        passwords=Argon2Passwords(),
        post_office=post_office(),
        buckets=DynamoBuckets(settings().identity_table),
        clock=clock(),
        on_change=authenticator().forget,
    )


@cache
def post_office() -> PostOffice:
    """See to it that written mails are sent."""
    from karma.integrations.sqs import SqsQueue
    from karma.mail.repository import OutboxRepository
    from karma.mail.service import PostOffice

    outbox = OutboxRepository(settings().identity_table)
    return PostOffice(outbox=outbox, queue=SqsQueue(settings().mail_queue_url), clock=clock())


@cache
def sessions() -> SessionService:
    """Begin, continue and end sessions."""
    from karma.identity.logins import LoginGuard
    from karma.identity.passwords import DUMMY_HASH, Argon2Passwords  # local: only logins hash passwords
    from karma.identity.repository.sessions import SessionRepository
    from karma.identity.sessions import SessionService

    stored = SessionRepository()
    return SessionService(
        accounts=users(),
        sessions=stored,
        guard=LoginGuard(buckets=DynamoBuckets(settings().identity_table), networks=stored, clock=clock()),
        passwords=Argon2Passwords(),
        dummy_hash=DUMMY_HASH,
        key_ring=key_ring,
        clock=clock(),
        on_change=authenticator().forget,
    )


@cache
def oauth() -> OAuthService:
    """Log people in through GitHub and Google."""
    from karma.identity.oauth.domain import ProviderName
    from karma.identity.oauth.service import OAuthService
    from karma.identity.repository.oauth import OAuthRepository
    from karma.integrations.oauth.client import credentials_from
    from karma.integrations.oauth.github import GitHub
    from karma.integrations.oauth.google import Google

    given = settings()

    def clients() -> Mapping[str, object]:
        return secrets.get(given.oauth_secret_arn) if given.oauth_secret_arn else {}

    return OAuthService(
        providers={
            ProviderName.GITHUB: GitHub(
                credentials=credentials_from(clients, "github"), url=given.github_url, api_url=given.github_api_url
            ),
            ProviderName.GOOGLE: Google(
                credentials=credentials_from(clients, "google"), issuer=given.google_issuer, clock=clock()
            ),
        },
        flows=OAuthRepository(),
        accounts=users(),
        registration=accounts(),
        sessions=sessions(),
        api_url=given.api_url,
        frontend_origins=[origin for origin in given.frontend_origins.split(",") if origin],
        clock=clock(),
    )


@cache
def links() -> LinkService:
    """Link GitHub and Google to accounts whose owners are logged in."""
    from karma.identity.oauth.links import LinkService
    from karma.identity.passwords import Argon2Passwords
    from karma.identity.repository.deletions import DeletionRepository
    from karma.identity.repository.oauth import OAuthRepository

    return LinkService(
        oauth=oauth(),
        flows=OAuthRepository(),
        accounts=users(),
        logins=DeletionRepository(),
        passwords=Argon2Passwords(),
        clock=clock(),
    )


@cache
def api_keys() -> ApiKeyService:
    """Make, list and revoke API keys."""
    from karma.identity.api_keys import ApiKeyService

    return ApiKeyService(api_keys=ApiKeyRepository(), owners=users(), clock=clock(), on_change=authenticator().forget)


@cache
def account_deletion() -> AccountDeletion:
    """Delete accounts of those who ask for it."""
    from karma.identity.deletion import AccountDeletion
    from karma.identity.passwords import Argon2Passwords
    from karma.identity.repository.deletions import DeletionRepository
    from karma.integrations.sqs import SqsQueue

    users()
    return AccountDeletion(
        deletions=DeletionRepository(),
        passwords=Argon2Passwords(),
        queue=SqsQueue(settings().deletions_queue_url),
        clock=clock(),
        on_change=authenticator().forget,
    )


@cache
def administration() -> AdministrationService:
    """Manage other people's accounts."""
    from karma.identity.administration import AdministrationService
    from karma.identity.repository.directory import DirectoryRepository

    users()
    return AdministrationService(
        accounts=DirectoryRepository(), registration=accounts(), clock=clock(), on_change=authenticator().forget
    )


@cache
def audit_reader() -> AuditReader:
    """Show the audit log."""
    from karma.identity.repository.audit import AuditRepository

    users()
    return AuditReader(log=AuditRepository(), clock=clock())


# Notices


@cache
def notices() -> NoticeService:
    """Show people what they were told."""
    from karma.notices.repository import NoticeRepository
    from karma.notices.service import NoticeService

    return NoticeService(NoticeRepository(settings().identity_table), clock())


# Health


@cache
def health() -> Health:
    """Probe what the API rests on, and may reach."""
    table = settings().identity_table
    queue_url = settings().inbox_queue_url

    def database() -> None:
        aws.client("dynamodb").get_item(TableName=table, Key={"pk": {"S": "HEALTH"}, "sk": {"S": "HEALTH"}})

    def queue() -> None:
        aws.client("sqs").get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])

    def storage() -> None:
        file_store().probe()

    def messaging() -> None:
        aws.client("iot").describe_endpoint(endpointType="iot:Data-ATS")

    return Health(
        {
            "database": Component(probe=database),
            "cache": Component(probe=database, replaced="dynamodb"),
            "redis": Component(probe=database, replaced="dynamodb"),
            "queue": Component(probe=queue if queue_url else None),
            "messaging": Component(probe=messaging),
            "storage": Component(probe=storage),
            "llm": Component(probe=None, note="models are called by the streaming function only"),
        }
    )


# Realtime


@cache
def ticket_service() -> TicketService:
    """Give out tickets for the WebSocket."""
    bind(RealtimeItem, settings().realtime_table)
    return TicketService(store=RealtimeRepository(), clock=clock(), url=settings().websocket_url)


# Devices


@cache
def device_repository() -> DeviceRepository:
    """Bind the devices table."""
    from karma.devices.repository.devices import DeviceRepository

    return DeviceRepository(settings().devices_table)


@cache
def device_service() -> DeviceService:
    """Create, show, change and delete devices."""
    from karma.devices.service import DeviceService
    from karma.integrations.iot import IotRegistry

    given = settings()
    registry = IotRegistry(
        policy_name=given.device_policy_name,
        mqtt_host=given.mqtt_host,
        mqtt_port=given.mqtt_port,
        ca_pem=given.mqtt_ca_pem,
    )
    return DeviceService(device_repository(), registry, clock())


@cache
def command_service() -> CommandService:
    """Send commands to devices."""
    from karma.devices.commands import CommandService
    from karma.devices.repository.commands import CommandRepository
    from karma.integrations.iot import IotPublisher

    commands = CommandRepository(settings().devices_table)
    publisher = IotPublisher(endpoint_url=settings().iot_data_endpoint)
    return CommandService(device_repository(), commands, publisher, clock())


@cache
def telemetry_reader() -> TelemetryReader:
    """Read telemetry back."""
    from karma.devices.repository.telemetry import TelemetryRepository
    from karma.devices.telemetry import TelemetryReader

    return TelemetryReader(device_repository(), TelemetryRepository(settings().telemetry_table), clock())


@cache
def dead_letters() -> DeadLetterRepository:
    """Read what devices sent and nobody could take."""
    from karma.devices.repository.dead_letters import DeadLetterRepository

    return DeadLetterRepository(settings().devices_table)


# Files


@cache
def file_store() -> S3Files:
    """Name the bucket."""
    from karma.integrations.s3 import S3Files

    return S3Files(settings().files_bucket)


@cache
def file_devices() -> DeviceParent:
    """Tell whose a device is."""
    from karma.devices.parent import DeviceParent

    return DeviceParent(device_repository())


@cache
def file_repository() -> FileRepository:
    """Bind the devices table, where files stand as well."""
    from karma.files.repository.files import FileRepository

    return FileRepository(settings().devices_table, file_devices())


@cache
def upload_service() -> UploadService:
    """Begin and end uploads."""
    from karma.files.uploads import UploadService
    from karma.integrations.sqs import SqsQueue

    queue = SqsQueue(settings().files_queue_url)
    return UploadService(file_repository(), file_store(), file_devices(), queue, clock())


@cache
def file_service() -> FileService:
    """List, show, change and delete files."""
    from karma.files.service import FileService

    return FileService(file_repository(), file_store(), file_devices(), clock())


# Projects


@cache
def project_repository() -> ProjectRepository:
    """Bind the work table, and that of the accounts, which a project holds."""
    from karma.projects.repository import ProjectRepository

    users()
    return ProjectRepository(settings().work_table)


@cache
def project_service() -> ProjectService:
    """Create, show, change and delete projects."""
    from karma.projects.service import ProjectService

    return ProjectService(project_repository(), clock())


@cache
def project_members() -> MemberService:
    """Add, show, change and remove members of projects."""
    from karma.projects.members import MemberService

    return MemberService(project_repository(), users(), clock())


# Billing


@cache
def subscription_service() -> SubscriptionService:
    """Show plans and subscriptions."""
    from karma.billing.repository.subscriptions import SubscriptionRepository
    from karma.billing.service import SubscriptionService

    return SubscriptionService(subscriptions=SubscriptionRepository(settings().billing_table), clock=clock())


@cache
def inbox_keeper() -> InboxKeeper:
    """Show and replay Stripe's events, for admins."""
    from karma.billing.repository.inbox import InboxRepository
    from karma.billing.service import InboxKeeper
    from karma.integrations.sqs import SqsQueue

    return InboxKeeper(
        inbox=InboxRepository(settings().billing_table), queue=SqsQueue(settings().inbox_queue_url), clock=clock()
    )


# Agents and runs


@cache
def agent_catalogue() -> Catalogue:
    """Show and change the agents that runs execute."""
    from karma.agents.builtins import declared_tools
    from karma.agents.catalogue.domain import MODELS
    from karma.agents.catalogue.repository import DynamoAgentStore
    from karma.agents.catalogue.service import Catalogue
    from karma.agents.repository import AgentsItem

    bind(AgentsItem, settings().agents_table)
    tools = [tool.name for tool in declared_tools()]
    return Catalogue(
        DynamoAgentStore(),
        clock(),
        models=(settings().model_id, *MODELS),
        tools=tools,
        more_models=lambda: configuration().model_names(),
    )


@cache
def run_reader() -> RunReader:
    """Show runs and their logs."""
    from karma.agents.repository import AgentsItem, DynamoRunStore
    from karma.agents.service import RunReader

    bind(AgentsItem, settings().agents_table)
    return RunReader(DynamoRunStore())


# Tasks


@cache
def task_service() -> TaskService:
    """Create, show, change and delete tasks."""
    from karma.tasks.repository import DynamoTaskStore
    from karma.tasks.service import TaskService

    return TaskService(DynamoTaskStore(settings().work_table), clock())


# Avatars


@cache
def avatar_service() -> AvatarService:
    """Create, show, change and delete avatars."""
    from karma.avatars.repository import DynamoAvatarStore
    from karma.avatars.service import AvatarService

    return AvatarService(DynamoAvatarStore(settings().agents_table), clock())


# Configuration


@cache
def components() -> ConfigurationRepository:
    """Bind the agents table, where components stand as well."""
    from karma.configuration.repository import ConfigurationRepository

    return ConfigurationRepository(settings().agents_table)


@cache
def built_in_components() -> Mapping[str, ConfiguredComponent]:
    """List what code brings."""
    from karma.agents.configurable import built_in_components

    return built_in_components(settings().model_id)


@cache
def configuration() -> ConfigurationService:
    """Show and change models, agents and tools."""
    from karma.agents.catalogue.domain import MODELS
    from karma.configuration.service import ConfigurationService

    return ConfigurationService(
        components(),
        clock(),
        built_in=built_in_components(),
        models=tuple(dict.fromkeys((settings().model_id, *MODELS))),
        has_agent=lambda name: agent_catalogue().has_name(name),
        on_change=current_configuration().forget,
    )


@cache
def current_configuration() -> CurrentConfiguration:
    """Tell what is configured now."""
    from karma.configuration.current import CurrentConfiguration

    return CurrentConfiguration(components(), built_in=built_in_components())


# Limits


@cache
def throttle() -> Throttle:
    """Count requests; only rows that are stored cost calls, only those by plan read the plan."""
    return Throttle(
        stored=DynamoBuckets(settings().identity_table),
        local=LocalBuckets(),
        clock=clock(),
        plan_of=lambda user_id: subscription_service().plan(user_id).name,
    )


def admit(scope: Scope, limit: str) -> None:
    """Count a request whose limit is by network; those by account are counted by `permit`, which knows whose.

    Raises:
        RateLimited: too many.
    """
    if throttle().is_counted_by_network(limit):
        _tell(scope, throttle().admit(limit, network=network_of(caller_address(scope))))


def _tell(scope: Scope, decision: Decision) -> None:
    if RULES[decision.limit.name].stored:  # what one process of many has counted helps nobody to plan
        scope[LIMIT_HEADERS] = [(name.lower().encode(), value.encode()) for name, value in decision.headers()]


# Authorisation


class Permit:
    """A dependency that lets a caller with one permission pass; `permission` "" asks only for a caller."""

    def __init__(self, permission: str) -> None:
        self.permission = canonical(permission) if permission else ""

    async def __call__(self, request: Request) -> Caller:
        """Return the caller.

        Raises:
            Unauthenticated: nobody, or nobody that can be believed.
            Forbidden: known, and not allowed.
        """
        headers = request.headers
        caller = authenticator().authenticate(headers.get("authorization"), headers.get("x-api-key"))
        request.scope[USER_ID] = caller.user_id
        logger.append_keys(user_id=caller.user_id)
        if self.permission and not caller.may(self.permission):
            raise Forbidden("Insufficient permissions")
        limit = request.scope["route"].limit
        if not throttle().is_counted_by_network(limit):
            _tell(request.scope, throttle().admit(limit, user_id=caller.user_id))
        return caller


def permit(permission: str) -> DependsParam:
    """Let through whoever has a permission.

    Written as `caller: Annotated[Caller, permit("device:read")]`.
    """
    depends: DependsParam = Depends(Permit(permission))
    return depends


CurrentCaller = Annotated[Caller, permit("")]


_MAX_USER_AGENT_CHARS = 256


async def _source(request: Request) -> Source:
    agent = request.headers.get("user-agent", "")[:_MAX_USER_AGENT_CHARS]
    return Source(
        address=caller_address(request.scope) or None, user_agent=agent or None, request_id=request.scope[REQUEST_ID]
    )


RequestSource = Annotated[Source, Depends(_source)]
"""Where the request came from, for the audit log."""
