"""Declarations of projects for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest

from karma.audit.domain import NOWHERE
from karma.core.clock import SystemClock
from karma.core.errors import AlreadyExists
from karma.core.ids import DeviceId, ProjectId, UserId, new_id
from karma.core.requests import RETENTION
from karma.devices.repository.devices import DeviceRepository
from karma.projects.access import ProjectAccess
from karma.projects.devices import ProjectDevices
from karma.projects.domain import INVITATION_TTL, Invitation, Membership, Project, ProjectRole, ProjectStatus
from karma.projects.ports import MemberChange
from karma.projects.repository.devices import ProjectDeviceRepository
from karma.projects.repository.invitations import InvitationRepository
from karma.projects.repository.projects import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from karma.projects.shares import DeviceShare
from tests.fakes.projects import MemoryProjects
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Checks, Fakes, Scenarios, made
from tests.support.devices import provisioning_device
from tests.support.plans import reserved
from tests.support.projects import invitations, join
from tests.support.requests import asked
from tests.support.rows import LATER, NOW, AccountRows


def membership(project: Project, user_id: UserId, role: ProjectRole) -> Membership:
    return Membership(project_id=project.id, user_id=user_id, role=role, joined_at=NOW, version=1)


def new_project(owner: UserId, number: int = 1) -> Project:
    return Project(
        id=ProjectId(f"01890000-0000-7000-8000-{number:012d}"),
        name=f"project {number}",
        description=None,
        status=ProjectStatus.ACTIVE,
        progress=0,
        owners=(owner,),
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


class ProjectRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.projects = ProjectRepository()
        self.project_devices = ProjectDeviceRepository()

    def new_project(self) -> tuple[Project, Membership]:
        made = replace(new_project(self.ada.id), id=ProjectId(new_id()))
        return made, membership(made, self.ada.id, ProjectRole.OWNER)

    @cached_property
    def project(self) -> tuple[Project, Membership]:
        project, owner = self.new_project()
        self.projects.create(project, owner, request=asked("t"))
        return project, owner

    def new_invitation(self) -> Invitation:
        """Return Ada's invitation of somebody to own her project, too."""
        project, owner = self.project
        return Invitation(
            project_id=project.id,
            user_id=self.stored().id,
            email=None,
            role=ProjectRole.OWNER,
            invited_by=owner.user_id,
            invited_at=NOW,
            expires_at=NOW + INVITATION_TTL,
        )

    @cached_property
    def invitation(self) -> Invitation:
        made = self.new_invitation()
        self.projects.invite(made, actor=self.project[1], known=None, entries=[], mails=[])
        return made

    def joining(self) -> MemberChange:
        """Return the change by which somebody accepts to own Ada's project."""
        project, owner = self.project
        invitation = self.invitation
        user_id = UserId(invitation.invitee)
        return MemberChange(
            project=project,
            actor=owner,
            before=None,
            after=membership(project, user_id, ProjectRole.OWNER),
            owners=(owner.user_id, user_id),
            at=NOW,
            entries=[self.entry],
            invitation=invitation,
        )

    def new_share(self, device_id: str = "", **changes: Any) -> DeviceShare:
        """Return a share of a device of Ada's with her project."""
        project, owner = self.project
        made = DeviceShare(
            project_id=project.id, device_id=DeviceId(device_id or new_id()), owner_id=owner.user_id, shared_at=NOW
        )
        return replace(made, **changes)

    def add_share(self, share: DeviceShare) -> DeviceShare:
        self.project_devices.add(share, actor=self.project[1], also=lambda _: None)
        return share

    def shown_device(self, device_id: str = "") -> DeviceShare:
        return self.add_share(self.new_share(device_id))

    @cached_property
    def deleted_project(self) -> Project:
        project, owner = self.project
        self.projects.begin_delete(project, actor=owner, at=NOW)
        return project


FAKES: Fakes = {MemoryProjects: (InvitationRepository, ProjectRepository)}

