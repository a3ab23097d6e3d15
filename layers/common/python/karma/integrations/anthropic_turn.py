"""Builds one turn of the Messages API from the events of its stream."""

from __future__ import annotations

from typing import Any, TypeGuard

from karma.conversations.repair import arguments_of
from karma.core import freeform, surrogates
from karma.core.texts import GrowingText
from karma.integrations.anthropic_errors import code_of
from karma.integrations.call_ids import own_id
from karma.integrations.event_stream import QUIET_S, EventStream, StreamQuiet, StreamTooLarge
from karma.integrations.stop_reasons import Ending
from karma.models.domain import ModelErrorCode, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ReasoningDelta,
    ReasoningEnded,
    TextDelta,
    ToolArguments,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from karma.models.prices import utf8_size

_MAX_COUNTED = 10_000_000
"""Tokens that may be reported of one call, more than any takes; a larger number is no count."""


class _Open:
    """A content block that has begun and not ended."""

    __slots__ = ("_joiner", "block", "signature", "text")

    def __init__(self, block: dict[str, Any]) -> None:
        self.block = block
        self.text = GrowingText()
        """Text of its deltas."""
        self.signature = GrowingText()
        self._joiner = surrogates.Joiner()

    def add(self, piece: str) -> str:
        """Add the next piece of its text; return what is complete: deltas may be cut within a character."""
        text = self._joiner.add(piece)
        self.text.add(text)
        return text

    def end(self) -> str:
        """Return the rest of its text."""
        rest = self._joiner.end()
        self.text.add(rest)
        return rest


class Turn:
    """Parses one stream and collects the turn's content blocks."""

    def __init__(self, *, quiet_s: float = QUIET_S, shows_reasoning: bool = False) -> None:
        """Build the parser of one stream; with `shows_reasoning` its events tell what the model thinks."""
        self.is_complete = False
        self._shows_reasoning = shows_reasoning
        self._stream = EventStream(quiet_s=quiet_s)
        self._blocks: dict[int, dict[str, Any]] = {}
        """Content blocks that have ended, by index."""
        self._open: dict[int, _Open] = {}
        self._ids: set[str] = set()
        """Ids of the calls that have begun."""
        self._ending = Ending()
        self._usage: dict[str, int] = {}
        self._output_known = False
        self.hidden = 0
        """UTF-8 bytes of what the model has thought and is not shown."""

    @property
    def usage(self) -> Usage:
        """Return the usage reported so far; output tokens only once they were reported as cumulative."""
        reads, writes = self._usage.get("cache_read_input_tokens"), self._usage.get("cache_creation_input_tokens")
        plain = self._usage.get("input_tokens")
        return Usage(
            input_tokens=None if plain is None else plain + (reads or 0) + (writes or 0),
            output_tokens=self._usage.get("output_tokens") if self._output_known else None,
            cached_input_tokens=reads,
            cache_write_input_tokens=writes,
            reasoning_tokens=self._usage.get("thinking_tokens") if self._output_known else None,
        )

    def feed(self, chunk: bytes) -> list[ModelEvent]:
        """Parse bytes as they arrive; return the events that they complete.

        Raises:
            ModelFailed: the API reports an error, or sends something that is not its protocol.
        """
        out: list[ModelEvent] = []
        try:
            for data in self._stream.feed(chunk):
                if self.is_complete:
                    break
                self._take(freeform.loads(data, keep_surrogates=True), out)
        except StreamQuiet as exc:
            raise ModelFailed(ModelErrorCode.MODEL_TIMEOUT, usage=self.usage) from exc
        except (StreamTooLarge, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=self.usage) from exc
        return out

    def _take(self, event: dict[str, Any], out: list[ModelEvent]) -> None:
        kind = event["type"]
        if kind != "ping":
            self._stream.spoke()
        if kind == "content_block_delta":
            self._delta(event["index"], event["delta"], out)
        elif kind == "content_block_start":
            self._start(event["index"], event["content_block"], out)
        elif kind == "content_block_stop":
            self._end(event["index"], out)
        elif kind == "message_start":
            self._count(event["message"].get("usage"))
        elif kind == "message_delta":
            if reason := event["delta"].get("stop_reason"):
                self._ending.add(reason)
            self._count(event.get("usage"))
            self._output_known = "output_tokens" in self._usage
        elif kind == "message_stop":
            stop = self._ending.stop(usage=self.usage)
            if self._open:
                # A call cut short is not a call, and a text cut short is not what the model said.
                raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=self.usage)
            self.is_complete = True
            blocks = [self._blocks[index] for index in sorted(self._blocks)]
            out.append(TurnEnded(stop, self.usage, blocks))
        elif kind == "error":
            code = code_of(200, event["error"].get("type"), event)
            raise ModelFailed(code, usage=self.usage, is_transient=code.may_pass)

    def _start(self, index: int, block: dict[str, Any], out: list[ModelEvent]) -> None:
        if index in self._open or index in self._blocks:
            raise ValueError("two blocks of one index")
        kind = block["type"]
        begun = block.pop(kind, "") if kind in {"text", "thinking"} else ""
        opened = self._open[index] = _Open(surrogates.whole(block))
        if kind == "tool_use":
            if not all(isinstance(opened.block[name], str) for name in ("id", "name")):
                raise TypeError("a call whose id or name is no text")
            opened.block["id"] = own_id(opened.block["id"], self._ids)
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
            self._say(opened, opened.add(delta["thinking"]), out)
        elif kind == "signature_delta":
            opened.signature.add(delta["signature"])

    def _say(self, opened: _Open, text: str, out: list[ModelEvent]) -> None:
        kind = opened.block["type"]
        if text and kind == "text":
            out.append(TextDelta(text))
        elif text and kind == "tool_use":
            out.append(ToolArguments(opened.block["id"], text))
        elif text and kind == "thinking":
            if self._shows_reasoning:
                out.append(ReasoningDelta(text))
            else:
                self.hidden += utf8_size(text)

    def _end(self, index: int, out: list[ModelEvent]) -> None:
        opened = self._open.pop(index)
        self._say(opened, opened.end(), out)
        block, kind = opened.block, opened.block["type"]
        if kind.endswith("tool_use") and not opened.text.size:
            self._say(opened, opened.add(_written(block.get("input"))), out)
        text = str(opened.text)
        if kind in {"text", "thinking"}:
            block[kind] = text
            if kind == "thinking" and text and self._shows_reasoning:
                out.append(ReasoningEnded())
        elif kind.endswith("tool_use"):
            block["input"] = arguments_of(text)
            if kind == "tool_use":
                out.append(ToolEnded(block["id"], text))
        if opened.signature.size:
            block["signature"] = block.get("signature", "") + surrogates.whole(str(opened.signature))
        self._blocks[index] = block

    def _count(self, usage: dict[str, Any] | None) -> None:
        # message_delta is cumulative: later numbers replace earlier ones.
        for name in ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
            value = (usage or {}).get(name)
            if _is_count(value):
                self._usage[name] = value
        thought = ((usage or {}).get("output_tokens_details") or {}).get("thinking_tokens")
        if _is_count(thought):
            self._usage["thinking_tokens"] = thought


def _written(given: object) -> str:
    """Return the input that stands whole where its block begins, as servers send it that cut nothing into deltas."""
    if isinstance(given, dict):
        return freeform.render(given).decode() if given else ""
    if isinstance(given, str):
        return given
    if not given:
        return ""
    raise TypeError("an input that is no object")


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= _MAX_COUNTED
