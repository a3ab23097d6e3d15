"""Chat Completions as OpenAI defines them and many servers offer them: OpenAI itself, vLLM, Ollama, gateways.

A small client on httpx2, which is there for Anthropic's SDK: importing OpenAI's own SDK costs more than that one's, for
one request and one stream (docs/adr/0044). The request has only what all these servers take.

A key is sent to the address that the deployment's secret binds it to, and to no other: whoever may write the
configuration can name a key, but not where it goes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from karma.core import aws, secrets
from karma.core.clock import monotonic
from karma.core.errors import Upstream
from karma.integrations.event_stream import QUIET_S, drain
from karma.integrations.limited_errors import limit_error
from karma.integrations.openai_errors import failure_of_status, meaning_of, report
from karma.integrations.openai_messages import MAX_TOOLS, to_chat, to_function
from karma.integrations.openai_turn import ChatTurn
from karma.models.addresses import may_serve_models
from karma.models.domain import OPENAI_URL, ModelErrorCode, ModelNotConfigured, Target
from karma.models.ports import ModelEvent, ModelFailed, ModelRequest

if TYPE_CHECKING:
    import httpx2

_CONNECT_S: Final = 5.0
_SILENCE_S: Final = 60.0
"""Longest pause within a stream, in seconds, and until it begins."""
_IDLE_S: Final = 60.0
_CONNECTIONS: Final = 100
_RESOLVED_S: Final = 60.0


class OpenAIModel:
    """Models behind the Chat Completions API. The client is made at the first call and kept."""

    def __init__(self, *, secret_arn: str, quiet_s: float = QUIET_S) -> None:
        """Make the client of all addresses.

        Args:
            secret_arn: ARN of the secret with `{name: {"api_key": …, "base_url": …}}`.
            quiet_s: seconds for which a stream may say nothing.
        """
        self._secret_arn = secret_arn
        self._quiet_s = quiet_s
        self._client: httpx2.AsyncClient | None = None
        self._allowed: dict[str, float] = {}
        """Moments until which addresses need not be resolved again; there are as many as configured models."""
        aws.on_reset(self._forget)

    def prepare(self, target: Target) -> None:
        """Read the API key; blocks.

        Raises:
            ModelNotConfigured: the secret has no such key, or has it for another address.
        """
        self._key(target)

    def preload(self, target: Target) -> None:
        """Do nothing: the client is made in a thread when it is first asked, in less than a model takes to answer."""

    async def close(self) -> None:
        """Close the client's connections; the next call makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent]]:
        """Call the model, as `karma.models.ports.Model.stream`."""
        turn = ChatTurn(quiet_s=self._quiet_s)
        try:
            key = await asyncio.to_thread(self._key, request.target)
            await self._require_allowed(request.target.base_url or OPENAI_URL)
            client = await self._ready()
            async with client.stream(
                "POST",
                f"{request.target.base_url or OPENAI_URL}/chat/completions",
                content=orjson.dumps(body_of(request)),
                headers={"authorization": f"Bearer {key}"} if key else {},
            ) as response:
                if response.status_code != 200:
                    raise failure_of_status(response.status_code, response.headers, await response.aread())
                chunks = response.aiter_bytes()
                async for chunk in chunks:
                    events = turn.feed(chunk)
                    if turn.is_complete:
                        await drain(chunks)
                        events.append(turn.ended(request))
                    if events:
                        yield events
                    if turn.is_complete:
                        return
        except ModelFailed as exc:
            exc.usage = turn.spent(request)
            raise
        except Upstream:
            raise
        except Exception as exc:
            meaning = meaning_of(exc)
            if meaning is None:
                raise
            code, is_transient = meaning
            raise ModelFailed(code, usage=turn.spent(request), is_transient=is_transient) from exc
        raise ModelFailed(ModelErrorCode.MODEL_STREAM_CUT, usage=turn.spent(request), is_transient=True)

    async def _ready(self) -> httpx2.AsyncClient:
        return self._client or self._keep(await asyncio.to_thread(_make_client))

    def _keep(self, made: httpx2.AsyncClient) -> httpx2.AsyncClient:
        # Two first calls at once make two; one that is not used has nothing open.
        if self._client is None:
            self._client = made
        return self._client

    async def _require_allowed(self, base_url: str) -> None:
        """Look where an address leads, once a minute.

        Raises:
            ModelFailed: it leads to a metadata service.
        """
        if self._allowed.get(base_url, 0.0) > monotonic():
            return
        address = urlsplit(base_url)
        found: Sequence[Any] = ()
        with suppress(OSError):  # a name that only a proxy knows, or nobody: the call itself finds out
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(address.hostname, address.port or 443, type=socket.SOCK_STREAM)
        if not all(may_serve_models(str(each[4][0])) for each in found):
            report("the address leads to a metadata service")
            raise ModelFailed(ModelErrorCode.MODEL_UNAVAILABLE)
        self._allowed = {**self._allowed, base_url: monotonic() + _RESOLVED_S}

    def _key(self, target: Target) -> str:
        """Return the key of a target, "" where it needs none."""
        if not target.secret:
            return ""
        known = secrets.get(self._secret_arn).get(target.secret) if self._secret_arn else None
        entry = known if isinstance(known, dict) else {}
        key, address = entry.get("api_key"), entry.get("base_url", OPENAI_URL)
        if not isinstance(key, str) or not key:
            raise ModelNotConfigured(f"The language model's key '{target.secret}' is not configured")
        if address != (target.base_url or OPENAI_URL):
            report("the key is another address's")
            raise ModelNotConfigured(f"The language model's key '{target.secret}' is for another address")
        return key

    def _forget(self) -> None:
        # After a SnapStart restore, sockets are another machine's.
        self._client = None


def body_of(request: ModelRequest) -> dict[str, Any]:
    """Return the body of a call."""
    target = request.target
    # OpenAI's newer models refuse the older name, which is the only one that all other servers know.
    most = "max_completion_tokens" if (target.base_url or OPENAI_URL) == OPENAI_URL else "max_tokens"
    body: dict[str, Any] = {
        "model": target.model,
        "messages": to_chat(request.system, request.messages, images=target.images),
        most: request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [to_function(tool) for tool in request.tools[:MAX_TOOLS]]
    return body


def _make_client() -> httpx2.AsyncClient:
    import httpx2

    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(_SILENCE_S, connect=_CONNECT_S),
        limits=httpx2.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_IDLE_S),
        headers={"content-type": "application/json", "accept-encoding": "identity", "user-agent": "karma"},
        event_hooks={"response": [limit_error]},
        follow_redirects=False,
    )
