"""Anthropic's Messages API by its SDK, read as raw server-sent events.

The SDK opens the stream (authentication, retries before the first byte, typed errors); its events are parsed here:
7.6 us CPU a delta instead of the 21 of `create(stream=True)` and the 47 of `messages.stream()`. Importing the SDK takes
four times as long as everything else of the function together, so it is loaded when a run begins to wait, or before a
SnapStart snapshot.

What can go wrong once the stream began is never retried by the SDK and is classified here:
`event: error` by its type; a cut connection is an httpx2 error, not the SDK's; an end without `message_stop` is a cut.
Nothing else that the SDK or its transport raises leaves this module: it is our configuration that is wrong then, which
is logged as an error and counted as `UnhandledError`, and the run ends with MODEL_UNAVAILABLE.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from karma.conversations.domain import Json, Message
from karma.conversations.media import Medium, UnreadableMedia, of_stored
from karma.conversations.repair import arguments_of, tool_use
from karma.core import aws, freeform, secrets, surrogates
from karma.core.errors import Upstream
from karma.core.observability import count, logger
from karma.core.texts import GrowingText
from karma.integrations.context_window import is_too_long
from karma.models.domain import ModelErrorCode, ModelNotConfigured, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    ToolSpec,
    TurnEnded,
)

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

PROVIDER = "anthropic"
_CONNECT_S = 5.0
_SILENCE_S = 60.0
"""Longest pause within a stream; the API sends pings every few seconds."""
_MAX_RETRIES = 2
_IDLE_S = 60.0
"""How long a connection waits for the next run; with the SDK's 5 s most runs would begin with a TLS handshake."""

_THINKING: Mapping[str, Json] = {
    # Their text between tool calls comes as thinking, and "disabled" is refused.
    "claude-sonnet-5-5": {"type": "between_tools"},
}

_STOPS: Mapping[str, StopReason] = {
    "end_turn": StopReason.END,
    "stop_sequence": StopReason.END,
    "tool_use": StopReason.TOOL_USE,
    "max_tokens": StopReason.MAX_TOKENS,
    "pause_turn": StopReason.PAUSED,
    "refusal": StopReason.REFUSED,
    "model_context_window_exceeded": StopReason.CONTEXT_FULL,
}

_ERROR_TYPES: Mapping[str, ModelErrorCode] = {
    "overloaded_error": ModelErrorCode.MODEL_OVERLOADED,
    "rate_limit_error": ModelErrorCode.MODEL_RATE_LIMITED,
    "timeout_error": ModelErrorCode.MODEL_TIMEOUT,
    "api_error": ModelErrorCode.MODEL_UNAVAILABLE,
    "invalid_request_error": ModelErrorCode.MODEL_REJECTED,
    "request_too_large": ModelErrorCode.CONTEXT_WINDOW_EXCEEDED,
}

_STATUSES: Mapping[int, ModelErrorCode] = {
    400: ModelErrorCode.MODEL_REJECTED,
    408: ModelErrorCode.MODEL_TIMEOUT,
    413: ModelErrorCode.CONTEXT_WINDOW_EXCEEDED,
    422: ModelErrorCode.MODEL_REJECTED,
    429: ModelErrorCode.MODEL_RATE_LIMITED,
    504: ModelErrorCode.MODEL_TIMEOUT,
    529: ModelErrorCode.MODEL_OVERLOADED,
}

_OURS = frozenset({401, 402, 403, 404})
"""Statuses that only who runs the deployment can mend: key, bill, permission, the model's name."""

_MAX_IMAGES = 20
"""Of one request: up to this number the API takes sides of 8,000 pixels, beyond it only 2,000."""
_MAX_CHARS = 20 * 1024 * 1024
"""Of all media of one request in base64; a request may have 32 MB."""
GO_ON = "(Go on.)"
"""Stands for the user's turn where the conversation ends with the assistant: the API continues no answer."""


