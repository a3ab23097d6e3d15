"""Serialises messages for the store: JSON, each text once.

A thread's history grows by whole turns, each in one transaction; `domain.MAX_ADDED_BYTES` is measured on this form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from karma.conversations.domain import CallEffect, Json, Message, ToolCall

_EFFECTS: Mapping[str, CallEffect] = {"done": "done", "unknown": "unknown", "none": "none"}
"""Effects that are stored by name: without one, or with one that a later release named, it is as the result tells."""


def dump_messages(messages: Sequence[Message]) -> bytes:
    """Write messages as a JSON list."""
    return orjson.dumps([_json(message) for message in messages])


def load_messages(data: bytes) -> list[Message]:
    """Read a JSON list that `dump_messages` wrote."""
    return [_message(each) for each in orjson.loads(data)]


def _json(message: Message) -> dict[str, Any]:
    """Convert a message; empty fields, and content that the blocks repeat, are left out."""
    data: dict[str, Any] = {"id": message.id, "role": message.role}
    if not message.blocks or message.content != _text(message.blocks):
        data["content"] = message.content
    if message.tool_calls:
        data["tool_calls"] = [list(call) for call in message.tool_calls]
    if message.tool_call_id:
        data["tool_call_id"] = message.tool_call_id
    if message.failed:
        data["failed"] = True
    if message.effect != "told":
        data["effect"] = message.effect
    if message.blocks:
        data["blocks"] = list(message.blocks)
    if message.model:
        data["model"] = message.model
    if message.tokens:
        data["tokens"] = message.tokens
    if message.past_in_words:
        data["past_in_words"] = True
    if message.keeps:
        data["keeps"] = message.keeps
    return data


def _message(data: dict[str, Any]) -> Message:
    blocks = tuple(data.get("blocks", ()))
    return Message(
        id=data["id"],
        role=data["role"],
        content=data["content"] if "content" in data else _text(blocks),
        tool_calls=tuple(ToolCall(*call) for call in data.get("tool_calls", ())),
        tool_call_id=data.get("tool_call_id", ""),
        failed=data.get("failed", False),
        effect=_EFFECTS.get(data.get("effect", ""), "told"),
        blocks=blocks,
        model=data.get("model", ""),
        tokens=data.get("tokens", 0),
        past_in_words=data.get("past_in_words", False),
        keeps=data.get("keeps", 0),
    )


def _text(blocks: Sequence[Json]) -> str:
    return "".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")
