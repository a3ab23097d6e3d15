"""Use cases of MCP servers: create after a real connection, list, read with their tools, change, delete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from karma.core.addresses import require_server
from karma.core.clock import Clock
from karma.core.errors import (
    AlreadyExists,
    AppError,
    NotFound,
    StaleVersion,
    StorageThrottled,
    Upstream,
    ValidationFailed,
)
from karma.core.ids import UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, no_longer, repeatable
from karma.mcp.domain import (
    EVERY_TOOL,
    MAX_SERVERS,
    Exposure,
    Listing,
    McpCheck,
    McpEndpoint,
    McpErrorCode,
    McpFailed,
    McpServer,
    McpServerChanged,
    McpServerId,
)
from karma.mcp.ports import Directory, Listers, McpServers
from karma.mcp.secrets import Endpoints
from karma.tools.domain import wrong_approvals

_MET = (StorageThrottled, McpServerChanged)
LIST_S: Final = 10.0
"""Seconds within which a server lists its tools for a request, whatever `timeout_s` says: that holds for calls, which
are made where runs are executed; who asks here waits behind a gateway, and its function has to answer."""


class McpServerUnusable(AppError):
    """The server could not be asked when it was to be created; the code says why, and nothing was stored."""

    status = 422
    code = McpErrorCode.FAILED.value


class TooManyMcpServers(AlreadyExists):
    """The account has as many MCP servers as one may have."""

    code = "TOO_MANY_MCP_SERVERS"


class NewMcpServer(Record, kw_only=True):
    """A server as somebody describes it."""

    name: str
    url: str
    headers: Mapping[str, str]
    exposures: tuple[Exposure, ...]
    timeout_s: int
    max_result_bytes: int


def renewed(server: McpServer, found: Listing | McpFailed, *, at: datetime) -> McpServer:
    """Return a server after an attempt to list its tools; one that failed leaves the listing as it was."""
    if isinstance(found, McpFailed):
        failures = server.health.failures + 1
        health = McpCheck(checked_at=at, error=found.code, message=found.message, failures=failures)
        return replace(server, health=health, updated_at=at, version=server.version + 1)
    health = McpCheck(checked_at=at)
    told = replace(server, health=health, listing=found, listed_at=at, is_outdated=False)
    return replace(told, updated_at=at, version=server.version + 1)


class McpServerService:
    """Use cases of MCP servers. Each raises NotFound for a server of another account."""

    def __init__(
        self,
        store: McpServers,
        listers: Listers,
        endpoints: Endpoints,
        clock: Clock,
        *,
        agent_id_of: Callable[[str], str],
        held: Callable[[UserId], AbstractContextManager[object]],
        loopback: bool = False,
    ) -> None:
        """Make the service.

        Args:
            store: the servers.
            listers: asks servers for their tools.
            endpoints: seals and opens their headers.
            clock: tells the time.
            agent_id_of: returns the id of the agent that an id or a name means; raises NotFound when none does.
            held: counts a request of an account that waits for a server, and refuses one too many.
            loopback: servers of this machine may be named, by http:// too.
        """
        self._agent_id_of = agent_id_of
        self._store = store
        self._listers = listers
        self._endpoints = endpoints
        self._clock = clock
        self._held = held
        self._loopback = loopback

    def get(self, user_id: UserId, server_id: str) -> McpServer:
        """Read one server as it is stored.

        Raises:
            NotFound: absent or deleted.
        """
        server = self._store.get(user_id, McpServerId(server_id)) if is_id(server_id) else None
        if server is None:
            raise NotFound(f"MCP server {server_id} not found")
        return server

    def look(self, user_id: UserId, server_id: str) -> McpServer:
        """Read one server; its tools are asked for when the stored listing is old. It may be away: `health` says so.

        Raises:
            NotFound: absent or deleted.
            SealUnavailable: its headers cannot be opened now.
        """
        server = self.get(user_id, server_id)
        now = self._clock.now()
        if not server.is_stale(now, for_owner=True):
            return server
        new = renewed(server, self._ask(server), at=now)
        try:
            self._store.replace(server, new)
        except (McpServerChanged, Upstream):
            return new  # somebody else has just asked, or deleted it: what was found is no less true
        return new

    def refresh(self, user_id: UserId, server_id: str) -> McpServer:
        """Ask one server for its tools, however old its listing is, and return it. It may be away: `health` says so.

        What is found is stored on condition that the server is as it was read. A listing that somebody else has stored
        meanwhile stays, and so does the one with which its headers were changed.

        Raises:
            NotFound: absent, or deleted meanwhile.
            SealUnavailable: its headers cannot be opened now.
        """
        asked = self.get(user_id, server_id)
        now = self._clock.now()
        found = self._ask(asked)

        def once() -> McpServer:
            server = self.get(user_id, server_id)
            is_newer = server.listed_at > now or server.health.checked_at > now
            if server.sealed != asked.sealed or is_newer:
                return server
            new = renewed(server, found, at=now)
            self._store.replace(server, new)
            return new

        refreshed = repeat(once, on=_MET)
        logger.info("mcp_server.refreshed", server_id=refreshed.id, code=refreshed.health.error or "")
        return refreshed

    def _ask(self, server: McpServer) -> Listing | McpFailed:
        """Ask a server for its tools, within LIST_S, and with one of the account's places for requests that wait."""
        try:
            endpoint = self._endpoints.of(server, timeout_s=LIST_S)
            with self._held(server.user_id):
                return self._listers.list_tools(endpoint, server=server.name)
        except McpFailed as exc:
            return exc

    def all(self, user_id: UserId) -> list[McpServer]:
        """Return all servers of an account, the oldest first: there are at most MAX_SERVERS."""
        return self._store.all(user_id)

    def create(
        self, user_id: UserId, wanted: NewMcpServer, *, idempotency_key: IdempotencyKey | None = None
    ) -> McpServer:
        """Connect to a server, list its tools, and store it; a repeat returns the one that the first request made.

        Raises:
            ValidationFailed: the address is not https:, or an exposure names an agent that does not exist, or twice, or
                a tool that the server does not have.
            AlreadyExists: another server of the account has the name.
            TooManyMcpServers: the account has MAX_SERVERS.
            McpServerUnusable: it could not be asked; the code is the reason.
            Gone: the server of the first request was deleted meanwhile.
            IdempotencyKeyReused: the first request asked for another server.
            SealUnavailable: its headers cannot be encrypted now.
            AccountGone: the account is deleted.
        """
        self._require_address(wanted.url)
        now = self._clock.now()
        request = repeatable(idempotency_key, wanted, at=now)
        if request is not None and (made := self._store.made_by(user_id, request)) is not None:
            return self._earlier(user_id, made)
        _require_room(self._store.directory(user_id), wanted.name)
        wanted = replace(wanted, exposures=self._by_ids(wanted.exposures))
        listing = self._list(user_id, wanted, wanted.headers)
        require_tools(wanted.exposures, listing)
        server = self._described(user_id, wanted, listing, at=now)

        def once() -> McpServer:
            seen = self._store.directory(user_id)
            _require_room(seen, wanted.name)
            self._store.create(server, seen=seen, request=request)
            return server

        try:
            repeat(once, on=_MET)
        except AlreadyExists:  # perhaps by the same request, sent twice at once
            made = self._store.made_by(user_id, request) if request else None
            if made is None:
                raise
            return self._earlier(user_id, made)
        count("McpServerCreated")
        logger.info("mcp_server.created", server_id=server.id, tools=len(listing.tools))
        return server

    def _described(self, user_id: UserId, wanted: NewMcpServer, listing: Listing, *, at: datetime) -> McpServer:
        """Return a new server that has just listed its tools."""
        server_id = McpServerId(new_id())
        return McpServer(
            id=server_id,
            user_id=user_id,
            name=wanted.name,
            url=wanted.url,
            header_names=tuple(sorted(wanted.headers)),
            sealed=self._endpoints.sealed(user_id, server_id, wanted.headers),
            exposures=wanted.exposures,
            timeout_s=wanted.timeout_s,
            max_result_bytes=wanted.max_result_bytes,
            created_at=at,
            updated_at=at,
            version=1,
            health=McpCheck(checked_at=at),
            listing=listing,
            listed_at=at,
        )

    def change(
        self, user_id: UserId, server_id: str, changes: Mapping[str, Any], *, version: int | None = None
    ) -> McpServer:
        """Change name, headers, exposures or limits of a server; the same again changes nothing.

        With other headers it is asked for its tools first, as when it was created. Runs keep the names and rules with
        which they began, and call with the headers of now.

        Raises:
            NotFound: as `get`.
            StaleVersion: `version` is not the stored one.
            ValidationFailed, AlreadyExists, McpServerUnusable, SealUnavailable: as `create`.
        """
        plain = {name: value for name, value in changes.items() if name != "headers"}
        if "exposures" in plain:
            plain["exposures"] = self._by_ids(plain["exposures"])
        seen = self._of_version(user_id, server_id, version)
        headers: Mapping[str, str] | None = changes.get("headers")
        if headers is not None and dict(headers) != dict(self._endpoints.of(seen).headers):
            listing = self._list(user_id, replace(seen, **plain), headers)
            plain |= {
                "listing": listing,
                "listed_at": self._clock.now(),
                "is_outdated": False,
                "health": McpCheck(checked_at=self._clock.now()),
                "sealed": self._endpoints.sealed(user_id, seen.id, headers),
                "header_names": tuple(sorted(headers)),
            }

        def once() -> McpServer:
            old = self._of_version(user_id, server_id, version)
            new = replace(old, **plain)
            if new == old:
                return old
            if "exposures" in plain:
                require_tools(new.exposures, new.listing)
            directory = self._store.directory(user_id) if new.name != old.name else None
            if directory is not None:
                _require_free(directory, new.name)
            new = replace(new, updated_at=self._clock.now(), version=old.version + 1, revision=old.revision + 1)
            self._store.replace(old, new, seen=directory)
            return new

        changed = repeat(once, on=_MET)
        logger.info("mcp_server.changed", server_id=changed.id)
        return changed

    def delete(self, user_id: UserId, server_id: str, *, version: int | None = None) -> None:
        """Delete a server; runs that have its tools are told so by their next call.

        Raises:
            NotFound, StaleVersion: as `change`.
        """

        def once() -> None:
            server = self._of_version(user_id, server_id, version)
            self._store.delete(server, seen=self._store.directory(user_id))
            count("McpServerDeleted")
            logger.info("mcp_server.deleted", server_id=server.id)

        repeat(once, on=_MET)

    def _of_version(self, user_id: UserId, server_id: str, version: int | None) -> McpServer:
        server = self.get(user_id, server_id)
        if version is not None and server.revision != version:
            raise StaleVersion(f"MCP server {server.id} has version {server.revision}")
        return server

    def _earlier(self, user_id: UserId, made: McpServerId) -> McpServer:
        stored = self._store.get(user_id, made)
        if stored is None:
            raise no_longer(made)
        return stored

    def _by_ids(self, exposures: Sequence[Exposure]) -> tuple[Exposure, ...]:
        """Return exposures to agents by their ids, whose names may change."""
        found: list[Exposure] = []
        for at, exposure in enumerate(exposures):
            try:
                agent = self._agent_id_of(exposure.agent)
            except NotFound:
                raise ValidationFailed.of(f"agents.{at}.agent", "must be the id or the name of an agent") from None
            if any(each.agent == agent for each in found):
                raise ValidationFailed.of(f"agents.{at}.agent", "must name each agent once")
            found.append(replace(exposure, agent=agent))
        return tuple(found)

    def _require_address(self, url: str) -> None:
        try:
            require_server(url, loopback=self._loopback)
        except ValueError as exc:
            raise ValidationFailed.of("url", str(exc)) from None

    def _list(self, user_id: UserId, wanted: NewMcpServer | McpServer, headers: Mapping[str, str]) -> Listing:
        endpoint = McpEndpoint(url=wanted.url, headers=headers, timeout_s=min(wanted.timeout_s, LIST_S))
        try:
            with self._held(user_id):
                return self._listers.list_tools(endpoint, server=wanted.name)
        except McpFailed as exc:
            raise McpServerUnusable(exc.message, code=exc.code.value) from None


def _require_free(directory: Directory, name: str) -> None:
    if name in directory.ids:
        raise AlreadyExists("name: another MCP server of the account has it")


def _require_room(directory: Directory, name: str) -> None:
    _require_free(directory, name)
    if len(directory.ids) >= MAX_SERVERS:
        raise TooManyMcpServers(f"An account has at most {MAX_SERVERS} MCP servers")


def require_tools(exposures: Sequence[Exposure], listing: Listing) -> None:
    """Check that exposures name tools that a server offers, and rules for those that they name.

    Raises:
        ValidationFailed: they do not.
    """
    known = {tool.name for tool in listing.tools}
    for at, exposure in enumerate(exposures):
        for i, name in enumerate(exposure.tools or ()):
            if name not in known:
                raise ValidationFailed.of(f"agents.{at}.tools.{i}", "must be a tool that the server offers")
        usable = known if exposure.tools is None else set(exposure.tools)
        for wrong in wrong_approvals(exposure.approvals, usable | {EVERY_TOOL}, whose="the agent's"):
            raise ValidationFailed.of(f"agents.{at}.approvals.{wrong.place}", wrong.message)
