"""Tools of MCP servers in a run: offered when it starts, and called with the run's arguments.

What is offered stands in the setup of the run, so that a process which goes on with it offers the same. A server that
cannot be asked costs the run its tools, not its answer: the run's stream says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from karma.conversations.branches import Note
from karma.core.clock import Clock
from karma.core.errors import Conflict, Upstream
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.identity.domain import Caller
from karma.mcp.domain import (
    MODERN,
    Listing,
    McpErrorCode,
    McpFailed,
    McpServer,
    McpServerChanged,
    McpServerId,
    RemoteTool,
    call_name,
    may_be_call_name,
)
from karma.tools.domain import AT_ONCE, MCP, ApprovalRule, GivenInput
from karma.tools.failures import NotMade, OutcomeUnknown, ToolFailed
from karma.tools.inputs import MAX_ROUNDS, InputRequest, InputRequired
from karma.tools.json_arguments import JsonArguments
from karma.tools.toolbox import Tool, ToolContext, WhenLost, Words

if TYPE_CHECKING:
    from karma.mcp.domain import McpEndpoint
    from karma.mcp.ports import CallOutcome, CallProgress, McpClients, McpInputNeeded, McpServers
    from karma.mcp.secrets import Endpoints

PERMISSION: Final = "mcp:call"
MAX_OFFERED: Final = 100
"""Tools of MCP servers in one run: providers take 128 in all."""
MAX_OFFERED_BYTES: Final = 262_144
"""Bytes of their descriptions and schemas, which are part of each call of the model."""
_START_S: Final = 5.0
"""Seconds for which the start of a run waits for servers whose listing is old."""
_JUST_NOW: Final = timedelta(seconds=10)
"""Time for which a listing shows that its server is there, for a call that somebody has decided about."""
_MARGIN_S: Final = 5.0
_MAX_QUESTION_CHARS: Final = 2_000
_REFUSED: Final = frozenset(
    {
        McpErrorCode.ADDRESS_REFUSED,  # nothing was sent
        McpErrorCode.VERSION_UNKNOWN,  # the handshake before the call has failed
        McpErrorCode.UNAUTHORIZED,  # the server lets in nobody with these headers
        McpErrorCode.FAILED,  # the server's own word about the call, unless that says that an answer was lost
        McpErrorCode.INPUT_REQUIRED,  # the server's own word, too: it does not go on without
    }
)
"""Failures of a call that was not made, or of which its server itself says that it has failed.

Whatever else ends a call comes without a word of the server's about what it has done: its outcome is unknown.
"""

_AWAY: Final = frozenset(
    {
        McpErrorCode.ADDRESS_REFUSED,
        McpErrorCode.UNREACHABLE,
        McpErrorCode.TIMED_OUT,
        McpErrorCode.UNAUTHORIZED,
        McpErrorCode.REDIRECTED,
    }
)
"""Failures of a listing that a call would meet, too. A server whose list alone is broken may carry out calls."""
_AWAY_RETRY_S: Final = 10


class McpServerAway(Conflict):
    """The request answers a question about a call of a server that cannot be asked now; nothing of it is spent.

    `details` has the server's id and the reason, `Retry-After` when to try again. No 5xx: an account's server is not
    part of the deployment (docs/adr/0052).
    """

    code = "MCP_SERVER_AWAY"
    retryable = True

    def __init__(self, server: McpServer) -> None:
        error, name = server.health.error, server.name
        told = f"resume: the MCP server '{name}' cannot be asked now: {server.health.message}; the question stays open"
        super().__init__(told, details={"server_id": server.id, "reason": error.value if error else ""})
        self.headers["Retry-After"] = str(_AWAY_RETRY_S)


class OfferedTool(Record, kw_only=True):
    """A tool of a server, as one run has it."""

    server_id: McpServerId
    server_name: str
    version: str
    """Revision of the protocol in which the server is asked."""
    timeout_s: int
    tool: RemoteTool
    approval: ApprovalRule = AT_ONCE
    """The rule of now; a run keeps those that it began with in its setup."""

    @property
    def name(self) -> str:
        """Return the name by which the model calls it."""
        return call_name(self.server_name, self.tool.name)


class Offer(Record, kw_only=True):
    """Tools that a run is offered, and servers that it has to do without."""

    tools: tuple[OfferedTool, ...] = ()
    missing: tuple[Note, ...] = ()
    servers: Mapping[McpServerId, McpServer] = field(default_factory=dict)
    """All of the account's servers, as they are by now."""
    asked: frozenset[McpServerId] = frozenset()
    """Those that were asked for their tools just now, whether they answered or not."""

    @property
    def names(self) -> frozenset[str]:
        """Return the names by which the model calls the tools."""
        return frozenset(tool.name for tool in self.tools)

    @property
    def repeatable(self) -> frozenset[str]:
        """Return the names of those whose servers say that a second call has no further effect."""
        return frozenset(each.name for each in self.tools if each.tool.is_repeatable)


