"""Devices of others as search finds them: those that projects show, each by its owner's row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from karma.core.ids import DeviceId, ProjectId, UserId, made_ms
from karma.core.search_rows import SearchKey
from karma.devices.repository.devices import DeviceRepository
from karma.projects.lookup import all_shares
from karma.search.ports import SharedRows

_DEVICE: Final = "device"


class SearchedShares:
    """Devices of others, and projects, of which other people decide who finds them; see SharedObjects."""

    def __init__(self) -> None:
        self._shares = all_shares()
        self._devices = DeviceRepository()

    def shown_to(self, viewer: UserId, projects: Sequence[str], *, most: int) -> SharedRows:
        """See SharedObjects; `AllShares.seen_by` says how many calls it makes."""
        found: dict[SearchKey, str] = {}
        for share in self._shares.seen_by(viewer, [ProjectId(each) for each in projects]):
            key = SearchKey(share.owner_id, _DEVICE, share.device_id, made_ms(share.device_id))
            if key not in found and len(found) == most:
                return SharedRows(found, is_complete=False)
            found.setdefault(key, share.project_id)
        return SharedRows(found, is_complete=True)

    def findable(self, viewer: UserId, keys: Collection[SearchKey]) -> Collection[SearchKey]:
        """See SharedObjects; one BatchGet for a hundred devices, and one for fifty projects."""
        devices = {(key.owner, DeviceId(key.id)): key for key in keys if key.type == _DEVICE}
        projects = {ProjectId(key.id): key for key in keys if key.type != _DEVICE}
        found = [devices[each] for each in self._devices.active_of(list(devices))] if devices else []
        return found + [projects[each] for each in self._shares.readable(viewer, list(projects))]