class AnthropicModel:
    """The API's models. The client is made at the first call and kept."""

    provider = PROVIDER

    def __init__(self, *, secret_arn: str, base_url: str = "") -> None:
        self._secret_arn = secret_arn
        self._base_url = base_url
        self._client: AsyncAnthropic | None = None
        self._key = ""
        self._loading: threading.Thread | None = None
        aws.on_reset(self._forget)

    def prepare(self) -> None:
        """Read the key; blocks.

        Raises:
            ModelNotConfigured: there is none.
        """
        key = secrets.string(self._secret_arn, "api_key")
        if not key:
            raise ModelNotConfigured("The language model is not configured")
        if key != self._key:
            self._key = key
            self._client = None

    def preload(self) -> None:
        """Import the SDK and make its client in a thread, once."""
        if self._loading is None:
            self._loading = threading.Thread(target=self._load, name="load-anthropic", daemon=True)
            self._loading.start()

    def _load(self) -> None:
        load_sdk()
        if self._key and self._client is None:
            with suppress(Exception):  # the first call makes it again, and says what is wrong
                self._client = self._make_client()

    async def close(self) -> None:
        """Close the client's connections; the next call makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def stream(self, request: ModelRequest) -> AsyncIterator[Sequence[ModelEvent]]:
        """Call the model; see ports.Model."""
        turn = _Turn()
        try:
            client = await self._ready()
            async with client.messages.with_streaming_response.create(**self._arguments(request)) as response:
                async for chunk in response.iter_bytes():
                    events = turn.feed(chunk)
                    if events:
                        yield events
        except (ModelFailed, Upstream):
            raise
        except Exception as exc:
            code = _meaning_of(exc)
            if code is None:
                raise
            raise ModelFailed(code, usage=turn.usage) from exc
        if not turn.is_complete:
            raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=turn.usage)

    async def _ready(self) -> AsyncAnthropic:
        if self._client is None:
            import asyncio

            self.preload()
            loading = self._loading
            if loading is not None and loading.is_alive():
                await asyncio.to_thread(loading.join)
            if self._client is None:
                self._client = await asyncio.to_thread(self._make_client)
        return self._client

    def _make_client(self) -> AsyncAnthropic:
        import httpx2
        from anthropic import DEFAULT_CONNECTION_LIMITS as THEIRS
        from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

        limits = httpx2.Limits(
            max_connections=THEIRS.max_connections,
            max_keepalive_connections=THEIRS.max_keepalive_connections,
            keepalive_expiry=_IDLE_S,
        )
        return AsyncAnthropic(
            api_key=self._key,
            base_url=self._base_url or None,
            timeout=httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S),
            max_retries=_MAX_RETRIES,
            http_client=DefaultAsyncHttpxClient(limits=limits),
        )

    def _arguments(self, request: ModelRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": request.model,
            "max_tokens": request.max_tokens,
            "messages": to_messages(request.messages, model=request.model),
            "system": [_text(text) for text in request.system if text.strip()],
            "cache_control": {"type": "ephemeral"},
            "stream": True,
        }
        if request.tools:
            arguments["tools"] = [_tool(tool) for tool in request.tools]
        thinking = next((value for prefix, value in _THINKING.items() if request.model.startswith(prefix)), None)
        if thinking is not None:
            arguments["thinking"] = thinking
        return arguments

    def _forget(self) -> None:
        # After a SnapStart restore, sockets and key are another machine's.
        self._client = None
        self._key = ""


def load_sdk() -> None:
    """Import the SDK with the parts that the first call would import; without collections in between, 16 % sooner."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        import anthropic.resources.messages  # noqa: F401
        import httpx2  # noqa: F401
    finally:
        if collecting:
            gc.enable()


def _meaning_of(exc: Exception) -> ModelErrorCode | None:
    """Say what ends the run for all that the SDK and its transport raise; None for anything else."""
    import anthropic
    import httpx2

    if isinstance(exc, anthropic.APITimeoutError | httpx2.TimeoutException):
        return ModelErrorCode.MODEL_TIMEOUT
    if isinstance(exc, anthropic.APIConnectionError):
        return ModelErrorCode.MODEL_UNAVAILABLE
    if isinstance(exc, anthropic.APIStatusError):
        code = _code_of(exc.status_code, exc.type, exc.body)
        if exc.status_code in _OURS:
            _report(exc)
        return code
    if isinstance(exc, httpx2.UnsupportedProtocol | httpx2.InvalidURL | anthropic.AnthropicError):
        _report(exc)
        return ModelErrorCode.MODEL_UNAVAILABLE
    if isinstance(exc, httpx2.HTTPError | httpx2.StreamError | httpx2.CookieConflict):
        return ModelErrorCode.MODEL_STREAM_CUT
    return None


