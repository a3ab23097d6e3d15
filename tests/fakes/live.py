"""Things that can be watched, in memory: each has a version and a log, and is an account's or a project's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from karma.core.happenings import ItemChange, number_in, text_in
from karma.core.ids import UserId
from karma.core.live import MOST_PIECES, Channel, ObjectState, RightsChange, Update


@dataclass
class LiveThings:
    """Channels `thing:<id>` of an account's own things, and `project:<id>` of those that members share."""

    permissions: Mapping[str, str] = field(default_factory=lambda: {"thing": "device:read", "project": "project:read"})
    things: dict[tuple[str, str], int] = field(default_factory=dict)
    """Versions by space and id."""
    logs: dict[tuple[str, str], int] = field(default_factory=dict)
    """Numbers of the last piece, by space and id."""
    members: dict[str, set[str]] = field(default_factory=dict)

    def updates(self, change: ItemChange) -> Sequence[Update]:
        image = change.new or change.old
        space, name = text_in(image, "space"), text_in(image, "id")
        match text_in(image, "type"):
            case "thing":
                channels = [Channel(space, "thing", name)]
                channels.append(Channel(space, "project" if space in self.members else "user", space))
                if text_in(image, "read") and change.new:
                    return (Update(channels=channels, state=None),)
                version, deleted = number_in(image, "version") + (change.new is None), change.new is None
                return (Update(channels=channels, state=state(name, version, deleted=deleted)),)
            case "piece":
                n = number_in(image, "n")
                return (Update(channels=(Channel(space, "thing", name),), state=piece(name, n)),)
        return ()

    def rights(self, change: ItemChange) -> Sequence[RightsChange]:
        if text_in(change.old, "type") == "member":
            project, user = text_in(change.old, "project"), UserId(text_in(change.old, "user"))
            return (RightsChange(Channel(project, "project", project), user or None),)
        if text_in(change.old, "type") == "account":
            return (RightsChange(None, UserId(text_in(change.old, "user"))),)
        return ()

    def space(self, kind: str, object_id: str, viewer: UserId) -> str:
        return object_id if kind == "project" and viewer in self.members.get(object_id, ()) else viewer

    def states(self, channel: Channel, viewer: UserId, held: Mapping[str, int]) -> Sequence[ObjectState] | None:
        if channel.kind == "project":
            return () if viewer in self.members.get(channel.object_id, ()) else None
        key = (channel.space, channel.object_id)
        if key not in self.things:
            return None
        found = [state(channel.object_id, self.things[key])]
        after, last = held.get(f"log:{channel.object_id}", 0), self.logs.get(key, 0)
        if last - after >= MOST_PIECES:
            return [*found, replace(piece(channel.object_id, last), prev=after, data=None)]
        return [*found, *(piece(channel.object_id, n) for n in range(after + 1, last + 1))]


def state(name: str, version: int, *, deleted: bool = False, size: int = 0) -> ObjectState:
    return ObjectState(
        name=f"thing:{name}",
        version=version,
        at="2026-11-21T12:00:00.000Z",
        ref=f"/things/{name}",
        data=None if deleted else {"version": version, "text": "x" * size},
        deleted=deleted,
    )


def piece(name: str, n: int, *, size: int = 0) -> ObjectState:
    return ObjectState(
        name=f"log:{name}",
        version=n,
        prev=n - 1,
        at="",
        ref=f"/things/{name}/log?after={n - 1}",
        data={"n": n, "text": "x" * size},
    )


def image(kind: str, **fields: str | int) -> dict[str, dict[str, str]]:
    """Return an item's image as a stream has it."""
    found = {"type": {"S": kind}}
    for name, value in fields.items():
        found[name] = {"N": str(value)} if isinstance(value, int) else {"S": value}
    return found
