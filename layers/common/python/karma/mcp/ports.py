"""Ports of MCP servers; the second implementations are in tests/fakes/mcp.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from karma.conversations.domain import Json
from karma.core.ids import UserId
from karma.core.records import Record
from karma.core.requests import RepeatableRequest
from karma.mcp.domain import Listing, McpEndpoint, McpErrorCode, McpFailed, McpServer, McpServerId, RemoteTool
from karma.tools.inputs import Form


class Directory(Record, kw_only=True):
    """The names of an account's servers: who writes it decides that they are unique and not too many."""

    ids: Mapping[str, McpServerId]
    """Ids by name."""
    version: int
    """Number of changes; 0: there never was a server."""


class McpServers(Protocol):
    """A store of MCP servers. All calls block; each write is one transaction."""

    def get(self, user_id: UserId, server_id: McpServerId) -> McpServer | None:
        """Read one, consistently; None when it is absent, deleted, or another account's."""

    def all(self, user_id: UserId) -> list[McpServer]:
        """Return all of an account, the oldest first, eventually consistent."""

    def directory(self, user_id: UserId) -> Directory:
        """Read the names of an account's servers, consistently."""

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> McpServerId | None:
        """Return the id of the server that a request created, consistently; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """

    def create(self, server: McpServer, *, seen: Directory, request: RepeatableRequest | None) -> None:
        """Store a new server, its name in the directory, and the record of `request`.

        Raises:
            AlreadyExists: a request with this key created a server within the last 25 hours; `made_by` names it.
            McpServerChanged: `seen` is not the stored directory any more.
            AccountGone: its account is deleted.
        """

    def replace(self, old: McpServer, new: McpServer, *, seen: Directory | None = None) -> None:
        """Store `new`, which has the next version, in place of `old`; `seen` is the directory where its name is new.

        Raises:
            McpServerChanged: `old`, or `seen`, is not the stored one any more.
        """

    def delete(self, server: McpServer, *, seen: Directory) -> None:
        """Delete a server and its name.

        Raises:
            McpServerChanged: `server` or `seen` is not the stored one any more.
        """


class Seal(Protocol):
    """Encrypts headers for one server of one account. Calls block."""

    def seal(self, plain: bytes, *, context: Mapping[str, str]) -> bytes:
        """Return the ciphertext of at most 4,096 bytes, which is opened with the same context alone.

        Raises:
            SealUnavailable: the keys' service did not answer; the call may be repeated.
        """

    def unseal(self, sealed: bytes, *, context: Mapping[str, str]) -> bytes:
        """Return what was sealed.

        Raises:
            SealUnavailable: as `seal`.
            SealBroken: it was sealed with another key or context, or was changed.
        """


class Listers(Protocol):
    """Asks servers for their tools, and blocks until they answer."""

    def list_tools(self, endpoint: McpEndpoint, *, server: str) -> Listing:
        """Return the tools of a server.

        Raises:
            McpFailed: it could not be asked.
        """


class CallOutcome(NamedTuple):
    """The result of a call."""

    value: object
    """Result for a model: JSON, or a text."""
    is_error: bool
    """The tool says that it failed."""


class CallProgress(NamedTuple):
    """The progress of a call, by the server's word."""

    progress: int | float
    """Goes up with each that is told; 0 to 2**53."""
    total: int | float | None
    """The progress at its end; None: unknown."""
    message: str
    """A few words; "": none."""


class McpInputNeeded(McpFailed):
    """The server wants to be called again with the answers to its forms, and with its state; with no form, at once.

    Who cannot ask anybody takes it for the failure that it is.
    """

    def __init__(self, message: str, *, forms: Mapping[str, Form], state: str | None) -> None:
        super().__init__(McpErrorCode.INPUT_REQUIRED, message)
        self.forms = forms
        self.state = state


class CallInput(Record, kw_only=True):
    """Input for a server of revision 2026-07-28 beside the arguments of a call."""

    can_ask: bool = False
    """There is somebody who fills in forms."""
    answers: Json | None = None
    """Answers to the forms that the server asked for the time before, by its names for them."""
    state: str | None = None
    """State that it wanted back with them."""


class McpClients(Protocol):
    """Asks servers within an event loop; a call that is cancelled closes its connection."""

    async def list_tools(self, endpoint: McpEndpoint, *, server: str) -> Listing:
        """Return the tools of a server, as `Listers.list_tools`."""
        ...

    async def call(
        self,
        endpoint: McpEndpoint,
        tool: RemoteTool,
        arguments: Json,
        *,
        version: str,
        given: CallInput = ...,
        tell: Callable[[CallProgress], None] | None = None,
        outdated: Callable[[], None] = ...,
    ) -> CallOutcome:
        """Call a tool; `version` is the revision of the listing that has it, `given` matters to the newest alone.

        `tell` is given how far the call is, as often as the server says it. `outdated` is called when the server says
        that its tools have changed, or that it does not know this one or its arguments; perhaps more than once.

        Raises:
            McpInputNeeded: the server asks for something that can be given.
            McpFailed: it could not be called, or asks for something else; it may have had its effect.
        """
        ...
