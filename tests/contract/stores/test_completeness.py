"""The suite calls every method of every repository on each store; otherwise this fails and names those not called.

It runs behind all other tests of this folder, in the process of its engine, and believes nothing but the calls.
"""

from __future__ import annotations

import pytest

from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.dynamo.leases import DynamoLeases
from tests.support import contexts
from tests.support.sampled_stores import IS_WHOLE, is_folder_run
from tests.support.stores import Calls, Engine, functions, methods, repositories


def everything() -> set[str]:
    """Name each public method of each repository, and the functions below them."""
    kinds = {**repositories(), "DynamoBuckets": DynamoBuckets, "DynamoLeases": DynamoLeases}
    return {f"{name}.{method}" for name, kind in kinds.items() for method in methods(kind)} | set(functions())


def kept_by_fakes() -> set[str]:
    """Name what the fakes have of it."""
    return {
        f"{kind.__name__}.{method}"
        for fake, kinds in contexts.fakes().items()
        for kind in kinds
        for method in methods(kind)
        if hasattr(fake, method)
    }


@pytest.fixture
def whole_suite(request: pytest.FixtureRequest) -> None:
    """Skip when only a part of the folder is run."""
    if not is_folder_run(request.config, request.session.items):
        pytest.skip("only a part of the contract suite was run")


@pytest.mark.usefixtures("whole_suite")
@pytest.mark.parametrize("engine", Engine if IS_WHOLE else [Engine.MEMORY, Engine.MINISTACK])
def test_every_method_was_called(calls: Calls, engine: Engine) -> None:
    if engine is Engine.DYNAMODB_LOCAL and engine not in calls.met:
        pytest.skip("DynamoDB Local did not run: Java 17 is missing")
    expected = kept_by_fakes() if engine is Engine.MEMORY else everything()
    assert sorted(expected - calls.met[engine]) == [], sorted(expected - calls.met[engine])


def test_every_method_has_a_scenario() -> None:
    """So that its conditions refuse, and the database is busy, in test_refusals.py."""
    assert everything() - set(functions()) - set(contexts.scenarios()) == set()


def test_repositories_are_found_by_what_they_are() -> None:
    found = repositories()
    assert {"UserRepository", "RunRepository", "ArrivalRepository", "AccountPurge", "OutboxRepository"} <= set(found)
    assert not [name for name in found if name.endswith(("Item", "Slice", "Position")) or name == "SerialClaim"]
