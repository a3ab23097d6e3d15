"""Notices, live: an account is told of a new one, and reads it in its own language by the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from karma.core.happenings import ItemChange, number_in, text_in
from karma.core.ids import UserId
from karma.core.live import Channel, LiveSource, ObjectState, OwnersAlone, Update


class LiveNotices(OwnersAlone):
    """Has no channels of its own: notices are told in `user:<id>`."""

    permissions: Mapping[str, str] = {}

    def updates(self, change: ItemChange) -> Sequence[Update]:
        """See LiveSource."""
        if text_in(change.new, "type") != "notice":
            return ()
        user_id = text_in(change.new, "pk").removeprefix("USER#")
        state = ObjectState(
            name=f"notice:{text_in(change.new, 'sk').removeprefix('NOTICE#')}",
            version=number_in(change.new, "version"),
            at=text_in(change.new, "updated_at") or text_in(change.new, "created_at"),
            ref="/notices",
            data=None,
        )
        return (Update(channels=(Channel(user_id, "user", user_id),), state=state),)

    def states(
        self,
        channel: Channel,  # noqa: ARG002
        viewer: UserId,  # noqa: ARG002
        held: Mapping[str, int],  # noqa: ARG002
    ) -> Sequence[ObjectState] | None:
        """See LiveSource; there is no channel."""
        return None


def source() -> LiveSource:
    """Return what notices declare."""
    return LiveNotices()
