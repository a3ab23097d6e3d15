"""Every repository's contract on the fakes, MiniStack and DynamoDB Local; docs/stores.md tells where these differ."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from botocore.config import Config

from benchmarks.dynamodb_local import DynamoDbLocalMissing, dynamodb_local
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.dynamo.leases import DynamoLeases
from karma.core.dynamo.tables import bind_names
from local.engine import REGION
from local.processes import no_proxy
from tests.contract.stores.rows import Rows
from tests.integration.conftest import kept_clients, storage
from tests.support import clients, contexts, on_demand
from tests.support.sampled_stores import left_out
from tests.support.stack import forget_process_state
from tests.support.storage_stacks import Storage
from tests.support.stores import Calls, Database, Engine, Store, methods, repositories

__all__ = ["kept_clients", "storage"]
DATABASES = [Engine.MINISTACK, Engine.DYNAMODB_LOCAL]
_TESTS_A_PROCESS = 100
"""A table, also a deleted one, leaves something behind in DynamoDB Local that makes each later request slower."""
_CONFIG = Config(connect_timeout=2, read_timeout=20, retries={"total_max_attempts": 2}, parameter_validation=False)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Ask last what was asked, and leave out what the run's dice did not choose for DynamoDB Local."""
    items.sort(key=lambda item: item.path.name == "test_completeness.py")
    if gone := set(left_out(config, items)):
        config.hook.pytest_deselected(items=list(gone))
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(scope="session")
def calls() -> Iterator[Calls]:
    """Record the calls of the suites on each store."""
    calls = Calls()
    with pytest.MonkeyPatch.context() as patch:
        for name, kind in {**repositories(), "DynamoBuckets": DynamoBuckets, "DynamoLeases": DynamoLeases}.items():
            calls.watch(patch, kind, {method: f"{name}.{method}" for method in methods(kind)})
        for fake, kinds in contexts.fakes().items():
            kept = {method: f"{kind.__name__}.{method}" for kind in kinds for method in methods(kind)}
            calls.watch(patch, fake, {method: label for method, label in kept.items() if hasattr(fake, method)})
        calls.watch_functions(patch)
        yield calls


class DynamoDbLocal:
    """DynamoDB Local, a Java process in memory: it runs from the first of its tests in a row to the last of them."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._url = ""
        self._served = 0

    def url(self) -> str:
        """Return the address for the next test."""
        if self._served >= _TESTS_A_PROCESS:
            self.stop()
        self._served += 1
        if not self._url:
            os.environ.update(no_proxy())
            try:
                self._url = self._running.enter_context(dynamodb_local())
            except DynamoDbLocalMissing as missing:
                pytest.skip(str(missing))
        return self._url

    def stop(self) -> None:
        self._url = ""
        self._served = 0
        self._running.close()


_DYNAMODB_LOCAL = DynamoDbLocal()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    if nextitem is None or Engine.DYNAMODB_LOCAL not in nextitem.nodeid:
        _DYNAMODB_LOCAL.stop()


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give each test an account of its own, on either engine."""
    number = str(random.SystemRandom().randrange(10**11, 10**12))
    environment = {
        "AWS_ACCESS_KEY_ID": number,
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "STAGE": "test",
        "POWERTOOLS_SERVICE_NAME": "contract",
        "POWERTOOLS_METRICS_NAMESPACE": "Karma",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_process_state()
    yield number
    forget_process_state()


@pytest.fixture(params=DATABASES, ids=str)
def database(
    request: pytest.FixtureRequest, account: str, storage: Storage, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """Return the tables as the stacks define them, on each engine: for repositories without a fake."""
    yield from _opened(request, account, storage, calls, monkeypatch)


@pytest.fixture(params=[Engine.MEMORY, *DATABASES], ids=str)
def store(
    request: pytest.FixtureRequest, account: str, storage: Storage, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """Return the fake, or the tables on an engine."""
    if request.param is Engine.MEMORY:
        calls.engine = Engine.MEMORY
        yield Store(Engine.MEMORY)
        calls.engine = None
        return
    for database in _opened(request, account, storage, calls, monkeypatch):
        yield Store(database.engine, database)


def _opened(
    request: pytest.FixtureRequest, account: str, storage: Storage, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    engine: Engine = request.param
    url = request.getfixturevalue("engine").endpoint_url if engine is Engine.MINISTACK else _DYNAMODB_LOCAL.url()
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", url)
    client = clients.client("dynamodb", _CONFIG, url)

    calls.engine = engine
    # No repository reads a table's stream, and each costs DynamoDB Local more than the table.
    shapes = {
        name: {key: value for key, value in shape.items() if key != "StreamSpecification"}
        for name, shape in storage.tables.items()
    }
    owed = on_demand.tables(client, shapes, f"test-{account}-")
    bind_names(owed)
    yield Database(engine, owed, client)
    on_demand.forget()
    calls.engine = None


@pytest.fixture
def rows(database: Database) -> Rows:
    """Return a person of the test's own, with all rows that depend on an account."""
    return Rows()
