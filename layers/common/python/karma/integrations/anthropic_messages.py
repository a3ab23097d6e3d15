"""Converts conversations for the Messages API: messages, media, and the calls and results of tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from karma.conversations.domain import Json, Message
from karma.conversations.media import Medium, UnreadableMedia, of_stored
from karma.conversations.repair import tool_use

_MAX_IMAGES = 20
"""Images of one request: up to this number the API accepts sides of 8,000 pixels, beyond it only 2,000."""
_MAX_CHARS = 20 * 1024 * 1024
"""Characters of all media of one request in base64; a request may have 32 MB."""
GO_ON = "(Go on.)"
"""User's turn that is added when the conversation ends with the assistant's: the API continues no answer."""


def to_messages(messages: Sequence[Message], *, model: str) -> list[dict[str, object]]:
    """Convert a conversation, as karma.conversations.repair returns it, for the API.

    Turns alternate and the last is the user's; tool results stand first in the turn that follows their calls. An
    assistant turn is sent as it came; its thinking is bound to its model, and is left out for another.
    """
    turns: list[tuple[str, list[Json]]] = []
    attachments = _Attachments.of(messages)
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        content = list(_content(message, model=model, attachments=attachments))
        if not content:
            continue
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(content)
        else:
            turns.append((role, content))
    if turns and turns[-1][0] == "assistant":
        turns.append(("user", [text_block(GO_ON)]))
    return [{"role": role, "content": content} for role, content in turns]


@dataclass
class _Attachments:
    """Blocks of a conversation's media, from its end on: the newest, up to `_MAX_IMAGES` and `_MAX_CHARS`, are shown.

    Other media, and those that the API does not accept, are replaced by a text that says so.
    """

    blocks: dict[int, Json]
    """Blocks by the `id()` of the stored part; each part is in one message only."""

    @classmethod
    def of(cls, messages: Sequence[Message]) -> _Attachments:
        blocks: dict[int, Json] = {}
        images = chars = 0
        for message in reversed(messages):
            for part in reversed([] if isinstance(message.content, str) else message.content):
                if part.get("type") == "text":
                    continue
                if images > _MAX_IMAGES or chars > _MAX_CHARS:
                    blocks[id(part)] = text_block("[An earlier attachment was here.]")
                    continue
                try:
                    medium = of_stored(part)
                except UnreadableMedia as exc:
                    blocks[id(part)] = text_block(f"[An attachment was here that cannot be shown: it {exc}]")
                    continue
                images += medium.kind == "image"
                chars += len(medium.data)
                shown = images <= _MAX_IMAGES and chars <= _MAX_CHARS
                blocks[id(part)] = _medium(medium) if shown else text_block("[An earlier attachment was here.]")
        return cls(blocks)


def _content(message: Message, *, model: str, attachments: _Attachments) -> Iterator[Json]:
    if message.role == "tool":
        result: dict[str, object] = {"type": "tool_result", "tool_use_id": message.tool_call_id}
        content = list(_parts(message.content, attachments))
        if content:
            result["content"] = message.content if isinstance(message.content, str) else content
        if message.failed:
            result["is_error"] = True
        yield result
    elif message.role == "assistant":
        blocks = message.blocks or (*_parts(message.content, attachments), *map(tool_use, message.tool_calls))
        yield from (block for block in blocks if _is_replayable(block, same_model=message.model == model))
    else:
        yield from _parts(message.content, attachments)


def _is_replayable(block: Json, *, same_model: bool) -> bool:
    """Tell whether the API accepts a block of an assistant's turn back; tools that the API runs itself are not used."""
    kind = block.get("type")
    if kind == "text":
        return isinstance(block.get("text"), str) and bool(str(block["text"]).strip())
    if kind == "thinking":
        return same_model and isinstance(block.get("thinking"), str) and bool(block.get("signature"))
    if kind == "redacted_thinking":
        return same_model and bool(block.get("data"))
    return kind == "tool_use"


def _parts(content: str | Sequence[Json], attachments: _Attachments) -> Iterator[Json]:
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if part.get("type") != "text":
            yield attachments.blocks[id(part)]
        elif isinstance(part.get("text"), str) and str(part["text"]).strip():
            yield text_block(str(part["text"]))


def text_block(text: str) -> Json:
    """Return a block of text."""
    return {"type": "text", "text": text}


def _medium(medium: Medium) -> Json:
    if medium.media_type == "text/plain":
        source = {"type": "text", "media_type": medium.media_type, "data": medium.text()}
    else:
        source = {"type": "base64", "media_type": medium.media_type, "data": medium.data}
    return {"type": medium.kind, "source": source}
