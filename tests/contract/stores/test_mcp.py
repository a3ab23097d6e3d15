"""MCP servers: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from karma.core.clock import monotonic
from karma.core.errors import AlreadyExists
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.identity.transactional import AccountGone
from karma.mcp.domain import (
    MODERN,
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
from karma.mcp.ports import Directory, McpServers
from karma.mcp.repository import McpServerRepository
from karma.tools.domain import ApprovalPolicy, ApprovalRule, OnExpiry, ToolApproval
from tests.fakes.mcp import MemoryMcpServers
from tests.support.accounts import open_account
from tests.support.requests import asked
from tests.support.stores import Database, Store

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
USER, OTHER, GONE = UserId(new_id()), UserId(new_id()), UserId(new_id())
NOTHING = Directory(ids={}, version=0)
TOOL = RemoteTool(name="t", description="Do.", schema={"type": "object"}, is_repeatable=True)

APPROVALS = (
    ToolApproval(tool="*", rule=ApprovalRule(policy=ApprovalPolicy.ALWAYS)),
    ToolApproval(
        tool="t",
        rule=ApprovalRule(policy=ApprovalPolicy.WHEN, when="args.x > 1", expires_in_s=60, on_expiry=OnExpiry.REFUSE),
    ),
)


@pytest.fixture
def mcp_store(store: Store) -> McpServers:
    return MemoryMcpServers(deleted_accounts={GONE}) if store.in_memory else stored()


@pytest.fixture
def dynamo(database: Database) -> McpServerRepository:
    return stored()


def stored() -> McpServerRepository:
    for user in (USER, OTHER):
        open_account(user)
    return McpServerRepository()


def server(number: int = 1, *, user: UserId = USER) -> McpServer:
    return McpServer(
        id=McpServerId(f"01890000-0000-7000-8000-{number:012d}"),
        user_id=user,
        name=f"server-{number}",
        url="https://mcp.example.com/mcp",
        header_names=(),
        sealed=b"",
        exposures=(Exposure(),),
        timeout_s=30,
        max_result_bytes=1_024,
        created_at=NOW,
        updated_at=NOW,
        version=1,
        health=McpCheck(checked_at=NOW),
        listing=Listing(version=MODERN, tools=(TOOL,)),
        listed_at=NOW,
    )


def test_it_reads_back_whole(mcp_store: McpServers) -> None:
    full = replace(
        server(2),
        header_names=("A", "B"),
        sealed=bytes(range(256)),
        exposures=(Exposure(agent="karma", tools=("t",), approvals=APPROVALS), Exposure(agent=new_id(), tools=())),
        health=McpCheck(checked_at=NOW, error=McpErrorCode.TIMED_OUT, message="The server did not answer"),
        listing=Listing(version=MODERN, tools=(), left_out=(LeftOut(name="x", reason="y"),), fresh_ms=5),
        listed_at=NOW - timedelta(hours=1),
        is_outdated=True,
    )
    for each in (server(1), full):
        mcp_store.create(each, seen=mcp_store.directory(USER), request=None)
    assert [mcp_store.get(USER, each.id) for each in (server(1), full)] == [server(1), full]
    assert mcp_store.all(USER) == [server(1), full]
    assert mcp_store.directory(USER).ids == {"server-1": server(1).id, "server-2": full.id}


def test_what_does_not_exist_or_is_another_s_is_nothing(mcp_store: McpServers) -> None:
    mcp_store.create(server(user=OTHER), seen=NOTHING, request=asked("t"))
    assert mcp_store.get(USER, server().id) is None
    assert mcp_store.made_by(USER, asked("t")) is None
    assert mcp_store.all(USER) == []
    assert mcp_store.directory(USER) == NOTHING


def test_a_request_makes_one(mcp_store: McpServers) -> None:
    mcp_store.create(server(1), seen=NOTHING, request=asked("t"))
    with pytest.raises(AlreadyExists):
        mcp_store.create(server(2), seen=mcp_store.directory(USER), request=asked("t"))
    assert mcp_store.made_by(USER, asked("t")) == server(1).id
    assert mcp_store.get(USER, server(2).id) is None
    with pytest.raises(IdempotencyKeyReused):
        mcp_store.made_by(USER, asked("t", "another"))
    day_after = asked("t", "another", at=NOW + RETENTION)
    assert mcp_store.made_by(USER, day_after) is None
    mcp_store.create(server(3), seen=mcp_store.directory(USER), request=day_after)
    assert mcp_store.made_by(USER, day_after) == server(3).id


def test_of_two_that_saw_the_same_names_one_writes(mcp_store: McpServers) -> None:
    mcp_store.create(server(1), seen=NOTHING, request=None)
    with pytest.raises(McpServerChanged):
        mcp_store.create(server(2), seen=NOTHING, request=None)
    seen = mcp_store.directory(USER)
    mcp_store.create(server(2), seen=seen, request=None)
    with pytest.raises(McpServerChanged):
        mcp_store.delete(server(1), seen=seen)
    mcp_store.delete(server(1), seen=mcp_store.directory(USER))
    assert mcp_store.directory(USER).ids == {"server-2": server(2).id}
    assert mcp_store.all(USER) == [server(2)]


def test_a_stale_version_changes_and_deletes_nothing(mcp_store: McpServers) -> None:
    old = server()
    mcp_store.create(old, seen=NOTHING, request=None)
    new = replace(old, listed_at=NOW + timedelta(seconds=1), version=2)
    mcp_store.replace(old, new)
    with pytest.raises(McpServerChanged):
        mcp_store.replace(old, replace(new, timeout_s=1))
    with pytest.raises(McpServerChanged):
        mcp_store.delete(old, seen=mcp_store.directory(USER))
    assert mcp_store.get(USER, old.id) == new
    mcp_store.delete(new, seen=mcp_store.directory(USER))
    with pytest.raises(McpServerChanged):
        mcp_store.replace(new, replace(new, version=3))
    assert mcp_store.get(USER, old.id) is None


def test_nothing_is_made_for_an_account_that_is_gone(mcp_store: McpServers) -> None:
    with pytest.raises(AccountGone):
        mcp_store.create(server(user=GONE), seen=NOTHING, request=asked("t"))
    assert mcp_store.get(GONE, server().id) is None


def test_an_account_s_go_with_it(dynamo: McpServerRepository, database: Database) -> None:
    for n, user in ((1, USER), (2, USER), (3, OTHER)):
        dynamo.create(server(n, user=user), seen=dynamo.directory(user), request=asked("t") if n == 1 else None)
    assert not dynamo.purge_account(PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() - 1, settled=True))
    assert dynamo.purge_account(PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() + 60, settled=True))
    assert {item["pk"]["S"] for item in database.items("agents")} == {f"MCP#{OTHER}"}
