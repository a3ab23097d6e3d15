"""The pusher: sends the messages of push jobs, and forgets connections that are gone.

A push is no receipt: a 200 may be lost and a 410 may have arrived. So nothing here counts on it. What a connection did
not take is noted on it, and its next `pong` says so: the client then asks for what it lacks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, Self

import orjson

from karma.core.clock import Clock, epoch_ms
from karma.core.live import Channel
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.realtime.ports import Channels, Delivered, Pushes, Tickets

SURE_MS: Final = 1_000
"""Age up to which a job's listeners are believed. Of an older one it is read again who still listens, so that nobody is
told anything two seconds after their rights have ended."""


class PushJob(Record, kw_only=True):
    """One message for some connections that listen to a channel."""

    channel: Channel
    connections: Sequence[str]
    body: bytes
    made_at_ms: int

    @classmethod
    def read(cls, text: str) -> Self:
        """Read the body of a message that LiveRouter has sent."""
        found = orjson.loads(text)
        return cls(
            channel=Channel(*found["channel"]),
            connections=found["connections"],
            body=found["body"].encode(),
            made_at_ms=found["made_at"],
        )


class Pusher:
    """Sends jobs; one that is sent twice does no harm."""

    def __init__(self, tickets: Tickets, channels: Channels, pushes: Pushes, clock: Clock) -> None:
        self._tickets = tickets
        self._channels = channels
        self._pushes = pushes
        self._clock = clock

    def push(self, jobs: Sequence[PushJob]) -> list[bool]:
        """Send jobs together; answer of each whether it is done. A job is not when nobody of it could be reached."""
        messages: list[tuple[str, bytes]] = []
        ends: list[int] = []
        for job in jobs:
            messages += [(each, job.body) for each in self._listening(job)]
            ends.append(len(messages))
        outcomes = self._pushes.send_all(messages)
        missed = {Delivered.TOO_LARGE, Delivered.BUSY, Delivered.UNREACHED}
        done: list[bool] = []
        start = 0
        for end in ends:
            of_job = outcomes[start:end]
            done.append(not of_job or any(each not in {Delivered.UNREACHED, Delivered.REFUSED} for each in of_job))
            for (connection, _), outcome in zip(messages[start:end], of_job, strict=True):
                if outcome is Delivered.GONE:
                    self._tickets.disconnect(connection)
                elif outcome in missed and done[-1]:
                    self._channels.note_missed(connection)
            start = end
        self._tell(Counter(outcomes))
        return done

    def _listening(self, job: PushJob) -> Sequence[str]:
        if epoch_ms(self._clock.now()) - job.made_at_ms <= SURE_MS:
            return job.connections
        listening = self._channels.still_listening(job.channel, job.connections)
        return [each for each in job.connections if each in listening]

    def _tell(self, outcomes: Counter[Delivered]) -> None:
        logger.info("push.sent", outcomes={each.value: number for each, number in outcomes.items()})
        for outcome, number in outcomes.items():
            match outcome:
                case Delivered.SENT:
                    count("PushSent", number)
                case Delivered.GONE:
                    count("PushGone", number)
                case Delivered.REFUSED:
                    count("PushRefused", number)
                case Delivered.TOO_LARGE | Delivered.BUSY | Delivered.UNREACHED:
                    count("PushMissed", number)
