"""Which fake stands for which repositories. A repository that is not here has none: no unit test needs one."""

from __future__ import annotations

from collections.abc import Mapping

from karma.agents.repository import DynamoAgentStore
from karma.billing.repository.arrivals import ArrivalStore
from karma.billing.repository.customers import CustomerRepository
from karma.billing.repository.inbox import InboxRepository
from karma.billing.repository.subscriptions import SubscriptionRepository
from karma.billing.repository.usage import UsageRepository
from karma.configuration.repository import ConfigurationRepository
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.ratelimit import LocalBuckets
from karma.devices.repository.commands import CommandRepository
from karma.files.repository.files import FileRepository
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.sessions.repository import SessionRepository
from karma.mail.repository import OutboxRepository
from karma.notices.repository import NoticeRepository
from karma.projects.repository import ProjectRepository
from karma.realtime.repository import RealtimeRepository
from karma.runs.repository import DynamoRunStore
from karma.tasks.repository import DynamoTaskStore
from tests.fakes.accounts import MemoryAccounts
from tests.fakes.agents import MemoryAgentStore
from tests.fakes.billing import MemoryBilling
from tests.fakes.commands import MemoryCommands
from tests.fakes.configuration import MemoryComponentStore
from tests.fakes.files import MemoryFiles
from tests.fakes.identity import MemoryIdentities
from tests.fakes.mail import MemoryOutbox
from tests.fakes.notices import MemoryNoticeStore
from tests.fakes.projects import MemoryProjects
from tests.fakes.realtime import MemoryRealtime
from tests.fakes.runs import MemoryRunStore
from tests.fakes.tasks import MemoryTaskStore
from tests.fakes.usage import MemoryUsage
from tests.support import contexts

FAKES: Mapping[type, tuple[type, ...]] = {
    MemoryIdentities: (UserRepository, SessionRepository, ApiKeyRepository, DirectoryRepository),
    MemoryAccounts: (UserRepository, OneTimeRepository),
    MemoryOutbox: (OutboxRepository,),
    MemoryFiles: (FileRepository,),
    MemoryRunStore: (DynamoRunStore,),
    MemoryAgentStore: (DynamoAgentStore,),
    MemoryBilling: (ArrivalStore, InboxRepository, SubscriptionRepository, CustomerRepository),
    MemoryUsage: (UsageRepository,),
    MemoryRealtime: (RealtimeRepository,),
    MemoryProjects: (ProjectRepository,),
    MemoryTaskStore: (DynamoTaskStore,),
    MemoryComponentStore: (ConfigurationRepository,),
    MemoryCommands: (CommandRepository,),
    MemoryNoticeStore: (NoticeRepository,),
    LocalBuckets: (DynamoBuckets,),
    **contexts.fakes(),
}
