"""The price of reading a request's body beside JSON that is no request: it is bounded, and names no member twice."""

from __future__ import annotations

import json
from functools import partial
from typing import Final

import orjson

from benchmarks.report import Row
from benchmarks.warm import beside
from benchmarks.world import World
from karma.core import freeform

_SAID: Final = "Look at https://example.org/a: is the robot there? " * 4
BODIES: Final = {
    "of 170 small objects": orjson.dumps(
        {"items": [{"t": i, "v": i / 2, "at": "12:00:00", "ok": True} for i in range(170)]}
    ),
    "of 45 messages": orjson.dumps(
        {"messages": [{"id": f"m{i}", "role": "user", "content": _SAID[:160]} for i in range(45)]}
    ),
}
"""Bodies of 9 KB."""


def measure(_world: World) -> list[Row]:
    """Measure bodies, and the slow check for one whose texts escape a colon."""
    rows = []
    for name, body in BODIES.items():
        read = partial(freeform.loads, body)
        ours, plain = beside(partial(read, of_request=True), read, times=200)
        rows.append(
            Row("api", f"reading a request {name}, 9 KB, CPU", f"as no request {plain:.0f} us",
                f"{ours:.0f} us, {ours / plain:.1f}x", "<= 2.5x", ours / plain <= 2.5)
        )  # fmt: skip
    escaped = body.replace(b"https:", rb"https\u003a")
    slow, stock = beside(lambda: freeform.loads(escaped, of_request=True), lambda: json.loads(escaped), times=200)
    rows.append(
        Row("api", "the same of messages that escape a colon, read twice, CPU", f"json {stock:.0f} us",
            f"{slow:.0f} us", "", None)
    )  # fmt: skip
    return rows
