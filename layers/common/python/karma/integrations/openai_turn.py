"""Builds one turn of the Chat Completions API from the chunks of its stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NoReturn

from karma.core import freeform, surrogates
from karma.core.texts import GrowingText
from karma.integrations.event_stream import BYTE_ORDER_MARK, QUIET_S, EventStream, StreamQuiet, StreamTooLarge
from karma.integrations.openai_calls import Calls
from karma.integrations.openai_errors import code_in_stream
from karma.integrations.openai_signed import Signed
from karma.integrations.openai_thinking import LeadingThoughts
from karma.integrations.stop_reasons import Ending
from karma.models.domain import ModelErrorCode, Target, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ModelRequest,
    ReasoningDelta,
    ReasoningEnded,
    StopReason,
    TextDelta,
    TurnEnded,
)
from karma.models.prices import MAX_INPUT_TOKENS, estimated_usage, input_tokens, least_input_tokens, utf8_size

_DONE: Final = b"[DONE]"
THOUGHTS: Final = ("reasoning_content", "reasoning")
"""Members in which servers tell what a model thinks."""
_MAX_THOUGHTS: Final = 262_144
"""Characters of its thinking that are kept for the next call; of more, nothing."""
_MAX_COUNTED: Final = 10_000_000
"""Tokens that a server may report of one call, more than any takes; a larger number is no count."""
_MAX_WHOLE_BYTES: Final = 8_000_000
"""Bytes of an answer that is no stream; no answer that could be stored is as long."""
_MAX_BLANKS: Final = 4096
"""Bytes of blanks, which some servers send while a model works, behind which an answer is a stream in any case."""


class ChatTurn:
    """Parses one stream and collects what the model said and called."""

    def __init__(self, *, quiet_s: float = QUIET_S, shows_reasoning: bool = False) -> None:
        """Build the parser of one stream; with `shows_reasoning` its events tell what the model thinks."""
        self.is_complete = False
        self._is_shown = self._shows_reasoning = shows_reasoning
        self._member = ""
        """Member in which the server tells what the model thinks."""
        self._thoughts = GrowingText()
        """Text of its reasoning, shown or not."""
        self._thinking_joiner = surrogates.Joiner()
        self._is_thinking = False
        self._stream = EventStream(quiet_s=quiet_s)
        self._body: bytearray | None = bytearray()
        """The body as far as it has arrived, if it is one JSON object, or blank up to now; None: it is a stream."""
        self.hidden = 0
        """UTF-8 bytes of what the model has thought and is not shown."""
        self._text = GrowingText()
        self._joiner = surrogates.Joiner()
        self._leading = LeadingThoughts()
        self._signed = Signed()
        self._calls = Calls(self._signed)
        self._ending = Ending()
        self._stop = StopReason.END
        self._thought = 0
        """Characters of its thinking."""
        self._has_refused = False
        self.usage = Usage()
        self._least: int | None = None
        """Lower bound of the tokens of what was sent; None: it was not needed yet."""

    def feed(self, chunk: bytes) -> list[ModelEvent]:
        """Parse bytes as they arrive; return the events that they complete. The turn's end is `ended`.

        Raises:
            ModelFailed: the server reports an error, or sends something that is not its protocol.
        """
        out: list[ModelEvent] = []
        try:
            if self._body is not None and self._is_object(self._body, chunk):
                chunk = b""  # of the stream only its time is looked at
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

    def _is_object(self, body: bytearray, chunk: bytes) -> bool:
        """Add to a body, and tell whether it is one JSON object: its bytes say so, whatever its server calls it.

        Raises:
            StreamTooLarge: it is one, and too long.
        """
        body += chunk
        begun = bytes(body[: _MAX_BLANKS + 1]).removeprefix(BYTE_ORDER_MARK).lstrip()
        if begun[:1] in {b"{", b"["}:
            if len(body) > _MAX_WHOLE_BYTES:
                raise StreamTooLarge
            return True
        if len(body) > _MAX_BLANKS or (begun and not BYTE_ORDER_MARK.startswith(begun)):
            self._body = None
        return False

    def take_whole(self, body: bytes) -> list[ModelEvent]:
        """Return the events of an answer that came as one JSON object, as some gateways send it whatever is asked.

        Raises as `feed`.
        """
        out: list[ModelEvent] = []
        try:
            answer = freeform.loads(body.removeprefix(BYTE_ORDER_MARK), keep_surrogates=True)
            choices = [{**each, "delta": each.get("message")} for each in answer.get("choices") or ()]
            self._take({**answer, "choices": choices}, out)
            self._end(out)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=self.usage) from exc
        return out

    def counted(self, request: ModelRequest) -> Usage:
        """Return the tokens that the server has reported, without those of its input where they cannot be all of it."""
        told = self.usage.input_tokens
        if told is None:
            return self.usage
        if self._least is None:
            self._least = least_input_tokens(request)
        return self.usage if told >= self._least else replace(self.usage, input_tokens=None)

    def spent(self, request: ModelRequest) -> Usage:
        """Return the tokens that the call has used: those reported, or the bound where an answer came without them.

        The output of an answer that is not complete is unknown.
        """
        usage = self.counted(request)
        if usage.input_tokens is not None or (self.usage.input_tokens is None and not self._chars):
            return usage
        return Usage(input_tokens=min(MAX_INPUT_TOKENS, input_tokens(request)))

    def ended(self, request: ModelRequest) -> TurnEnded:
        """Return the end of a complete turn; what the server has not counted is estimated."""
        estimate = estimated_usage(request, self._chars)
        known, said = self.counted(request).input_tokens, self.usage.output_tokens
        usage = replace(
            self.usage,
            input_tokens=estimate.input_tokens if known is None else known,
            # None at all, of an answer that says something, were not counted.
            output_tokens=estimate.output_tokens if said is None else said or estimate.output_tokens,
        )
        stop = StopReason.REFUSED if self._has_refused else self._stop
        return TurnEnded(stop, usage, self._blocks(request.target))

    @property
    def _chars(self) -> int:
        return self._thought + self._text.size + self._calls.chars + len(self._calls)

    def end_of_body(self) -> list[ModelEvent]:
        """Return the events with which a stream ends that said why it ends, and nothing more.

        Some servers leave out `[DONE]`, or do where a filter stopped the answer. Without a reason the stream was cut.
        A body that is one JSON object is read here.

        Raises:
            ModelFailed: the reason is none of a whole answer, or the body is none.
        """
        if self._body is not None and self._body.strip():
            return self.take_whole(bytes(self._body))
        out: list[ModelEvent] = []
        if self._ending.is_told and not self.is_complete:
            self._end(out)
        return out

    def _take(self, chunk: dict[str, Any] | None, out: list[ModelEvent]) -> None:
        if chunk is None:
            return  # sent by some gateways to keep the connection alive
        if chunk.get("error") is not None or chunk.get("object") == "error":
            self._fail(chunk)
        if chunk.get("usage"):
            self._count(chunk["usage"])
        # One answer is asked for; the chunk with the usage has none, and no list of them at some servers.
        for choice in (chunk.get("choices") or [])[:1]:
            if choice.get("error"):  # as OpenRouter tells what failed behind it
                self._fail(choice)
            delta = choice.get("delta") or {}
            inline, said = self._leading.feed(_texts(delta.get("content"), "text"))
            # Why it declines is what it says, as of models that say it in their text.
            refusal = _texts(delta.get("refusal"), "text") or _parts(delta.get("content"), "refusal")
            said += refusal
            calls = delta.get("tool_calls") or self._called_once(delta.get("function_call"))
            # What it thinks is paid for, shown or not, and it is not silent meanwhile.
            member = next((name for name in THOUGHTS if delta.get(name)), "")
            thought = (_texts(delta[member], "text") if member else _parts(delta.get("content"), "thinking")) + inline
            self._member = self._member or member
            self._thought += len(thought)
            self._think(thought, bool(said or calls), out)
            if thought or said or calls:
                self._stream.spoke()
            self._signed.add_details(delta.get("reasoning_details"))
            self._has_refused = self._has_refused or bool(refusal)
            if said:
                self._say(self._joiner.add(said), out)
            for piece in calls:
                self._calls.take(piece, out)
            finish = choice.get("finish_reason")
            if not isinstance(finish, str | None):
                raise TypeError("a reason that is no text")
            if finish:
                self._ending.add(finish)
            if native := choice.get("native_finish_reason"):
                self._ending.add_native(native)

    def _fail(self, told: Mapping[str, Any]) -> NoReturn:
        code = code_in_stream(told)
        raise ModelFailed(code, usage=self.usage, is_transient=code.may_pass)

    def _called_once(self, function: dict[str, Any] | None) -> Sequence[dict[str, Any]]:
        """Return the piece of a call in the form before `tool_calls`, without index and id: one a turn.

        A server that tells its calls in both forms has told it already.
        """
        return () if not function or self._calls.is_placed else ({"function": function},)

    def _think(self, thought: object, is_answering: bool, out: list[ModelEvent]) -> None:
        """Take a piece of reasoning; the first piece of the answer ends it, and what comes later is not shown."""
        if isinstance(thought, str) and thought:
            self._ponder(self._thinking_joiner.add(thought), out)
        if is_answering:
            self._end_thinking(out)

    def _ponder(self, text: str, out: list[ModelEvent]) -> None:
        self._thoughts.add(text)
        if self._shows_reasoning and text:
            self._is_thinking = True
            out.append(ReasoningDelta(text))
        else:
            self.hidden += utf8_size(text)

    def _end_thinking(self, out: list[ModelEvent]) -> None:
        self._ponder(self._thinking_joiner.end(), out)
        if self._is_thinking:
            self._is_thinking = self._shows_reasoning = False
            out.append(ReasoningEnded())

    def _say(self, text: str, out: list[ModelEvent]) -> None:
        self._text.add(text)
        if text:
            out.append(TextDelta(text))

    def _end(self, out: list[ModelEvent]) -> None:
        self._stop = self._ending.stop(usage=self.usage)
        self.is_complete = True
        inline, said = self._leading.end()
        self._thought += len(inline)
        self._think(inline, True, out)
        self._say(self._joiner.add(said) + self._joiner.end(), out)
        self._calls.end(out)

    def _blocks(self, target: Target) -> list[dict[str, object]]:
        """Return the turn as the blocks in which turns of all providers are stored."""
        text = str(self._text)
        said: list[dict[str, object]] = [{"type": "text", "text": text}] if text.strip() else []
        calls = self._calls.blocks()
        return [*self._thinking(target, is_alone=not said and not calls), *said, *calls]

    def _thinking(self, target: Target, *, is_alone: bool) -> list[dict[str, object]]:
        """Return the block of what it thinks; where that is not shown and nothing follows, there is no answer."""
        signed = self._signed.members(target, extras=self._calls.extras, ids=self._calls.given)
        is_kept = 0 < self._thoughts.size <= _MAX_THOUGHTS
        if not (is_kept or signed) or (is_alone and not self._is_shown):
            return []
        member = {"member": self._member} if self._member and is_kept else {}
        return [{"type": "thinking", "thinking": str(self._thoughts) if is_kept else "", **member, **signed}]

    def _count(self, usage: dict[str, Any]) -> None:
        # Later reports replace earlier ones: some servers count with each chunk.
        details = usage.get("prompt_tokens_details") or {}
        spent = usage.get("completion_tokens_details") or {}
        cached = _whole(details.get("cached_tokens"))
        # A prompt has tokens: a server that reports none has not counted.
        prompt = _whole(usage.get("prompt_tokens")) or None
        if prompt is not None and cached is not None and cached > prompt:
            prompt += cached  # some gateways count what was cached apart, as Anthropic's API does
        self.usage = Usage(
            input_tokens=prompt,
            output_tokens=_whole(usage.get("completion_tokens")),
            cached_input_tokens=cached,
            reasoning_tokens=_whole(spent.get("reasoning_tokens")),
        )


def _texts(content: object, kind: str) -> str:
    """Return the text of a content, or of the parts of a kind where it is a list of parts, as Mistral sends it."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    return "".join(_texts(each.get(kind), "text") for each in content if each.get("type") == kind)


def _parts(content: object, kind: str) -> str:
    """Return what a model thinks, or why it declines, where it says so within its content."""
    return _texts(content, kind) if isinstance(content, list) else ""


def _whole(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= _MAX_COUNTED else None
