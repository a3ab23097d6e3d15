"""Calls of a model of Chat Completions at a server of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from karma.conversations.domain import Message
from karma.core import secrets
from karma.core.clock import monotonic
from karma.integrations.openai import OpenAIModel
from karma.models.domain import OPENAI, ReasoningEffort, Target
from karma.models.ports import ModelEvent, ModelRequest
from tests.support.faulty_server import FaultyServer

USAGE = {"prompt_tokens": 120, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 100}}


def request(
    base_url: str = "http://127.0.0.1/v1", *, reasoning: ReasoningEffort | None = None, **more: Any
) -> ModelRequest:
    return ModelRequest(
        target=Target(model="m", provider=OPENAI, base_url=base_url, **more),
        system=["Be kind."],
        messages=[Message(id="u", role="user", content="hi " * 100)],
        tools=(),
        max_tokens=100,
        reasoning=reasoning,
    )


@contextmanager
def keyed_server(patch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """Serve at an address that the deployment's secret has a key for, `mine`."""
    with FaultyServer() as running:
        known = {"api_key": "sk-test", "mine": {"api_key": "sk-mine", "base_url": f"{running.url}/v1"}}
        patch.setitem(secrets._kept, "secret", (monotonic() + 3600, known))
        yield running


def ask(server: FaultyServer, **more: Any) -> list[ModelEvent]:
    model = OpenAIModel(secret_arn="secret")

    async def collect() -> list[ModelEvent]:
        asked = request(**{"base_url": f"{server.url}/v1", **more})
        try:
            return [event async for batch in model.stream(asked) for event in batch]
        finally:
            await model.close()

    return asyncio.run(collect())


def call(index: int | None, arguments: object = "", *, call_id: str = "", name: str = "") -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    numbered = {} if index is None else {"index": index}
    return {**numbered, "function": function, **({"id": call_id, "type": "function"} if call_id else {})}
