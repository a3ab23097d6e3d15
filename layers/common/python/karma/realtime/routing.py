"""Routers: changes of items become push jobs, and changes of rights end subscriptions.

    stream ── LiveRouter ──> jobs of at most 100 connections ──> Pusher (pushing.py) ──> sockets
          ├── SubscriptionRights: ends subscriptions of those who may not listen any more
          └── ConnectionRights: closes connections of sessions that are over

A change is told to whoever listened when it was read from the stream, which is behind the change itself. Whoever
subscribes later reads the object after the subscription was stored, and so sees the change. Nothing is lost between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import orjson

from karma.core.clock import Clock, epoch_ms
from karma.core.errors import Upstream
from karma.core.ids import UserId
from karma.core.live import Channel, LiveSource, ObjectState, RightsChange, Update, by_kind
from karma.core.observability import count, logger
from karma.core.streams import StreamRecord
from karma.realtime import wire
from karma.realtime.domain import is_streamed
from karma.realtime.ports import Accounts, Channels, PushQueue, Sockets, Tickets

CONNECTIONS_A_JOB: Final = 100


class LiveRouter:
    """Tells listeners what changed; the same changes may be given again, in any order."""

    def __init__(self, sources: Sequence[LiveSource], channels: Channels, queue: PushQueue, clock: Clock) -> None:
        self._sources = sources
        self._by_kind = by_kind(sources)
        self._channels = channels
        self._queue = queue
        self._clock = clock

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Queue the messages of a batch, and return their number; of an object the newest state alone is told.

        Raises:
            StorageThrottled, StorageUnavailable, QueueUnavailable: all may be given again.
        """
        updates: dict[tuple[str, int], Update] = {}
        for record in records:
            for source in self._sources:
                for update in source.updates(record.change):
                    updates[_identity(update)] = _newer(updates.get(_identity(update)), update)
        told: dict[Channel, list[Update]] = {}
        for update in updates.values():
            for channel in update.channels:
                told.setdefault(channel, []).append(update)
        jobs = [job for channel, of_channel in told.items() for job in self._jobs(channel, of_channel)]
        if jobs:
            self._queue.send_many(jobs)
            count("PushJobQueued", len(jobs))
        return len(jobs)

    def _jobs(self, channel: Channel, updates: Sequence[Update]) -> Sequence[str]:
        """Make the jobs of a channel: of each message one for each hundred listeners."""
        head = None
        if channel.is_counted:
            # Most lists are watched by nobody: reading that costs less than a number.
            if self._channels.head(channel) is None:
                return ()
            # Numbered before listeners are read: who subscribes in between finds the number, or a gap.
            head = self._channels.advance(channel, len(updates))
        listeners = [each for page in self._channels.listeners(channel) for each in page]
        if not listeners:
            return ()
        made_at, jobs = epoch_ms(self._clock.now()), list[str]()
        for place, update in enumerate(updates, 1 - len(updates)):
            state = self._state(update)
            if state is None:
                continue
            number = None if head is None else replace(head, seq=head.seq + place)
            body = wire.encoded(wire.event(channel, state, number)).decode()
            for start in range(0, len(listeners), CONNECTIONS_A_JOB):
                connections = listeners[start : start + CONNECTIONS_A_JOB]
                job = {"made_at": made_at, "channel": list(channel), "connections": connections, "body": body}
                jobs.append(orjson.dumps(job).decode())
        return jobs

    def _state(self, update: Update) -> ObjectState | None:
        """Return what is told; None: the object is gone since, which its own record tells."""
        if update.state is not None:
            return update.state
        channel = update.channels[0]
        states = self._by_kind[channel.kind].states(channel, UserId(channel.space), {})
        return states[0] if states else None


def _identity(update: Update) -> tuple[str, int]:
    """Return what a later update of a batch replaces: an object's state, but no piece of a log."""
    state = update.state
    return f"{update.channels[0].space}#{update.name}", -1 if state is None or state.prev is None else state.version


