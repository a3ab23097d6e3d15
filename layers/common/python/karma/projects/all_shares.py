"""All devices of others that projects show somebody, for search: which ones, by as few reads as that takes.

What a project shows is read when the number of its changes is not the one that a process knows it by; who is a member
is read each time. So a share that is taken back, and a membership that has ended, count no more in the next request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from karma.core.ids import ProjectId, UserId
from karma.projects.domain import Membership
from karma.projects.permissions import ProjectPermission, allows
from karma.projects.shares import DeviceShare, SeenShares

_KEPT: Final = 1_000
"""Projects of which a process keeps what they show: of 100 devices each it takes some 40 MB at the most."""


class SharesOfProjects(Protocol):
    """Shares; repository/devices.py says what each method promises."""

    def of_project(self, project_id: ProjectId) -> Sequence[DeviceShare]: ...  # noqa: D102
    def seen(self, viewer: UserId, projects: Sequence[ProjectId]) -> Mapping[ProjectId, SeenShares]: ...  # noqa: D102
    def readable(self, user_id: UserId, ids: Sequence[ProjectId]) -> set[ProjectId]: ...  # noqa: D102
    def members(  # noqa: D102
        self, of: Collection[tuple[ProjectId, UserId]]
    ) -> Mapping[tuple[ProjectId, UserId], Membership]: ...


class _Kept(NamedTuple):
    changes: int
    shares: Sequence[DeviceShare]


class AllShares:
    """Tells what projects show somebody. Calls are made one at a time."""

    def __init__(self, store: SharesOfProjects) -> None:
        self._store = store
        self._kept: OrderedDict[ProjectId, _Kept] = OrderedDict()

    def seen_by(self, viewer: UserId, projects: Sequence[ProjectId]) -> Iterator[DeviceShare]:
        """Yield the shares of others that count and that somebody may read, by project in the given order.

        One BatchGet for fifty projects, one for a hundred owners in them, and a Query for each project whose shares
        have changed since the process read them.
        """
        seen = self._store.seen(viewer, projects) if projects else {}
        shares = [
            share
            for project_id, each in seen.items()
            if allows(each.viewer.role, ProjectPermission.READ_DEVICES)
            for share in self._of(project_id, each.changes)
            if share.owner_id != viewer
        ]
        owners = dict.fromkeys((share.project_id, share.owner_id) for share in shares)
        members = self._store.members(owners) if owners else {}
        for share in shares:
            owner = members.get((share.project_id, share.owner_id))
            if owner is not None and owner.joined_at <= share.shared_at:
                yield share

    def readable(self, viewer: UserId, projects: Sequence[ProjectId]) -> set[ProjectId]:
        """Return of which projects somebody is a member at this moment: one BatchGet for fifty."""
        return self._store.readable(viewer, projects)

    def _of(self, project_id: ProjectId, changes: int) -> Sequence[DeviceShare]:
        kept = self._kept.pop(project_id, None)
        if kept is None or kept.changes != changes:
            kept = _Kept(changes, tuple(self._store.of_project(project_id)))
        self._kept[project_id] = kept
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return kept.shares
