"""Members of projects, for tests of what they do: asked by an owner, and willing."""

from __future__ import annotations

from karma.audit.domain import NOWHERE
from karma.billing.plans import PlanName
from karma.billing.repository.usage import UsageRepository
from karma.billing.seats import Seats
from karma.core.clock import Clock, SystemClock
from karma.core.ids import DeviceId, ProjectId, UserId
from karma.core.ratelimit import LocalBuckets
from karma.identity.accounts.repository.users import UserRepository
from karma.mail.repository import OutboxRepository
from karma.mail.service import OutboxRelay
from karma.projects.access import ProjectAccess
from karma.projects.devices import ProjectDevices
from karma.projects.domain import Membership, ProjectRole
from karma.projects.invitations import InvitationService
from karma.projects.members import MemberService
from karma.projects.repository.devices import ProjectDeviceRepository
from karma.projects.repository.projects import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from tests.fakes.mail import MemoryQueue
from tests.support.plans import allowances


def invitations(
    store: ProjectRepository,
    clock: Clock,
    *,
    queue: MemoryQueue | None = None,
    plan: PlanName = PlanName.ENTERPRISE,
) -> InvitationService:
    """Return the service over an engine; it counts no earlier invitations, and everybody has the plan."""
    seats = Seats(allowances(plan, clock=clock), UsageRepository())
    office = OutboxRelay(outbox=OutboxRepository(), queue=queue or MemoryQueue(), clock=clock)
    buckets = LocalBuckets()
    return InvitationService(store, UserRepository(), seats=seats, outbox_relay=office, buckets=buckets, clock=clock)


def join(
    service: InvitationService,
    project_id: ProjectId,
    user_id: UserId,
    role: ProjectRole = ProjectRole.MEMBER,
    *,
    by: UserId,
) -> Membership:
    """Let `by` invite somebody, who accepts."""
    service.invite(by, project_id, user_id, role, source=NOWHERE)
    return service.accept(user_id, project_id, source=NOWHERE)


def show(device_id: DeviceId, *, of: UserId, to: UserId, role: ProjectRole = ProjectRole.MEMBER) -> ProjectId:
    """Make a project of somebody's that shows a device of theirs to somebody else in a role."""
    store, clock = ProjectRepository(), SystemClock()
    project_id = ProjectService(store, clock).create(of, NewProject(name="Greenhouse")).project.id
    join(invitations(store, clock), project_id, to, role, by=of)
    share(device_id, of=of, project_id=project_id)
    return project_id


def share(device_id: DeviceId, *, of: UserId, project_id: ProjectId) -> None:
    """Let a project show a device of a member's."""
    devices = ProjectDevices(ProjectDeviceRepository(), ProjectAccess(ProjectRepository()), SystemClock())
    devices.share(of, project_id, device_id, also=lambda _: None)


def leave(user_id: UserId, project_id: ProjectId) -> None:
    """Let somebody leave a project."""
    members = MemberService(ProjectRepository(), UserRepository(), SystemClock())
    members.leave(user_id, project_id, may_hand_over=True, source=NOWHERE)
