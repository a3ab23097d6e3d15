"""Releases over DynamoDB; karma/firmware/items.py has their keys."""

from __future__ import annotations

from karma.core.dynamo.access import get, query_by_id
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.core.requests import RepeatableRequest
from karma.firmware.domain import (
    MAX_RELEASES,
    FirmwareChanged,
    Release,
    ReleaseId,
    ReleaseState,
    TooManyReleases,
    VersionTaken,
)
from karma.firmware.items import (
    FirmwareRequestItem,
    FleetItem,
    ReleaseItem,
    ReleaseVersionItem,
    fleet_key,
    owner_pk,
    release_item,
    release_key,
    release_of,
    version_key,
)
from karma.firmware.ports import Fleet
from karma.identity.transactional import require_account


class ReleaseRepository:
    """Releases over DynamoDB."""

    def get(self, user_id: UserId, release_id: ReleaseId) -> Release | None:
        """See Releases; one Get."""
        item = get(ReleaseItem, release_key(user_id, release_id), consistent=True)
        return release_of(item) if item else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> ReleaseId | None:
        """See Releases; one Get."""
        made = noted(FirmwareRequestItem, request_key(owner_pk(user_id), request), request)
        return ReleaseId(made) if made else None

    def create(self, release: Release, *, request: RepeatableRequest | None) -> None:
        """See Releases; a check and three items, and one for a key."""
        tx = Transaction()
        require_account(tx, release.user_id)
        if request is not None:
            record = FirmwareRequestItem(*request_key(owner_pk(release.user_id), request))
            note_request(tx, record, request, release.id)
        tx.put(release_item(release))
        claim = ReleaseVersionItem(*version_key(release.user_id, release.release_version), release_id=release.id)
        tx.put(claim, on_fail=VersionTaken(release.release_version))
        has_room = FleetItem.releases.does_not_exist() | (FleetItem.releases < MAX_RELEASES)
        fleet = FleetItem(*fleet_key(release.user_id))
        tx.upsert(fleet, [FleetItem.releases.add(1)], has_room, on_fail=TooManyReleases())
        tx.commit()

    def publish(self, release: Release) -> None:
        """See Releases; one item."""
        tx = Transaction()
        item = release_item(release)
        item.version = release.version - 1
        tx.put(item, ReleaseItem.state == ReleaseState.DRAFT.value, on_fail=_changed(release))
        tx.commit()

    def delete(self, release: Release, *, fleet: Fleet) -> None:
        """See Releases; three items."""
        tx = Transaction()
        item = ReleaseItem(*release_key(release.user_id, release.id))
        item.version = release.version
        tx.delete(item, locked=True, on_fail=_changed(release))
        tx.delete(ReleaseVersionItem(*version_key(release.user_id, release.release_version)))
        same = FleetItem.version == fleet.version
        tx.update(FleetItem(*fleet_key(release.user_id)), [FleetItem.releases.add(-1)], same, on_fail=_changed(release))
        tx.commit()

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Release]:
        """See Releases; one Query a megabyte, eventually consistent."""
        return query_by_id(ReleaseItem, release_key(user_id, ""), below, release_of, limit=limit)


def _changed(release: Release) -> FirmwareChanged:
    return FirmwareChanged(f"Release {release.id} was changed by another request; read it again")
