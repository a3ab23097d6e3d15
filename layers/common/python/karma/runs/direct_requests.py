"""Reads the body of `POST /llm/messages`: strictly, since nothing that it says is kept.

Messages and tools have the shape of a run's; what a run lets pass in a history is refused here and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import orjson

from karma.configuration.domain import MAX_NAME_CHARS, MAX_TOKENS
from karma.conversations.domain import Message
from karma.conversations.media import UnreadableMedia, of_stored
from karma.conversations.messages import MAX_MESSAGE_BYTES, Sent
from karma.core.errors import ValidationFailed
from karma.core.records import Record
from karma.models.ports import ToolSpec
from karma.runs.requests import RunInput, parse_json, parse_run_input

MAX_SYSTEM_CHARS: Final = 256 * 1024
DEFAULT_TOKENS: Final = 4096
_OF_A_RUN: Final = ("messages", "tools")
_OWN: Final = frozenset({"model", "system", "max_tokens", "stream"})


class DirectInput(Record, kw_only=True):
    """The request for one call of a model."""

    model: str
    """Name of a configured model; "": the deployment's own."""
    system: tuple[str, ...]
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    max_tokens: int
    is_streamed: bool


def parse_direct_input(body: bytes) -> DirectInput:
    """Read a body.

    Raises:
        InvalidRequest: the body is not JSON.
        ValidationFailed: fields are wrong; one entry each.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise ValidationFailed.of("body", "must be an object")
    found: list[RunInput] = []
    of_a_run = orjson.dumps({name: value[name] for name in _OF_A_RUN if name in value})
    ValidationFailed.together(
        lambda: _require_known(value),
        lambda: _text(value, "model", most=MAX_NAME_CHARS),
        lambda: _text(value, "system", most=MAX_SYSTEM_CHARS),
        lambda: _max_tokens(value),
        lambda: _is_streamed(value),
        lambda: found.append(parse_run_input(of_a_run)),
        lambda: _check_messages(found[0]) if found else None,
    )
    (read,) = found
    system = _text(value, "system", most=MAX_SYSTEM_CHARS)
    return DirectInput(
        model=_text(value, "model", most=MAX_NAME_CHARS),
        system=(*((system,) if system else ()), *read.instructions),
        # By their places: repeated words are no repeated message.
        messages=tuple(replace(each.message, id=f"m{each.at}") for each in read.sent),
        tools=read.tools,
        max_tokens=_max_tokens(value),
        is_streamed=_is_streamed(value),
    )


def _require_known(value: Mapping[str, object]) -> None:
    unknown = [name for name in value if name not in _OWN and name not in _OF_A_RUN]
    if unknown:
        entries = [
            {"field": name[:64], "message": "is not a field of this request", "type": "extra_forbidden"}
            for name in unknown[:20]
        ]
        raise ValidationFailed("Request validation failed", details=entries)


def _text(value: Mapping[str, object], name: str, *, most: int) -> str:
    given = value.get(name)
    if given is None:
        return ""
    if isinstance(given, str) and len(given) <= most:
        return given
    raise ValidationFailed.of(name, f"must be a string of at most {most} characters")


def _max_tokens(value: Mapping[str, object]) -> int:
    given = value.get("max_tokens")
    if given is None:
        return DEFAULT_TOKENS
    if type(given) is int and 1 <= given <= MAX_TOKENS:
        return given
    raise ValidationFailed.of("max_tokens", f"must be a whole number from 1 to {MAX_TOKENS}")


def _is_streamed(value: Mapping[str, object]) -> bool:
    given = value.get("stream")
    if given is None or isinstance(given, bool):
        return bool(given)
    raise ValidationFailed.of("stream", "must be true or false")


def _check_messages(read: RunInput) -> None:
    wrong: list[Mapping[str, str]] = [problem for each in read.unread for problem in each.problems]
    if not any(each.message.role == "user" for each in read.sent) and not wrong:
        wrong.append({"field": "messages", "message": "must hold a message of the user", "type": "value_error"})
    for each in read.sent:
        wrong += _media_problems(each)
        if each.message.role == "user" and _text_bytes(each.message) > MAX_MESSAGE_BYTES:
            told = f"must be at most {MAX_MESSAGE_BYTES} bytes of text"
            wrong.append({"field": f"messages.{each.at}.content", "message": told, "type": "value_error"})
    if wrong:
        raise ValidationFailed("Request validation failed", details=wrong)


def _text_bytes(message: Message) -> int:
    content = message.content
    texts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content]
    return sum(len(text.encode(errors="replace")) for text in texts)


def _media_problems(sent: Sent) -> list[Mapping[str, str]]:
    wrong: list[Mapping[str, str]] = []
    for n, part in enumerate([] if isinstance(sent.message.content, str) else sent.message.content):
        if part.get("type") == "text":
            continue
        try:
            of_stored(part)
        except UnreadableMedia as exc:
            field = f"messages.{sent.at}.content.{n}"
            wrong.append({"field": field, "message": str(exc), "type": "value_error"})
    return wrong
