"""Answers of the Chat Completions API as servers stream them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.faulty_server import END, Behaviour, stream


def data(body: object) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def chunk(delta: Mapping[str, Any] | None = None, *, finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    return data({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more})


def chunks(
    *texts: str,
    calls: Sequence[Mapping[str, Any]] = (),
    finish: str = "",
    usage: Mapping[str, Any] | None = None,
) -> list[bytes]:
    """Return the events of an answer: its texts, pieces of calls, and the usage if there is any."""
    reason = finish or ("tool_calls" if calls else "stop")
    last: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": usage}
    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": text}) for text in texts),
        *(chunk({"tool_calls": [dict(call)]}) for call in calls),
        chunk(finish=reason),
        *([data(last)] if usage else []),
        b"data: [DONE]\n\n",
    ]


def chat(*texts: str, end: Behaviour = END, **more: Any) -> Behaviour:
    """Answer with a whole stream."""
    return stream(*chunks(*texts, **more), end=end)
