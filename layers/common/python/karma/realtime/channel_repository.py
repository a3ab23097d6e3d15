"""Stores the listeners of a channel, and the last number of its messages; items.py has the keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from karma.core.clock import epoch_ms, iso
from karma.core.dynamo.access import batch_get, get, update, upsert
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.partitions import pages
from karma.core.ids import UserId, short_id
from karma.core.live import Channel
from karma.realtime.domain import HEAD_TTL, Head
from karma.realtime.items import (
    CONNECTION,
    ChannelHead,
    ChannelSubscriptionItem,
    ConnectionItem,
    RealtimeItem,
    channel_pk,
    connection_key,
    head_key,
    subscription_keys,
    user_pk,
)

_PAGE = 1_000


class ChannelRepository:
    """See Channels; over DynamoDB."""

    def begin_counting(self, channel: Channel, *, now: datetime) -> None:
        """See Channels; one Get, and once in half a day one Update."""
        head = get(ChannelHead, head_key(channel), consistent=True)
        until = epoch_ms(now + HEAD_TTL) // 1000
        if head is not None and (head.expires_at or 0) > until - HEAD_TTL.total_seconds() / 2:
            return
        over = head is not None and (head.expires_at or 0) <= epoch_ms(now) // 1000
        upsert(
            ChannelHead(*head_key(channel)),
            [
                ChannelHead.epoch.set(short_id() if over else ChannelHead.epoch | short_id()),
                ChannelHead.seq.add(0),
                ChannelHead.updated_at.set(iso(now)),
                ChannelHead.expires_at.set(until),
                ChannelHead.gsi1pk.set(user_pk(UserId(channel.space))),
                ChannelHead.gsi1sk.set(f"HEAD#{channel.name}"),
            ],
        )

    def head(self, channel: Channel) -> Head | None:
        """See Channels; one Get."""
        item = get(ChannelHead, head_key(channel), consistent=True)
        return None if item is None else Head(epoch=item.epoch, seq=int(item.seq))

    def advance(self, channel: Channel, count: int) -> Head | None:
        """See Channels; one Update."""
        try:
            item = update(ChannelHead(*head_key(channel)), [ChannelHead.seq.add(count)])
        except ConditionFailed:
            return None
        return Head(epoch=item.epoch, seq=int(item.seq))

    def listeners(self, channel: Channel) -> Iterator[Sequence[str]]:
        """See Channels; one Query a thousand of them."""
        for page in pages(RealtimeItem, channel_pk(channel), prefix=CONNECTION, size=_PAGE):
            yield [key.sk.removeprefix(CONNECTION) for key in page]

    def still_listening(self, channel: Channel, connection_ids: Sequence[str]) -> set[str]:
        """See Channels; one BatchGet a hundred of them."""
        keys = {subscription_keys(each, channel)[1]: each for each in connection_ids}
        return {keys[key] for key in batch_get(ChannelSubscriptionItem, list(keys), consistent=True)}

    def note_missed(self, connection_id: str) -> None:
        """See Channels; one Update."""
        try:
            update(ConnectionItem(*connection_key(connection_id)), [ConnectionItem.missed.add(1)])
        except ConditionFailed:
            return  # it is closed
