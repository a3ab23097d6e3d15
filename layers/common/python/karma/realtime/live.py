"""The channel `user:<id>`: what changes in an account's lists, as all contexts tell it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from karma.core.happenings import ItemChange
from karma.core.ids import UserId
from karma.core.live import Channel, LiveSource, ObjectState, OwnersAlone, Update


class LiveAccount(OwnersAlone):
    """Channels `user:<own id>`; listening takes the permissions of all other channels as well (ConnectionService)."""

    permissions: Mapping[str, str] = {"user": "notice:read"}

    def updates(self, change: ItemChange) -> Sequence[Update]:  # noqa: ARG002
        """See LiveSource."""
        return ()

    def states(
        self,
        channel: Channel,  # noqa: ARG002
        viewer: UserId,  # noqa: ARG002
        held: Mapping[str, int],  # noqa: ARG002
    ) -> Sequence[ObjectState] | None:
        """See LiveSource: lists are read by the API."""
        return ()


def source() -> LiveSource:
    """Return what the account's channel declares."""
    return LiveAccount()
