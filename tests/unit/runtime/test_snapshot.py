"""SnapStart: what happens in which order, seen by the Runtime API and by the hooks."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from karma.core.runtime import snapshot
from karma.core.runtime.client import RuntimeApiRefused
from karma.core.runtime.serve import serve_forever
from tests.fixtures.runtime.golden import url_event
from tests.fixtures.runtime.record.raw_runtime_api import Event, RawRuntimeApi

TARGET = "tests.fixtures.runtime.apps:echo"
EVENT = Event(url_event(), {"Lambda-Runtime-Aws-Request-Id": "r1"})


@pytest.fixture(autouse=True)
def _snap_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    monkeypatch.setattr(snapshot, "_before", [])
    monkeypatch.setattr(snapshot, "_after", [])
    state = random.getstate()
    yield
    random.setstate(state)


def calls(server: RawRuntimeApi) -> list[str]:
    return [request.path.removeprefix("/2018-06-01/runtime/") for request in server.requests]


def test_hooks_run_around_the_restore_and_before_the_first_invocation() -> None:
    seen: list[tuple[str, int]] = []

    with RawRuntimeApi([EVENT]) as server:

        def note(name: str) -> Callable[[], None]:
            return lambda: seen.append((name, len(server.requests)))

        snapshot.before_snapshot(note("before 1"))
        snapshot.before_snapshot(note("before 2"))
        snapshot.after_restore(note("after 1"))
        snapshot.after_restore(note("after 2"))
        with pytest.raises(RuntimeApiRefused):
            serve_forever(TARGET, server.address)

    assert seen == [("before 2", 0), ("before 1", 0), ("after 1", 1), ("after 2", 1)]
    assert calls(server) == ["restore/next", "invocation/next", "invocation/r1/response", "invocation/next"]
    assert server.connections == 2, "a clone does not go on with the connection of the snapshot"


def test_without_snap_start_no_hook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    seen: list[str] = []
    snapshot.before_snapshot(lambda: seen.append("before"))
    snapshot.after_restore(lambda: seen.append("after"))

    with RawRuntimeApi() as server, pytest.raises(RuntimeApiRefused):
        serve_forever(TARGET, server.address)

    assert seen == []
    assert calls(server) == ["invocation/next"]


def fail() -> None:
    raise ConnectionError("secret store is gone")


@pytest.mark.parametrize(
    ("register", "exit_code", "error_type", "expected"),
    [
        (snapshot.before_snapshot, 64, "Runtime.BeforeSnapshotError", ["init/error"]),
        (snapshot.after_restore, 65, "Runtime.AfterRestoreError", ["restore/next", "restore/error"]),
    ],
)
def test_a_failed_hook_is_reported_and_ends_the_process(
    register: Callable[[Callable[[], None]], object], exit_code: int, error_type: str, expected: list[str]
) -> None:
    register(fail)

    with RawRuntimeApi() as server, pytest.raises(SystemExit) as end:
        serve_forever(TARGET, server.address)

    assert end.value.code == exit_code
    assert calls(server) == expected
    assert server.requests[-1].header("Lambda-Runtime-Function-Error-Type") == error_type
    assert b"secret store is gone" in server.requests[-1].body


def test_a_restore_re_seeds_and_drops_what_the_clones_would_share(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[str] = []
    monkeypatch.setitem(sys.modules, "karma.core.aws", SimpleNamespace(reset=lambda: resets.append("aws")))
    random.seed(1)
    first = random.random()
    random.seed(1)

    snapshot.run_after_restore()

    assert random.random() != first
    assert resets == ["aws"]


def test_awss_registry_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`snapshot_restore_py` 1.0.0 as the managed runtime ships it: two lists of (function, args, kwargs)."""
    before: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    after: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    module = ModuleType("snapshot_restore_py")
    module.__dict__.update(
        register_before_snapshot=lambda hook, *args, **kwargs: before.append((hook, args, kwargs)),
        register_after_restore=lambda hook, *args, **kwargs: after.append((hook, args, kwargs)),
        get_before_snapshot=lambda: before,
        get_after_restore=lambda: after,
    )
    module.__spec__ = SimpleNamespace()  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", module)
    seen: list[str] = []
    before.append((seen.append, ("registered by a library",), {}))
    snapshot.before_snapshot(lambda: seen.append("before"))
    snapshot.after_restore(lambda: seen.append("after"))

    snapshot.run_before_snapshot()
    snapshot.run_after_restore()

    assert seen == ["before", "registered by a library", "after"]
    assert before == []
