"""A client of the Model Context Protocol over streamable HTTP, in both eras; see karma.mcp.

A request is first sent as revision 2026-07-28 has it. A server that does not know that is asked by the handshake of
the revisions before. What a server does cannot hurt: its answers are bounded in size and time, it cannot redirect, and
its name must lead to public addresses. Nothing of headers, arguments and results is logged.

The SDK's client costs 3 B to import and twice the CPU of a call (docs/adr/0052, docs/performance.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from karma.conversations.domain import Json
from karma.core import aws
from karma.integrations.guard import is_public
from karma.integrations.guarded_http import AddressRefused, Resolve, make_pool, resolved
from karma.integrations.mcp_messages import (
    AWAY,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    UNSUPPORTED_VERSION,
    McpSessionOver,
    NotSpoken,
    RpcError,
    handshake,
    quoted,
    request_body,
    request_headers,
    require_answer,
    require_end,
    result_of,
    resuming_headers,
    shown_result,
)
from karma.integrations.mcp_progress import ProgressReader
from karma.integrations.mcp_replies import Replies, end
from karma.integrations.mcp_sessions import Dialect, McpAnswer, Sessions, begun, refuses_session
from karma.integrations.mcp_streams import StreamPlace, read, read_events
from karma.mcp.domain import HANDSHAKE, MODERN, Listing, McpEndpoint, McpErrorCode, McpFailed, RemoteTool
from karma.mcp.headers import headers_of
from karma.mcp.listing import read_tools
from karma.mcp.ports import CallInput, CallOutcome, CallProgress

if TYPE_CHECKING:
    import httpcore2

MAX_PAGES: Final = 20
MAX_TOLD_TOOLS: Final = 1_000
_TELL_S: Final = 1.0
"""Seconds for which a call that is given up waits at the most, to tell its server so."""
_MAX_REFUSALS: Final = 4
"""Attempts in a row to take up a stream that the server may refuse, or not be there for."""


_NOTHING_GIVEN = CallInput()


def _nobody() -> None:
    """Heed nothing."""


class McpClient:
    """Lists and calls the tools of MCP servers. Connections and sessions are kept by event loop and process."""

    def __init__(self, *, is_allowed: Callable[[str], bool] = is_public, resolve: Resolve = resolved) -> None:
        """Make a client; `is_allowed` tells whether an address may be connected to."""
        self._is_allowed = is_allowed
        self._resolve = resolve
        self._pool: httpcore2.AsyncConnectionPool | None = None
        self._sessions = Sessions()
        self._replies: set[asyncio.Task[None]] = set()
        """Answers to requests of servers that are under way."""
        self._ids = 0
        aws.on_reset(self._forget)

    async def close(self) -> None:
        """Close all connections; the next request opens new ones."""
        pool, self._pool = self._pool, None
        self._sessions.clear()
        await end(self._replies)
        if pool is not None:
            await pool.aclose()

    async def list_tools(self, endpoint: McpEndpoint, *, server: str) -> Listing:
        """Ask a server for its tools, in as many pages as it has.

        Args:
            endpoint: the server.
            server: its name, of which the names that models call are made.

        Raises:
            McpFailed: it could not be asked.
        """
        async with _within(endpoint.timeout_s):
            try:
                return await self._list_as(endpoint, Dialect(MODERN), server)
            except RpcError as exc:
                if exc.code == UNSUPPORTED_VERSION and exc.supported and not set(exc.supported) & set(HANDSHAKE):
                    known = ", ".join(exc.supported)[:200]
                    raise McpFailed(McpErrorCode.VERSION_UNKNOWN, f"The server speaks only {known}") from None
            except NotSpoken:
                pass
            try:
                return await self._list_as(endpoint, await self._shake_hands(endpoint), server)
            except RpcError as exc:
                raise _failed(exc) from None
            except NotSpoken as exc:
                raise McpFailed(McpErrorCode.BAD_ANSWER, exc.args[0]) from None

    async def call(
        self,
        endpoint: McpEndpoint,
        tool: RemoteTool,
        arguments: Json,
        *,
        version: str,
        given: CallInput = _NOTHING_GIVEN,
        tell: Callable[[CallProgress], None] | None = None,
        outdated: Callable[[], None] = _nobody,
    ) -> CallOutcome:
        """See karma.mcp.ports.McpClients.

        Raises:
            McpInputNeeded: the server asks for something that can be given.
            McpFailed: it could not be called, or asks for something else; whether it had an effect is unknown, but for
                the codes that karma.mcp.offering names.
        """
        progress = None
        if tell is not None:
            self._ids += 1
            progress = ProgressReader(self._ids, tell, outdated)
        async with _within(endpoint.timeout_s):
            try:
                result = await self._call(endpoint, tool, arguments, version, given, progress)
            except RpcError as exc:
                if exc.code == INVALID_PARAMS:  # of a tool that it does not know, or of arguments
                    outdated()
                raise _failed(exc) from None
            except NotSpoken as exc:
                raise McpFailed(McpErrorCode.BAD_ANSWER, exc.args[0]) from None
            require_end(result)
            value = await shown_result(result, endpoint.max_result_bytes)
        return CallOutcome(value, is_error=result.get("isError") is True)

    async def _call(
        self,
        endpoint: McpEndpoint,
        tool: RemoteTool,
        arguments: Json,
        version: str,
        given: CallInput,
        progress: ProgressReader | None,
    ) -> dict[str, Any]:
        params: dict[str, object] = {"name": tool.name, "arguments": arguments}
        if progress is not None:
            params["_meta"] = {"progressToken": progress.token}
        if version != MODERN:
            return await self._call_in_session(endpoint, params, progress)
        told = {"inputResponses": given.answers, "requestState": given.state}
        params |= {name: value for name, value in told.items() if value is not None}
        dialect = Dialect(MODERN, can_ask=given.can_ask)
        try:
            marked = headers_of(tool.schema, arguments)
            return await self._ask(endpoint, dialect, "tools/call", params, marked, progress)
        except RpcError as exc:
            if exc.code != HEADER_MISMATCH:
                raise
        # Refused before it was carried out: the tool's schema asks for other headers by now.
        listing = await self._list_as(endpoint, dialect, "")
        now = next((each for each in listing.tools if each.name == tool.name), tool)
        marked = headers_of(now.schema, arguments)
        return await self._ask(endpoint, dialect, "tools/call", params, marked, progress)

    async def _call_in_session(
        self, endpoint: McpEndpoint, params: Json, progress: ProgressReader | None
    ) -> dict[str, Any]:
        session = await self._session(endpoint)
        try:
            answer = await self._send(endpoint, session, "tools/call", params, progress=progress)
            if not (session.session and refuses_session(answer)):
                if answer.is_wordless:  # perhaps of the session: the next call begins another, this one is not repeated
                    self._sessions.forget(endpoint, session)
                return _result(answer)
        except McpSessionOver:
            pass
        # Nothing was carried out: by the protocol, or by what the server says.
        anew = await self._session(endpoint, over=session)
        return await self._ask(endpoint, anew, "tools/call", params, progress=progress)

    async def _session(self, endpoint: McpEndpoint, *, over: Dialect | None = None) -> Dialect:
        """Return the session of an endpoint's thread; begin one if there is none but `over`, which has ended.

        Calls of one turn come at once: the first begins the session that all of them use.
        """
        if not endpoint.session_of:
            return await self._shake_hands(endpoint)
        async with self._sessions.beginning(endpoint):
            known = self._sessions.of(endpoint)
            return known if known is not None and known is not over else await self._shake_hands(endpoint)

    async def _list_as(self, endpoint: McpEndpoint, dialect: Dialect, server: str) -> Listing:
        told: list[object] = []
        cursors: set[str] = set()
        fresh: list[int] = []
        params: dict[str, object] = {}
        for _ in range(MAX_PAGES):
            result = await self._ask(endpoint, dialect, "tools/list", params)
            if dialect.version == MODERN and result.get("resultType") != "complete":
                raise NotSpoken("The server answers without knowing the revision")
            page, cursor, ttl = result.get("tools"), result.get("nextCursor"), result.get("ttlMs")
            if not isinstance(page, list):
                raise McpFailed(McpErrorCode.BAD_ANSWER, "The server's list of tools is no list")
            told += page
            if isinstance(ttl, int) and not isinstance(ttl, bool):
                fresh.append(max(0, min(ttl, 2**40)))
            if len(told) > MAX_TOLD_TOOLS:
                raise McpFailed(McpErrorCode.TOO_LARGE, f"The server lists more than {MAX_TOLD_TOOLS} tools")
            if cursor is None:
                tools, left_out = read_tools(server, told)
                version = dialect.version
                return Listing(version=version, tools=tools, left_out=left_out, fresh_ms=min(fresh, default=None))
            if not isinstance(cursor, str) or cursor in cursors:
                raise McpFailed(McpErrorCode.BAD_ANSWER, "The server's list of tools goes in a circle")
            cursors.add(cursor)
            params = {"cursor": cursor}
        raise McpFailed(McpErrorCode.TOO_LARGE, f"The server's list of tools has more than {MAX_PAGES} pages")

    async def _shake_hands(self, endpoint: McpEndpoint) -> Dialect:
        """Begin a session with a server from before 2026-07-28; keep it for the calls of its thread that follow."""
        try:
            answer = await self._send(endpoint, Dialect(HANDSHAKE[0]), "initialize", handshake())
            version = _result(answer).get("protocolVersion")
        except NotSpoken as exc:
            raise McpFailed(McpErrorCode.BAD_ANSWER, exc.args[0]) from None
        if version not in HANDSHAKE:
            raise McpFailed(
                McpErrorCode.VERSION_UNKNOWN, f"The server speaks only {quoted(version) or 'nothing known'}"
            )
        dialect = begun(str(version), answer.headers)
        await self._send(endpoint, dialect, "notifications/initialized", {}, is_told=True)
        self._sessions.keep(endpoint, dialect)
        return dialect

    async def _ask(
        self,
        endpoint: McpEndpoint,
        dialect: Dialect,
        method: str,
        params: Json,
        more: Mapping[str, str] | None = None,
        progress: ProgressReader | None = None,
    ) -> dict[str, Any]:
        return _result(await self._send(endpoint, dialect, method, params, more, progress=progress))

    async def _send(
        self,
        endpoint: McpEndpoint,
        dialect: Dialect,
        method: str,
        params: Json,
        more: Mapping[str, str] | None = None,
        *,
        is_told: bool = False,
        progress: ProgressReader | None = None,
    ) -> McpAnswer:
        """Send one request, or with `is_told` a notification, and read its answer."""
        self._ids += 1
        request_id = None if is_told else self._ids
        headers = {
            **request_headers(method, params, version=dialect.version, session=dialect.session),
            **(more or {}),
            **endpoint.headers,
        }
        pool = self._pool or await self._open()
        content = request_body(method, params, version=dialect.version, request_id=request_id, can_ask=dialect.can_ask)
        import httpcore2

        place = StreamPlace(is_resumable=dialect.version != MODERN, heed=None if progress is None else progress.heed)
        try:
            async with self._replying(pool, endpoint, dialect, place):
                async with pool.stream(
                    "POST", endpoint.url, headers=list(headers.items()), content=content, extensions=_timeouts(endpoint)
                ) as response:
                    answered = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in response.headers}
                    require_answer(response.status, answered, in_session=bool(dialect.session))
                    if is_told:
                        return McpAnswer(response.status, answered, None)
                    message = await read(response.aiter_stream(), answered, request_id, place)
                while place.is_left:
                    message = await self._resume(pool, endpoint, dialect, request_id, place)
                return McpAnswer(response.status, answered, message, place.said)
        except AddressRefused:
            raise McpFailed(McpErrorCode.ADDRESS_REFUSED, "The address is not on the public internet") from None
        except asyncio.CancelledError:
            await self._give_up(endpoint, dialect, method, request_id)
            raise
        except (httpcore2.TimeoutException, httpcore2.PoolTimeout):
            await self._give_up(endpoint, dialect, method, request_id)
            raise TimeoutError from None
        except (httpcore2.RemoteProtocolError, httpcore2.LocalProtocolError):
            raise McpFailed(McpErrorCode.BAD_ANSWER, "The server's answer is not HTTP") from None
        except (httpcore2.NetworkError, httpcore2.UnsupportedProtocol, OSError):
            raise McpFailed(McpErrorCode.UNREACHABLE, "The server cannot be reached, or broke the connection") from None

    def _replying(
        self, pool: httpcore2.AsyncConnectionPool, endpoint: McpEndpoint, dialect: Dialect, place: StreamPlace
    ) -> Replies:
        """Return what answers a server that asks within a stream; newer ones may not, and are not answered."""
        headers = request_headers("", {}, version=dialect.version, session=dialect.session)
        replies = Replies(pool, endpoint.url, {**headers, **endpoint.headers}, _timeouts(endpoint), self._replies)
        place.reply = replies.take if dialect.version != MODERN else None
        return replies

    async def _give_up(self, endpoint: McpEndpoint, dialect: Dialect, method: str, request_id: int | None) -> None:
        """Tell a server from before 2026-07-28, to which a cut connection says nothing, that a call is given up.

        Whether that reaches it is not waited for any longer than _TELL_S, and changes nothing here.
        """
        if method != "tools/call" or dialect.version == MODERN:
            return
        params = {"requestId": request_id, "reason": "The call was given up"}
        with suppress(McpFailed, NotSpoken, TimeoutError):
            async with asyncio.timeout(_TELL_S):
                await self._send(endpoint, dialect, "notifications/cancelled", params, is_told=True)

    async def _resume(
        self,
        pool: httpcore2.AsyncConnectionPool,
        endpoint: McpEndpoint,
        dialect: Dialect,
        request_id: int | None,
        place: StreamPlace,
    ) -> dict[str, Any] | None:
        """Take up a stream that the server has left before its answer; None: it has left that one, too.

        A server that cannot answer now is asked again a few times, each time later, within the time of the call.
        """
        import httpcore2

        pause_s = place.pause_s
        for _ in range(_MAX_REFUSALS):
            await asyncio.sleep(pause_s)
            pause_s *= 2
            headers = {
                **resuming_headers(version=dialect.version, session=dialect.session, last_event_id=place.event_id),
                **endpoint.headers,
            }
            with suppress(httpcore2.ConnectError, AddressRefused):  # by now its name may lead elsewhere
                async with pool.stream(
                    "GET", endpoint.url, headers=list(headers.items()), extensions=_timeouts(endpoint)
                ) as response:
                    if response.status == 200:
                        return await read_events(response.aiter_stream(), request_id, place)
                    if response.status not in AWAY:
                        break
        raise McpFailed(McpErrorCode.UNREACHABLE, "The server's stream ended before its answer")

    async def _open(self) -> httpcore2.AsyncConnectionPool:
        made = await asyncio.to_thread(make_pool, is_allowed=self._is_allowed, resolve=self._resolve)
        if self._pool is None:  # two first requests at once make two; one that is not used has nothing open
            self._pool = made
        return self._pool

    def _forget(self) -> None:
        # After a SnapStart restore, sockets are another machine's.
        self._pool = None
        self._sessions.clear()


@asynccontextmanager
async def _within(timeout_s: float) -> AsyncIterator[None]:
    """Bound all requests of one list or call together; closes their connections when the time is up."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise McpFailed(McpErrorCode.TIMED_OUT, f"The server did not answer within {timeout_s:g} s") from None


def _timeouts(endpoint: McpEndpoint) -> dict[str, Any]:
    return {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), endpoint.timeout_s)}


def _failed(error: RpcError) -> McpFailed:
    told = f"The server answered with error {error.code}: {error}"
    return McpFailed(McpErrorCode.FAILED, told, is_unknown=error.is_unknown)


def _result(answer: McpAnswer) -> dict[str, Any]:
    if answer.message is None:
        raise NotSpoken(f"The server answers with status {answer.status} and no message of the protocol")
    return result_of(answer.message, answer.status)
