"""Headers of MCP servers as they are kept: sealed for one server of one account, opened where it is asked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import orjson

from karma.core.clock import monotonic
from karma.core.ids import UserId
from karma.mcp.domain import McpEndpoint, McpServer, McpServerId
from karma.mcp.ports import Seal

_KEPT_S: Final = 300.0
_MAX_KEPT: Final = 100


def seal_context(user_id: UserId, server_id: McpServerId) -> Mapping[str, str]:
    """Return what is bound to the ciphertext: moved to another account or server, it does not open."""
    return {"purpose": "mcp-headers", "user_id": user_id, "server_id": server_id}


class Endpoints:
    """Makes endpoints of servers; opened headers are kept for five minutes, a hundred of them."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._kept: OrderedDict[bytes, tuple[float, Mapping[str, str]]] = OrderedDict()

    def sealed(self, user_id: UserId, server_id: McpServerId, headers: Mapping[str, str]) -> bytes:
        """Return headers as they are stored; b"" for none.

        Raises:
            SealUnavailable: the keys' service did not answer.
        """
        if not headers:
            return b""
        return self._seal.seal(orjson.dumps(dict(headers)), context=seal_context(user_id, server_id))

    def of(self, server: McpServer, *, thread_id: str = "", timeout_s: float | None = None) -> McpEndpoint:
        """Return a server with its headers, to be called for a thread; "": for none, as when its tools are listed.

        May block.

        Raises:
            SealUnavailable, SealBroken: the headers cannot be opened.
        """
        return McpEndpoint(
            url=server.url,
            headers=self._headers(server),
            timeout_s=server.timeout_s if timeout_s is None else min(timeout_s, server.timeout_s),
            max_result_bytes=server.max_result_bytes,
            session_of=(server.user_id, server.id, thread_id) if thread_id else (),
        )

    def _headers(self, server: McpServer) -> Mapping[str, str]:
        if not server.sealed:
            return {}
        # By the ciphertext and its owner: an item that was moved is opened anew, and refused.
        key = b"%b %b %b" % (server.user_id.encode(), server.id.encode(), server.sealed)
        kept = self._kept.get(key)
        if kept is not None and monotonic() - kept[0] < _KEPT_S:
            return kept[1]
        opened: Mapping[str, str] = orjson.loads(
            self._seal.unseal(server.sealed, context=seal_context(server.user_id, server.id))
        )
        self._kept[key] = (monotonic(), opened)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return opened
