"""A model with a context window: it counts what it is sent, refuses what is too long, and writes records of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson

from karma.configuration.current import CurrentConfiguration
from karma.configuration.domain import Change, ChangeType, Component, ComponentType, ModelSettings
from karma.core.ids import UserId
from karma.integrations.anthropic import AnthropicModel
from karma.models.domain import ModelErrorCode, Target, Usage
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ModelRequest,
    StopReason,
    TextDelta,
    ToolBegun,
    ToolEnded,
    TurnEnded,
)
from local.messages_api.rules import refusal
from tests.fakes.configuration import MemoryComponents, built_in
from tests.fakes.runs import SetClock
from tests.support.model_server import unmarked

FACT = re.compile(r"FACT-\d+")
Said = tuple[str, Sequence[tuple[str, str]]]
"""A text, and calls of tools by name and arguments."""


def is_record(request: ModelRequest) -> bool:
    """Tell whether a request asks for the record of a conversation."""
    return request.system[0].startswith("You write the record of a conversation")


def text_of(request: ModelRequest) -> str:
    """Return all that a request shows of its conversation."""
    return orjson.dumps(body_of(request)["messages"]).decode()


def body_of(request: ModelRequest) -> dict[str, Any]:
    """Return a request as it is sent, without marks of the cache."""
    body: dict[str, Any] = unmarked(AnthropicModel(secret_arn="")._arguments(request))
    return body


class WindowedModel:
    """Refuses what the Messages API would refuse, and conversations beyond its window.

    A record that it writes has the facts (`FACT-1`) of what it is shown, and nothing else.
    """

    def __init__(self, window: int, answer: Callable[[ModelRequest], Said] = lambda _: ("Yes.", ())) -> None:
        self.window = window
        self.answer = answer
        self.requests: list[ModelRequest] = []
        """Those that were answered, but for records."""
        self.records: list[ModelRequest] = []
        self.refused = 0
        """Requests that were too long."""
        self.fills = False
        """A conversation that is too long is begun to be answered, until the window is full."""
        self.record: Callable[[ModelRequest], str | ModelFailed] = lambda asked: " ".join(
            dict.fromkeys(FACT.findall(text_of(asked)))
        )
        self.tokens_of_record = 0
        """Tokens that a record has; one that is asked for with fewer is cut off."""
        self.holds: asyncio.Event | None = None
        """Set once a record is being written, which then does not end."""
        self.used: dict[str, Usage] = {}

    def tokens(self, request: ModelRequest) -> int:
        return len(orjson.dumps(body_of(request))) // 4

    def prepare(self, target: Target) -> None:
        pass

    def preload(self, target: Target) -> None:
        pass

    async def close(self) -> None:
        pass

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        request = replace(request, messages=tuple(request.messages))
        problem = refusal(orjson.loads(orjson.dumps(body_of(request))))
        assert problem is None, problem
        size = self.tokens(request)
        if size > self.window:
            self.refused += 1
            if not self.fills:
                raise ModelFailed(ModelErrorCode.CONTEXT_WINDOW_EXCEEDED)
            yield [TextDelta("I beg")]
            yield [self._ended(request, StopReason.CONTEXT_FULL, size, "I beg")]
            return
        if is_record(request):
            self.records.append(request)
            if self.holds is not None:
                self.holds.set()
                await asyncio.Event().wait()
            record = self.record(request)
            if isinstance(record, ModelFailed):
                raise record
            is_cut = request.max_tokens < self.tokens_of_record
            record = record[: len(record) // 2] if is_cut else record
            yield [TextDelta(record)]
            yield [self._ended(request, StopReason.MAX_TOKENS if is_cut else StopReason.END, size, record)]
            return
        self.requests.append(request)
        text, calls = self.answer(request)
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
        if text:
            yield [TextDelta(text)]
        for at, (name, arguments) in enumerate(calls):
            call_id = f"call_{len(self.requests)}_{at}"
            blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": orjson.loads(arguments)})
            yield [ToolBegun(call_id, name), ToolEnded(call_id, arguments)]
        yield [self._ended(request, StopReason.TOOL_USE if calls else StopReason.END, size, text, blocks)]

    def _ended(
        self,
        request: ModelRequest,
        stop: StopReason,
        size: int,
        text: str,
        blocks: Sequence[dict[str, Any]] = (),
    ) -> TurnEnded:
        usage = Usage(size, len(text) // 4 + 1)
        name = request.target.model
        self.used[name] = self.used.get(name, Usage()) + usage
        return TurnEnded(stop, usage, blocks or [{"type": "text", "text": text}], request.target)


def configured(**windows: int | None) -> CurrentConfiguration:
    """Return a configuration of models of the server's own names, by their context windows."""
    store = MemoryComponents()
    for name, window in windows.items():
        store.append(
            Change(
                name=name,
                version=1,
                type=ChangeType.CREATED,
                at=SetClock().now(),
                by=UserId("admin"),
                old=None,
                new=Component(
                    name=name,
                    type=ComponentType.MODEL,
                    model=ModelSettings(model=f"claude-{name}", context_window=window),
                ),
            )
        )
    return CurrentConfiguration(store, built_in=built_in())
