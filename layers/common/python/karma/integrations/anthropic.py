"""Anthropic's Messages API by its SDK, read as raw server-sent events.

The SDK opens the stream (authentication, typed errors), once: `karma.models.retrying` repeats calls, for whichever
provider. The events are parsed here:
7.6 us CPU a delta instead of the 21 of `create(stream=True)` and the 47 of `messages.stream()`. Importing the SDK takes
four times as long as everything else of the function together, so it is loaded when a run begins to wait, or before a
SnapStart snapshot.

Failures after the stream has begun are no errors of the SDK's and are classified here:
`event: error` by its type; a cut connection is an httpx2 error, not the SDK's; an end without `message_stop` is a cut.
No other exception of the SDK or its transport leaves this module: it means a wrong configuration, which
is logged as an error and counted as `UnhandledError`, and the run ends with MODEL_UNAVAILABLE.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from karma.conversations.domain import Json
from karma.core import aws, secrets
from karma.core.errors import Upstream
from karma.integrations.anthropic_cache import CACHED, mark_prefixes
from karma.integrations.anthropic_errors import failure_of
from karma.integrations.anthropic_messages import text_block, to_messages
from karma.integrations.anthropic_turn import Turn
from karma.integrations.event_stream import QUIET_S, drain
from karma.integrations.limited_errors import limit_error
from karma.models.domain import ModelErrorCode, ModelNotConfigured, Target
from karma.models.ports import (
    ModelEvent,
    ModelFailed,
    ModelRequest,
    ToolSpec,
)

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

_CONNECT_S = 5.0
_SILENCE_S = 60.0
"""Longest pause within a stream, in seconds; the API sends pings every few seconds."""
_IDLE_S = 60.0
"""Seconds for which an idle connection is kept; with the SDK's 5 s most runs would begin with a TLS handshake."""

_THINKING: Mapping[str, Json] = {
    # Their text between tool calls comes as thinking, and "disabled" is refused.
    "claude-sonnet-5-5": {"type": "between_tools"},
}


class AnthropicModel:
    """Models of the API. The client is made at the first call and kept."""

    def __init__(self, *, secret_arn: str, base_url: str = "", quiet_s: float = QUIET_S) -> None:
        self._secret_arn = secret_arn
        self._base_url = base_url
        self._quiet_s = quiet_s
        self._client: AsyncAnthropic | None = None
        self._key = ""
        self._loading: threading.Thread | None = None
        aws.on_reset(self._forget)

    def prepare(self, target: Target) -> None:  # noqa: ARG002 - one key for all of its models
        """Read the API key; blocks.

        Raises:
            ModelNotConfigured: the secret has no API key.
        """
        key = secrets.string(self._secret_arn, "api_key")
        if not key:
            raise ModelNotConfigured("The language model is not configured")
        if key != self._key:
            self._key = key
            self._client = None

    def preload(self, target: Target | None = None) -> None:  # noqa: ARG002
        """Import the SDK and make its client in a thread, once."""
        if self._loading is None:
            self._loading = threading.Thread(target=self._load, name="load-anthropic", daemon=True)
            self._loading.start()

    def _load(self) -> None:
        load_sdk()
        if self._key and self._client is None:
            with suppress(Exception):  # the first call makes it again, and raises the error
                self._client = self._make_client()

    async def close(self) -> None:
        """Close the client's connections; the next call makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        """Call the model, as `karma.models.ports.Model.stream`."""
        turn = Turn(quiet_s=self._quiet_s)
        try:
            if not self._key:  # as after a restore, or where another model answers in this one's place
                await asyncio.to_thread(self.prepare, request.target)
            client = await self._ready()
            async with client.messages.with_streaming_response.create(**self._arguments(request)) as response:
                chunks = response.iter_bytes()
                async for chunk in chunks:
                    events = turn.feed(chunk)
                    if turn.is_complete:
                        await drain(chunks)
                    if events:
                        yield events
                    if turn.is_complete:
                        return
        except (ModelFailed, Upstream):
            raise
        except Exception as exc:
            failure = failure_of(exc, usage=turn.usage)
            if failure is None:
                raise
            raise failure from exc
        raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=turn.usage, is_transient=True)

    async def _ready(self) -> AsyncAnthropic:
        if self._client is None:
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
            max_retries=0,
            default_headers={"accept-encoding": "identity"},
            http_client=DefaultAsyncHttpxClient(
                limits=limits, event_hooks={"response": [limit_error]}, follow_redirects=False
            ),
        )

    def _arguments(self, request: ModelRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": request.target.model,
            "max_tokens": request.max_tokens,
            "messages": to_messages(request.messages, model=request.target.model),
            "system": [text_block(text) for text in request.system if text.strip()],
            "cache_control": CACHED,
            "stream": True,
        }
        if request.tools:
            arguments["tools"] = [_tool(tool) for tool in request.tools]
        mark_prefixes(arguments)
        thinking = next((value for prefix, value in _THINKING.items() if request.target.model.startswith(prefix)), None)
        if thinking is not None:
            arguments["thinking"] = thinking
        return arguments

    def _forget(self) -> None:
        # After a SnapStart restore, sockets and key are another machine's.
        self._client = None
        self._key = ""


def load_sdk() -> None:
    """Import the SDK with the parts that the first call would import, without garbage collection: 16 % faster."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        import anthropic.resources.messages  # noqa: F401
        import httpx2  # noqa: F401
    finally:
        if collecting:
            gc.enable()


def _tool(tool: ToolSpec) -> dict[str, object]:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}
