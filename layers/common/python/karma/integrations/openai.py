"""Chat Completions as OpenAI defines them and many servers offer them: OpenAI itself, vLLM, Ollama, gateways.

A small client on httpx2, which is there for Anthropic's SDK: importing OpenAI's own SDK costs more than that one's, for
one request and one stream (docs/adr/0044). The request has only what all these servers take.

A key is sent to the address that the deployment's secret binds it to, and to no other: whoever may write the
configuration can name a key, but not where it goes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import orjson

from karma.core import aws, secrets
from karma.core.clock import monotonic
from karma.core.errors import Upstream
from karma.integrations.event_stream import QUIET_S, SILENCE_S, drain
from karma.integrations.limited_errors import limit_error
from karma.integrations.openai_errors import failure_of_status, meaning_of, report, wants_newer_name, wants_strict_form
from karma.integrations.openai_messages import MAX_TOOLS, to_chat, to_function
from karma.integrations.openai_signed import server_of
from karma.integrations.openai_turn import ChatTurn
from karma.models.addresses import may_serve_models
from karma.models.domain import OPENAI_URL, ModelErrorCode, ModelNotConfigured, Target
from karma.models.ports import ModelEvent, ModelFailed, ModelRequest, TurnEnded

if TYPE_CHECKING:
    import httpx2

_CONNECT_S: Final = 5.0
_IDLE_S: Final = 60.0
_CONNECTIONS: Final = 100
_RESOLVED_S: Final = 60.0
_MISTRAL: Final = "api.mistral.ai"
_FORM_REFUSED: Final = frozenset({400, 422})


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
        self._newer: frozenset[tuple[str, str]] = frozenset()
        """Addresses and models that refused the older name of the limit; there are as many as configured models."""
        self._strict: frozenset[tuple[str, str]] = frozenset()
        """Those that refused the form of a conversation which most take."""
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
        turn = ChatTurn(quiet_s=self._quiet_s, shows_reasoning=request.reasoning is not None)
        try:
            key = await asyncio.to_thread(self._key, request.target)
            await self._require_allowed(request.target.base_url or OPENAI_URL)
            async with self._asked(request, key) as response:
                if response.status_code != 200:
                    raise failure_of_status(response.status_code, response.headers, await response.aread())
                chunks = response.aiter_bytes()
                async for chunk in chunks:
                    events = turn.feed(chunk)
                    _tell(request, turn)
                    if turn.is_complete:
                        events.append(_ended(request, turn))
                    if events:
                        yield events
                    if turn.is_complete:
                        await drain(chunks)
                        return
                events = turn.end_of_body()
                if turn.is_complete:
                    yield [*events, _ended(request, turn)]
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

    @asynccontextmanager
    async def _asked(self, request: ModelRequest, key: str) -> AsyncIterator[httpx2.Response]:
        """Send a call; once more where the server asks for another form of the request, before anything was done.

        Such are the newer name of the limit, and conversations as strict servers want them.
        """
        client, target = await self._ready(), request.target
        address = target.base_url or OPENAI_URL
        asked = address, target.model
        while True:
            is_newer = address == OPENAI_URL or asked in self._newer
            is_strict = urlsplit(address).hostname == _MISTRAL or asked in self._strict
            async with client.stream(
                "POST",
                f"{address}/chat/completions",
                content=orjson.dumps(body_of(request, is_newer=is_newer, is_strict=is_strict)),
                headers={"authorization": f"Bearer {key}"} if key else {},
            ) as response:
                refusal = await response.aread() if response.status_code in _FORM_REFUSED else b""
                if refusal and not is_newer and response.status_code == 400 and wants_newer_name(refusal):
                    self._newer |= {asked}
                elif refusal and not is_strict and wants_strict_form(refusal):
                    self._strict |= {asked}
                else:
                    yield response
                    return

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
        with suppress(OSError, UnicodeError):  # a name that only a proxy knows, or nobody: the call itself finds out
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


def body_of(request: ModelRequest, *, is_newer: bool = False, is_strict: bool = False) -> dict[str, Any]:
    """Return the body of a call.

    With `is_newer` the limit of its answer has the name that newer models want; `is_strict` as in `to_chat`.
    """
    target = request.target
    # OpenAI's newer models refuse the older name, also where Azure serves them; most other servers know no other one.
    is_newer = is_newer or (target.base_url or OPENAI_URL) == OPENAI_URL
    most = "max_completion_tokens" if is_newer else "max_tokens"
    body: dict[str, Any] = {
        "model": target.model,
        "messages": to_chat(
            request.system,
            request.messages,
            images=target.images,
            model=target.model,
            server=server_of(target),
            is_strict=is_strict,
        ),
        most: request.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.reasoning is not None:
        body["reasoning_effort"] = request.reasoning.value
    if request.tools:
        body["tools"] = [to_function(tool) for tool in request.tools[:MAX_TOOLS]]
    return body


def _tell(request: ModelRequest, turn: ChatTurn) -> None:
    # Servers that count with each chunk have not counted what comes behind it.
    request.meter.usage = replace(turn.counted(request), output_tokens=None, reasoning_tokens=None)
    request.meter.thought = turn.hidden


def _ended(request: ModelRequest, turn: ChatTurn) -> TurnEnded:
    ended = turn.ended(request)
    request.meter.usage = ended.usage
    return ended


def _make_client() -> httpx2.AsyncClient:
    import httpx2

    return httpx2.AsyncClient(
        timeout=httpx2.Timeout(SILENCE_S, connect=_CONNECT_S),
        limits=httpx2.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_IDLE_S),
        headers={"content-type": "application/json", "accept-encoding": "identity", "user-agent": "karma"},
        event_hooks={"response": [limit_error]},
        follow_redirects=False,
    )
