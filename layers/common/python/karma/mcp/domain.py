"""MCP servers: types, and rules that need no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Final, NewType

from karma.agents.domain import BUILT_IN_ID
from karma.conversations.domain import Json
from karma.core.errors import StaleVersion
from karma.core.ids import UserId
from karma.core.records import Record
from karma.tools.domain import AT_ONCE, ApprovalRule, ToolApproval

McpServerId = NewType("McpServerId", str)

MAX_SERVERS: Final = 20
"""MCP servers of one account."""
MAX_NAME_CHARS: Final = 24
MAX_URL_CHARS: Final = 2_048
MAX_HEADERS: Final = 10
MAX_HEADER_VALUE_CHARS: Final = 2_048
MAX_HEADERS_BYTES: Final = 3_584
"""Bytes of all headers as JSON: what is sealed is encrypted whole by KMS, which takes 4,096."""
MAX_EXPOSURES: Final = 20
MAX_EXPOSURES_BYTES: Final = 32_768
MAX_ALLOWED_TOOLS: Final = 100
EVERY_TOOL: Final = "*"
"""Stands, in rules, for each tool that has none of its own."""
DEFAULT_TIMEOUT_S: Final = 30
MAX_TIMEOUT_S: Final = 120
DEFAULT_RESULT_BYTES: Final = 1_048_576
MIN_RESULT_BYTES: Final = 1_024
MAX_TOOL_NAME_CHARS: Final = 128
MAX_CALL_NAME_CHARS: Final = 64
"""Characters of a tool's name that all providers of models take."""

MIN_FRESH: Final = timedelta(minutes=1)
MAX_FRESH: Final = timedelta(hours=24)
DEFAULT_FRESH: Final = timedelta(minutes=5)
"""Time for which a listing is used without asking again, where the server does not say; what it says is kept within the
bounds above."""
RETRY_AFTER: Final = timedelta(seconds=30)
"""Time for which a server that could not be asked is not asked again, so that not every run waits for it."""
LONGEST_RETRY: Final = timedelta(minutes=15)
"""The same, of one that could not be asked several times in a row: each failure doubles it."""

MODERN: Final = "2026-07-28"
HANDSHAKE: Final = ("2025-11-25", "2025-06-18", "2025-03-26")
"""Revisions with a handshake that are spoken, the newest first."""

_NOT_SAFE = re.compile(r"[^A-Za-z0-9_-]")
_PREFIX = re.compile(r"[A-Za-z0-9-]+(_[A-Za-z0-9-]+)*")
"""Names of servers that cannot be taken for another's with a part of a tool's name."""
_HASH_CHARS: Final = 8


class McpErrorCode(StrEnum):
    """Reasons why an MCP server could not be asked."""

    ADDRESS_REFUSED = "MCP_ADDRESS_REFUSED"
    """The name leads to an address that is not on the public internet, or nowhere."""
    UNREACHABLE = "MCP_UNREACHABLE"
    """No connection, or it broke before the answer."""
    TIMED_OUT = "MCP_TIMED_OUT"
    UNAUTHORIZED = "MCP_UNAUTHORIZED"
    """401 or 403: the headers are missing or wrong, or the server wants OAuth."""
    REDIRECTED = "MCP_REDIRECTED"
    TOO_LARGE = "MCP_TOO_LARGE"
    BAD_ANSWER = "MCP_BAD_ANSWER"
    """The answer is not the protocol's."""
    VERSION_UNKNOWN = "MCP_VERSION_UNKNOWN"
    """The server speaks no revision of the protocol that is spoken here."""
    FAILED = "MCP_FAILED"
    """The server answered with an error of its own."""
    INPUT_REQUIRED = "MCP_INPUT_REQUIRED"
    """The server asks for something before it answers, and nobody can be asked for that."""


class McpFailed(Exception):
    """An MCP server could not be asked; the message is public, and holds nothing of the server's headers."""

    def __init__(self, code: McpErrorCode, message: str, *, is_unknown: bool = False) -> None:
        """Make one; `is_unknown` says that the server's own error leaves open what became of a call."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.is_unknown = is_unknown


class McpServerChanged(StaleVersion):
    """Another request changed the servers of the account between our reading and our write: read again."""


class Exposure(Record, kw_only=True):
    """The tools of a server that one agent may use."""

    agent: str = BUILT_IN_ID
    """Id of the agent."""
    tools: tuple[str, ...] | None = None
    """Names as the server has them; None: all, also those that it adds later."""
    approvals: tuple[ToolApproval, ...] = ()
    """Rules by which a person has to approve calls, by the server's names; `EVERY_TOOL` for those without their own."""

    def rule_of(self, tool: str) -> ApprovalRule:
        """Return the rule for the calls of a tool."""
        rules = {each.tool: each.rule for each in self.approvals}
        return rules.get(tool) or rules.get(EVERY_TOOL) or AT_ONCE


