"""In-memory stand-ins of MCP servers: their store, which passes the same contract suite as DynamoDB's, and KMS."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from karma.core.ids import UserId
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import AccountGone
from karma.integrations.kms import SealBroken
from karma.mcp.domain import Listing, McpEndpoint, McpFailed, McpServer, McpServerChanged, McpServerId
from karma.mcp.ports import Directory
from tests.fakes.requests import MemoryRequests


@dataclass
class MemoryMcpServers:
    """MCP servers in dictionaries."""

    servers: dict[McpServerId, McpServer] = field(default_factory=dict)
    directories: dict[UserId, Directory] = field(default_factory=dict)
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    deleted_accounts: set[UserId] = field(default_factory=set)

    def get(self, user_id: UserId, server_id: McpServerId) -> McpServer | None:
        server = self.servers.get(server_id)
        return server if server is not None and server.user_id == user_id else None

    def all(self, user_id: UserId) -> list[McpServer]:
        mine = [server for server in self.servers.values() if server.user_id == user_id]
        return sorted(mine, key=lambda server: server.id)

    def directory(self, user_id: UserId) -> Directory:
        return self.directories.get(user_id, Directory(ids={}, version=0))

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> McpServerId | None:
        made = self.requests.noted(user_id, request)
        return McpServerId(made) if made else None

    def create(self, server: McpServer, *, seen: Directory, request: RepeatableRequest | None) -> None:
        if server.user_id in self.deleted_accounts:
            raise AccountGone(server.user_id)
        self.requests.require_new(server.user_id, request)
        self._require_seen(server, seen)
        self.requests.note(server.user_id, request, server.id)
        self.servers[server.id] = server
        self._name(server, {**seen.ids, server.name: server.id})

    def replace(self, old: McpServer, new: McpServer, *, seen: Directory | None = None) -> None:
        self._require(old)
        if seen is not None:
            self._require_seen(new, seen)
            others = {name: each for name, each in seen.ids.items() if each != new.id}
            self._name(new, {**others, new.name: new.id})
        self.servers[new.id] = new

    def delete(self, server: McpServer, *, seen: Directory) -> None:
        self._require(server)
        self._require_seen(server, seen)
        del self.servers[server.id]
        self._name(server, {name: each for name, each in seen.ids.items() if each != server.id})

    def _name(self, server: McpServer, ids: Mapping[str, McpServerId]) -> None:
        version = self.directory(server.user_id).version + 1
        self.directories[server.user_id] = Directory(ids=ids, version=version)

    def _require(self, seen: McpServer) -> None:
        stored = self.servers.get(seen.id)
        if stored is None or stored.version != seen.version:
            raise _changed(seen)

    def _require_seen(self, server: McpServer, seen: Directory) -> None:
        if self.directory(server.user_id).version != seen.version:
            raise _changed(server)


def _changed(server: McpServer) -> McpServerChanged:
    return McpServerChanged(f"The MCP servers of the account were changed by another request, {server.id} among them")


class OpenSeal:
    """A seal that everybody can read, but that opens for its own context alone, as KMS does."""

    def seal(self, plain: bytes, *, context: Mapping[str, str]) -> bytes:
        assert len(plain) <= 4_096, "KMS takes no more"
        return json.dumps([sorted(context.items()), plain.decode()]).encode()

    def unseal(self, sealed: bytes, *, context: Mapping[str, str]) -> bytes:
        bound, plain = json.loads(sealed)
        if [tuple(each) for each in bound] != sorted(context.items()):
            raise SealBroken("A stored secret cannot be read any more; give it anew")
        return str(plain).encode()


@dataclass
class ToldTools:
    """Servers that answer what a test says."""

    found: Listing | McpFailed
    asked: list[McpEndpoint] = field(default_factory=list)
    meanwhile: Callable[[], object] | None = None
    """Act of somebody else while the next one answers."""

    def list_tools(self, endpoint: McpEndpoint, *, server: str) -> Listing:
        self.asked.append(endpoint)
        found, happens, self.meanwhile = self.found, self.meanwhile, None
        if happens is not None:
            happens()
        if isinstance(found, McpFailed):
            raise found
        return found
