"""The documented rules of Anthropic's Messages API (version 2026-10-21), as a check of a request's body.

The offline model of `make dev`, the scripted model of the tests and the property tests of histories all ask `refusal`,
so that a request which the real API would refuse is refused here too. The rules are those of the reference, of the
guides to tool use, vision and PDFs, and of the error messages that people report. Where the API is known to accept
more than its documentation promises, the documentation is followed.

Not checked: anything that depends on the account or the model's window, and whether a signature of a thinking block is
genuine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from local.messages_api.media import image_problem, pdf_problem

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_MESSAGES = 100_000
MAX_IMAGES = 100
MAX_MARKS = 4
MANY_IMAGES = 20
MAX_SIDE_PX = 8000
MAX_SIDE_PX_OF_MANY = 2000
MAX_IMAGE_CHARS = 5 * 1024 * 1024
"""Characters of one image in base64 at the most."""

_REQUIRED = ("model", "max_tokens", "messages")
_TOP = frozenset(
    {
        *_REQUIRED, "cache_control", "container", "diagnostics", "inference_geo", "metadata", "output_config",
        "service_tier", "speed", "stop_sequences", "stream", "system", "thinking", "tool_choice", "tools",
    }
)  # fmt: skip
"""Members of a request; `temperature`, `top_p` and `top_k` were removed on 2026-10-21."""

_COMMON = frozenset({"type", "cache_control"})
_FIELDS: Mapping[str, frozenset[str]] = {
    "text": _COMMON | {"text", "citations"},
    "image": _COMMON | {"source", "transformations"},
    "document": _COMMON | {"source", "citations", "context", "title"},
    "tool_use": _COMMON | {"id", "name", "input", "caller", "toolset_name"},
    "tool_result": _COMMON | {"tool_use_id", "content", "is_error", "toolset_name"},
    "thinking": frozenset({"type", "thinking", "signature"}),
    "redacted_thinking": frozenset({"type", "data"}),
    "server_tool_use": _COMMON | {"id", "name", "input", "caller"},
    "web_search_tool_result": _COMMON | {"tool_use_id", "content", "caller"},
}
_PLACES: Mapping[str, frozenset[str]] = {
    "user": frozenset({"text", "image", "document", "tool_result"}),
    "assistant": frozenset(
        {"text", "tool_use", "thinking", "redacted_thinking", "server_tool_use", "web_search_tool_result"}
    ),
    "result": frozenset({"text", "image", "document"}),
}
_TOOL_FIELDS = frozenset(
    {
        "name", "description", "input_schema", "type", "cache_control", "allowed_callers", "defer_loading",
        "eager_input_streaming", "input_examples", "strict",
    }
)  # fmt: skip
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_OF_SERVER_TOOLS = frozenset({"server_tool_use", "web_search_tool_result"})
"""Blocks of tools that the API runs itself; a turn that has paused for them is sent back as it is, and continued."""
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_THINKING = frozenset({"adaptive", "enabled", "disabled", "between_tools"})
_SCHEMA_COMBINATORS = ("oneOf", "allOf", "anyOf")


class _Refused(Exception):
    """A rule is broken; the message is as the API words it."""


def refusal(body: object, *, size: int = 0) -> str | None:
    """Return why the API refuses this body, or None when it accepts it.

    Args:
        body: the parsed JSON.
        size: its bytes on the wire; 0 when they are not known.
    """
    try:
        if size > MAX_BODY_BYTES:
            raise _Refused(f"request_too_large: the request exceeds {MAX_BODY_BYTES} bytes")
        _check(body)
    except _Refused as refused:
        return str(refused)
    return None


def _check(body: object) -> None:
    request = _object(body, "request", _TOP)
    for name in _REQUIRED:
        _require(name in request, f"{name}: Field required")
    _require(isinstance(request["model"], str) and request["model"] != "", "model: must be a non-empty string")
    max_tokens = request["max_tokens"]
    _require(type(max_tokens) is int and max_tokens >= 0, "max_tokens: must be a whole number of at least 0")
    _require(isinstance(request.get("stream", False), bool), "stream: must be a boolean")
    _check_system(request.get("system"))
    _check_tools(request.get("tools"))
    thinking = request.get("thinking")
    if thinking is not None:
        kind = thinking.get("type") if isinstance(thinking, Mapping) else None
        _require(kind in _THINKING, "thinking.type: must be adaptive, enabled, disabled or between_tools")
    messages = request["messages"]
    if not isinstance(messages, list):
        raise _Refused("messages: Input should be a valid list")
    _require(bool(messages), "messages: at least one message is required")
    _require(len(messages) <= MAX_MESSAGES, f"messages: at most {MAX_MESSAGES}")
    marks = sum(map(_marks, (request.get("cache_control"), request.get("system"), request.get("tools"), messages)))
    _require(marks <= MAX_MARKS, f"A maximum of {MAX_MARKS} blocks with cache_control may be provided. Found {marks}.")
    turns = _turns(messages)
    _check_pairs(turns)
    _check_server_tools(turns)
    _check_images(turns)


def _marks(value: object) -> int:
    """Count marks of the cache; that of the request itself is given as its value."""
    if isinstance(value, list):
        return sum(map(_marks, value))
    if not isinstance(value, Mapping):
        return 0
    if value.get("type") == "ephemeral":
        return 1
    return _marks(value.get("cache_control")) + _marks(value.get("content"))


def _check_system(system: object) -> None:
    if system is None or isinstance(system, str):
        _require(not system or bool(system.strip()), "system: text content blocks must contain non-whitespace text")
        return
    _require(isinstance(system, list), "system: must be a string or a list")
    for i, block in enumerate(system if isinstance(system, list) else []):
        _text(_object(block, f"system.{i}", _FIELDS["text"]), f"system.{i}")


def _check_tools(tools: object) -> None:
    if tools is None:
        return
    _require(isinstance(tools, list), "tools: Input should be a valid list")
    names: set[str] = set()
    for i, each in enumerate(tools if isinstance(tools, list) else []):
        at = f"tools.{i}.custom"
        tool = _object(each, at, _TOOL_FIELDS)
        name, schema = tool.get("name"), tool.get("input_schema")
        _require(_matches(_TOOL_NAME, name), f"{at}.name: must match {_TOOL_NAME.pattern}")
        _require(name not in names, "tools: Tool names must be unique.")
        names.add(str(name))
        _require(isinstance(tool.get("description", ""), str), f"{at}.description: must be a string")
        if not isinstance(schema, Mapping) or schema.get("type") != "object":
            raise _Refused(f"{at}.input_schema.type: must be object")
        for word in _SCHEMA_COMBINATORS:
            _require(
                word not in schema,
                f"{at}.input_schema: input_schema does not support oneOf, allOf, or anyOf at the top level",
            )
        properties, required = schema.get("properties"), schema.get("required")
        _require(isinstance(properties, Mapping | None), f"{at}.input_schema.properties: must be an object")
        _require(isinstance(required, list | None), f"{at}.input_schema.required: must be a list")


_Blocks = list[Mapping[str, object]]


def _turns(messages: Sequence[object]) -> list[tuple[str, _Blocks]]:
    """Check each message by itself and combine neighbours of one role, as the API does."""
    turns: list[tuple[str, _Blocks]] = []
    for i, each in enumerate(messages):
        at = f"messages.{i}"
        message = _object(each, at, frozenset({"role", "content"}))
        role, content = message.get("role"), message.get("content")
        if role not in ("user", "assistant"):
            raise _Refused(f"{at}.role: must be user or assistant")
        blocks = list(_blocks(content, at=f"{at}.content", place=str(role)))
        _require(bool(blocks), f"{at}: {role} messages must have non-empty content")
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((str(role), blocks))
    _require(turns[0][0] == "user", "messages: first message must use the user role")
    _require(
        turns[-1][0] == "user" or any(block["type"] in _OF_SERVER_TOOLS for block in turns[-1][1]),
        "This model does not support assistant message prefill. The conversation must end with a user message.",
    )
    return turns


def _blocks(content: object, *, at: str, place: str) -> Iterator[Mapping[str, object]]:
    if isinstance(content, str):
        said: Mapping[str, object] = {"type": "text", "text": content}
        _text(said, at)
        yield said
        return
    _require(isinstance(content, list), f"{at}: must be a string or a list")
    for i, each in enumerate(content if isinstance(content, list) else []):
        here = f"{at}.{i}"
        kind = each.get("type") if isinstance(each, Mapping) else None
        if kind not in _PLACES[place]:
            raise _Refused(f"{here}.type: {kind} is not taken in {place} content")
        block = _object(each, here, _FIELDS[str(kind)])
        _block(str(kind), block, here)
        yield block


def _block(kind: str, block: Mapping[str, object], at: str) -> None:
    if kind == "text":
        _text(block, at)
        _require(not block.get("citations"), f"{at}.citations: not taken")
    elif kind == "image":
        _image(block.get("source"), f"{at}.image.source")
    elif kind == "document":
        _document(block.get("source"), f"{at}.document.source")
    elif kind == "tool_use":
        call_id, name = block.get("id"), block.get("name")
        _require(_matches(_CALL_ID, call_id), f"{at}.tool_use.id: must match {_CALL_ID.pattern}")
        _require(_matches(_TOOL_NAME, name), f"{at}.tool_use.name: must match {_TOOL_NAME.pattern}")
        _require(isinstance(block.get("input"), Mapping), f"{at}.tool_use.input: Input should be a valid dictionary")
    elif kind == "tool_result":
        _require(isinstance(block.get("tool_use_id"), str), f"{at}.tool_result.tool_use_id: Field required")
        _require(isinstance(block.get("is_error", False), bool), f"{at}.tool_result.is_error: must be a boolean")
        content = block.get("content")
        if content is not None and not isinstance(content, str):
            list(_blocks(content, at=f"{at}.tool_result.content", place="result"))
    elif kind == "server_tool_use":
        _require(_matches(_CALL_ID, block.get("id")), f"{at}.server_tool_use.id: must match {_CALL_ID.pattern}")
        _require(isinstance(block.get("input"), Mapping), f"{at}.server_tool_use.input: must be a valid dictionary")
    elif kind == "web_search_tool_result":
        _require(isinstance(block.get("tool_use_id"), str), f"{at}.web_search_tool_result.tool_use_id: Field required")
        _require(block.get("content") is not None, f"{at}.web_search_tool_result.content: Field required")
    elif kind == "thinking":
        signature = block.get("signature")
        _require(isinstance(block.get("thinking"), str), f"{at}.thinking.thinking: Field required")
        _require(isinstance(signature, str) and signature != "", f"{at}.thinking.signature: Field required")
    else:
        _require(isinstance(block.get("data"), str) and block["data"] != "", f"{at}.data: Field required")


def _text(block: Mapping[str, object], at: str) -> None:
    text = block.get("text")
    if not isinstance(text, str):
        raise _Refused(f"{at}.text: Input should be a valid string")
    _require(text != "", f"{at}: text content blocks must be non-empty")
    _require(text.strip() != "", f"{at}: text content blocks must contain non-whitespace text")
    _require(not any("\ud800" <= char <= "\udfff" for char in text), f"{at}: not valid UTF-8")


def _image(source: object, at: str) -> None:
    kind = source.get("type") if isinstance(source, Mapping) else None
    if kind == "base64":
        read = _object(source, at, frozenset({"type", "media_type", "data"}))
        media_type, data = read.get("media_type"), read.get("data")
        _require(media_type in _IMAGE_TYPES, f"{at}.media_type: must be one of {sorted(_IMAGE_TYPES)}")
        if not isinstance(data, str) or not data:
            raise _Refused(f"{at}.data: Field required")
        _require(len(data) <= MAX_IMAGE_CHARS, f"{at}.data: image exceeds 5 MB maximum")
        problem, _ = image_problem(data, str(media_type))
        _require(problem is None, f"{at}.data: {problem}")
    elif kind == "url":
        read = _object(source, at, frozenset({"type", "url"}))
        _require(str(read.get("url")).startswith("https://"), f"{at}.url: Only HTTPS URLs are supported.")
    else:
        raise _Refused(f"{at}.type: must be base64 or url")


def _document(source: object, at: str) -> None:
    kind = source.get("type") if isinstance(source, Mapping) else None
    if kind == "base64":
        read = _object(source, at, frozenset({"type", "media_type", "data"}))
        _require(read.get("media_type") == "application/pdf", f"{at}.media_type: must be application/pdf")
        problem = pdf_problem(read.get("data"))
        _require(problem is None, f"{at}.data: {problem}")
    elif kind == "text":
        read = _object(source, at, frozenset({"type", "media_type", "data"}))
        _require(read.get("media_type") == "text/plain", f"{at}.media_type: must be text/plain")
        _text({"text": read.get("data")}, at)
    elif kind == "url":
        read = _object(source, at, frozenset({"type", "url"}))
        _require(str(read.get("url")).startswith("https://"), f"{at}.url: Only HTTPS URLs are supported.")
    else:
        raise _Refused(f"{at}.type: must be base64, text or url")


def _check_pairs(turns: Sequence[tuple[str, _Blocks]]) -> None:
    """Check that each tool_use has one tool_result at the start of the very next turn, and no other results exist."""
    seen: set[str] = set()
    open_ids: list[str] = []
    for n, (role, blocks) in enumerate(turns):
        results = [str(block["tool_use_id"]) for block in blocks if block["type"] == "tool_result"]
        if role == "user":
            missing = sorted(set(open_ids) - set(results))
            _require(
                not missing,
                f"turn {n}: `tool_use` ids were found without `tool_result` blocks immediately after: {missing}",
            )
            for answered in results:
                _require(
                    answered in open_ids,
                    f"turn {n}: unexpected `tool_use_id` found in `tool_result` blocks: {answered}",
                )
            _require(len(set(results)) == len(results), f"turn {n}: each tool_use must have a single result")
            kinds = [block["type"] == "tool_result" for block in blocks]
            _require(
                kinds == sorted(kinds, reverse=True), f"turn {n}: tool_result blocks must come first in the content"
            )
            open_ids = []
        else:
            open_ids = [str(block["id"]) for block in blocks if block["type"] == "tool_use"]
            _require(
                len(set(open_ids)) == len(open_ids) and not seen & set(open_ids),
                f"turn {n}: `tool_use` ids must be unique",
            )
            seen |= set(open_ids)


def _check_server_tools(turns: Sequence[tuple[str, _Blocks]]) -> None:
    """Check that calls of tools that the API runs itself have their results in the turn, unless it may still run them.

    It may in the last turn, and in one that waits for results of the client's tools.
    """
    for n, (_, blocks) in enumerate(turns):
        made = [str(block["id"]) for block in blocks if block["type"] == "server_tool_use"]
        given = [str(block["tool_use_id"]) for block in blocks if block["type"] == "web_search_tool_result"]
        _require(set(given) <= set(made), f"turn {n}: `web_search_tool_result` without its `server_tool_use`")
        may_wait = n == len(turns) - 1 or any(block["type"] == "tool_use" for block in blocks)
        _require(
            may_wait or set(made) <= set(given),
            f"turn {n}: `server_tool_use` ids were found without a corresponding result block",
        )


def _check_images(turns: Sequence[tuple[str, _Blocks]]) -> None:
    images = list(_images(block for _, blocks in turns for block in blocks))
    _require(len(images) <= MAX_IMAGES, f"messages: at most {MAX_IMAGES} images")
    most = MAX_SIDE_PX_OF_MANY if len(images) > MANY_IMAGES else MAX_SIDE_PX
    for source in images:
        if source.get("type") == "base64":
            _, sides = image_problem(str(source["data"]), str(source["media_type"]))
            _require(max(sides) <= most, f"messages: at least one of the image dimensions exceeds {most} pixels")


def _images(blocks: Iterator[object] | Sequence[object]) -> Iterator[Mapping[str, object]]:
    for block in blocks:
        if not isinstance(block, Mapping):
            continue
        source, content = block.get("source"), block.get("content")
        if block.get("type") == "image" and isinstance(source, Mapping):
            yield source
        elif isinstance(content, list):
            yield from _images(content)


def _object(value: object, at: str, allowed: frozenset[str]) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise _Refused(f"{at}: Input should be an object")
    for name in value:
        _require(name in allowed, f"{at}.{name}: Extra inputs are not permitted")
    return value


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise _Refused(message)


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
