"""Requests that wait are counted, and whatever the API asks of others ends before its function does."""

from __future__ import annotations

import ast
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from api.services import waiting
from infra.catalog import FUNCTIONS, FunctionName
from karma.conversations.arrival import MAX_TAKING_S
from karma.core import aws
from karma.core.clock import monotonic
from karma.devices.domain import MAX_WAIT_S as COMMAND_WAIT_S
from karma.integrations import fetch
from karma.integrations.mcp_blocking import BlockingMcp
from karma.integrations.oauth.client import Limits
from karma.mcp.domain import McpEndpoint, McpErrorCode, McpFailed
from karma.mcp.offering import _START_S as RUN_LIST_S
from karma.mcp.service import LIST_S
from karma.runs.schemas import MAX_WAIT_S as RUN_WAIT_S

ROOT = Path(__file__).resolve().parents[2]
ROUTES = ROOT / "functions/api/routes"
LAYER = ROOT / "layers/common/python/karma"
WAITING = {"wait", "settled"}
"""Methods of services that block until somebody else has done something, or the time given is over."""
SLEEPERS = {
    "conversations/reading.py": "a retry of a read, some tenths of a second",
    "core/dynamo/reads.py": "a retry of a read, some tenths of a second",
    "core/dynamo/transaction.py": "a retry of a write, some tenths of a second",
    "core/repeat.py": "a retry of a write, some tenths of a second",
    "integrations/pushes.py": "pushes of the background",
    "runs/control.py": "`settled`",
}
"""Modules that sleep, and why: one that is new either is called by a method of `WAITING`, or needs no such method."""
OUTWARD_S = {
    "an MCP server is asked by its owner": LIST_S,
    "the MCP servers of a run that begins, at once, behind its media": RUN_LIST_S + MAX_TAKING_S + fetch.TIME_S,
    "media of a run that begins": MAX_TAKING_S + fetch.TIME_S,
    "a provider of logins": Limits().total_s,
    "a device's answer": min(COMMAND_WAIT_S, waiting.MOST_S),
    "a run's end": min(RUN_WAIT_S, waiting.MOST_S),
    "a service of AWS": 3 * float(vars(aws._CONFIG)["read_timeout"]) + 3,
}
"""Seconds that a request of the API may spend on each kind of call to others."""
OF_AWS = {
    "iot",
    "iot_jobs",
    "iot_shadows",
    "kms",
    "s3",
    "s3_exports",
    "s3_firmware",
    "s3_previews",
    "s3_segments",
    "sockets",
    "sqs",
}
"""Modules of the API that ask services of AWS alone."""


@pytest.mark.fault("F-26i")
@pytest.mark.parametrize("kind", OUTWARD_S)
def test_whatever_the_api_asks_of_others_ends_before_its_function(kind: str) -> None:
    assert OUTWARD_S[kind] + 3 <= FUNCTIONS[FunctionName.API].timeout_s


@pytest.mark.fault("F-26i")
def test_every_vendor_of_the_api_is_one_whose_time_is_known() -> None:
    sources = [path.read_text() for path in (ROOT / "functions/api").rglob("*.py")]
    named = {name for source in sources for name in re.findall(r"karma\.integrations\.([a-z_0-9]+)", source)}
    others = {"fetch", "guard", "mcp_blocking", "oauth", "tantivy"}
    assert named == OF_AWS | others, "say in OUTWARD_S how long it may take"


def waits_in(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WAITING:
            yield node


@pytest.mark.fault("F-26a")
def test_every_route_that_waits_is_counted_and_waits_as_long_as_is_left() -> None:
    found = []
    for path in ROUTES.glob("*.py"):
        tree = ast.parse(path.read_text())
        uncounted = {id(call) for call in waits_in(tree)}
        for call in waits_in(tree):
            found.append(path.stem)
            bound = [each.value for each in call.keywords if each.arg in {"timeout_s", "within_s"}]
            assert [ast.unparse(each) for each in bound] == ["left_s()"], f"{path.stem}, line {call.lineno}"
        for node in ast.walk(tree):
            names: tuple[str, ...] = ()
            if isinstance(node, ast.With):
                names = tuple(ast.unparse(item.optional_vars) for item in node.items if item.optional_vars)
                assert all(
                    ast.unparse(item.context_expr).startswith("waiting.held(")
                    for item in node.items
                    if item.optional_vars and ast.unparse(item.optional_vars) == "left_s"
                )
            elif isinstance(node, ast.FunctionDef):
                names = tuple(each.arg for each in node.args.args)
            if "left_s" in names:
                uncounted -= {id(call) for call in waits_in(node)}
        assert not uncounted, f"{path.stem} waits and is not counted: use api.services.waiting"
    assert sorted(found) == ["devices", "devices", "runs", "runs", "runs"]


@pytest.mark.fault("F-26a")
def test_every_module_that_sleeps_is_known() -> None:
    found = {str(path.relative_to(LAYER)) for path in LAYER.rglob("*.py") if "time.sleep(" in path.read_text()}
    assert found == set(SLEEPERS)


@pytest.mark.fault("F-26i")
def test_a_request_waits_no_longer_than_its_function_has(monkeypatch: pytest.MonkeyPatch) -> None:
    held, now = [], [100.0]

    @contextmanager
    def counted(user_id: str) -> Iterator[None]:
        held.append(user_id)
        yield

    monkeypatch.setattr(waiting, "requests", lambda: SimpleNamespace(held=counted))
    monkeypatch.setattr(waiting, "monotonic", lambda: now[0])
    user_id: Any = "u"
    with waiting.held(user_id, seconds=20) as left_s:
        assert left_s() == 20
        now[0] += 15  # for what came first
        assert left_s() == waiting.MOST_S - 15
        now[0] += 15
        assert left_s() == 0
    with waiting.held(user_id, seconds=0) as left_s:
        assert left_s() == 0
    assert held == ["u"]


@pytest.mark.fault("F-26i")
def test_a_resolver_that_does_not_answer_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: Any, **__: Any) -> Any:
        time.sleep(4)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    began = monotonic()
    with pytest.raises(McpFailed) as failed:
        BlockingMcp().list_tools(McpEndpoint(url="https://mcp.example.com", headers={}, timeout_s=0.3), server="s")
    assert failed.value.code is McpErrorCode.TIMED_OUT
    assert monotonic() - began < 3
