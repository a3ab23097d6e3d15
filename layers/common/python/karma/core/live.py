"""Live objects: what contexts let clients watch over the WebSocket (karma/realtime, docs/adr/0059).

A context whose `live.py` has a function `source` says which channels it has, who may listen to them, what an item's
change means to a listener, and how an object is read as it is now:

    def source() -> LiveSource:
        return LiveTasks()

State is transferred, not history: every message names its object and the version of what it brings, so whoever holds
that version or a later one drops it. Doubled and reordered deliveries do no harm, and a client that was away compares
versions. Only logs are appended to (`seq`, `prev`), and only channels about collections are counted
(`Channel.is_counted`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol, Self

from karma.core import contexts
from karma.core.happenings import ItemChange
from karma.core.ids import UserId, is_id
from karma.core.records import Record

MOST_PIECES: Final = 20
"""Pieces of a log that are read for one subscription; whoever is further behind reads it by the API."""
_OUR_IDS: Final = frozenset({"device", "task"})
"""Kinds whose ids are ours alone, and never chosen by a client."""
_NAME: Final = re.compile(r"([a-z]+):([!\"$-~]{1,120})")
"""As ids of threads and runs, which clients may choose, `#` excepted, since names become parts of keys."""


class Channel(NamedTuple):
    """A subject to which connections listen; `<kind>:<object id>` is its name."""

    space: str
    """The account whose objects it is about, or the project that several accounts share. A name in another space is
    another channel: who may not see an object listens in their own space, where nothing is ever said about it."""
    kind: str
    object_id: str

    @property
    def name(self) -> str:
        """Return the name that clients use."""
        return f"{self.kind}:{self.object_id}"

    @property
    def is_counted(self) -> bool:
        """Tell whether its messages are numbered, since it is about a collection: an account's objects, or a project's.

        Versions do not tell a listener of objects that it does not know of; a missing number does.
        """
        return self.kind == "user" or (self.kind == "project" and self.space == self.object_id)

    @classmethod
    def parse(cls, name: str, *, space: str) -> Self | None:
        """Read a name; None: it is none."""
        found = _NAME.fullmatch(name)
        if found is None or (found[1] in _OUR_IDS and not is_id(found[2])):
            return None
        return cls(space, found[1], found[2])


class ObjectState(Record, kw_only=True):
    """An object at a version, or a piece of a log."""

    name: str
    """`<kind>:<id>`, such as `task:<id>`; unique among all that a client may hold."""
    version: int
    """Ascends with each change; of a log it is the number of the last piece."""
    at: str
    """Moment of the change, ISO 8601."""
    ref: str
    """Path below `/api/v1` under which it is read."""
    data: Mapping[str, object] | None
    """As that path answers it; None: read it there, or it is deleted."""
    prev: int | None = None
    """Number of the piece before, of a log; None: the object is no log, and this is the whole of it."""
    deleted: bool = False
    """It exists no more at this version. A later version of the same name is a new one."""


class Update(Record, kw_only=True):
    """A change, and the channels whose listeners are told of it."""

    channels: Sequence[Channel]
    state: ObjectState | None
    """None: it is stored in several items, and is what `states` of the first channel reads, when somebody listens."""

    @property
    def name(self) -> str:
        """Return the name of the object; of one that has to be read, that of its channel."""
        return self.channels[0].name if self.state is None else self.state.name


class RightsChange(NamedTuple):
    """Somebody may see less than before, or nothing."""

    channel: Channel | None
    """Channel that they may not listen to any more; None: their connections themselves may be over."""
    user_id: UserId | None
    """None: everybody who listens to the channel is looked at again."""


class LiveSource(Protocol):
    """A context's declaration of what can be watched of it."""

    permissions: Mapping[str, str]
    """Kinds of its channels, with the permission that listening to one takes."""

    def updates(self, change: ItemChange) -> Sequence[Update]:
        """Return what a change of an item means to listeners; nothing, when the item is another context's."""
        ...

    def rights(self, change: ItemChange) -> Sequence[RightsChange]:
        """Return whose rights changed with an item."""
        ...

    def space(self, kind: str, object_id: str, viewer: UserId) -> str:
        """Return the space in which somebody may listen to a channel; their own one, when nothing is shared with them.

        Strongly consistent.
        """
        ...

    def states(self, channel: Channel, viewer: UserId, held: Mapping[str, int]) -> Sequence[ObjectState] | None:
        """Read what a channel is about as it is now, for somebody who holds versions already; None: it is not theirs.

        Strongly consistent, and bounded: of a log what is behind the held piece, at most `MOST_PIECES` of them. Objects
        are returned whether or not they are held already.
        """
        ...


class OwnersAlone:
    """The part of a LiveSource whose objects are their owner's alone, shared with nobody."""

    def rights(self, change: ItemChange) -> Sequence[RightsChange]:  # noqa: ARG002
        """See LiveSource; nobody loses a right but with the account."""
        return ()

    def space(self, kind: str, object_id: str, viewer: UserId) -> str:  # noqa: ARG002
        """See LiveSource; no call."""
        return viewer


def declared() -> list[LiveSource]:
    """Return the declarations of all contexts."""
    return [module.source() for module in contexts.modules("live") if hasattr(module, "source")]


def by_kind(sources: Sequence[LiveSource]) -> dict[str, LiveSource]:
    """Return the source of each kind of channel.

    Raises:
        ValueError: two contexts declare one kind.
    """
    found: dict[str, LiveSource] = {}
    for source in sources:
        for kind in source.permissions:
            if kind in found:
                raise ValueError(f"two contexts declare channels {kind}:")
            found[kind] = source
    return found