def _report(exc: Exception) -> None:
    logger.error("model.misconfigured", cause=type(exc).__name__)
    count("UnhandledError")


def _code_of(status: int, error_type: object, body: object) -> ModelErrorCode:
    if is_too_long(status, body):
        return ModelErrorCode.CONTEXT_WINDOW_EXCEEDED
    if isinstance(error_type, str) and error_type in _ERROR_TYPES:
        return _ERROR_TYPES[error_type]
    if status in _STATUSES:
        return _STATUSES[status]
    # Anything else of ours (key, billing, permission) is not the caller's business; the log has the cause.
    return ModelErrorCode.MODEL_UNAVAILABLE


class _Open:
    """A content block that has begun and not ended."""

    __slots__ = ("_joiner", "block", "signature", "text")

    def __init__(self, block: dict[str, Any]) -> None:
        self.block = block
        self.text = GrowingText()
        """Of its deltas."""
        self.signature = ""
        self._joiner = surrogates.Joiner()

    def add(self, piece: str) -> str:
        """Take the next piece of its text; return what is whole: deltas may be cut within a character."""
        text = self._joiner.add(piece)
        self.text.add(text)
        return text

    def end(self) -> str:
        """Return what remains of its text."""
        rest = self._joiner.end()
        self.text.add(rest)
        return rest


class _Turn:
    """Parses one stream and keeps the turn's content blocks."""

    def __init__(self) -> None:
        self.is_complete = False
        self._buffer = b""
        self._blocks: dict[int, dict[str, Any]] = {}
        """Those that have ended."""
        self._open: dict[int, _Open] = {}
        self._stop = ""
        self._usage: dict[str, int] = {}
        self._output_known = False

    @property
    def usage(self) -> Usage:
        """What the API has reported so far; output only once it was reported as cumulative."""
        reads, writes = self._usage.get("cache_read_input_tokens"), self._usage.get("cache_creation_input_tokens")
        plain = self._usage.get("input_tokens")
        return Usage(
            input_tokens=None if plain is None else plain + (reads or 0) + (writes or 0),
            output_tokens=self._usage.get("output_tokens") if self._output_known else None,
            cached_input_tokens=reads,
            cache_write_input_tokens=writes,
        )

    def feed(self, chunk: bytes) -> list[ModelEvent]:
        """Take bytes as they arrive; return what became complete.

        Raises:
            ModelFailed: the API reports an error, or sends what is not its protocol.
        """
        buffer = self._buffer + chunk
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        *complete, self._buffer = buffer.split(b"\n\n")
        out: list[ModelEvent] = []
        for block in complete:
            at = block.find(b"data:")
            if at < 0:
                continue
            try:
                self._take(freeform.loads(block[at + 5 :], keep_surrogates=True), out)
            except (ValueError, KeyError, TypeError, AttributeError) as exc:
                raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=self.usage) from exc
        return out

    def _take(self, event: dict[str, Any], out: list[ModelEvent]) -> None:
        kind = event["type"]
        if kind == "content_block_delta":
            self._delta(event["index"], event["delta"], out)
        elif kind == "content_block_start":
            self._start(event["index"], event["content_block"], out)
        elif kind == "content_block_stop":
            self._end(event["index"], out)
        elif kind == "message_start":
            self._count(event["message"].get("usage"))
        elif kind == "message_delta":
            self._stop = event["delta"].get("stop_reason") or self._stop
            self._count(event.get("usage"))
            self._output_known = "output_tokens" in self._usage
        elif kind == "message_stop":
            if self._open:
                # A call cut short is not a call, and a text cut short is not what the model said.
                raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=self.usage)
            self.is_complete = True
            blocks = [self._blocks[index] for index in sorted(self._blocks)]
            out.append(TurnEnded(_STOPS.get(self._stop, StopReason.END), self.usage, blocks))
        elif kind == "error":
            raise ModelFailed(_code_of(200, event["error"].get("type"), event), usage=self.usage)

    def _start(self, index: int, block: dict[str, Any], out: list[ModelEvent]) -> None:
        kind = block["type"]
        begun = block.pop(kind, "") if kind in {"text", "thinking"} else ""
        opened = self._open[index] = _Open(surrogates.whole(block))
        if kind == "tool_use":
            out.append(ToolBegun(opened.block["id"], opened.block["name"]))
        elif begun:
            self._say(opened, opened.add(begun), out)

    def _delta(self, index: int, delta: dict[str, Any], out: list[ModelEvent]) -> None:
        opened = self._open[index]
        kind = delta["type"]
        if kind == "text_delta":
            self._say(opened, opened.add(delta["text"]), out)
        elif kind == "input_json_delta":
            self._say(opened, opened.add(delta["partial_json"]), out)
        elif kind == "thinking_delta":
            opened.add(delta["thinking"])
        elif kind == "signature_delta":
            opened.signature += delta["signature"]

    def _say(self, opened: _Open, text: str, out: list[ModelEvent]) -> None:
        kind = opened.block["type"]
        if text and kind == "text":
            out.append(TextDelta(text))
        elif text and kind == "tool_use":
            out.append(ToolArguments(opened.block["id"], text))

    def _end(self, index: int, out: list[ModelEvent]) -> None:
        opened = self._open.pop(index)
        self._say(opened, opened.end(), out)
        block, text = opened.block, str(opened.text)
        kind = block["type"]
        if kind in {"text", "thinking"}:
            block[kind] = text
        elif kind.endswith("tool_use"):
            block["input"] = arguments_of(text)
            if kind == "tool_use":
                out.append(ToolEnded(block["id"], text))
        if opened.signature:
            block["signature"] = block.get("signature", "") + surrogates.whole(opened.signature)
        self._blocks[index] = block

    def _count(self, usage: dict[str, Any] | None) -> None:
        # message_delta is cumulative: later numbers replace earlier ones.
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            value = (usage or {}).get(name)
            if isinstance(value, int):
                self._usage[name] = value


