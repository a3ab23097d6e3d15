"""Converts conversations for the Chat Completions API, as OpenAI defines it and vLLM, Ollama and others serve it.

What only one of these servers takes is not sent: one system message, turns that alternate, and content that is a text
unless there is an image in it. What a model thinks is sent back to it alone, in the member in which its server told it:
some servers refuse a turn without it, and those that tell it read it. The thinking of other models is never sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import orjson

from karma.conversations.domain import Json, Message
from karma.conversations.repair import arguments_of
from karma.integrations.anthropic_messages import GO_ON
from karma.integrations.attachments import NOT_SHOWN, Attachments
from karma.integrations.openai_signed import listed_of, signed_of
from karma.integrations.openai_turn import THOUGHTS
from karma.models.ports import ToolSpec

MAX_ID_CHARS: Final = 40
"""Characters of the id of a call; OpenAI refuses longer ones."""
MAX_DESCRIPTION_CHARS: Final = 1024
MAX_TOOLS: Final = 128
BETWEEN: Final = "(The results are above.)"
"""Assistant's turn that is added between a tool's result and what the user says next, for servers that want one."""
_STRICT_ID: Final = re.compile(r"[A-Za-z0-9]{9}")
DETAILS: Final = "reasoning_details"
FAILED: Final = "[This call failed.] "
"""Put before the result of a call that failed, since the API has no field for that."""


def to_chat(
    system: Sequence[str],
    messages: Sequence[Message],
    *,
    images: bool,
    model: str = "",
    server: str = "",
    is_strict: bool = False,
) -> list[dict[str, object]]:
    """Convert a conversation, as karma.conversations.repair returns it, for a model of the API.

    Args:
        system: instructions.
        messages: the conversation.
        images: the model is shown images; else each is replaced by a note.
        model: the model, which is sent back what it thought itself.
        server: its server, as `server_of` knows it, which is sent back what it has signed.
        is_strict: it takes ids of nine letters and digits, and no user's turn behind a tool's, as Mistral's do.
    """
    ids = _Ids(is_strict=is_strict)
    attachments = Attachments.of(messages, documents=False, images=images)
    chat: list[dict[str, object]] = []
    instructions = "\n\n".join(text for text in system if text.strip())
    if instructions:
        chat.append({"role": "system", "content": instructions})
    for message in messages:
        said = _shaped(message, attachments, ids, model=model, server=server)
        if said is None:
            continue
        last = chat[-1] if chat else {}
        if is_strict and (last.get("role"), said["role"]) == ("tool", "user"):
            chat.append({"role": "assistant", "content": BETWEEN})
        if said["role"] == last.get("role") != "tool":
            _append(last, said)
        else:
            chat.append(said)
    _think_everywhere(chat)
    if chat and chat[-1]["role"] in {"assistant", "system"}:
        chat.append({"role": "user", "content": GO_ON})
    return chat


def to_function(tool: ToolSpec) -> Json:
    """Convert a tool; a description that is too long is cut."""
    parameters = {"properties": {}, **tool.parameters}
    described = {"name": tool.name, "description": tool.description[:MAX_DESCRIPTION_CHARS], "parameters": parameters}
    return {"type": "function", "function": described}


def _think_everywhere(chat: Sequence[dict[str, object]]) -> None:
    """Give all answers the member in which some say what the model thought: servers that want it want it in each."""
    for member in THOUGHTS:
        if any(member in said for said in chat):
            for said in chat:
                if said["role"] == "assistant":
                    said.setdefault(member, "")


class _Ids:
    """Ids of calls as they are sent: the server's own where it gave them, else ours, in a form that it takes."""

    def __init__(self, *, is_strict: bool) -> None:
        self._is_strict = is_strict
        self._sent: dict[str, str] = {}
        self._used: set[str] = set()

    def take(self, call_id: str, given: object) -> str:
        """Return the id with which a call is sent; `given` is the one that its server gave it, if that is known."""
        if isinstance(given, str) and given not in self._used:
            own = given
        elif len(call_id) <= MAX_ID_CHARS:
            own = call_id
        else:
            own = f"call_{_digest(call_id)[:24]}"
        n = 0
        while own in self._used or (self._is_strict and not _STRICT_ID.fullmatch(own)):
            own, n = _digest(f"{call_id}#{n}")[:9], n + 1
        self._used.add(own)
        self._sent[call_id] = own
        return own

    def of_result(self, call_id: str) -> str:
        """Return the id of the call that a result is of."""
        return self._sent[call_id] if call_id in self._sent else self.take(call_id, None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _shaped(
    message: Message, attachments: Attachments, ids: _Ids, *, model: str, server: str
) -> dict[str, object] | None:
    if message.role == "tool":
        text = "\n".join(part["text"] for part in _parts(message, attachments, in_result=True))
        return {
            "role": "tool",
            "tool_call_id": ids.of_result(message.tool_call_id),
            "content": FAILED + text if message.failed else text,
        }
    if message.role == "assistant":
        return _answer(message, attachments, ids, model=model, server=server)
    parts = list(_parts(message, attachments))
    return {"role": "user", "content": _content(parts)} if parts else None


def _answer(
    message: Message, attachments: Attachments, ids: _Ids, *, model: str, server: str
) -> dict[str, object] | None:
    texts = [part["text"] for part in _parts(message, attachments) if "text" in part]
    if not texts:
        # Answers that were stored as blocks alone.
        found = (block.get("text") for block in message.blocks if block.get("type") == "text")
        texts = [str(text) for text in found if isinstance(text, str) and text.strip()]
    said: dict[str, object] = {"role": "assistant", "content": "\n".join(texts) or None}
    signed = signed_of(message, model=model, server=server)
    if message.tool_calls:
        extras, given = (listed_of(signed, name, len(message.tool_calls)) for name in ("extras", "ids"))
        said["tool_calls"] = [
            {
                "id": ids.take(call.id, own),
                "type": "function",
                # Servers parse them: what the model wrote badly is passed inside an object.
                "function": {"name": call.name, "arguments": orjson.dumps(arguments_of(call.arguments)).decode()},
                **({"extra_content": extra} if isinstance(extra, dict) else {}),
            }
            for call, extra, own in zip(message.tool_calls, extras, given, strict=True)
        ]
    if details := signed.get("details"):
        said[DETAILS] = details
    for block in message.blocks if message.model == model else ():
        member = block.get("member")
        if block.get("type") == "thinking" and member in THOUGHTS:
            said[str(member)] = block.get("thinking")
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
    for member in THOUGHTS:
        if thoughts := [str(each[member]) for each in (to, said) if each.get(member)]:
            to[member] = "\n\n".join(thoughts)
    if DETAILS in to or DETAILS in said:
        to[DETAILS] = [*_listed(to.get(DETAILS, [])), *_listed(said.get(DETAILS, []))]
    calls = [*_listed(to.get("tool_calls", [])), *_listed(said.get("tool_calls", []))]
    if calls:
        to["tool_calls"] = calls


def _listed(content: object) -> list[object]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]
