"""Devices, live: a device's description, status and newest values, its commands, and changes of its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from karma.core.happenings import Image, ItemChange, number_in, text_in
from karma.core.ids import DeviceId, ProjectId, UserId
from karma.core.live import Channel, LiveSource, ObjectState, RightsChange, Update
from karma.devices.images import device_of

_KINDS = frozenset({"device", "device_latest", "device_presence"})


class LiveDevices:
    """Channels `device:<id>`; the list in `user:<id>` is told what changes a line of it, not each newest value.

    A channel lies in the space of the device's owner; members of projects that show the device listen there, too.
    """

    permissions: Mapping[str, str] = {"device": "device:read"}

    def updates(self, change: ItemChange) -> Sequence[Update]:
        """See LiveSource. A device is three items, so it is read anew, but for its end and for commands."""
        image = change.new or change.old
        kind = text_in(image, "type")
        if kind == "command":
            return _command(change.new)
        if kind == "settings_change":
            return _settings_change(change.new)
        found = device_of(image) if kind in _KINDS else None
        if found is None:
            return ()
        user_id, device_id = found
        own = Channel(user_id, "device", device_id)
        all_ = Channel(user_id, "user", user_id)
        if kind == "device":
            was, is_ = (text_in(each, "state") == "active" for each in change)
            if was and not is_:
                return (Update(channels=(own, all_), state=_deleted(device_id, change)),)
            return (Update(channels=(own, all_), state=None),) if is_ else ()
        if change.new is None:
            return ()
        listed = kind == "device_presence" or _condition(change.old) != _condition(change.new)
        return (Update(channels=(own, all_) if listed else (own,), state=None),)

    def rights(self, change: ItemChange) -> Sequence[RightsChange]:
        """See LiveSource: whoever listens to a device that a project shows no more, and who left such a project."""
        kind = text_in(change.old, "type")
        if change.new is not None or kind not in {"project_device", "project_member"}:
            return ()
        if kind == "project_device":
            owner, device_id = text_in(change.old, "owner_id"), text_in(change.old, "device_id")
            return (RightsChange(Channel(owner, "device", device_id), None),)
        # Those that are gone by now have told of it themselves.
        from karma.projects.lookup import shares_of

        gone = UserId(text_in(change.old, "user_id"))
        shares = shares_of(ProjectId(text_in(change.old, "project_id")))
        return [
            RightsChange(Channel(each.owner_id, "device", each.device_id), None if each.owner_id == gone else gone)
            for each in shares
        ]

    def space(self, kind: str, object_id: str, viewer: UserId) -> str:  # noqa: ARG002
        """See LiveSource; one Query of the index, and a BatchGet for each project that may show the device."""
        from karma.projects.lookup import owner_shown_to

        return owner_shown_to(viewer, object_id) or viewer

    def states(
        self,
        channel: Channel,
        viewer: UserId,
        held: Mapping[str, int],  # noqa: ARG002
    ) -> Sequence[ObjectState] | None:
        """See LiveSource; one Query. Its version is the sum of its items', each of which only ascends."""
        from karma.devices.answers import device_view
        from karma.devices.repository.devices import DeviceRepository

        if channel.space != viewer and self.space(channel.kind, channel.object_id, viewer) != channel.space:
            return None
        current, version = DeviceRepository().versioned(UserId(channel.space), DeviceId(channel.object_id))
        if current is None:
            return None
        view = device_view(current)
        return (
            ObjectState(
                name=f"device:{channel.object_id}",
                version=version,
                at=view["updated_at"],
                ref=f"/devices/{channel.object_id}",
                data={**view},
            ),
        )


def source() -> LiveSource:
    """Return what devices declare."""
    return LiveDevices()


def _deleted(device_id: str, change: ItemChange) -> ObjectState:
    # Above the sum of the versions of all items that it had: they never have so many changes.
    return ObjectState(
        name=f"device:{device_id}",
        version=_END,
        at=text_in(change.new or change.old, "updated_at"),
        ref=f"/devices/{device_id}",
        data=None,
        deleted=True,
    )


_END = 1 << 52
"""Version of a deleted device: its id is never given again. As a number of JavaScript it is exact."""


def _condition(image: Image | None) -> object:
    import orjson

    facts = text_in(image, "facts")
    return orjson.loads(facts).get("condition") if facts else None


def _command(image: Image | None) -> Sequence[Update]:
    if image is None:
        return ()
    from karma.core.clock import from_epoch_ms, iso
    from karma.core.dynamo.items import Item
    from karma.devices.answers import command_view
    from karma.devices.repository.commands import command_of
    from karma.devices.repository.items import CommandItem

    item = Item.from_raw_data(dict(image))
    if not isinstance(item, CommandItem):
        return ()
    moments = [number_in(image, name) for name in ("issued_ms", "sent_ms", "acknowledged_ms", "finished_ms")]
    return (
        Update(
            channels=(Channel(item.user_id, "device", item.device_id),),
            state=ObjectState(
                name=f"command:{item.command_id}",
                version=int(item.version),
                at=iso(from_epoch_ms(max(moments))),
                ref=f"/devices/{item.device_id}/commands/{item.command_id}",
                data={**command_view(command_of(item))},
            ),
        ),
    )


def _settings_change(image: Image | None) -> Sequence[Update]:
    if image is None:
        return ()
    from karma.core.dynamo.items import Item
    from karma.devices.repository.settings_changes import SettingsChangeItem, change_of
    from karma.devices.settings_answers import settings_change_view

    item = Item.from_raw_data(dict(image))
    if not isinstance(item, SettingsChangeItem) or not item.user_id:
        return ()
    view = settings_change_view(change_of(item))
    return (
        Update(
            channels=(Channel(item.user_id, "device", item.device_id),),
            state=ObjectState(
                name=f"settings_change:{view['id']}",
                version=int(item.version),
                at=item.updated_at,
                ref=f"/devices/{item.device_id}/settings/changes",
                data={**view},
            ),
        ),
    )
