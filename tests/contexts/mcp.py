"""Declarations of MCP servers for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest

from karma.core.errors import AlreadyExists
from karma.core.ids import new_id
from karma.core.requests import RETENTION
from karma.mcp.domain import MAX_SERVERS, MAX_URL_CHARS, McpServer, McpServerId
from karma.mcp.repository import McpServerRepository
from tests.contract.stores.test_mcp import server as a_server
from tests.fakes.mcp import MemoryMcpServers
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Checks, Fakes, Pages, Scenarios, made
from tests.support.requests import asked
from tests.support.rows import NOW, AccountRows


class McpRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.store = McpServerRepository()

    def another(self) -> McpServer:
        made_id = new_id()
        return replace(a_server(user=self.ada.id), id=McpServerId(made_id), name=f"s-{made_id[-8:]}")

    @cached_property
    def first(self) -> McpServer:
        server = self.another()
        self.create(server, request=asked("t"))
        return server

    def create(self, server: McpServer, **more: Any) -> None:
        self.store.create(server, seen=self.store.directory(self.ada.id), **{"request": None, **more})

    def delete(self, server: McpServer) -> None:
        self.store.delete(server, seen=self.store.directory(self.ada.id))


FAKES: Fakes = {MemoryMcpServers: (McpServerRepository,)}

SCENARIOS = Scenarios[McpRows](
    McpRows,
    {
        "McpServerRepository.get": made(lambda r: r.first, lambda r, s: r.store.get(s.user_id, s.id)),
        "McpServerRepository.all": made(lambda r: r.first, lambda r, s: r.store.all(s.user_id)),
        "McpServerRepository.directory": made(lambda r: r.first, lambda r, s: r.store.directory(s.user_id)),
        "McpServerRepository.made_by": made(lambda r: r.first, lambda r, s: r.store.made_by(s.user_id, asked("t"))),
        "McpServerRepository.create": made(
            lambda r: (r.another(), r.store.directory(r.ada.id)),
            lambda r, s: r.store.create(s[0], seen=s[1], request=asked("t")),
        ),
        "McpServerRepository.replace": made(
            lambda r: r.first, lambda r, s: r.store.replace(s, replace(s, timeout_s=1, version=2))
        ),
        "McpServerRepository.delete": made(
            lambda r: (r.first, r.store.directory(r.ada.id)), lambda r, s: r.store.delete(s[0], seen=s[1])
        ),
        "McpServerRepository.purge_account": made(
            lambda r: (r.first, r.purge()), lambda r, s: r.store.purge_account(s[1])
        ),
    },
)


def _made_server_over(rows: McpRows) -> None:
    rows.first  # noqa: B018
    again = rows.another()
    with pytest.raises(AlreadyExists):
        rows.create(again, request=asked("t"))
    rows.create(again, request=asked("t", at=NOW + RETENTION))


EXPIRES = Checks[McpRows](McpRows, {"mcp_server_request": _made_server_over})


_RULED = [{"approvals": [{"tool": "weather", "policy": "always"}]}]
"""Agents whose rules name a tool that the server has, so that only what a test makes wrong is refused."""


def _server(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/mcp-servers", _new_server(world, owner))["server"]["id"])


def _new_server(_: World, __: str) -> dict[str, Any]:
    from tests.support.mcp_server import HEADERS, shared_url  # late: the package costs seconds, and few need it

    return {"name": f"s-{new_id()[-8:]}", "url": shared_url(), "headers": HEADERS, "agents": _RULED}


OBJECTS: Objects = {"server_id": _server}

PAGES: Pages = {"mcp-servers": (MAX_SERVERS, 2 * MAX_URL_CHARS + 10_000)}

BODIES: Bodies = {
    "POST /api/v1/mcp-servers": _new_server,
    "PATCH /api/v1/mcp-servers/{server_id}": lambda _, __: {"agents": _RULED},
}
