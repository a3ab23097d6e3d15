"""Marks the prefixes of a request that Anthropic's API may have cached; it reads tools, system, messages in order.

    last tool              the same for all runs with these tools
    first system text      the agent's; what an application adds stands behind it and may change with each request
    end of the request before, in the conversation
    end of this request    the API marks it itself (`cache_control` of the request), for the next one

Four marks are allowed. From each the API looks back over twenty blocks for what it has: after a turn with more calls
than that, the conversation would be lost without the third mark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from karma.conversations.domain import Json

CACHED: Final[Mapping[str, str]] = {"type": "ephemeral"}
"""A mark for five minutes, which each read renews."""


def mark_prefixes(body: dict[str, Any]) -> None:
    """Mark the tools, the agent's text, the conversation up to the last answer, and all of it, in a request's lists."""
    body["cache_control"] = CACHED
    if body.get("tools"):
        body["tools"][-1] = _marked(body["tools"][-1])
    if body["system"]:
        body["system"][0] = _marked(body["system"][0])
    # Turns alternate: before the last answer stands what was asked before. A turn that has paused is the last itself.
    asked = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
    is_paused = bool(asked) and body["messages"][-1]["role"] == "assistant"
    if len(asked) >= 2 or is_paused:
        before = asked[-1] if is_paused else asked[-2]
        before[-1] = _marked(before[-1])


def _marked(block: Json) -> Json:
    return {**block, "cache_control": CACHED}