class McpTools:
    """Offers tools of an account's servers to its runs."""

    def __init__(
        self, store: McpServers, client: Callable[[], McpClients], endpoints: Callable[[], Endpoints], clock: Clock
    ) -> None:
        """Build it; `client` and `endpoints` return theirs when a run first has a server, which few accounts have."""
        self._store = store
        self._client = client
        self._endpoints = endpoints
        self._clock = clock

    def servers(self, caller: Caller) -> list[McpServer]:
        """Return all servers of a caller; none when the caller may not call them. Blocks.

        Raises:
            Upstream: the database did not answer.
        """
        return self._store.all(caller.user_id) if caller.may(PERMISSION) else []

    async def offer(self, servers: Sequence[McpServer], agent_id: str) -> Offer:
        """Return what an agent may use of servers; those whose listing is old are asked, side by side."""
        now = self._clock.now()
        due = [each for each in servers if each.is_for(agent_id) and each.is_stale(now)]
        return await self._asked(Offer(servers={each.id: each for each in servers}), due, agent_id)

    async def reach(self, offer: Offer, wanted: Collection[str], agent_id: str) -> Offer:
        """Return an offer for which the wanted servers were asked anew, but for those that have just answered.

        Neither the pause after a failure nor the time for which a listing is young holds for them: somebody has decided
        that a tool of theirs is to be called, which is rare, and not to be spent on a server that is away by now.
        What is wanted may be no server, or one that is deleted.

        Raises:
            McpServerAway: one of them cannot be asked now either.
        """
        now = self._clock.now()
        found = [server for name, server in offer.servers.items() if name in wanted]
        due = [each for each in found if each.id not in offer.asked and not _has_just_answered(each, now)]
        offer = await self._asked(offer, due, agent_id) if due else offer
        for each in found:
            if offer.servers[each.id].health.error in _AWAY:
                raise McpServerAway(offer.servers[each.id])
        return offer

    async def _asked(self, offer: Offer, due: Sequence[McpServer], agent_id: str) -> Offer:
        """Return the offer that results once servers were asked for their tools, side by side."""
        new = await asyncio.gather(*map(self._ask, due)) if due else ()
        servers = {**offer.servers, **{each.id: each for each in new}}
        tools, missing = _bounded([each for each in servers.values() if each.is_for(agent_id)], agent_id)
        asked = offer.asked | {each.id for each in new}
        return Offer(tools=tools, missing=missing, servers=servers, asked=asked)

    def still_offered(self, offered: Sequence[OfferedTool], caller: Caller, agent_id: str) -> tuple[OfferedTool, ...]:
        """Return those of an earlier run's tools that an agent may use still, by what is stored; no read for none.

        Blocks.

        Raises:
            Upstream: the database did not answer.
        """
        if not offered:
            return ()
        servers = {each.id: each for each in self.servers(caller)}
        found = {(each.id, tool.name) for each in servers.values() for tool in each.tools_for(agent_id)}
        return tuple(
            replace(each, approval=servers[each.server_id].rule_of(agent_id, each.tool.name))
            for each in offered
            if (each.server_id, each.tool.name) in found
        )

    def tools(self, offered: Sequence[OfferedTool], *, thread_id: str) -> list[Tool]:
        """Return offered tools as a toolbox takes them, for runs of a thread."""
        outdated: set[McpServerId] = set()
        return [self._tool(each, thread_id, outdated) for each in offered]

    def _tool(self, offered: OfferedTool, thread_id: str, outdated: set[McpServerId]) -> Tool:
        """Return a tool; `outdated` are the servers whose listing its run has marked already."""

        async def run(arguments: Mapping[str, object], context: ToolContext) -> object:
            return await self._call(offered, arguments, context, thread_id, outdated)

        return Tool(
            name=offered.name,
            description=offered.tool.description or offered.tool.name,
            parameters=JsonArguments(offered.tool.schema),
            permission=PERMISSION,
            when_lost=WhenLost.CALL_AGAIN if offered.tool.is_repeatable else WhenLost.ASK,
            timeout_s=offered.timeout_s + _MARGIN_S,
            approval=offered.approval,
            reaches=offered.server_id,
            run=run,
        )

    async def _call(
        self,
        offered: OfferedTool,
        arguments: Mapping[str, object],
        context: ToolContext,
        thread_id: str,
        outdated: set[McpServerId],
    ) -> object:
        server = await asyncio.to_thread(self._store.get, context.caller.user_id, offered.server_id)
        if server is None:
            raise NotMade(f"The MCP server {offered.server_name} was deleted")
        endpoint = await asyncio.to_thread(self._endpoints().of, server, thread_id=thread_id)
        changed: list[bool] = []
        try:
            value, is_error = await self._answered(endpoint, offered, arguments, context, lambda: changed.append(True))
        except McpFailed as exc:
            count("McpCallFailed", code=exc.code.value)
            logger.warning("mcp.call_failed", run_id=context.run_id, server_id=offered.server_id, code=exc.code.value)
            if exc.code in _AWAY:
                changed.append(True)  # whoever starts next asks whether it is there before a call is spent on it
            failed = OutcomeUnknown if exc.is_unknown or exc.code not in _REFUSED else ToolFailed
            raise failed(f"{exc.message} ({exc.code.value})") from None
        finally:
            if changed and server.id not in outdated:
                outdated.add(server.id)
                await asyncio.to_thread(self._outdate, server)
        if is_error:
            raise ToolFailed(value if isinstance(value, str) else orjson.dumps(value).decode())
        # A text is told as it is, often JSON itself; a blank one in quotes, since some models take no blank result.
        return Words(value) if isinstance(value, str) and value.strip() else value

    def _outdate(self, seen: McpServer) -> None:
        """Have the next start of a run ask a server for its tools, unless it was asked meanwhile. Blocks."""
        from karma.core.repeat import repeat  # local: few servers say so

        def once() -> None:
            server = self._store.get(seen.user_id, seen.id)
            if server is not None and server.listed_at == seen.listed_at and not server.is_outdated:
                self._store.replace(server, replace(server, is_outdated=True, version=server.version + 1))

        with suppress(McpServerChanged, Upstream):  # the listing is not used for long anyhow
            repeat(once, on=(McpServerChanged,))

    async def _answered(
        self,
        endpoint: McpEndpoint,
        offered: OfferedTool,
        arguments: Mapping[str, object],
        context: ToolContext,
        outdated: Callable[[], None],
    ) -> CallOutcome:
        """Call a tool, and show how far it is.

        Raises:
            InputRequired: the server asks for something that can be given.
            McpFailed: as `McpClients.call`.
        """
        from karma.mcp.ports import CallInput, McpInputNeeded  # local: few runs call tools of servers
        from karma.tools.pace import paced

        given = context.given
        can_ask = given is not None and offered.version == MODERN
        told = CallInput(can_ask=can_ask)
        if given is not None and given.kept is not None:
            state = given.kept["state"]
            told = replace(told, answers=given.answers, state=state if isinstance(state, str) else None)
        for _ in range(MAX_ROUNDS):
            try:
                with paced(partial(context.show, MCP)) as show:
                    return await self._client().call(
                        endpoint,
                        offered.tool,
                        arguments,
                        version=offered.version,
                        given=told,
                        tell=lambda progress: show(_shown(offered, progress)),
                        outdated=outdated,
                    )
            except McpInputNeeded as exc:
                if exc.forms:
                    if given is None or not can_ask:
                        raise
                    raise _question(offered, exc, given) from None
                told = replace(told, answers=None, state=exc.state)  # it asks for nothing but to be called again
        raise McpFailed(McpErrorCode.INPUT_REQUIRED, f"The server has asked {MAX_ROUNDS} times to be called again")

    async def _ask(self, server: McpServer) -> McpServer:
        """Return a server that was asked for its tools; one that cannot be asked says so by its health."""
        from karma.mcp.service import renewed  # local: only runs whose agent has such servers ask them

        now = self._clock.now()
        try:
            endpoint = await asyncio.to_thread(self._endpoints().of, server, timeout_s=_START_S)
            found: Listing | McpFailed = await self._client().list_tools(endpoint, server=server.name)
        except McpFailed as exc:
            found = exc
        except Upstream as exc:
            found = McpFailed(McpErrorCode.FAILED, exc.message)
        new = renewed(server, found, at=now)
        with suppress(McpServerChanged, Upstream):  # another run has just asked, or it was deleted: its next call sees
            await asyncio.to_thread(self._store.replace, server, new)
        return new


