"""Builds one turn of the Chat Completions API from the chunks of its stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from karma.conversations.repair import arguments_of
from karma.core import freeform, surrogates
from karma.core.texts import GrowingText
from karma.integrations.event_stream import QUIET_S, EventStream, StreamQuiet, StreamTooLarge
from karma.integrations.openai_errors import code_in_stream
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.models.prices import estimated_usage

_STOPS: Final[Mapping[str, StopReason]] = {
    "stop": StopReason.END,
    "tool_calls": StopReason.TOOL_USE,
    "function_call": StopReason.TOOL_USE,
    "length": StopReason.MAX_TOKENS,
    "content_filter": StopReason.REFUSED,
}
_DONE: Final = b"[DONE]"
_MAX_CALLS: Final = 1000
"""Calls of tools in one answer; a stream with more is no answer."""


@dataclass
class _Call:
    """A call of a tool, as far as it has arrived."""

    id: str = ""
    """Id that it is known by outside: the provider's, or one of ours where that is missing or not the only one."""
    given: str = ""
    """Id that the provider gave."""
    name: str = ""
    text: GrowingText = field(default_factory=GrowingText)
    joiner: surrogates.Joiner = field(default_factory=surrogates.Joiner)


class ChatTurn:
    """Parses one stream and collects what the model said and called."""

    def __init__(self, *, quiet_s: float = QUIET_S) -> None:
        self.is_complete = False
        self._stream = EventStream(quiet_s=quiet_s)
        self._text = GrowingText()
        self._joiner = surrogates.Joiner()
        self._calls: dict[int, _Call] = {}
        """The newest call of each index; some servers give all calls of an answer the index 0."""
        self._made: list[_Call] = []
        self._finish = ""
        self._thought = 0
        """Characters of its thinking."""
        self._has_refused = False
        self.usage = Usage()

    def feed(self, chunk: bytes) -> list[ModelEvent]:
        """Parse bytes as they arrive; return the events that they complete. The turn's end is `ended`.

        Raises:
            ModelFailed: the server reports an error, or sends something that is not its protocol.
        """
        out: list[ModelEvent] = []
        try:
            for data in self._stream.feed(chunk):
                if self.is_complete:
                    break
                if data.strip() == _DONE:
                    self._end(out)
                else:
                    self._take(freeform.loads(data, keep_surrogates=True), out)
        except StreamQuiet as exc:
            raise ModelFailed(ModelErrorCode.MODEL_TIMEOUT, usage=self.usage) from exc
        except (StreamTooLarge, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=self.usage) from exc
        return out

    def spent(self, request: ModelRequest) -> Usage:
        """Return the tokens that the call has used: those reported, or an estimate where an answer came without them.

        The output of an answer that is not complete is unknown.
        """
        if self.usage.input_tokens is not None or not self._chars:
            return self.usage
        return Usage(input_tokens=estimated_usage(request, 0).input_tokens)

    def ended(self, request: ModelRequest) -> TurnEnded:
        """Return the end of a complete turn; what the server has not counted is estimated."""
        estimate = estimated_usage(request, self._chars)
        known, guessed = self.usage.input_tokens, self.usage.output_tokens
        usage = replace(
            self.usage,
            input_tokens=estimate.input_tokens if known is None else known,
            output_tokens=estimate.output_tokens if guessed is None else guessed,
        )
        stop = StopReason.REFUSED if self._has_refused else _STOPS.get(self._finish, StopReason.END)
        return TurnEnded(stop, usage, self._blocks())

    @property
    def _chars(self) -> int:
        return self._thought + self._text.size + sum(call.text.size for call in self._made) + len(self._made)

    def _take(self, chunk: dict[str, Any], out: list[ModelEvent]) -> None:
        if chunk.get("error") is not None or chunk.get("object") == "error":
            code = code_in_stream(chunk)
            raise ModelFailed(code, usage=self.usage, is_transient=code.may_pass)
        if chunk.get("usage"):
            self._count(chunk["usage"])
        # One answer is asked for; the chunk with the usage has none.
        for choice in chunk["choices"][:1]:
            delta = choice.get("delta") or {}
            # What it thinks is not shown, but it is paid for, and it is not silent meanwhile.
            thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
            self._thought += len(thought)
            if thought or delta.get("content") or delta.get("tool_calls") or delta.get("refusal"):
                self._stream.spoke()
            self._has_refused = self._has_refused or bool(delta.get("refusal"))
            if delta.get("content"):
                self._say(self._joiner.add(delta["content"]), out)
            for piece in delta.get("tool_calls") or ():
                self._call(piece, out)
            self._finish = choice.get("finish_reason") or self._finish

    def _say(self, text: str, out: list[ModelEvent]) -> None:
        self._text.add(text)
        if text:
            out.append(TextDelta(text))

    def _call(self, piece: dict[str, Any], out: list[ModelEvent]) -> None:
        index, given, function = piece.get("index") or 0, piece.get("id") or "", piece.get("function") or {}
        call = self._calls.get(index)
        if call is None or (given and call.given and given != call.given):
            call = self._calls[index] = _Call(given=str(given))
        call.given = call.given or str(given)
        if not call.id and function.get("name"):
            if len(self._made) == _MAX_CALLS:
                raise StreamTooLarge
            call.name = surrogates.whole(str(function["name"]))
            known = {each.id for each in self._made}
            own = surrogates.whole(call.given)
            call.id = own if own and own not in known else f"{own or 'call'}_{len(self._made)}"
            self._made.append(call)
            out.append(ToolBegun(call.id, call.name))
        arguments = function.get("arguments")
        if not arguments:
            return
        if not call.id:
            raise ValueError("arguments of a call without a name")
        if isinstance(arguments, dict):  # as some servers write them
            arguments = freeform.render(arguments).decode()
        self._argue(call, call.joiner.add(arguments), out)

    @staticmethod
    def _argue(call: _Call, text: str, out: list[ModelEvent]) -> None:
        call.text.add(text)
        if text:
            out.append(ToolArguments(call.id, text))

    def _end(self, out: list[ModelEvent]) -> None:
        if not self._finish:
            raise ValueError("the stream ends before the answer")
        self.is_complete = True
        self._say(self._joiner.end(), out)
        for call in self._made:
            self._argue(call, call.joiner.end(), out)
            out.append(ToolEnded(call.id, str(call.text)))

    def _blocks(self) -> list[dict[str, object]]:
        """Return the turn as the blocks in which turns of all providers are stored."""
        text = str(self._text)
        said: list[dict[str, object]] = [{"type": "text", "text": text}] if text.strip() else []
        calls: list[dict[str, object]] = [
            {"type": "tool_use", "id": each.id, "name": each.name, "input": arguments_of(str(each.text))}
            for each in self._made
        ]
        return said + calls

    def _count(self, usage: dict[str, Any]) -> None:
        # Later reports replace earlier ones: some servers count with each chunk.
        details = usage.get("prompt_tokens_details") or {}
        self.usage = Usage(
            input_tokens=_whole(usage.get("prompt_tokens")),
            output_tokens=_whole(usage.get("completion_tokens")),
            cached_input_tokens=_whole(details.get("cached_tokens")),
        )


def _whole(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
