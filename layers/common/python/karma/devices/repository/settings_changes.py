"""Changes of desired settings in DynamoDB; access patterns are in docs/adr/0080-device-settings.md.

devices    DEV#<device>  SETTINGS#<change>    who asked for what, and what became of it, and what the device has
                                              reported; for 90 days. A report's id is made of its time and version
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, cast

from pynamodb.attributes import BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.audit.domain import AuditEntry
from karma.audit.transactional import add_audit_entry
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Key
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import DeviceId, UserId
from karma.devices.repository.items import DevicesItem, children_pk
from karma.devices.shadow import CHANGE_RETENTION_S, ChangeState, SettingsChange
from karma.devices.transactional import require_device

PREFIX: Final = "SETTINGS#"


class SettingsChangeItem(DevicesItem, discriminator="settings_change"):
    """A change of the settings of a device."""

    device_id = UnicodeAttribute()
    user_id = UnicodeAttribute(null=True)
    """The device's owner, whose channel tells of it."""
    changed_by = UnicodeAttribute(null=True)
    patch = JSONAttribute()
    at = UnicodeAttribute()
    state = UnicodeAttribute()
    settings_version = NumberAttribute(null=True)
    is_cut = BooleanAttribute(null=True)


def change_key(device_id: DeviceId, change_id: str) -> Key:
    """Return the key of a change of a device's settings."""
    return Key(children_pk(device_id), f"{PREFIX}{change_id}")


class SettingsChangeRepository:
    """Changes of settings in one `devices` table."""

    def ask(self, owner: UserId, change: SettingsChange, *, entry: AuditEntry) -> None:
        """Store that a change is asked for, with its entry of the audit log: one transaction.

        Raises:
            NotFound: the owner has no such active device any more.
        """
        tx = _putting(owner, change)
        add_audit_entry(tx, entry)
        tx.commit()

    def keep(self, owner: UserId, report: SettingsChange) -> bool:
        """Store what a device has reported: one transaction; False: it is stored already.

        Raises:
            NotFound: the owner has no such active device any more.
        """
        try:
            _putting(owner, report).commit()
        except ConditionFailed:
            return False
        return True

    def settle(self, change: SettingsChange, *, version: int | None) -> None:
        """Store that a change has taken effect, by which version if that is known; nothing happens where it is gone."""
        made = [SettingsChangeItem.settings_version.set(version)] if version is not None else []
        self._end(change, ChangeState.APPLIED, made)

    def refuse(self, change: SettingsChange) -> None:
        """Store that a change was refused, since the settings had changed; nothing happens where it is gone."""
        self._end(change, ChangeState.REFUSED, [])

    def _end(self, change: SettingsChange, state: ChangeState, actions: list[Any]) -> None:
        try:
            update(
                SettingsChangeItem(*change_key(change.device_id, change.id)),
                [SettingsChangeItem.state.set(state), *actions],
                SettingsChangeItem.state == ChangeState.ASKED,
            )
        except ConditionFailed:
            return  # the device was deleted meanwhile

    def page(
        self, device_id: DeviceId, *, limit: int, after: str, now: datetime
    ) -> tuple[Sequence[SettingsChange], str | None]:
        """Read changes, newest first: one Query; with the id behind which more follow, None: none do."""
        page = query(
            SettingsChangeItem,
            children_pk(device_id),
            SettingsChangeItem.sk.startswith(PREFIX),
            limit=limit + 1,
            forward=False,
            start={"pk": children_pk(device_id), "sk": f"{PREFIX}{after}"} if after else None,
        )
        # TTL deletes late.
        alive = [change_of(item) for item in page.items if (item.expires_at or 0) > now.timestamp()]
        return alive[:limit], alive[limit - 1].id if len(alive) > limit else None


def _putting(owner: UserId, change: SettingsChange) -> Transaction:
    tx = Transaction()
    require_device(tx, owner, change.device_id)
    tx.put(
        SettingsChangeItem(
            *change_key(change.device_id, change.id),
            device_id=change.device_id,
            user_id=owner,
            changed_by=change.changed_by,
            patch=cast("Any", dict(change.patch)),
            at=iso(change.at),
            state=change.state,
            settings_version=change.settings_version,
            is_cut=change.is_cut or None,
            expires_at=int(change.at.timestamp()) + CHANGE_RETENTION_S,
        )
    )
    return tx


def change_of(item: SettingsChangeItem) -> SettingsChange:
    """Return the change that an item holds."""
    return SettingsChange(
        id=item.sk.removeprefix(PREFIX),
        device_id=DeviceId(item.device_id),
        changed_by=UserId(item.changed_by) if item.changed_by else None,
        patch=cast("dict[str, Any]", item.patch),
        at=parse_iso(item.at),
        state=ChangeState(item.state),
        settings_version=int(item.settings_version) if item.settings_version else None,
        is_cut=bool(item.is_cut),
    )