SCENARIOS = Scenarios[ProjectRows](
    ProjectRows,
    {
        "ProjectRepository.read": made(lambda r: r.project, lambda r, n: r.projects.read(n[0].id, n[1].user_id)),
        "ProjectRepository.projects": made(lambda r: r.project, lambda r, n: r.projects.projects([n[0].id])),
        "ProjectRepository.of_user": made(
            lambda r: r.project, lambda r, n: r.projects.of_user(n[1].user_id, newest_first=True, limit=5, after=None)
        ),
        "ProjectRepository.count_of_user": made(
            lambda r: r.project, lambda r, n: r.projects.count_of_user(n[1].user_id, most=5)
        ),
        "ProjectRepository.of_project": made(
            lambda r: r.project, lambda r, n: r.projects.of_project(n[0].id, limit=5, after=None)
        ),
        "ProjectRepository.count_of_project": made(
            lambda r: r.project, lambda r, n: r.projects.count_of_project(n[0].id, most=5)
        ),
        "ProjectRepository.made_by": made(
            lambda r: r.project, lambda r, n: r.projects.made_by(n[1].user_id, asked("t"))
        ),
        "InvitationRepository.invite": made(
            lambda r: (r.project, r.new_invitation()),
            lambda r, n: r.projects.invite(
                n[1], actor=n[0][1], known=(UserId(n[1].invitee), None), entries=[r.entry], mails=[]
            ),
        ),
        "ProjectRepository.parts": made(
            lambda r: r.invitation, lambda r, n: r.projects.parts(r.ada.id, [n.project_id])
        ),
        "InvitationRepository.invitations": made(
            lambda r: r.invitation, lambda r, n: r.projects.invitations(n.project_id, n.invitee)
        ),
        "InvitationRepository.invitations_of": made(
            lambda r: r.invitation, lambda r, n: r.projects.invitations_of(n.project_id)
        ),
        "InvitationRepository.invitations_to": made(
            lambda r: r.invitation, lambda r, n: r.projects.invitations_to(n.user_id or r.ada.id, "ada@example.com")
        ),
        "InvitationRepository.decline": made(
            lambda r: r.invitation, lambda r, n: r.projects.decline(n, by=r.ada.id, at=NOW, entry=r.entry)
        ),
        "InvitationRepository.withdraw": made(lambda r: r.invitation, lambda r, n: r.projects.withdraw(n)),
        "ProjectDeviceRepository.of_device": made(
            lambda r: r.shown_device(), lambda r, share: r.project_devices.of_device(share.device_id)
        ),
        "ProjectDeviceRepository.of_project": made(
            lambda r: r.shown_device(), lambda r, share: r.project_devices.of_project(share.project_id)
        ),
        "ProjectDeviceRepository.at": made(
            lambda r: r.shown_device(), lambda r, share: r.project_devices.at(share, UserId(new_id()))
        ),
        "ProjectDeviceRepository.seen": made(
            lambda r: r.shown_device(), lambda r, share: r.project_devices.seen(share.owner_id, [share.project_id])
        ),
        "ProjectDeviceRepository.members": made(
            lambda r: r.shown_device(), lambda r, share: r.project_devices.members([(share.project_id, share.owner_id)])
        ),
        "ProjectDeviceRepository.readable": made(
            lambda r: r.shown_device(), lambda r, share: r.project_devices.readable(share.owner_id, [share.project_id])
        ),
        "ProjectDeviceRepository.add": made(lambda r: r.new_share(), lambda r, share: r.add_share(share)),
        "ProjectDeviceRepository.remove": made(
            lambda r: r.shown_device(), lambda r, share: r.project_devices.remove(share)
        ),
        "ProjectRepository.create": made(
            lambda r: r.new_project(), lambda r, n: r.projects.create(n[0], n[1], request=asked("t"))
        ),
        "ProjectRepository.change": made(
            lambda r: r.project, lambda r, n: r.projects.change(n[0], replace(n[0], progress=1, version=2), actor=n[1])
        ),
        "ProjectRepository.change_member": made(lambda r: r.joining(), lambda r, n: r.projects.change_member(n)),
        "ProjectRepository.begin_delete": made(
            lambda r: r.project, lambda r, n: r.projects.begin_delete(n[0], actor=n[1], at=NOW)
        ),
        "ProjectRepository.finish_delete": made(
            lambda r: r.deleted_project, lambda r, project: r.projects.finish_delete(project.id, most=5)
        ),
        "ProjectRepository.move_seats": made(lambda r: r.project, lambda r, n: r.projects.move_seats(n[0].id, most=5)),
        "ProjectRepository.unmoved": made(lambda r: r.project, lambda r, _: r.projects.unmoved(before=LATER, limit=5)),
        "ProjectRepository.unfinished": made(
            lambda r: r.deleted_project, lambda r, _: r.projects.unfinished(before=LATER, limit=5)
        ),
        "ProjectRepository.purge_account": made(
            lambda r: (r.project, r.purge()), lambda r, n: r.projects.purge_account(n[1])
        ),
    },
)


