"""Services of projects and their members."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services import billing, identity, mail
from api.services.process import clock
from karma.core.dynamo.buckets import DynamoBuckets

if TYPE_CHECKING:
    from karma.projects.invitations import InvitationService
    from karma.projects.members import MemberService
    from karma.projects.repository.projects import ProjectRepository
    from karma.projects.service import ProjectService


@cache
def repository() -> ProjectRepository:
    """Return the repository of projects, their members and invitations."""
    from karma.projects.repository.projects import ProjectRepository

    return ProjectRepository()


@cache
def service() -> ProjectService:
    """Return the service of projects."""
    from karma.projects.service import ProjectService

    return ProjectService(repository(), clock())


@cache
def members() -> MemberService:
    """Return the service of members of projects."""
    from karma.projects.members import MemberService

    return MemberService(repository(), identity.users(), clock())


@cache
def invitations() -> InvitationService:
    """Return the service of invitations to projects."""
    from karma.billing.repository.usage import UsageRepository
    from karma.billing.seats import Seats
    from karma.projects.invitations import InvitationService

    return InvitationService(
        repository(),
        identity.users(),
        seats=Seats(billing.allowances(), UsageRepository()),
        outbox_relay=mail.outbox_relay(),
        buckets=DynamoBuckets(),
        clock=clock(),
    )
