"""Members of projects, for tests of what they do: asked by an owner, and willing."""

from __future__ import annotations

from karma.core.clock import Clock
from karma.core.ids import ProjectId, UserId
from karma.core.ratelimit import LocalBuckets
from karma.identity.audit import NOWHERE
from karma.identity.repository.users import UserRepository
from karma.mail.repository import OutboxRepository
from karma.mail.service import PostOffice
from karma.projects.domain import Membership, ProjectRole
from karma.projects.invitations import InvitationService
from karma.projects.repository import ProjectRepository
from tests.fakes.mail import MemoryQueue


def invitations(
    store: ProjectRepository, clock: Clock, *, identity_table: str, queue: MemoryQueue | None = None
) -> InvitationService:
    """Make the service over the tables of an engine; it counts nobody's invitations of before."""
    office = PostOffice(outbox=OutboxRepository(identity_table), queue=queue or MemoryQueue(), clock=clock)
    return InvitationService(store, UserRepository(), post_office=office, buckets=LocalBuckets(), clock=clock)


def join(
    service: InvitationService,
    project_id: ProjectId,
    user_id: UserId,
    role: ProjectRole = ProjectRole.MEMBER,
    *,
    by: UserId,
) -> Membership:
    """Let somebody ask, and somebody accept."""
    service.invite(by, project_id, user_id, role, source=NOWHERE)
    return service.accept(user_id, project_id, source=NOWHERE)