def _has_just_answered(server: McpServer, now: datetime) -> bool:
    return server.health.error is None and not server.is_outdated and now < server.listed_at + _JUST_NOW


def _shown(offered: OfferedTool, told: CallProgress) -> dict[str, object]:
    """Return what clients are shown of a call's progress."""
    shown: dict[str, object] = {"server": offered.server_name, "tool": offered.tool.name, "progress": told.progress}
    return {
        **shown,
        **({} if told.total is None else {"total": told.total}),
        **({"message": told.message} if told.message else {}),
    }


def _question(offered: OfferedTool, needed: McpInputNeeded, given: GivenInput) -> InputRequired | McpFailed:
    """Return what a server's forms become: a question for the call's user, or a failure where there were enough."""
    if given.rounds >= MAX_ROUNDS:
        return McpFailed(McpErrorCode.INPUT_REQUIRED, f"The server has asked for input {MAX_ROUNDS} times, and again")
    count("McpInputAsked")
    asked = "\n".join(filter(None, (form.message for form in needed.forms.values())))
    message = f"{offered.name} asks: {asked[:_MAX_QUESTION_CHARS]}"
    return InputRequired(InputRequest(message=message, forms=needed.forms, kept={"state": needed.state}))


def is_remote(name: str, frontend: Collection[str]) -> bool:
    """Tell whether calls of a name are made by a server, of whichever run; `frontend` are its client's own tools."""
    return may_be_call_name(name) and name not in frontend


