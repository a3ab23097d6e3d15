"""The Agio API's chat: one message to an agent, and its answer as events with names of their own or as a whole.

A chat is a run like any other, in the thread that `session_id` names. Only its form differs: its AG-UI events are
translated here, each into at most two of Agio's, and nothing else is known of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from karma.agents.domain import MAX_NAME_CHARS
from karma.conversations.fields import FieldReader
from karma.core.clock import Clock, iso
from karma.core.errors import ValidationFailed
from karma.core.ids import UserId, new_id
from karma.runs.requests import RunInput, parse_json, parse_run_input

_KNOWN: Final = frozenset({"agent_id", "message", "user_id", "session_id", "stream"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatInput:
    """The request for a chat."""

    agent: str
    """Id or name of the agent."""
    run: RunInput
    """The run that it asks for."""
    is_streamed: bool


def parse_chat(body: bytes, *, user_id: UserId, key: str = "") -> ChatInput:
    """Read the body of `POST /chat`.

    Args:
        body: JSON.
        user_id: the caller; a chat is nobody else's.
        key: the request's `Idempotency-Key`, which names the run; "": each request asks for another run.

    Raises:
        InvalidRequest: the body is not JSON.
        ValidationFailed: fields are wrong; one entry each.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise ValidationFailed.of("body", "must be an object")
    reader = _Reader(value, user_id)
    agent, message, session = reader.agent(), reader.message(), reader.session()
    is_streamed = reader.is_streamed()
    reader.check_others()
    if reader.errors:
        raise ValidationFailed("Request validation failed", details=reader.errors)
    asked: dict[str, object] = {
        "threadId": session,
        "runId": hashlib.sha256(key.encode()).hexdigest()[:32] if key else new_id(),
        "protocolVersion": "1.0",
        "messages": [{"role": "user", "content": message}],
        "forwardedProps": {"agent_id": agent},
    }
    return ChatInput(agent=agent, run=parse_run_input(orjson.dumps(asked)), is_streamed=is_streamed)


class _Reader(FieldReader):
    def __init__(self, body: Mapping[str, object], user_id: UserId) -> None:
        super().__init__()
        self._body = body
        self._user_id = user_id

    def agent(self) -> str:
        value = self._body.get("agent_id")
        if isinstance(value, str) and 1 <= len(value) <= MAX_NAME_CHARS:
            return value
        self.wrong("agent_id", f"must be an agent's id or name, 1 to {MAX_NAME_CHARS} characters")
        return ""

    def message(self) -> str:
        message = self.text(self._body.get("message"), "message")
        if not self.errors and not message.strip():
            self.wrong("message", "must not be blank")
        return message

    def session(self) -> str | None:
        value = self._body.get("session_id")
        return str(value) if value is not None and self.is_id("session_id", value) else None

    def is_streamed(self) -> bool:
        value = self._body.get("stream")
        if value is not None and not isinstance(value, bool):
            self.wrong("stream", "must be true or false")
        return value is not False

    def check_others(self) -> None:
        if self._body.get("user_id") not in (None, self._user_id):
            self.wrong("user_id", "must be your own account's id, or null: chats are the caller's")
        for name in self._body:
            if name not in _KNOWN:
                self.wrong(str(name)[:64], "is not a field of this request")


class ChatEvent(NamedTuple):
    """An event of Agio's chat."""

    name: str
    data: Mapping[str, object]


class Chat:
    """Translates the events of one run, and knows its answer so far."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock.now()
        self._steps = 0
        self._is_within_step = False
        self._calls: dict[str, _Call] = {}
        self.run_id = ""
        self.response = ""
        """Text of the answer so far, of all steps."""
        self.total_tokens: int | None = None
        """Tokens of the run; None: it has not ended, or they are not known."""
        self.failure: tuple[str, str] | None = None
        """Code and message of the run's failure; None: it has not failed."""
        self.is_complete = False

    def take(self, event: Mapping[str, Any]) -> Iterator[ChatEvent]:
        """Take an AG-UI event and yield those of the chat that it stands for."""
        match event["type"]:
            case "RUN_STARTED":
                self.run_id = event["runId"]
                yield ChatEvent("run_started", {"run_id": self.run_id, "timestamp": iso(self._began)})
            case "MESSAGES_SNAPSHOT":
                yield from self._catch_up(event["messages"])
            case "TEXT_MESSAGE_START":
                yield from self._step()
            case "TEXT_MESSAGE_CONTENT":
                yield self._said(event["delta"])
            case "TOOL_CALL_START":
                yield from self._step()
                self._calls[event["toolCallId"]] = _Call(event["toolCallName"])
            case "TOOL_CALL_ARGS":
                self._calls[event["toolCallId"]].arguments += event["delta"]
            case "TOOL_CALL_END":
                call = self._calls[event["toolCallId"]]
                yield ChatEvent("tool_call_started", {"tool": call.tool, "args": _json(call.arguments)})
            case "TOOL_CALL_RESULT":
                self._is_within_step = False
                call = self._calls.get(event["toolCallId"], _Call(""))
                yield ChatEvent("tool_call_completed", {"tool": call.tool, "result": _json(event["content"])})
            case "RUN_FINISHED" | "RUN_ERROR":
                yield self._ended(event)

    def _step(self) -> Iterator[ChatEvent]:
        if not self._is_within_step:
            self._is_within_step = True
            self._steps += 1
            yield ChatEvent("step_started", {"step": self._steps, "type": "llm_call"})

    def _said(self, text: str) -> ChatEvent:
        self.response += text
        return ChatEvent("content_delta", {"content": text})

    def _catch_up(self, messages: list[Mapping[str, Any]]) -> Iterator[ChatEvent]:
        """Say what a repeat of the request, or another process, shows of the answer instead of saying it anew."""
        last = max((at for at, each in enumerate(messages) if each["role"] == "user"), default=-1)
        said = "".join(str(each.get("content") or "") for each in messages[last + 1 :] if each["role"] == "assistant")
        begun = self.response
        self.response = said
        if said.startswith(begun) and len(said) > len(begun):
            yield ChatEvent("content_delta", {"content": said[len(begun) :]})

    def _ended(self, event: Mapping[str, Any]) -> ChatEvent:
        usage = event.get("usage") or []
        known = [each["totalTokens"] for each in usage if "totalTokens" in each]
        self.total_tokens = sum(known) if known else None
        outcome = (event.get("outcome") or {}).get("type", "success")
        if event["type"] == "RUN_ERROR":
            self.failure = str(event.get("code", "")), str(event["message"])
        elif outcome != "success":
            self.failure = outcome.upper(), f"The run was {outcome}"
        if self.failure is not None:
            return ChatEvent("error", {"error": self.failure[1], "code": self.failure[0], "run_id": self.run_id})
        self.is_complete = True
        return ChatEvent("run_completed", self.answer())

    def answer(self) -> dict[str, object]:
        """Return the answer as a whole; `metrics.duration` is in seconds, since the request came."""
        duration = (self._clock.now() - self._began).total_seconds()
        return {
            "run_id": self.run_id,
            "response": self.response,
            "metrics": {"total_tokens": self.total_tokens, "duration": round(duration, 3)},
        }


@dataclass(slots=True)
class _Call:
    tool: str
    arguments: str = ""


def _json(text: str) -> object:
    """Return the JSON value that a text is; the text itself where it is none, {} where it is empty."""
    if not text:
        return {}
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
