"""Converts conversations for the Messages API: messages, media, and the calls and results of tools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from karma.conversations.domain import Json, Message
from karma.conversations.media import Medium
from karma.conversations.repair import tool_use
from karma.integrations.attachments import Attachments

GO_ON = "(Go on.)"
"""User's turn that is added when the conversation ends with the assistant's: the API continues no answer, but one that
has paused for tools which it runs itself (`pause_turn`)."""
_SERVER_CALL = "server_tool_use"


def to_messages(messages: Sequence[Message], *, model: str) -> list[dict[str, object]]:
    """Convert a conversation, as karma.conversations.repair returns it, for the API.

    Turns alternate and the last is the user's; tool results stand first in the turn that follows their calls. An
    assistant turn is sent as it came; its thinking is bound to its model, and is left out for another.
    """
    turns: list[tuple[str, list[Json]]] = []
    attachments = Attachments.of(messages)
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        content = list(_content(message, model=model, attachments=attachments))
        if not content:
            continue
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(content)
        else:
            turns.append((role, content))
    for at, (role, content) in enumerate(turns):
        if role == "assistant":
            turns[at] = role, _paired(content, is_last=at == len(turns) - 1)
    turns = [(role, content) for role, content in turns if content]
    if turns and turns[-1][0] == "assistant" and not any(map(_is_of_server_tool, turns[-1][1])):
        turns.append(("user", [text_block(GO_ON)]))
    return [{"role": role, "content": content} for role, content in turns]


def _paired(content: list[Json], *, is_last: bool) -> list[Json]:
    """Leave out calls of tools that the API runs itself without their results, and results without their calls.

    The API completes them in a turn that has paused, which is the last one, and in one that waits for results of ours.
    """
    if not any(map(_is_of_server_tool, content)):
        return content
    made = {block.get("id") for block in content if block.get("type") == _SERVER_CALL}
    given = {block.get("tool_use_id") for block in content if block.get("type") != _SERVER_CALL}
    may_wait = is_last or any(block.get("type") == "tool_use" for block in content)
    return [
        block
        for block in content
        if not _is_of_server_tool(block)
        or (block.get("tool_use_id") in made if block.get("type") != _SERVER_CALL else may_wait or block["id"] in given)
    ]


def _is_of_server_tool(block: Json) -> bool:
    """Tell whether a block of an answer is a call of a tool that the API runs itself, or the result of one."""
    kind = str(block.get("type"))
    return kind == _SERVER_CALL or kind.endswith("_tool_result")


def _content(message: Message, *, model: str, attachments: Attachments) -> Iterator[Json]:
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
    """Tell whether the API accepts a block of an assistant's turn back."""
    kind = block.get("type")
    if kind == "text":
        return isinstance(block.get("text"), str) and bool(str(block["text"]).strip())
    if kind == "thinking":
        return same_model and isinstance(block.get("thinking"), str) and bool(block.get("signature"))
    if kind == "redacted_thinking":
        return same_model and bool(block.get("data"))
    return kind == "tool_use" or (same_model and _is_of_server_tool(block))


def _parts(content: str | Sequence[Json], attachments: Attachments) -> Iterator[Json]:
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if part.get("type") != "text":
            shown = attachments.of_part(part)
            yield text_block(shown) if isinstance(shown, str) else _medium(shown)
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