def _project(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/projects", {"name": "Greenhouse"})["project"]["id"])


def _project_member(world: World, owner: str, ids: Mapping[str, str]) -> str:
    somebody = world.stranger()
    world.join(owner, ids["project_id"], somebody)
    return somebody.id


def _invited(world: World, owner: str, ids: Mapping[str, str]) -> str:
    somebody = world.stranger().id
    world.create(owner, f"/api/v1/projects/{ids['project_id']}/invitations", {"user_id": somebody})
    return somebody


def _project_of_somebody(*, accepted: bool) -> Callable[[World, str, Mapping[str, str]], str]:
    """Make a project of a stranger's, to which the person is invited, or belongs."""

    def make(world: World, owner: str, _: Mapping[str, str]) -> str:
        host, person = world.stranger(), world.person(owner)
        store = ProjectRepository()
        made = ProjectService(store, SystemClock()).create(host.id, NewProject(name="Greenhouse")).project
        service = invitations(store, SystemClock())
        if accepted:
            join(service, made.id, person.id, by=host.id)
        else:
            service.invite(host.id, made.id, person.id, ProjectRole.MEMBER, source=NOWHERE)
        return made.id

    return make


def _device_of(world: World, owner: str) -> str:
    return stored_device(world.person(owner).id)


def stored_device(owner: UserId) -> DeviceId:
    """Store an active device of somebody's, without its thing."""
    at = SystemClock().now()
    devices, device = DeviceRepository(), provisioning_device(owner)
    devices.claim(device, reservation=reserved(owner), attempt="a", now=at)
    devices.activate(device, attempt="a", certificate_id="c1", now=at)
    return device.id


def _shown_device(world: World, owner: str, ids: Mapping[str, str]) -> str:
    """Make a device of the person's that their project shows."""
    device_id = _device_of(world, owner)
    service = ProjectDevices(ProjectDeviceRepository(), ProjectAccess(ProjectRepository()), SystemClock())
    service.share(world.person(owner).id, ids["project_id"], device_id, also=lambda _: None)
    return device_id


OBJECTS: Objects = {
    "device_id of DELETE /api/v1/projects/{project_id}/devices/{device_id}": _shown_device,
    "project_id": _project,
    "project_id of POST /api/v1/projects/{project_id}/invitations/accept": _project_of_somebody(accepted=False),
    "project_id of POST /api/v1/projects/{project_id}/invitations/decline": _project_of_somebody(accepted=False),
    "project_id of POST /api/v1/projects/{project_id}/leave": _project_of_somebody(accepted=True),
    "invitation_id": _invited,
    "user_id of PATCH /api/v1/projects/{project_id}/members/{user_id}": _project_member,
    "user_id of DELETE /api/v1/projects/{project_id}/members/{user_id}": _project_member,
}

BODIES: Bodies = {
    "POST /api/v1/projects": lambda *_: {"name": "Greenhouse"},
    "POST /api/v1/projects/{project_id}/devices": lambda world, owner: {"device_id": _device_of(world, owner)},
    "PATCH /api/v1/projects/{project_id}": lambda *_: {"progress": 50},
    "POST /api/v1/projects/{project_id}/members": lambda world, _: {"user_id": world.stranger().id},
    "POST /api/v1/projects/{project_id}/invitations": lambda world, _: {"user_id": world.stranger().id},
    "PATCH /api/v1/projects/{project_id}/members/{user_id}": lambda *_: {"role": "viewer"},
}


def _made_project_over(rows: ProjectRows) -> None:
    rows.project  # noqa: B018
    again, owner = rows.new_project()
    with pytest.raises(AlreadyExists):
        rows.projects.create(again, owner, request=asked("t"))
    rows.projects.create(again, owner, request=asked("t", at=NOW + RETENTION))


EXPIRES = Checks[ProjectRows](ProjectRows, {"project_request": _made_project_over})
