"""Projects, live: what a project is, who is a member, and which devices it shows; its members share the channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from karma.core.happenings import ItemChange, number_in, text_in
from karma.core.ids import UserId, is_id
from karma.core.live import Channel, LiveSource, ObjectState, RightsChange, Update

if TYPE_CHECKING:
    from karma.projects.domain import Membership, Project


class LiveProjects:
    """Channels `project:<id>`, which lie in the project's own space while somebody may read it."""

    permissions: Mapping[str, str] = {"project": "project:read"}

    def updates(self, change: ItemChange) -> Sequence[Update]:
        """See LiveSource. A membership is told to the member as well, in whose list the project is."""
        image = change.new or change.old
        match text_in(image, "type"):
            case "project":
                return (Update(channels=(_channel(text_in(image, "project_id")),), state=_project_in(change)),)
            case "project_member":
                user_id = text_in(image, "user_id")
                channels = (_channel(text_in(image, "project_id")), Channel(user_id, "user", user_id))
                return (Update(channels=channels, state=_member_in(change)),)
            case "project_device":
                return (Update(channels=(_channel(text_in(image, "project_id")),), state=_share_in(change)),)
        return ()

    def rights(self, change: ItemChange) -> Sequence[RightsChange]:
        """See LiveSource: who left, and whose role changed. A deletion ends the memberships one by one."""
        if text_in(change.old, "type") != "project_member" or text_in(change.new, "role") == text_in(
            change.old, "role"
        ):
            return ()
        return (RightsChange(_channel(text_in(change.old, "project_id")), UserId(text_in(change.old, "user_id"))),)

    def space(self, kind: str, object_id: str, viewer: UserId) -> str:  # noqa: ARG002
        """See LiveSource; one BatchGet."""
        return viewer if _read(object_id, viewer) is None else object_id

    def states(
        self,
        channel: Channel,
        viewer: UserId,
        held: Mapping[str, int],  # noqa: ARG002
    ) -> Sequence[ObjectState] | None:
        """See LiveSource; one BatchGet. The other members are read by the API."""
        found = _read(channel.object_id, viewer)
        return None if found is None else (_project_state(found[0]), _member_state(found[1]))


def source() -> LiveSource:
    """Return what projects declare."""
    return LiveProjects()


def _channel(project_id: str) -> Channel:
    return Channel(project_id, "project", project_id)


def _read(project_id: str, viewer: UserId) -> tuple[Project, Membership] | None:
    from karma.core.errors import Forbidden, NotFound
    from karma.projects.access import ProjectAccess
    from karma.projects.permissions import ProjectPermission
    from karma.projects.repository.projects import ProjectRepository

    if not is_id(project_id):
        return None
    try:
        admitted = ProjectAccess(ProjectRepository()).require(viewer, project_id, ProjectPermission.READ)
    except (NotFound, Forbidden):
        return None
    return admitted.project, admitted.member


def _is_over(change: ItemChange) -> bool:
    return change.new is None or bool(text_in(change.new, "deleting_at"))


def _project_in(change: ItemChange) -> ObjectState:
    from karma.core.dynamo.items import Item
    from karma.projects.repository.items import ProjectItem, project_of

    image = change.new or change.old
    project_id = text_in(image, "project_id")
    if change.new is not None and not _is_over(change):
        item = Item.from_raw_data(dict(change.new))
        assert isinstance(item, ProjectItem)  # noqa: S101  its type was read
        return _project_state(project_of(item))
    return ObjectState(
        name=f"project:{project_id}",
        version=number_in(image, "version") + (change.new is None),
        at=text_in(image, "updated_at"),
        ref=f"/projects/{project_id}",
        data=None,
        deleted=True,
    )


def _project_state(project: Project) -> ObjectState:
    from karma.core.clock import iso

    return ObjectState(
        name=f"project:{project.id}",
        version=project.version,
        at=iso(project.updated_at),
        ref=f"/projects/{project.id}",
        data={
            "id": project.id,
            "name": project.name,
            "description": project.description,
            "status": project.status,
            "progress": project.progress,
            "owner_id": project.owner_id,
            "created_at": iso(project.created_at),
            "updated_at": iso(project.updated_at),
            "version": project.version,
        },
    )


def _member_in(change: ItemChange) -> ObjectState:
    from karma.core.dynamo.items import Item
    from karma.projects.repository.items import MemberItem, member_of

    item = Item.from_raw_data(dict(change.new or change.old or {}))
    assert isinstance(item, MemberItem)  # noqa: S101  its type was read
    return _member_state(member_of(item), gone=change.new is None)


def _member_state(member: Membership, *, gone: bool = False) -> ObjectState:
    from karma.core.clock import epoch_ms, iso
    from karma.projects.answers import member_view

    # By time: who comes back has a new item, whose own version begins again.
    changed_at = max(member.joined_at, member.changed_at or member.joined_at)
    return ObjectState(
        name=f"member:{member.project_id}/{member.user_id}",
        version=epoch_ms(changed_at) * 2 + gone,
        at=iso(changed_at),
        ref=f"/projects/{member.project_id}/members",
        data=None if gone else {**member_view(member)},
        deleted=gone,
    )


def _share_in(change: ItemChange) -> ObjectState:
    from karma.core.clock import epoch_ms, iso
    from karma.core.dynamo.items import Item
    from karma.projects.answers import device_share_view
    from karma.projects.repository.devices import ProjectDeviceItem, share_of

    item, gone = Item.from_raw_data(dict(change.new or change.old or {})), change.new is None
    assert isinstance(item, ProjectDeviceItem)  # noqa: S101  its type was read
    share = share_of(item)
    # By time, as of a member.
    return ObjectState(
        name=f"share:{share.project_id}/{share.device_id}",
        version=epoch_ms(share.shared_at) * 2 + gone,
        at=iso(share.shared_at),
        ref=f"/devices?project={share.project_id}",
        data=None if gone else {**device_share_view(share)},
        deleted=gone,
    )
