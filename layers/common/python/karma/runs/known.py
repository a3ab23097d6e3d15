"""First read of a request for a run: the items whose keys are in the request or follow from its account.

They are the run that has the requested id already, the account's allowance, and the mark of an account that has MCP
servers; one BatchGetItem reads them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from karma.billing.allowances import Allowance
from karma.billing.transactional import want_allowance
from karma.core.clock import Clock
from karma.core.dynamo.items import Key
from karma.core.dynamo.reads import Reads
from karma.core.records import Record
from karma.identity.domain import Caller
from karma.mcp.domain import McpServer
from karma.mcp.offering import McpTools
from karma.mcp.transactional import want_any_server
from karma.runs.domain import Run, RunKey
from karma.runs.items import HEAD, RunItem, run_pk
from karma.runs.stored import present


class Known(Record, kw_only=True):
    """All that a request for a run needs that is known by its key."""

    before: Run | None
    """The run that has the requested id already; None: the id is free."""
    allowance: Allowance
    servers: Sequence[McpServer]
    """All MCP servers of the caller; () where the caller may not call them."""


ReadKnown = Callable[[Caller, RunKey], Known]
"""Returns what is known for a caller and the key of the run it asks for, read consistently; blocks.

Raises StorageThrottled and StorageUnavailable.
"""


def reader(mcp: McpTools, clock: Clock) -> ReadKnown:
    """Return a `ReadKnown` over DynamoDB: one BatchGetItem over two tables, and a Query for who has MCP servers."""

    def read(caller: Caller, key: RunKey) -> Known:
        reads = Reads()
        before = reads.item(RunItem, Key(run_pk(key), HEAD))
        allowance = want_allowance(reads, caller.user_id, clock)
        has_servers = want_any_server(reads, caller.user_id)
        reads.read()
        servers = mcp.servers(caller) if has_servers() else ()
        return Known(before=present(before()), allowance=allowance(), servers=servers)

    return read
