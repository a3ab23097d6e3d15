"""The Agio API's chat: one message to an agent, and its answer as events with names of their own or as a whole.

A chat is a run like any other, in the thread that `session_id` names. Only its form differs: its AG-UI events are
translated here, each into at most two of Agio's, and nothing else is known of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import orjson

from karma.agents.domain import MAX_NAME_CHARS
from karma.conversations.domain import Message, ToolCall, whole_arguments
from karma.conversations.fields import FieldReader
from karma.core.clock import Clock, iso
from karma.core.errors import ValidationFailed
from karma.core.ids import UserId, new_id
from karma.core.records import Record
from karma.core.texts import GrowingText
from karma.runs.requests import RunInput, parse_json, parse_run_input

_KNOWN: Final = frozenset({"agent_id", "message", "user_id", "session_id", "stream"})


class ChatInput(Record, kw_only=True):
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
        key: the request's `Idempotency-Key`, which names the run, and the thread that it begins; "": each request asks
            for another run.

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
    named = hashlib.sha256(key.encode()).hexdigest()[:32] if key else None
    asked: dict[str, object] = {
        "threadId": session or named,  # a repeat is of the same thread
        "runId": named or new_id(),
        "protocolVersion": "1.0",
        "messages": [{"role": "user", "content": message}],
        "forwardedProps": {"agent_id": agent},
    }
    run = replace(parse_run_input(orjson.dumps(asked)), stands_alone=bool(key))
    return ChatInput(agent=agent, run=run, is_streamed=is_streamed)


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

    def __init__(self, clock: Clock, earlier: Callable[[], Iterable[ToolCall]] = tuple) -> None:
        """Build it; `earlier` returns the conversation's calls, for those that an earlier run has made or asked for."""
        self._clock = clock
        self._earlier = earlier
        self._began = clock.now()
        self._steps = 0
        self._is_within_step = False
        self._calls: dict[str, _Call] = {}
        """Calls of which it was told that they begin."""
        self._shown: dict[str, _Call] = {}
        """Calls of the conversation as it was shown."""
        self.run_id = ""
        self.session_id = ""
        """Id of its thread; "" as long as the beginning of the run is not read, as of `run_id`."""
        self._response = GrowingText()
        self.total_tokens: int | None = None
        """Tokens of the run; None: it has not ended, or they are not known."""
        self.failure: tuple[str, str] | None = None
        """Code and message of what the run ended with in place of an answer; None: it has not."""
        self.questions: Sequence[Mapping[str, object]] = ()
        """Questions that it waits for, as AG-UI has them; then its failure says so."""
        self.stop_reason = ""
        """Reason why the answer is not whole; "": it is."""
        self.is_complete = False

    def take(self, event: Mapping[str, Any]) -> Iterator[ChatEvent]:
        """Take an AG-UI event and yield those of the chat that it stands for; subagents are told of by their calls."""
        if "subagentRunId" in event:
            return
        match event["type"]:
            case "RUN_STARTED":
                self.run_id, self.session_id = event["runId"], event["threadId"]
                started = {"run_id": self.run_id, "session_id": self.session_id, "timestamp": iso(self._began)}
                yield ChatEvent("run_started", started)
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
                self._calls[event["toolCallId"]].arguments.add(event["delta"])
            case "TOOL_CALL_END":
                call = self._calls[event["toolCallId"]]
                yield ChatEvent("tool_call_started", {"tool": call.tool, "args": call.args})
            case "TOOL_CALL_RESULT":
                self._is_within_step = False
                is_told = event["toolCallId"] in self._calls
                call = self._calls[event["toolCallId"]] if is_told else self._call_before(event["toolCallId"])
                if not is_told:
                    yield ChatEvent("tool_call_started", {"tool": call.tool, "args": call.args})
                yield ChatEvent("tool_call_completed", {"tool": call.tool, "result": _json(event["content"])})
            case "RUN_FINISHED" | "RUN_ERROR":
                yield self._ended(event)

    def _call_before(self, call_id: str) -> _Call:
        """Return a call that this run has not begun: one that was approved, or that its user went on without."""
        for each in self._earlier():
            call = _Call(each.name)
            call.arguments.add(each.arguments)
            self._shown.setdefault(each.id, call)
        return self._calls.setdefault(call_id, self._shown.get(call_id, _Call("")))

    def _step(self) -> Iterator[ChatEvent]:
        if not self._is_within_step:
            self._is_within_step = True
            self._steps += 1
            yield ChatEvent("step_started", {"step": self._steps, "type": "llm_call"})

    @property
    def response(self) -> str:
        """Return the text of the answer so far, of all steps."""
        return str(self._response)

    def _said(self, text: str) -> ChatEvent:
        self._response.add(text)
        return ChatEvent("content_delta", {"content": text})

    def _catch_up(self, messages: list[Mapping[str, Any]]) -> Iterator[ChatEvent]:
        """Say what a repeat of the request, or another process, shows of the answer instead of saying it anew."""
        last = max((at for at, each in enumerate(messages) if each["role"] == "user"), default=-1)
        said = "".join(str(each.get("content") or "") for each in messages[last + 1 :] if _is_answer(each))
        for made in (made for each in messages if _is_answer(each) for made in each.get("toolCalls") or ()):
            call = self._shown[made["id"]] = _Call(made["function"]["name"])
            call.arguments.add(made["function"]["arguments"])
        begun = self.response
        self._response = GrowingText()
        self._response.add(said)
        if said.startswith(begun) and len(said) > len(begun):
            yield ChatEvent("content_delta", {"content": said[len(begun) :]})

    def _ended(self, event: Mapping[str, Any]) -> ChatEvent:
        usage = event.get("usage") or []
        known = [each["totalTokens"] for each in usage if "totalTokens" in each]
        self.total_tokens = sum(known) if known else None
        outcome = (event.get("outcome") or {}).get("type", "success")
        if event["type"] == "RUN_ERROR":
            self.failure = str(event.get("code", "")), str(event["message"])
        elif outcome == "interrupt":
            # Answered by the thread's next run: `resume` of `POST /api/agent` and `POST /runs`.
            self.questions = event["outcome"]["interrupts"]
            asked = " ".join(str(each["message"]) for each in self.questions)
            self.failure = "INTERRUPTED", f"The run waits for an answer: {asked}"
        elif outcome != "success":
            self.failure = outcome.upper(), f"The run was {outcome}"
        if self.failure is not None:
            told = {"error": self.failure[1], "code": self.failure[0], "run_id": self.run_id}
            return ChatEvent("error", {**told, **({"interrupts": self.questions} if self.questions else {})})
        self.stop_reason = str((event.get("result") or {}).get("stopReason", ""))
        self.is_complete = True
        return ChatEvent("run_completed", self.answer())

    def answer(self) -> dict[str, object]:
        """Return the answer as a whole; `metrics.duration` is in seconds, since the request came."""
        duration = (self._clock.now() - self._began).total_seconds()
        return {
            "run_id": self.run_id,
            "session_id": self.session_id,
            "response": self.response,
            **({"stop_reason": self.stop_reason} if self.stop_reason else {}),
            "metrics": {"total_tokens": self.total_tokens, "duration": round(duration, 3)},
        }


def calls_in(messages: Sequence[Message]) -> list[ToolCall]:
    """Return the calls of a conversation."""
    return [call for message in messages for call in message.tool_calls]


def _is_answer(message: Mapping[str, Any]) -> bool:
    return bool(message["role"] == "assistant") and "subagentRunId" not in message


@dataclass(slots=True)
class _Call:
    tool: str
    arguments: GrowingText = field(default_factory=GrowingText)

    @property
    def args(self) -> object:
        """Its arguments as a value, or as the text that they are."""
        return _json(whole_arguments(str(self.arguments)))


def _json(text: str) -> object:
    """Return the JSON value that a text is; the text itself where it is none, {} where it is empty."""
    if not text:
        return {}
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
