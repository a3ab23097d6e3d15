"""Starts, joins and controls runs of agents."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import httpx

from karma_agent.errors import RunRefused
from karma_agent.stream import RunStream

_SILENCE_S: Final = 30.0
"""Seconds after which a silent stream counts as cut; the server sends a comment every ten."""
_CONNECT_S: Final = 10.0
_SSE: Final = {"Accept": "text/event-stream"}


class AgentClient:
    """Client of one deployment, for one account. It may be used by several tasks of one event loop at once."""

    def __init__(
        self,
        stream_url: str,
        *,
        api_url: str = "",
        api_key: str = "",
        token: str = "",
        auth: httpx.Auth | None = None,
        patience: int = 10,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Build a client; give one of `api_key`, `token` and `auth`.

        Args:
            stream_url: address of the stream, without a path.
            api_url: address of the API, without a path; needed for control alone.
            api_key: an API key.
            token: an access token, which holds for 30 minutes.
            auth: for example a `karma_cloud_client.session.Session`, which refreshes access tokens.
            patience: connections that may fail one after the other, without progress, before a stream gives up.
            transport: another transport than httpx's own.
        """
        self._stream_url = stream_url.rstrip("/")
        self._api_url = api_url.rstrip("/")
        self._patience = patience
        headers = {"X-API-Key": api_key} if api_key else {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
        self._http = httpx.AsyncClient(headers=headers, auth=auth, timeout=timeout, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; runs go on at the server."""
        await self._http.aclose()

    def run(
        self,
        message: str | Sequence[Mapping[str, Any]],
        *,
        thread_id: str = "",
        run_id: str = "",
        agent_id: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        context: Sequence[Mapping[str, str]] = (),
        state: object = None,
        forwarded_props: Mapping[str, Any] | None = None,
        resume: Sequence[Mapping[str, Any]] = (),
    ) -> RunStream:
        """Start a run and follow it; it begins with the first iteration.

        A connection that is cut, also before the answer began, never starts a second run.

        Args:
            message: the user's words, or AG-UI messages: the whole conversation, or its new ones.
            thread_id: thread to go on with; "": a new one.
            run_id: id of the run; "": a new one. A repeat with the same id and messages gets the run that there is.
            agent_id: id or name of an agent; "": the built-in one.
            tools: tools of this program, as AG-UI describes them; the run ends with their calls pending.
            context: facts for the model, `{description, value}`.
            state: any JSON value; the run's STATE_DELTA events change it.
            forwarded_props: further members of AG-UI's `forwardedProps`.
            resume: answers to interrupts of the thread, made by `karma_agent.interrupts`; `message` may be [] then.

        Raises:
            RunRefused: while iterated: the run was refused.
            RunUnreachable: while iterated: connections failed `patience` times without progress.
        """
        if isinstance(message, str):
            message = [{"id": str(uuid.uuid4()), "role": "user", "content": message}]
        asked: dict[str, Any] = {
            "threadId": thread_id or str(uuid.uuid4()),
            "runId": run_id or str(uuid.uuid4()),
            "protocolVersion": "1.0",
            "state": {} if state is None else state,
            "messages": list(message),
            "tools": list(tools),
            "context": list(context),
            "forwardedProps": {**(forwarded_props or {}), **({"agent_id": agent_id} if agent_id else {})},
        }
        if resume:
            asked["resume"] = list(resume)
        return self._stream(str(asked["runId"]), thread_id=str(asked["threadId"]), asked=asked)

    def join(self, run_id: str, *, after: int = 0) -> RunStream:
        """Follow a run that exists: from behind a position of another stream of it, or into its conversation.

        Without a position two MESSAGES_SNAPSHOT, the first empty, and a STATE_SNAPSHOT show conversation and state as
        they are; what is open begins again behind them, and goes on.
        """
        return self._stream(run_id, position=after)

    async def cancel(self, run_id: str, *, reason: str = "") -> Mapping[str, Any]:
        """Stop a run for good; return it as it is then. One that was cancelled before stays so.

        Raises:
            RunRefused: there is no such run, or it has ended otherwise.
        """
        return await self._control(run_id, "cancel", {"reason": reason} if reason else {})

    async def pause(self, run_id: str) -> Mapping[str, Any]:
        """Stop a run until it is resumed, which ends its streams; return it as it is then. Raises as `cancel` does."""
        return await self._control(run_id, "pause", {})

    async def resume(self, run_id: str) -> Mapping[str, Any]:
        """Let a paused run go on; return it as it is then. Raises as `cancel` does.

        `join` follows it, from the position of the stream that ended with the pause.
        """
        return await self._control(run_id, "resume", {})

    async def _control(self, run_id: str, verb: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if not self._api_url:
            raise ValueError("`api_url` is needed to control runs")
        response = await self._http.post(f"{self._api_url}/api/v1/runs/{run_id}/{verb}", json=dict(body))
        if response.status_code >= 400:
            raise RunRefused(response)
        run: Mapping[str, Any] = response.json()["data"]["run"]
        return run

    def _stream(
        self, run_id: str, *, thread_id: str = "", position: int | None = None, asked: Mapping[str, Any] | None = None
    ) -> RunStream:
        def connect(position: int | None) -> AsyncGenerator[bytes]:
            if position is None:
                return self._answer("POST", "/api/v1/agent", body=asked)
            where = {"after": str(position)} if position else {"join": "true"}
            return self._answer("GET", f"/api/v1/runs/{run_id}/events", query=where)

        return RunStream(connect, run_id=run_id, thread_id=thread_id, position=position, patience=self._patience)

    async def _answer(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> AsyncGenerator[bytes]:
        url = f"{self._stream_url}{path}"
        async with self._http.stream(method, url, json=body, params=query, headers=_SSE) as response:
            if response.status_code != 200:
                await response.aread()
                raise RunRefused(response)
            async for chunk in response.aiter_bytes():
                yield chunk
