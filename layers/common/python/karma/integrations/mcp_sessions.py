"""Sessions of MCP servers from before 2026-07-28: which are kept, and which answers say that one is over."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple
from weakref import WeakValueDictionary

import orjson

from karma.core.clock import monotonic
from karma.core.records import Record
from karma.mcp.domain import McpEndpoint, McpErrorCode, McpFailed

_MAX_SESSIONS: Final = 200
_SESSION_S: Final = 300.0
_MAX_SESSION_CHARS: Final = 512
_OF_SESSION = re.compile(r"\bsession|(?:not|un|never|before)\W*(?:been\W+)?initiali[sz]|no\W+transport", re.IGNORECASE)
"""Words of servers, and of the packages that they are made with, for a session that they do not know."""


class McpAnswer(NamedTuple):
    """A server's answer to a request."""

    status: int
    headers: Mapping[str, str]
    message: dict[str, Any] | None
    """The JSON-RPC message; None: there was none."""
    said: str = ""
    """Plain words of the body, where it is no message."""

    @property
    def is_wordless(self) -> bool:
        """Tell whether the request is refused without a message of the protocol."""
        return self.status == 400 and not _is_rpc(self.message)


class Dialect(Record):
    """The protocol's revision that a server speaks, and the session of servers before 2026-07-28 that keep one."""

    version: str
    session: str = ""
    until: float = 0.0
    can_ask: bool = False
    """There is somebody who fills in forms; only servers since 2026-07-28 are told so."""


def begun(version: str, headers: Mapping[str, str]) -> Dialect:
    """Make the session that an answer to `initialize` begins.

    Raises:
        McpFailed: its id cannot be sent back.
    """
    session = headers.get("mcp-session-id", "")
    if len(session) > _MAX_SESSION_CHARS or not (session.isascii() and session.isprintable()):
        raise McpFailed(McpErrorCode.BAD_ANSWER, "The server's session id is not printable ASCII")
    return Dialect(version, session, monotonic() + _SESSION_S)


class Sessions:
    """The sessions of one process, each of one thread, for some minutes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Dialect] = OrderedDict()
        self._beginning: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        """Locks under which sessions are begun, as long as somebody holds or awaits one."""

    def __len__(self) -> int:
        return len(self._kept)

    def beginning(self, endpoint: McpEndpoint) -> asyncio.Lock:
        """Return the lock under which a session of an endpoint's thread is begun."""
        return self._beginning.setdefault(_key(endpoint), asyncio.Lock())

    def of(self, endpoint: McpEndpoint) -> Dialect | None:
        """Return the session of an endpoint's thread; None: there is none, or it may be over by now."""
        known = self._kept.get(_key(endpoint))
        return known if known is not None and monotonic() < known.until else None

    def keep(self, endpoint: McpEndpoint, dialect: Dialect) -> None:
        """Keep a session for the calls of its thread that follow; one that is nobody's is not kept."""
        if endpoint.session_of:
            self._kept[_key(endpoint)] = dialect
            self._kept.move_to_end(_key(endpoint))
        while len(self._kept) > _MAX_SESSIONS:
            self._kept.popitem(last=False)

    def forget(self, endpoint: McpEndpoint, dialect: Dialect) -> None:
        """Keep a session no longer, unless another one has begun in its place."""
        if self._kept.get(_key(endpoint)) is dialect:
            del self._kept[_key(endpoint)]

    def clear(self) -> None:
        """Forget all sessions."""
        self._kept.clear()


def refuses_session(answer: McpAnswer) -> bool:
    """Tell whether an answer says that its session is over, as many servers do by 400 instead of 404.

    The words count, not the status: a gateway, or a tool that has acted, answers 400 as well. Whoever carries a request
    out gives its id, a number of ours, which some servers write as a text.
    """
    given = (answer.message or {}).get("id")
    if answer.status != 400 or type(given) is int or (isinstance(given, str) and given.isdecimal()):
        return False
    return _OF_SESSION.search(_words(answer)) is not None


def _words(answer: McpAnswer) -> str:
    """Return what a refusal says in a member that is a text of its server's: others may repeat the request."""
    if answer.message is None:
        return answer.said
    error = answer.message.get("error")
    found = [error.get("message") if isinstance(error, dict) else error]
    if not _is_rpc(answer.message):
        found += [answer.message.get(name) for name in ("message", "detail", "error_description")]
    return "\n".join(each for each in found if isinstance(each, str))


def _is_rpc(message: Mapping[str, Any] | None) -> bool:
    return message is not None and isinstance(message.get("error"), dict)


def _key(endpoint: McpEndpoint) -> bytes:
    """Return by what a session is known: whose it is, and the address and headers with which it was begun."""
    return sha256(orjson.dumps([endpoint.session_of, endpoint.url, sorted(endpoint.headers.items())])).digest()