def _newer(one: Update | None, other: Update) -> Update:
    """Return which of two updates of an object is told, to the channels of both."""
    if one is None:
        return other
    channels = tuple(dict.fromkeys((*one.channels, *other.channels)))
    if one.state is None or other.state is None:
        # A deletion is final, and what is read anew is newer than any record.
        ends = [each.state for each in (one, other) if each.state is not None and each.state.deleted]
        return Update(channels=channels, state=ends[0] if ends else None)
    return Update(channels=channels, state=max(one.state, other.state, key=lambda each: each.version))


class SubscriptionRights:
    """Ends subscriptions to channels that somebody may not listen to any more; changes may be given again."""

    def __init__(self, sources: Sequence[LiveSource], store: Tickets, channels: Channels) -> None:
        self._sources = sources
        self._by_kind: Mapping[str, LiveSource] = by_kind(sources)
        self._store = store
        self._channels = channels

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Check again what the changes of a batch concern, and return how many subscriptions ended.

        Whether a right is over is read now, and not taken from the record, which may be late.

        Raises:
            StorageThrottled, StorageUnavailable: all may be given again.
        """
        concerned: dict[tuple[Channel, UserId], None] = {}
        for change in rights_in(self._sources, records):
            if change.channel is not None:
                people = [change.user_id] if change.user_id is not None else self._listeners(change.channel)
                concerned.update(dict.fromkeys((change.channel, each) for each in people))
        ended = sum(self._ended(*each) for each in concerned)
        if ended:
            count("SubscriptionEnded", ended)
        return ended

    def _listeners(self, channel: Channel) -> list[UserId]:
        connections = (self._store.get_connection(each) for page in self._channels.listeners(channel) for each in page)
        return list(dict.fromkeys(each.user_id for each in connections if each is not None))

    def _ended(self, channel: Channel, user_id: UserId) -> int:
        connections = self._store.connections_of(user_id)
        source = self._by_kind[channel.kind]
        if not connections or source.space(channel.kind, channel.object_id, user_id) == channel.space:
            return 0
        listening = [each.id for each in connections if channel in self._store.channels(each.id)]
        for connection_id in listening:
            self._store.unsubscribe(connection_id, channel)
        return len(listening)


class ConnectionRights:
    """Closes connections whose session or key has ended, or whose account has another role; changes may come again."""

    def __init__(
        self, sources: Sequence[LiveSource], store: Tickets, accounts: Accounts, sockets: Sockets, clock: Clock
    ) -> None:
        self._sources = sources
        self._store = store
        self._accounts = accounts
        self._sockets = sockets
        self._clock = clock

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Check again the connections of the accounts that changed, and return how many were closed.

        Raises:
            StorageThrottled, StorageUnavailable: all may be given again.
        """
        found = [each.user_id for each in rights_in(self._sources, records) if each.channel is None]
        ended = sum(self._closed(each) for each in dict.fromkeys(found) if each is not None)
        if ended:
            count("ConnectionEnded", ended)
        return ended

    def _closed(self, user_id: UserId) -> int:
        connections = self._store.connections_of(user_id)
        if not connections:
            return 0
        user = self._accounts.read_user(user_id)
        over = [
            each
            for each in connections
            if user is None or user.role != each.rights.role or not self._store.is_open(each, now=self._clock.now())
        ]
        for connection in over:
            # First of all nobody pushes to it any more; then its client notices.
            self._store.disconnect(connection.id)
            if is_streamed(connection.id):
                continue  # its response ends by that
            try:
                self._sockets.close(connection.id)
            except Upstream as exc:
                logger.warning("realtime.left_open", user_id=user_id, code=exc.code)
                count("SocketsLeftOpen")
        return len(over)


def rights_in(sources: Sequence[LiveSource], records: Sequence[StreamRecord]) -> list[RightsChange]:
    """Return whose rights changed in a batch, each once."""
    found = (change for record in records for source in sources for change in source.rights(record.change))
    return list(dict.fromkeys(found))
