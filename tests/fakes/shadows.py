"""Device shadows in memory, as AWS keeps them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from karma.devices.shadow import Json, Shadow


@dataclass
class FakeShadows:
    """Shadows by thing; `now_s` stamps what is written, `between` is called once, before the next update."""

    now_s: Callable[[], int] = lambda: 1_795_250_340
    stored: dict[str, Shadow] = field(default_factory=dict)
    between: list[Callable[[], object]] = field(default_factory=list)
    lose_answer: list[Exception] = field(default_factory=list)
    updates: list[Mapping[str, Any]] = field(default_factory=list)

    def read(self, thing: str) -> Shadow:
        return copy.deepcopy(self.stored.get(thing, Shadow()))

    def update(self, thing: str, *, desired: Json, reported: Json, version: int, token: str) -> int | None:
        if self.between:
            self.between.pop(0)()
        before = self.stored.get(thing, Shadow())
        if version and before.version != version:
            return None
        self.updates.append({"desired": desired, "reported": reported, "token": token})
        wanted, wanted_at = _merged(before.desired, before.desired_stamps, desired, self.now_s())
        said, said_at = _merged(before.reported, before.reported_stamps, reported, self.now_s())
        self.stored[thing] = Shadow(
            version=before.version + 1, desired=wanted, reported=said, desired_stamps=wanted_at, reported_stamps=said_at
        )
        for lost in itertools.islice(self.lose_answer, 1):
            self.lose_answer.remove(lost)
            raise lost
        return before.version + 1

    def delete(self, thing: str) -> None:
        self.stored.pop(thing, None)


def _merged(values: Json, stamps: Json, patch: Json, now_s: int) -> tuple[dict[str, Any], dict[str, Any]]:
    after, stamped = dict(values), dict(stamps)
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
            stamped.pop(name, None)
        elif isinstance(value, Mapping):
            inner = after.get(name), stamped.get(name)
            if not isinstance(inner[0], Mapping):
                inner = {}, {}
            after[name], stamped[name] = _merged(inner[0] or {}, inner[1] or {}, value, now_s)
        else:
            after[name] = value
            stamped[name] = [{"timestamp": now_s}] * len(value) if isinstance(value, list) else {"timestamp": now_s}
    return after, stamped
