"""One person with everything that hangs on an account, for suites that go over several contexts."""

from __future__ import annotations

from tests.contexts.accounts import PersonRows
from tests.contexts.agents import AgentRows
from tests.contexts.audit import AuditRows
from tests.contexts.avatars import AvatarRows
from tests.contexts.billing import BillingRows
from tests.contexts.configuration import ConfigurationRows
from tests.contexts.core import CoreRows
from tests.contexts.file_trees import StoredTreeRows
from tests.contexts.notices import NoticeRows
from tests.contexts.oauth import OAuthRows
from tests.contexts.projects import ProjectRows
from tests.contexts.provisioning import ProvisioningRows
from tests.contexts.realtime import RealtimeRows
from tests.contexts.runs import RunRows
from tests.contexts.tasks import TaskRows


class Rows(
    PersonRows,
    OAuthRows,
    AuditRows,
    CoreRows,
    StoredTreeRows,
    ProvisioningRows,
    RunRows,
    AgentRows,
    ProjectRows,
    AvatarRows,
    TaskRows,
    ConfigurationRows,
    NoticeRows,
    BillingRows,
    RealtimeRows,
):
    """Rows of all contexts; those of one context are in its module of tests/contexts."""