def with_tools_of_then(offer: Offer, then: Sequence[OfferedTool], agent_id: str) -> Offer:
    """Return an offer with tools by the names that they had in an earlier run, as their servers describe them now.

    Left out is what its server does not have any more, or not for the agent, and what a tool of this offer has the
    name of. The listing of a server that could not be read is the one that is stored.
    """
    more: dict[str, OfferedTool] = {}
    for each in then:
        server = offer.servers.get(each.server_id)
        tools = () if server is None else server.tools_for(agent_id)
        tool = next((tool for tool in tools if tool.name == each.tool.name), None)
        if server is not None and tool is not None and each.name not in offer.names:
            more[each.name] = replace(_offered(server, tool, agent_id), server_name=each.server_name)
    return replace(offer, tools=(*offer.tools, *more.values()))


def _offered(server: McpServer, tool: RemoteTool, agent_id: str) -> OfferedTool:
    return OfferedTool(
        server_id=server.id,
        server_name=server.name,
        version=server.listing.version,
        timeout_s=server.timeout_s,
        tool=tool,
        approval=server.rule_of(agent_id, tool.name),
    )


def _bounded(servers: Sequence[McpServer], agent_id: str) -> tuple[tuple[OfferedTool, ...], tuple[Note, ...]]:
    """Return as many tools as a run may have, and what is missing."""
    kept: dict[str, OfferedTool] = {}
    missing: list[Note] = []
    size = 0
    for server in servers:
        field = f"mcp_servers.{server.name}"
        if server.health.error is not None:
            missing.append(Note(field, f"its tools are missing: {server.health.message} ({server.health.error.value})"))
            logger.warning("mcp.tools_missing", server_id=server.id, code=server.health.error.value)
            count("McpToolsMissing", code=server.health.error.value)
            continue
        for tool in server.tools_for(agent_id):
            offered = _offered(server, tool, agent_id)
            own = len(orjson.dumps([tool.name, tool.description, tool.schema]))
            if len(kept) == MAX_OFFERED or size + own > MAX_OFFERED_BYTES:
                missing.append(Note(field, f"a run has at most {MAX_OFFERED} such tools, of {MAX_OFFERED_BYTES} bytes"))
                break
            size += own
            kept.setdefault(offered.name, offered)
    return tuple(kept.values()), tuple(missing)


def dump_offered(offered: OfferedTool) -> list[Any]:
    """Return a tool as a run's setup stores it."""
    tool = offered.tool
    told = [tool.name, tool.description, tool.schema, tool.is_repeatable]
    return [offered.server_id, offered.server_name, offered.version, offered.timeout_s, told]


def load_offered(stored: Sequence[Any]) -> OfferedTool:
    """Read what `dump_offered` wrote."""
    server_id, server_name, version, timeout_s, (name, description, schema, is_repeatable) = stored
    return OfferedTool(
        server_id=McpServerId(server_id),
        server_name=server_name,
        version=version,
        timeout_s=timeout_s,
        tool=RemoteTool(name=name, description=description, schema=schema, is_repeatable=is_repeatable),
    )
