"""Devices that projects show, in the table `work`; access patterns are in docs/adr/0073-shared-devices.md.

| item | pk | sk | gsi1pk | gsi1sk |
| --- | --- | --- | --- | --- |
| a device of a project | PROJECT#<id> | DEVICE#<device> | DEVICE#<device> | PROJECT#<id> |
| number of changes of these | PROJECT#<id> | SHARES | - | - |

The number is the item's version. It is there from a project's first share until the project is deleted, and goes up in
the transaction of each change, so that whoever has read the shares at a number has them all while it stands.

The index tells in which projects a device may be. Whether somebody may see it there is read from the project's own
partition, strongly consistent: the project, both people's memberships and the item, at one moment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pynamodb.attributes import UnicodeAttribute

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import batch_get, delete, query
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import DeviceId, ProjectId, UserId
from karma.identity.transactional import require_account
from karma.projects.domain import Membership, ProjectChanged
from karma.projects.repository.conditions import changed, require_actor, there
from karma.projects.repository.items import (
    DEVICE_PREFIX,
    MemberItem,
    ProjectItem,
    ProjectsItem,
    SharesItem,
    member_key,
    member_of,
    project_key,
    project_of,
    shares_key,
)
from karma.projects.shares import MAX_DEVICES, MAX_PROJECTS_OF_A_DEVICE, DeviceShare, Join, SeenShares, SharedAt


class ProjectDeviceItem(ProjectsItem, discriminator="project_device"):
    """A device that a project shows to its members; `created_at` is when it was shared."""

    project_id = UnicodeAttribute()
    device_id = UnicodeAttribute()
    owner_id = UnicodeAttribute()


def project_device_key(project_id: ProjectId, device_id: DeviceId) -> Key:
    """Return the key of a device of a project."""
    return Key(project_key(project_id).pk, f"{DEVICE_PREFIX}{device_id}")


def device_partition(device_id: str) -> str:
    """Return the partition of gsi1 with the projects of a device."""
    return f"{DEVICE_PREFIX}{device_id}"


class ProjectDeviceRepository:
    """Reads and conditional writes of devices of projects in one `work` table."""

    def of_device(self, device_id: DeviceId) -> Sequence[DeviceShare]:
        """Read in which projects a device may be, newest project first: one Query of the index."""
        mine, pk = ProjectDeviceItem.gsi1sk.startswith("PROJECT#"), device_partition(device_id)
        most = 2 * MAX_PROJECTS_OF_A_DEVICE
        page = query(ProjectDeviceItem, pk, mine, limit=most, forward=False, index=ProjectsItem.gsi1)
        return [share_of(item) for item in page.items]

    def of_project(self, project_id: ProjectId) -> Sequence[DeviceShare]:
        """Read a project's devices, newest first: one Query, strongly consistent."""
        page = query(
            ProjectDeviceItem,
            project_key(project_id).pk,
            ProjectDeviceItem.sk.startswith(DEVICE_PREFIX),
            limit=2 * MAX_DEVICES,
            forward=False,
            consistent=True,
        )
        return [share_of(item) for item in page.items]

    def at(self, share: DeviceShare, viewer: UserId) -> SharedAt:
        """Read a share with its project, its owner's membership and somebody else's, at one moment: one BatchGet."""
        key = project_device_key(share.project_id, share.device_id)
        people = {each: member_key(share.project_id, each) for each in (share.owner_id, viewer)}
        found = batch_get(ProjectsItem, [project_key(share.project_id), key, *people.values()], consistent=True)
        project, item = found.get(project_key(share.project_id)), found.get(key)
        members = {each: found.get(where) for each, where in people.items()}
        owner, other = members[share.owner_id], members[viewer]
        return SharedAt(
            project=project_of(project) if isinstance(project, ProjectItem) else None,
            share=share_of(item) if isinstance(item, ProjectDeviceItem) else None,
            owner=member_of(owner) if isinstance(owner, MemberItem) else None,
            viewer=member_of(other) if isinstance(other, MemberItem) else None,
        )

    def seen(self, viewer: UserId, projects: Sequence[ProjectId]) -> Mapping[ProjectId, SeenShares]:
        """Read which projects have shares, with somebody's membership: one BatchGet for fifty, strongly consistent."""
        keys = [key for each in projects for key in (shares_key(each), member_key(each, viewer))]
        found = batch_get(ProjectsItem, keys, consistent=True)
        seen = {}
        for each in projects:
            shares, member = found.get(shares_key(each)), found.get(member_key(each, viewer))
            if isinstance(shares, SharesItem) and isinstance(member, MemberItem):
                seen[each] = SeenShares(changes=int(shares.version), viewer=member_of(member))
        return seen

    def members(self, of: Collection[tuple[ProjectId, UserId]]) -> Mapping[tuple[ProjectId, UserId], Membership]:
        """Read memberships, by project and person: one BatchGet for a hundred, strongly consistent."""
        found = batch_get(MemberItem, [member_key(*each) for each in of], consistent=True)
        return {each: member_of(found[key]) for each in of if (key := member_key(*each)) in found}

    def readable(self, user_id: UserId, ids: Sequence[ProjectId]) -> set[ProjectId]:
        """Read which projects somebody is a member of: one BatchGet for fifty, strongly consistent."""
        keys = [key for each in ids for key in (project_key(each), member_key(each, user_id))]
        found = batch_get(ProjectsItem, keys, consistent=True) if keys else {}
        there = ((each, found.get(project_key(each)), found.get(member_key(each, user_id))) for each in ids)
        return {each for each, item, mine in there if mine and isinstance(item, ProjectItem) and not item.deleting_at}

    def add(self, share: DeviceShare, *, actor: Membership, also: Join) -> None:
        """Store a share in the place of an earlier one; `also` adds conditions on the device.

        Raises:
            ProjectChanged: the project is deleted, or the owner's role in it is another by now.
            AccountGone: the owner's account is deleted.
        """
        tx, at, item = Transaction(), iso(share.shared_at), ProjectDeviceItem
        tx.check(ProjectItem, project_key(share.project_id), there(), on_fail=changed())
        require_actor(tx, actor)
        require_account(tx, actor.user_id)
        also(tx)
        tx.upsert(
            item(*project_device_key(share.project_id, share.device_id)),
            [
                item.project_id.set(share.project_id),
                item.device_id.set(share.device_id),
                item.owner_id.set(share.owner_id),
                item.created_at.set(at),
                item.updated_at.set(at),
                item.gsi1pk.set(device_partition(share.device_id)),
                item.gsi1sk.set(f"PROJECT#{share.project_id}"),
            ],
        )
        _count_change(tx, share.project_id)
        tx.commit()

    def remove(self, share: DeviceShare) -> bool:
        """Remove a share that is its owner's; return False where it is gone, or another owner's by now."""
        item = ProjectDeviceItem(*project_device_key(share.project_id, share.device_id))
        is_theirs = ProjectDeviceItem.owner_id == share.owner_id
        tx = Transaction()
        tx.check(ProjectItem, project_key(share.project_id), there(), on_fail=changed())
        tx.delete(item, is_theirs)
        _count_change(tx, share.project_id)
        try:
            try:
                tx.commit()
            except ProjectChanged:  # it is deleted, and nobody counts its shares any more
                delete(item, is_theirs)
        except ConditionFailed:
            return False
        return True


def _count_change(tx: Transaction, project_id: ProjectId) -> None:
    """Count a change of a project's shares; the transaction has the condition that the project is there."""
    item = SharesItem(*shares_key(project_id))
    tx.upsert(item, [SharesItem.project_id.set(project_id)])


def share_of(item: ProjectDeviceItem) -> DeviceShare:
    """Return a share as stored."""
    return DeviceShare(
        project_id=ProjectId(item.project_id),
        device_id=DeviceId(item.device_id),
        owner_id=UserId(item.owner_id),
        shared_at=parse_iso(item.created_at or ""),
    )