def _tool(tool: ToolSpec) -> dict[str, object]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def to_messages(messages: Sequence[Message], *, model: str) -> list[dict[str, object]]:
    """Shape a conversation for the API, as karma.conversations.repair leaves it.

    Turns alternate and the last is the user's; tool results stand first in the turn that follows their calls. An
    assistant turn is replayed as it came; its thinking is bound to the model that thought it, and is left out for
    another.
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
        turns.append(("user", [_text(GO_ON)]))
    return [{"role": role, "content": content} for role, content in turns]


@dataclass
class _Attachments:
    """Media of a conversation, made ready from its end on: the newest `_MAX_IMAGES` and `_MAX_CHARS` of them are shown.

    What is not shown, because the API does not take it or there is too much, is replaced by a text that says so.
    """

    blocks: dict[int, Json]
    """By identity of the stored part: one part stands in one message."""

    @classmethod
    def of(cls, messages: Sequence[Message]) -> _Attachments:
        blocks: dict[int, Json] = {}
        images = chars = 0
        for message in reversed(messages):
            for part in reversed([] if isinstance(message.content, str) else message.content):
                if part.get("type") == "text":
                    continue
                if images > _MAX_IMAGES or chars > _MAX_CHARS:
                    blocks[id(part)] = _text("[An earlier attachment was here.]")
                    continue
                try:
                    medium = of_stored(part)
                except UnreadableMedia as exc:
                    blocks[id(part)] = _text(f"[An attachment was here that cannot be shown: it {exc}]")
                    continue
                images += medium.kind == "image"
                chars += len(medium.data)
                shown = images <= _MAX_IMAGES and chars <= _MAX_CHARS
                blocks[id(part)] = _medium(medium) if shown else _text("[An earlier attachment was here.]")
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
    """Tell whether the API takes a block of an assistant's turn back; we use none of the tools that it runs itself."""
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
            yield _text(str(part["text"]))


def _text(text: str) -> Json:
    return {"type": "text", "text": text}


def _medium(medium: Medium) -> Json:
    if medium.media_type == "text/plain":
        source = {"type": "text", "media_type": medium.media_type, "data": medium.text()}
    else:
        source = {"type": "base64", "media_type": medium.media_type, "data": medium.data}
    return {"type": medium.kind, "source": source}
