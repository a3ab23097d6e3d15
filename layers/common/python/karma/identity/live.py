"""Accounts, live: nothing to watch, but their sessions, keys and roles decide which connections may stay open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from karma.core.happenings import ItemChange, text_in
from karma.core.ids import UserId
from karma.core.live import Channel, LiveSource, ObjectState, RightsChange, Update

_DECIDING = {
    "user": ("role", "disabled_at", "sessions_from", "api_keys_from"),
    "session": ("revoked_at",),
    "api_key": ("revoked_at", "scopes", "valid_until"),
}
"""Attributes by type of item; a change of one of them is a change of rights."""


class LiveAccounts:
    """Has no channels."""

    permissions: Mapping[str, str] = {}

    def updates(self, change: ItemChange) -> Sequence[Update]:  # noqa: ARG002
        """See LiveSource."""
        return ()

    def rights(self, change: ItemChange) -> Sequence[RightsChange]:
        """See LiveSource: log-outs, revoked keys, other roles, disabled and deleted accounts."""
        if change.old is None:
            if text_in(change.new, "type") != "account_tombstone":
                return ()
        elif all(
            (change.old.get(name) == (change.new or {}).get(name)) and change.new is not None
            for name in _DECIDING.get(text_in(change.old, "type"), ())
        ):
            return ()
        image = change.new or change.old
        return (RightsChange(None, UserId(text_in(image, "pk").removeprefix("USER#"))),)

    def space(self, kind: str, object_id: str, viewer: UserId) -> str:  # noqa: ARG002
        """See LiveSource; there is no channel."""
        return viewer

    def states(
        self,
        channel: Channel,  # noqa: ARG002
        viewer: UserId,  # noqa: ARG002
        held: Mapping[str, int],  # noqa: ARG002
    ) -> Sequence[ObjectState] | None:
        """See LiveSource; there is no channel."""
        return None


def source() -> LiveSource:
    """Return what accounts declare."""
    return LiveAccounts()
