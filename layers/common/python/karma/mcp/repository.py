"""MCP servers in the table `agents`.

| item | pk | sk |
|---|---|---|
| server | MCP#<user> | SERVER#<server> |
| names of all servers of an account | MCP#<user> | HEAD |
| server made for an Idempotency-Key | MCP#<user> | REQUEST#<token> |

The names stand in one item, whose version each creation and deletion counts: so they are unique, and at most
MAX_SERVERS, without a guard for each. A listing is stored compressed within its server.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

import orjson
from pynamodb.attributes import BinaryAttribute, BooleanAttribute, JSONAttribute, NumberAttribute, UnicodeAttribute

from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get, query_by_id
from karma.core.dynamo.items import Item, Key, TableMeta
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.requests import RequestAttributes, note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import require_account
from karma.mcp.domain import (
    MAX_SERVERS,
    Exposure,
    LeftOut,
    Listing,
    McpCheck,
    McpErrorCode,
    McpServer,
    McpServerChanged,
    McpServerId,
    RemoteTool,
)
from karma.mcp.ports import Directory
from karma.tools.domain import ToolApproval, dump_rule, load_rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from karma.core.dynamo.reads import Later, Reads
    from karma.core.purge import PurgeAttempt

_SERVER: Final = "SERVER#"


def owner_pk(user_id: UserId) -> str:
    """Partition of an account's MCP servers."""
    return f"MCP#{user_id}"


def server_key(user_id: UserId, server_id: str) -> Key:
    """Key of a server."""
    return Key(owner_pk(user_id), f"{_SERVER}{server_id}")


def directory_key(user_id: UserId) -> Key:
    """Key of the names of an account's servers."""
    return Key(owner_pk(user_id), "HEAD")


class McpItem(Item):
    """Base of what MCP servers keep in the table `agents`."""

    class Meta(TableMeta):
        """Names the table."""

        logical = "agents"


class McpServerItem(McpItem, discriminator="mcp_server"):
    """A server."""

    server_id = UnicodeAttribute()
    user_id = UnicodeAttribute()
    name = UnicodeAttribute()
    url = UnicodeAttribute()
    header_names = JSONAttribute()
    sealed = BinaryAttribute(legacy_encoding=False, null=True)
    exposures = JSONAttribute()
    timeout_s = NumberAttribute()
    max_result_bytes = NumberAttribute()
    health = JSONAttribute()
    failures = NumberAttribute(null=True)
    listing = BinaryAttribute(legacy_encoding=False)
    listed_at = UnicodeAttribute()
    outdated = BooleanAttribute(null=True)
    revision = NumberAttribute(null=True)


class McpDirectoryItem(McpItem, discriminator="mcp_directory"):
    """The names of an account's servers."""

    ids = JSONAttribute()


class McpServerRequestItem(RequestAttributes, McpItem, discriminator="mcp_server_request"):
    """Record of the server that a request with an Idempotency-Key created."""


def want_directory(reads: Reads, user_id: UserId) -> Later[Directory]:
    """Ask for what `McpServerRepository.directory` reads, as one item of a call that asks for more."""
    found = reads.item(McpDirectoryItem, directory_key(user_id))
    return lambda: _directory(found())