class RemoteTool(Record, kw_only=True):
    """One tool as a server describes it."""

    name: str
    description: str
    schema: Json
    """JSON Schema of its arguments, of type object, as models accept it."""
    is_repeatable: bool
    """By the server's own word it only reads, or calling it twice has the effect of calling it once."""


class LeftOut(Record, kw_only=True):
    """A tool of a server that is not offered to models."""

    name: str
    reason: str


class Listing(Record, kw_only=True):
    """The tools of a server as it told them."""

    version: str
    """Revision of the protocol in which the server is asked."""
    tools: tuple[RemoteTool, ...]
    left_out: tuple[LeftOut, ...] = ()
    fresh_ms: int | None = None
    """Milliseconds for which it may be used, in the server's own words; None: it said nothing."""

    @property
    def fresh_for(self) -> timedelta:
        """Return the time for which it is used without asking again."""
        if self.fresh_ms is None:
            return DEFAULT_FRESH
        return min(max(timedelta(milliseconds=self.fresh_ms), MIN_FRESH), MAX_FRESH)


class McpCheck(Record, kw_only=True):
    """Outcome of the latest attempt to list a server's tools."""

    checked_at: datetime
    error: McpErrorCode | None = None
    """None: it answered."""
    message: str = ""
    failures: int = 0
    """Attempts in a row that failed, up to this one."""

    @property
    def retry_at(self) -> datetime:
        """Return the moment from which starts of runs ask again."""
        pause: timedelta = RETRY_AFTER * 2 ** min(max(self.failures - 1, 0), 10)
        return self.checked_at + min(pause, LONGEST_RETRY)


class McpEndpoint(Record, kw_only=True):
    """An address with all that is needed to ask it. Never logged: the headers are secrets."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Seconds for one list or call, with all its requests."""
    max_result_bytes: int = DEFAULT_RESULT_BYTES
    session_of: tuple[str, ...] = ()
    """Account, server and thread, which share a session with no others; (): a session is not kept after the request."""


class McpServer(Record, kw_only=True):
    """One MCP server of an account; lengths are checked by schemas.py."""

    id: McpServerId
    user_id: UserId
    name: str
    url: str
    header_names: tuple[str, ...]
    sealed: bytes = field(repr=False)
    """Its headers, encrypted for this account and server; b"": it has none."""
    exposures: tuple[Exposure, ...]
    timeout_s: int
    max_result_bytes: int
    created_at: datetime
    updated_at: datetime
    version: int
    health: McpCheck
    listing: Listing
    """The latest that could be read; kept when the server cannot be asked."""
    listed_at: datetime
    is_outdated: bool = False
    """The server has said since, in the middle of a call, that its tools are not those of the listing any more."""
    revision: int = 1
    """Version that its owner sees: `version` also counts listings and failures."""

    def rule_of(self, agent: str, tool: str) -> ApprovalRule:
        """Return the rule for the calls that an agent makes of a tool."""
        return next((each.rule_of(tool) for each in self.exposures if each.agent == agent), AT_ONCE)

    def tools_for(self, agent: str) -> tuple[RemoteTool, ...]:
        """Return the tools of the listing that an agent may use."""
        for exposure in self.exposures:
            if exposure.agent == agent:
                return tuple(t for t in self.listing.tools if exposure.tools is None or t.name in exposure.tools)
        return ()

    def is_for(self, agent: str) -> bool:
        """Tell whether an agent may use any tool of the server."""
        return any(exposure.agent == agent for exposure in self.exposures)

    def is_stale(self, now: datetime, *, for_owner: bool = False) -> bool:
        """Tell whether the server is to be asked for its tools before they are used.

        One that fails again and again is asked ever more rarely, but for its owner who looks at it.
        """
        if self.health.error is not None:
            return now >= (self.health.checked_at + RETRY_AFTER if for_owner else self.health.retry_at)
        return self.is_outdated or now >= self.listed_at + self.listing.fresh_for


def may_be_call_name(name: str) -> bool:
    """Tell whether a name may be that of a tool of some server, also of one that is gone; none of our own tools' is."""
    return "__" in name


def call_name(server: str, tool: str) -> str:
    """Return the name under which a model calls a server's tool.

    It depends on nothing but the two names, so it stays the same whichever other tools there are: letters that a
    provider would refuse are replaced and long names cut, and such a name ends in a hash of both.
    """
    whole = f"{server}__{tool}"
    safe = _NOT_SAFE.sub("_", whole)
    if safe == whole and len(whole) <= MAX_CALL_NAME_CHARS and _PREFIX.fullmatch(server):
        return whole
    mark = sha256(f"{server}\0{tool}".encode()).hexdigest()[:_HASH_CHARS]
    return f"{safe[: MAX_CALL_NAME_CHARS - _HASH_CHARS - 1]}_{mark}"
