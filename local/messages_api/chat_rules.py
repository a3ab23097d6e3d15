"""The rules by which OpenAI's API refuses a body of `POST /v1/chat/completions`, as far as conversations break them.

From https://platform.openai.com/docs/api-reference/chat/create, and from the errors that people report. Two rules are
of other servers: turns of the user and of the assistant alternate and there is one system message, as the chat
templates of many open models want it (vLLM refuses what breaks them), and arguments of calls are JSON objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

_TOP = frozenset(
    {
        "model", "messages", "tools", "tool_choice", "max_tokens", "max_completion_tokens", "stream", "stream_options",
        "reasoning_effort",
        "temperature", "top_p", "stop", "n", "user", "seed", "metadata", "parallel_tool_calls", "response_format",
    }
)  # fmt: skip
_FIELDS: Mapping[str, frozenset[str]] = {
    "system": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "tool_calls", "refusal"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")
MAX_ID_CHARS = 40
MAX_TOOLS = 128
MAX_DESCRIPTION_CHARS = 1024


class _Refused(Exception):
    """A rule is broken; the message is as the API words it."""


def chat_refusal(body: object) -> str | None:
    """Return why the API refuses this body, or None when it accepts it."""
    try:
        _check(_object(body, "body", _TOP))
    except _Refused as refused:
        return str(refused)
    return None


def _check(body: Mapping[str, Any]) -> None:
    _require(isinstance(body.get("model"), str) and body["model"] != "", "you must provide a model parameter")
    for name in ("max_tokens", "max_completion_tokens"):
        most = body.get(name, 1)
        _require(type(most) is int and most > 0, f"{name}: must be at least 1")
    _check_tools(body.get("tools", []))
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _Refused("[] is too short - 'messages'")
    spoke = ""
    waiting: list[str] = []
    for at, each in enumerate(messages):
        role = each.get("role") if isinstance(each, Mapping) else None
        if role not in _FIELDS:
            raise _Refused(f"messages.{at}.role: {role!r} is not one of {sorted(_FIELDS)}")
        message = _object(each, f"messages.{at}", _FIELDS[str(role)])
        if role == "tool":
            given = message.get("tool_call_id")
            _require(given in waiting, f"messages.{at}: no tool call {given!r} precedes without a result")
            waiting.remove(str(given))
            spoke = "tool"
            _require(isinstance(message.get("content"), str), f"messages.{at}.content: must be a string")
            _whole(message["content"], f"messages.{at}.content")
            continue
        _require(not waiting, f"messages.{at}: tool_call_ids did not have response messages: {waiting}")
        _require(role != "system" or at == 0, f"messages.{at}: System message must be at the beginning.")
        _require(role != spoke, f"messages.{at}: roles must alternate user/assistant")
        _require(
            role != "assistant" or spoke in {"user", "tool"}, f"messages.{at}: the first message must be the user's"
        )
        spoke = str(role)
        waiting = _check_said(message, str(role), f"messages.{at}")
    _require(not waiting, f"tool_call_ids did not have response messages: {waiting}")
    _require(messages[-1]["role"] in {"user", "tool"}, "the last message must be the user's or a tool's")


def _check_said(message: Mapping[str, Any], role: str, at: str) -> list[str]:
    """Check a message of the system, the user or the assistant; return the ids of its calls."""
    calls = message.get("tool_calls")
    content = message.get("content")
    if content is None:
        _require(bool(calls), f"{at}.content: expected a string, got null")
    elif isinstance(content, str):
        _require(content != "", f"{at}.content: must not be empty")
        _whole(content, f"{at}.content")
    else:
        _require(isinstance(content, list) and bool(content), f"{at}.content: must be a string or a list")
        for n, part in enumerate(content):
            _check_part(part, role, f"{at}.content.{n}")
    if calls is None:
        return []
    _require(isinstance(calls, list) and bool(calls), f"{at}.tool_calls: [] is too short")
    ids = [_check_call(call, f"{at}.tool_calls.{n}") for n, call in enumerate(calls)]
    _require(len(set(ids)) == len(ids), f"{at}.tool_calls: ids must be unique")
    return ids


def _check_part(part: object, role: str, at: str) -> None:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        text = _object(part, at, frozenset({"type", "text"})).get("text")
        _require(isinstance(text, str) and text != "", f"{at}.text: must be a string")
        _whole(str(text), at)
    elif kind == "image_url" and role == "user":
        image = _object(_object(part, at, frozenset({"type", "image_url"}))["image_url"], at, frozenset({"url"}))
        _require(_IMAGE.fullmatch(str(image.get("url"))) is not None, f"{at}.image_url.url: is no supported image")
    else:
        raise _Refused(f"{at}.type: {kind} is not taken in {role} content")


def _check_call(call: object, at: str) -> str:
    read = _object(call, at, frozenset({"id", "type", "function"}))
    call_id, function = read.get("id"), _object(read.get("function"), at, frozenset({"name", "arguments"}))
    _require(read.get("type") == "function", f"{at}.type: must be function")
    if not isinstance(call_id, str) or not 0 < len(call_id) <= MAX_ID_CHARS:
        raise _Refused(f"{at}.id: string too long. Expected a string with maximum length {MAX_ID_CHARS}")
    _require(_NAME.fullmatch(str(function.get("name"))) is not None, f"{at}.function.name: must match {_NAME.pattern}")
    try:
        arguments = json.loads(function.get("arguments", ""))
    except (ValueError, TypeError):
        raise _Refused(f"{at}.function.arguments: must be JSON") from None
    _require(isinstance(arguments, dict), f"{at}.function.arguments: must be a JSON object")
    return call_id


def _check_tools(tools: object) -> None:
    if not isinstance(tools, Sequence) or len(tools) > MAX_TOOLS:
        raise _Refused(f"tools: a list of at most {MAX_TOOLS}")
    for n, each in enumerate(tools):
        at = f"tools.{n}"
        tool = _object(each, at, frozenset({"type", "function"}))
        function = _object(tool.get("function"), at, frozenset({"name", "description", "parameters", "strict"}))
        _require(
            _NAME.fullmatch(str(function.get("name"))) is not None, f"{at}.function.name: must match {_NAME.pattern}"
        )
        long = len(function.get("description", "")) > MAX_DESCRIPTION_CHARS
        _require(not long, f"{at}.function.description: string too long")
        schema = function.get("parameters")
        _require(isinstance(schema, Mapping) and schema.get("type") == "object", f"{at}.function.parameters: invalid")
        _require(isinstance(schema, Mapping) and "properties" in schema, f"{at}: object schema missing properties")


def _whole(text: str, at: str) -> None:
    _require(not any("\ud800" <= char <= "\udfff" for char in text), f"{at}: not valid UTF-8")


def _object(value: object, at: str, allowed: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Refused(f"{at}: must be an object")
    for name in value:
        _require(name in allowed, f"{at}: Unrecognized request argument supplied: {name}")
    return value


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise _Refused(message)
