"""Messages that the WebSocket pushes, and the answer to a subscription; docs/realtime.schema.json.

No message has more than 30 KB, since API Gateway closes a connection that is sent a frame above 32 KB. What does not
fit is said by reference: the message lacks `data`, and `ref` is where the API answers it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import orjson

from karma.core.live import Channel, ObjectState
from karma.realtime.domain import Head, Held, Subscribed

MAX_MESSAGE_BYTES: Final = 30_720
_ROOM_FOR_NAMES: Final = 6_000
"""Bytes of an acknowledgement that are kept for everything besides the data of its events."""


def event(channel: Channel, state: ObjectState, head: Head | None = None) -> dict[str, object]:
    """Make the message of an object's state; `head` is its own number in a counted channel."""
    body: dict[str, object] = {"type": "event", "channel": channel.name, "object": state.name}
    if state.prev is None:
        body |= {"kind": "deleted" if state.deleted else "changed", "version": state.version}
    else:
        body |= {"kind": "appended", "seq": state.version, "prev": state.prev}
    body |= {"at": state.at or None, "ref": f"/api/v1{state.ref}"}
    if state.data is not None:
        body["data"] = state.data
    if head is not None:
        body["head"] = {"epoch": head.epoch, "seq": head.seq, "prev": head.seq - 1}
    return body


def encoded(body: dict[str, object]) -> bytes:
    """Encode an event, by reference when it is too long."""
    text = orjson.dumps(body)
    if len(text) <= MAX_MESSAGE_BYTES:
        return text
    return orjson.dumps({name: value for name, value in body.items() if name != "data"})


def acknowledgement(found: Subscribed, held: Held) -> dict[str, object]:
    """Make the answer to a subscription: which versions there are, and of what is newer than held, the states.

    `gap` says that a counted channel's list has changed in a way that cannot be told: the client reads it again.
    """
    versions = {state.name: state.version for state in found.states}
    body: dict[str, object] = {
        "type": "ack",
        "action": "subscribe",
        "channel": found.channel.name,
        "objects": versions,
        "events": list(_missing(found.channel, found.states, held.objects)),
        "missed": found.missed,
    }
    if found.head is not None:
        body["head"] = {"epoch": found.head.epoch, "seq": found.head.seq}
        body["gap"] = held.head is not None and held.head != found.head
    return body


def _missing(
    channel: Channel, states: Sequence[ObjectState], held: Mapping[str, int]
) -> Iterator[dict[str, object] | orjson.Fragment]:
    """Yield the events of what is newer than what is held; of a log that does not fit, one that refers to all of it."""
    room = MAX_MESSAGE_BYTES - _ROOM_FOR_NAMES
    for name in dict.fromkeys(state.name for state in states):
        newer = [state for state in states if state.name == name and state.version > held.get(name, -1)]
        events = [event(channel, state) for state in newer]
        texts = [orjson.dumps(each) for each in events]
        if sum(map(len, texts)) <= room:
            room -= sum(map(len, texts))
            yield from map(orjson.Fragment, texts)
        elif events:
            reference = {name: value for name, value in events[-1].items() if name != "data"}
            # Of a log this is all that is missing, not its last piece.
            yield reference | {key: events[0][key] for key in ("prev", "ref") if key in events[0]}