class McpServerRepository:
    """MCP servers over DynamoDB."""

    name = "mcp"
    """Name of its step in the deletion of an account."""

    def get(self, user_id: UserId, server_id: McpServerId) -> McpServer | None:
        """See McpServers; one Get."""
        item = get(McpServerItem, server_key(user_id, server_id), consistent=True)
        return _server(item) if item else None

    def all(self, user_id: UserId) -> list[McpServer]:
        """See McpServers; one Query a megabyte, eventually consistent."""
        return query_by_id(McpServerItem, server_key(user_id, ""), "", _server, limit=MAX_SERVERS, forward=True)

    def directory(self, user_id: UserId) -> Directory:
        """See McpServers; one Get."""
        return _directory(get(McpDirectoryItem, directory_key(user_id), consistent=True))

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> McpServerId | None:
        """See McpServers; one Get."""
        made = noted(McpServerRequestItem, request_key(owner_pk(user_id), request), request)
        return McpServerId(made) if made else None

    def create(self, server: McpServer, *, seen: Directory, request: RepeatableRequest | None) -> None:
        """See McpServers; a check and 2 items, and one for a key."""
        tx = Transaction()
        require_account(tx, server.user_id)
        if request is not None:
            note_request(tx, McpServerRequestItem(*request_key(owner_pk(server.user_id), request)), request, server.id)
        tx.put(_item(server))
        _put_names(tx, server, seen, {**seen.ids, server.name: server.id})
        tx.commit()

    def replace(self, old: McpServer, new: McpServer, *, seen: Directory | None = None) -> None:
        """See McpServers; one item, and one for another name."""
        tx = Transaction()
        item = _item(new)
        item.version = old.version
        tx.put(item, on_fail=_changed(old))
        if seen is not None:
            others = {name: each for name, each in seen.ids.items() if each != new.id}
            _put_names(tx, new, seen, {**others, new.name: new.id})
        tx.commit()

    def delete(self, server: McpServer, *, seen: Directory) -> None:
        """See McpServers; 2 items."""
        tx = Transaction()
        item = McpServerItem(*server_key(server.user_id, server.id))
        item.version = server.version
        tx.delete(item, locked=True, on_fail=_changed(server))
        _put_names(tx, server, seen, {name: each for name, each in seen.ids.items() if each != server.id})
        tx.commit()

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove an account's servers; True when it is done.

        None is made behind it: a new one checks for the account.
        """
        return empty(McpItem, owner_pk(purge.user_id), purge)


def _put_names(tx: Transaction, server: McpServer, seen: Directory, ids: dict[str, McpServerId]) -> None:
    item = McpDirectoryItem(*directory_key(server.user_id), ids=ids)
    if seen.version:
        item.version = seen.version
    tx.put(item, on_fail=_changed(server))


def _changed(server: McpServer) -> McpServerChanged:
    return McpServerChanged(f"The MCP servers of the account were changed by another request, {server.id} among them")


def dump_tool(tool: RemoteTool) -> list[Any]:
    """Return a tool as it is stored."""
    return [tool.name, tool.description, tool.schema, tool.is_repeatable]


def load_tool(stored: list[Any]) -> RemoteTool:
    """Read what `dump_tool` wrote."""
    name, description, schema, is_repeatable = stored
    return RemoteTool(name=name, description=description, schema=schema, is_repeatable=is_repeatable)


def _dump(listing: Listing) -> bytes:
    body = {
        "version": listing.version,
        "fresh_ms": listing.fresh_ms,
        "tools": [dump_tool(tool) for tool in listing.tools],
        "left_out": [[each.name, each.reason] for each in listing.left_out],
    }
    return zlib.compress(orjson.dumps(body))


def _load(data: bytes) -> Listing:
    body: dict[str, Any] = orjson.loads(zlib.decompress(data))
    return Listing(
        version=body["version"],
        fresh_ms=body["fresh_ms"],
        tools=tuple(map(load_tool, body["tools"])),
        left_out=tuple(LeftOut(name=name, reason=reason) for name, reason in body["left_out"]),
    )


def _item(server: McpServer) -> McpServerItem:
    health = server.health
    return McpServerItem(
        *server_key(server.user_id, server.id),
        server_id=server.id,
        user_id=server.user_id,
        name=server.name,
        url=server.url,
        header_names=list(server.header_names),
        sealed=server.sealed or None,
        exposures=[_dump_exposure(each) for each in server.exposures],
        timeout_s=server.timeout_s,
        max_result_bytes=server.max_result_bytes,
        health=[iso(health.checked_at), health.error, health.message],
        failures=health.failures or None,
        listing=_dump(server.listing),
        listed_at=iso(server.listed_at),
        outdated=server.is_outdated or None,
        revision=server.revision,
        created_at=iso(server.created_at),
        updated_at=iso(server.updated_at),
    )


def _directory(item: McpDirectoryItem | None) -> Directory:
    return Directory(ids=dict(item.ids), version=int(item.version)) if item else Directory(ids={}, version=0)


def _server(item: McpServerItem) -> McpServer:
    sealed: bytes | None = item.sealed
    checked_at, error, message = item.health
    exposures: Any = item.exposures
    return McpServer(
        id=McpServerId(item.server_id),
        user_id=UserId(item.user_id),
        name=item.name,
        url=item.url,
        header_names=tuple(item.header_names),
        sealed=sealed or b"",
        exposures=tuple(_load_exposure(*each) for each in exposures),
        timeout_s=int(item.timeout_s),
        max_result_bytes=int(item.max_result_bytes),
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.version),
        health=McpCheck(
            checked_at=parse_iso(checked_at),
            error=McpErrorCode(error) if error else None,
            message=message,
            failures=int(item.failures or 0),
        ),
        listing=_load(item.listing),
        listed_at=parse_iso(item.listed_at),
        is_outdated=bool(item.outdated),
        revision=int(item.revision or 1),
    )


def _dump_exposure(exposure: Exposure) -> list[Any]:
    rules = [[each.tool, dump_rule(each.rule)] for each in exposure.approvals]
    return [exposure.agent, None if exposure.tools is None else list(exposure.tools), *([rules] if rules else [])]


def _load_exposure(agent: str, tools: Sequence[str] | None, rules: Sequence[Any] = ()) -> Exposure:
    approvals = tuple(ToolApproval(tool=tool, rule=load_rule(rule)) for tool, rule in rules)
    return Exposure(agent=agent, tools=None if tools is None else tuple(tools), approvals=approvals)
