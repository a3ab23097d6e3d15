"""Anthropic's Messages API by its SDK, read as raw server-sent events.

The SDK opens the stream (authentication, typed errors), once: `karma.models.retrying` repeats calls, for whichever
provider. The events are parsed here: 2.4 us CPU a delta, a fraction of what `create(stream=True)` and
`messages.stream()` take. Its transport is aiohttp, as the SDK offers: h11, the parser of its other one, takes 10 us for
each chunk of HTTP, so that a whole delta costs 6 us instead of 18, for 90 ms more of import. Importing the SDK takes
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
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from karma.core import aws, secrets
from karma.core.errors import Upstream
from karma.integrations.anthropic_cache import mark_prefixes
from karma.integrations.anthropic_errors import failure_of
from karma.integrations.anthropic_messages import text_block, to_messages
from karma.integrations.anthropic_thinking import thinking_of
from karma.integrations.anthropic_turn import Turn
from karma.integrations.event_stream import QUIET_S, SILENCE_S, StreamSilent, drain, next_chunk
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
_IDLE_S = 60.0
"""Seconds for which an idle connection is kept; with the SDK's 5 s most runs would begin with a TLS handshake."""


class AnthropicModel:
    """Models of the API. The client is made at the first call and kept."""

    def __init__(
        self, *, secret_arn: str, base_url: str = "", quiet_s: float = QUIET_S, silence_s: float = SILENCE_S
    ) -> None:
        """Make the client.

        Args:
            secret_arn: ARN of the secret with the `api_key`.
            base_url: address of the API; "": Anthropic's own.
            quiet_s: seconds for which a stream may say nothing.
            silence_s: seconds for which it may send nothing.
        """
        self._secret_arn = secret_arn
        self._base_url = base_url
        self._quiet_s = quiet_s
        self._silence_s = silence_s
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
        turn = Turn(quiet_s=self._quiet_s, shows_reasoning=request.reasoning is not None)
        try:
            if not self._key:  # as after a restore, or where another model answers in this one's place
                await asyncio.to_thread(self.prepare, request.target)
            client = await self._ready()
            async with client.messages.with_streaming_response.create(**self._arguments(request)) as response:
                chunks = response.iter_bytes()
                while (chunk := await next_chunk(chunks, silence_s=self._silence_s)) is not None:
                    events = turn.feed(chunk)
                    request.meter.usage, request.meter.thought = turn.usage, turn.hidden
                    if events:
                        yield events
                    if turn.is_complete:
                        await drain(chunks)
                        return
        except (ModelFailed, Upstream):
            raise
        except StreamSilent as exc:
            raise ModelFailed(ModelErrorCode.MODEL_TIMEOUT, usage=turn.usage, is_transient=True) from exc
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
        from anthropic import AsyncAnthropic, DefaultAioHttpClient

        limits = httpx2.Limits(
            max_connections=THEIRS.max_connections,
            max_keepalive_connections=THEIRS.max_keepalive_connections,
            keepalive_expiry=_IDLE_S,
        )
        return AsyncAnthropic(
            api_key=self._key,
            base_url=self._base_url or None,
            timeout=httpx2.Timeout(self._silence_s, connect=_CONNECT_S),
            max_retries=0,
            default_headers={"accept-encoding": "identity"},
            http_client=DefaultAioHttpClient(
                limits=limits, event_hooks={"response": [limit_error]}, follow_redirects=False
            ),
        )

    def _arguments(self, request: ModelRequest) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": request.target.model,
            "max_tokens": request.max_tokens,
            "messages": to_messages(request.messages, model=request.target.model),
            "system": [text_block(text) for text in request.system if text.strip()],
            "stream": True,
        }
        if request.tools:
            arguments["tools"] = [_tool(tool) for tool in request.tools]
        if request.is_cached:
            mark_prefixes(arguments)
        arguments.update(thinking_of(request, arguments["messages"]))
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
