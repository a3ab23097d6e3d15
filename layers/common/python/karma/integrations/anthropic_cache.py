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
    """Mark the tools, the agent's text and the conversation up to the last answer, in a request's own lists."""
    if body.get("tools"):
        body["tools"][-1] = _marked(body["tools"][-1])
    if body["system"]:
        body["system"][0] = _marked(body["system"][0])
    # Turns alternate and the last is the user's: before the last answer stands what was asked before.
    if len(body["messages"]) >= 3:
        asked = body["messages"][-3]["content"]
        asked[-1] = _marked(asked[-1])


def _marked(block: Json) -> Json:
    return {**block, "cache_control": CACHED}
