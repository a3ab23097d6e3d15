"""A client of the WebSocket's protocol as docs/realtime.md has it, without a network: sdk/js does the same.

It is given messages, and says what it sends. What it holds is what a page would show.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
GONE = (1 << 53) - 1


def is_log(name: str) -> bool:
    return name.startswith(("log:", "messages:"))


@dataclass
class Watched:
    """A client's part of one channel."""

    versions: dict[str, int] = field(default_factory=dict)
    objects: dict[str, Json] = field(default_factory=dict)
    """States that exist; a log is `{"pieces": [...]}`."""
    head: Json | None = None
    ahead: set[int] = field(default_factory=set)
    """Numbers that came before one that is missing."""
    floor: int = -1
    """Number up to which a list that was read has everything."""
    waiting: list[Json] | None = None
    """Events that came before the acknowledgement; None: it has come."""


@dataclass
class LiveClient:
    """Watches channels; `read` asks the API for a reference, `listed` for all of a collection."""

    read: Callable[[Json], Json | None]
    listed: Callable[[str], dict[str, tuple[int, Json]]]
    watched: dict[str, Watched] = field(default_factory=dict)
    outgoing: list[str] = field(default_factory=list)
    missed: int = 0

    def watch(self, channel: str) -> None:
        self.watched.setdefault(channel, Watched())
        self._subscribe(channel)

    def connected(self) -> None:
        """Begin on a new connection."""
        self.outgoing.clear()
        self.missed = 0
        for channel in self.watched:
            self._subscribe(channel)

    def take(self, message: Json) -> None:
        match message["type"]:
            case "ack" if message["action"] == "subscribe":
                self._acknowledged(self.watched[message["channel"]], message)
            case "event" if message["channel"] in self.watched:
                self._event(self.watched[message["channel"]], message)
            case "pong" if message["missed"] > self.missed:
                self.missed = message["missed"]
                for channel in self.watched:
                    self._subscribe(channel)

    def _subscribe(self, channel: str) -> None:
        found = self.watched[channel]
        found.waiting = found.waiting or []
        found.ahead.clear()
        held: Json = {"objects": dict(list(found.versions.items())[-200:])}
        if found.head is not None:
            held["head"] = found.head
        self.outgoing.append(json.dumps({"action": "subscribe", "channel": channel, "held": held}))

    def _acknowledged(self, found: Watched, message: Json) -> None:
        early, found.waiting = found.waiting or [], None
        self.missed = max(self.missed, message["missed"])
        if "head" in message:
            first = found.head is None
            found.head = message["head"]
            if first or message["gap"]:
                self._read_list(found, message["channel"])
        else:
            for name in [each for each in found.objects if each not in message["objects"] and not is_log(each)]:
                found.versions[name] = GONE
                del found.objects[name]
        for event in (*message["events"], *early):
            self._event(found, event)

    def _read_list(self, found: Watched, channel: str) -> None:
        assert found.head is not None
        found.floor = found.head["seq"]
        listed = self.listed(channel)
        for name in [*found.objects]:
            if name not in listed:
                del found.objects[name]
        for name, (version, data) in listed.items():
            if version >= found.versions.get(name, -1):
                found.versions[name], found.objects[name] = version, data

    def _event(self, found: Watched, event: Json) -> None:
        if found.waiting is not None:
            found.waiting.append(event)
            return
        head = event.get("head")
        if head is not None and not self._number(found, event["channel"], head):
            return
        name = event["object"]
        if event["kind"] == "appended":
            self._append(found, event)
        elif event["version"] > found.versions.get(name, -1):
            found.versions[name] = event["version"]
            data = event.get("data")
            if event["kind"] == "changed" and data is None:
                data = self.read(event)
            if event["kind"] == "deleted" or data is None:
                found.objects.pop(name, None)
            else:
                found.objects[name] = data

    def _number(self, found: Watched, channel: str, head: Json) -> bool:
        """Note an event's number; False: what it tells is in a list that was read later."""
        assert found.head is not None
        if head["epoch"] != found.head["epoch"] or head["prev"] > found.head["seq"]:
            # sdk/js waits a moment whether what is missing comes out of order.
            found.head = {"epoch": head["epoch"], "seq": head["seq"]}
            self._read_list(found, channel)
            return False
        if head["seq"] == found.head["seq"] + 1:
            found.head = {"epoch": head["epoch"], "seq": head["seq"]}
        return bool(head["seq"] > found.floor)

    def _append(self, found: Watched, event: Json) -> None:
        name = event["object"]
        after = found.versions.get(name, 0)
        if event["seq"] <= after:
            return
        if event["prev"] != after:
            self._subscribe(event["channel"])
            return
        data = event.get("data")
        pieces = [data["n"]] if data else list(range(event["prev"] + 1, event["seq"] + 1))
        if data is None:
            self.read(event)
        found.versions[name] = event["seq"]
        found.objects.setdefault(name, {"pieces": []})["pieces"].extend(pieces)
