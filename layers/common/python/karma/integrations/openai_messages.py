"""Converts conversations for the Chat Completions API, as OpenAI defines it and vLLM, Ollama and others serve it.

What only one of these servers takes is not sent: one system message, turns that alternate, and content that is a text
unless there is an image in it. The thinking of other providers is never sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import orjson

from karma.conversations.domain import Json, Message
from karma.conversations.repair import arguments_of
from karma.integrations.anthropic_messages import GO_ON
from karma.integrations.attachments import NOT_SHOWN, Attachments
from karma.models.ports import ToolSpec

MAX_ID_CHARS: Final = 40
"""Characters of the id of a call; OpenAI refuses longer ones."""
MAX_DESCRIPTION_CHARS: Final = 1024
MAX_TOOLS: Final = 128
FAILED: Final = "[This call failed.] "
"""Put before the result of a call that failed, since the API has no field for that."""


def to_chat(system: Sequence[str], messages: Sequence[Message], *, images: bool) -> list[dict[str, object]]:
    """Convert a conversation, as karma.conversations.repair returns it; without `images` each is replaced by a note."""
    attachments = Attachments.of(messages, documents=False, images=images)
    chat: list[dict[str, object]] = []
    instructions = "\n\n".join(text for text in system if text.strip())
    if instructions:
        chat.append({"role": "system", "content": instructions})
    for message in messages:
        said = _shaped(message, attachments)
        if said is None:
            continue
        last = chat[-1] if chat else {}
        if said["role"] == last.get("role") != "tool":
            _append(last, said)
        else:
            chat.append(said)
    if chat and chat[-1]["role"] in {"assistant", "system"}:
        chat.append({"role": "user", "content": GO_ON})
    return chat


def to_function(tool: ToolSpec) -> Json:
    """Convert a tool; a description that is too long is cut."""
    parameters = {"properties": {}, **tool.parameters}
    described = {"name": tool.name, "description": tool.description[:MAX_DESCRIPTION_CHARS], "parameters": parameters}
    return {"type": "function", "function": described}


def _shaped(message: Message, attachments: Attachments) -> dict[str, object] | None:
    if message.role == "tool":
        text = "\n".join(part["text"] for part in _parts(message, attachments, in_result=True))
        return {
            "role": "tool",
            "tool_call_id": _call_id(message.tool_call_id),
            "content": FAILED + text if message.failed else text,
        }
    if message.role == "assistant":
        return _answer(message, attachments)
    parts = list(_parts(message, attachments))
    return {"role": "user", "content": _content(parts)} if parts else None


def _answer(message: Message, attachments: Attachments) -> dict[str, object] | None:
    texts = [part["text"] for part in _parts(message, attachments) if "text" in part]
    if not texts:
        # Answers that were stored as blocks alone.
        found = (block.get("text") for block in message.blocks if block.get("type") == "text")
        texts = [str(text) for text in found if isinstance(text, str) and text.strip()]
    said: dict[str, object] = {"role": "assistant", "content": "\n".join(texts) or None}
    if message.tool_calls:
        said["tool_calls"] = [
            {
                "id": _call_id(call.id),
                "type": "function",
                # Servers parse them: what the model wrote badly is passed inside an object.
                "function": {"name": call.name, "arguments": orjson.dumps(arguments_of(call.arguments)).decode()},
            }
            for call in message.tool_calls
        ]
    return said if texts or message.tool_calls else None


def _parts(message: Message, attachments: Attachments, *, in_result: bool = False) -> Iterator[dict[str, str]]:
    content = message.content
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if part.get("type") == "text":
            text = part.get("text")
            if isinstance(text, str) and text.strip():
                yield {"type": "text", "text": text}
            continue
        shown = attachments.of_part(part)
        if isinstance(shown, str):
            yield {"type": "text", "text": shown}
        elif in_result or message.role == "assistant":
            yield {"type": "text", "text": NOT_SHOWN}
        else:
            yield {"type": "image_url", "image_url": f"data:{shown.media_type};base64,{shown.data}"}


def _content(parts: Sequence[Mapping[str, str]]) -> object:
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return [
        {"type": "image_url", "image_url": {"url": part["image_url"]}} if part["type"] == "image_url" else dict(part)
        for part in parts
    ]


def _append(to: dict[str, object], said: Mapping[str, object]) -> None:
    """Add a message to the one before it, which has the same role."""
    one, other = to["content"], said["content"]
    if isinstance(one, list) or isinstance(other, list):
        to["content"] = [*_listed(one), *_listed(other)]
    else:
        to["content"] = "\n\n".join(str(text) for text in (one, other) if text) or None
    calls = [*_listed(to.get("tool_calls", [])), *_listed(said.get("tool_calls", []))]
    if calls:
        to["tool_calls"] = calls


def _listed(content: object) -> list[object]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _call_id(call_id: str) -> str:
    if len(call_id) <= MAX_ID_CHARS:
        return call_id
    return f"call_{hashlib.sha256(call_id.encode('utf-8', 'replace')).hexdigest()[:24]}"
