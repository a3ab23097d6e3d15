"""The engine of the tests, and how they are dealt out to processes side by side (pytest-xdist, `make test`).

And what functions ask of AWS meanwhile is recorded: tests/support/recorded_calls.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.support.recorded_calls.plugin import CallsPlugin

if TYPE_CHECKING:
    from local.engine import Engine
    from tests.engines.choice import Choice

# Machines that run tests are slow and busy: how long something took is no failure. And no examples are kept: what a run
# tries depends on its number alone (tests/support/seeds.py).
settings.register_profile(
    "busy",
    max_examples=int(os.environ.get("PROPERTIES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
    print_blob=True,
)
settings.load_profile("busy")

pytest_plugins = ["tests.engines.plugin", "tests.support.compiled", "tests.support.seeds"]
HERE = Path(__file__).parent
DEPLOYMENT = "deployment"
"""Tests that build layers and stacks: dear fixtures, and one folder `build`. One process takes them all."""
_BUILDERS = ("infra", "e2e")
_LONG_FILES = tuple(  # else the last process works on alone
    f"{HERE.name}/integration/{path}"
    for path in (
        "benchmarks/test_calls.py",
        "permissions/test_bodies.py",
        "identity/test_deletion_interleavings.py",
        "agent_stream/test_crash.py",
        "background/test_webhooks.py",
        "test_new_context.py",
        "projects/test_crash.py",
        "identity/test_deletion.py",
        "api/test_crash.py",
    )
)
_STORES = (f"{HERE.name}/contract/stores/dynamodb_local", f"{HERE.name}/contract/stores/ministack")
"""One process takes all tests of an engine: it alone starts it, and knows in the end what was asked of it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let one ask for more random histories than an ordinary run tries, or for those of a seed."""
    group = parser.getgroup("random histories")
    group.addoption("--histories", type=int, default=6_000, help="how many")
    group.addoption("--histories-seed", type=int, help="the first one's, as a failure names it")


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, engine_choice: Choice) -> Iterator[Engine]:
    """Run the engine of the command line; an access key of 12 digits is an account of its own."""
    # Local: unit tests need none of it.
    from local.processes import no_proxy

    os.environ.update(no_proxy())
    with engine_choice.started(request) as running:
        yield running


@pytest.hookimpl(tryfirst=True)  # the order among all others is a random one
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest pieces of work."""
    longest = (DEPLOYMENT, *_STORES, *_LONG_FILES)
    items.sort(key=lambda item: (*longest, _portion(item.nodeid)).index(_portion(item.nodeid)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Write what a test printed or logged so that UTF-8 holds it: xdist stops the whole run at half a character."""
    report = yield
    report.sections = [(title, text.encode(errors="replace").decode()) for title, text in report.sections]
    return report


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Deal out by portions, instead of xdist's groups: those are lost on the way to the scheduler with pytest 9.2."""
    return _ByPortion(config, log)


class _ByPortion(LoadFileScheduling):  # type: ignore[misc]  # xdist is untyped
    """A file's tests stay together, whose fixtures they share."""

    def _split_scope(self, nodeid: str) -> str:
        return _portion(nodeid)


def _portion(nodeid: str) -> str:
    path = nodeid.partition("::")[0]
    if path.startswith(tuple(f"{HERE.name}/{folder}/" for folder in _BUILDERS)):
        return DEPLOYMENT
    if path.startswith(f"{HERE.name}/contract/stores/"):
        on_dynamodb_local, others = _STORES
        return on_dynamodb_local if "dynamodb_local" in nodeid else others
    return path


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the collector what stays to the end: thousands of tests, and all that they import."""
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CallsPlugin(), "recorded-calls")
