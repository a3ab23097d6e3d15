"""One message of a batch that fails takes no other along, and its line in the log has the ids that it names."""

from __future__ import annotations

from typing import Any

import pytest

from karma.core.batch import Ids, each_message
from karma.core.errors import Conflict
from karma.core.observability import logger

EVENT = {"Records": [{"messageId": f"m-{body}", "body": body} for body in ("good", "?", "busy", "broken", "last")]}


def read(body: str) -> tuple[str, Ids]:
    if body == "?":
        raise ValueError("names nothing")
    return body, {"thing_id": body}


def handle(thing: str) -> str:
    if thing == "busy":
        raise Conflict("busy")
    if thing == "broken":
        raise KeyError(thing)
    return "done"


def test_each_message_fails_by_itself_and_is_told_by_its_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[str, str, dict[str, Any]]] = []
    for level in ("info", "warning", "error", "exception"):

        def keep(event: str, *, at: str = level, **keys: Any) -> None:
            lines.append((at, event, keys))

        monkeypatch.setattr(logger, level, keep)

    answer = each_message(EVENT, "r-1", name="thing", read=read, handle=handle)

    assert answer == {"batchItemFailures": [{"itemIdentifier": f"m-{body}"} for body in ("?", "busy", "broken")]}
    assert lines == [
        ("info", "thing.handled", {"outcome": "done", "request_id": "r-1", "thing_id": "good"}),
        ("error", "thing.unreadable", {"message_id": "m-?", "request_id": "r-1"}),
        ("warning", "thing.failed", {"code": "CONFLICT", "request_id": "r-1", "thing_id": "busy"}),
        ("exception", "thing.failed", {"request_id": "r-1", "thing_id": "broken"}),
        ("info", "thing.handled", {"outcome": "done", "request_id": "r-1", "thing_id": "last"}),
    ]
