"""Projects and their members."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.deps import billing, identity, mail
from api.deps.process import clock, settings
from karma.core.dynamo.buckets import DynamoBuckets

if TYPE_CHECKING:
    from karma.projects.invitations import InvitationService
    from karma.projects.members import MemberService
    from karma.projects.repository import ProjectRepository
    from karma.projects.service import ProjectService


@cache
def repository() -> ProjectRepository:
    """Bind the work table, that of the accounts, which a project holds, and that of plans, whose seats members take."""
    from karma.billing.usage import bind_usage
    from karma.projects.repository import ProjectRepository

    identity.users()
    bind_usage(settings().billing_table)
    return ProjectRepository(settings().work_table)


@cache
def service() -> ProjectService:
    """Create, show, change and delete projects."""
    from karma.projects.service import ProjectService

    return ProjectService(repository(), clock())


@cache
def members() -> MemberService:
    """Show, change and remove members of projects."""
    from karma.projects.members import MemberService

    return MemberService(repository(), identity.users(), clock())


@cache
def invitations() -> InvitationService:
    """Ask people to join projects, and take their answers."""
    from karma.billing.repository.usage import UsageRepository
    from karma.billing.seats import Seats
    from karma.projects.invitations import InvitationService

    return InvitationService(
        repository(),
        identity.users(),
        seats=Seats(billing.allowances(), UsageRepository(settings().billing_table)),
        post_office=mail.post_office(),
        buckets=DynamoBuckets(settings().identity_table),
        clock=clock(),
    )
