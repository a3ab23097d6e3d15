"""Every sweep of the catalog meets an item that no one can deal with, says so, and does the others of its list."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.client import BaseClient

from infra.catalog import SWEEPS
from karma.core.clock import iso
from karma.core.ids import new_id
from karma.core.sweeping import PUT_OFF
from tests.contexts.provisioning import ProvisioningRows
from tests.integration.background.conftest import Items
from tests.integration.background.test_each_sweep import WORK
from tests.support.stack import Context, Stack

READS = frozenset({"Query", "ListCertificates"})
"""Calls by which a sweep finds what is due."""


@contextmanager
def poisoned(patch: pytest.MonkeyPatch, *, calls: int = 1) -> Iterator[list[str]]:
    """Let the first calls by which anything is done about an item fail as nobody has thought of."""
    failed: list[str] = []
    make = BaseClient._make_api_call  # type: ignore[attr-defined]

    def fail(self: BaseClient, operation: str, given: dict[str, Any]) -> Any:
        if operation not in READS and len(failed) < calls:
            failed.append(operation)
            raise RuntimeError("nobody has thought of this")
        return make(self, operation, given)

    with patch.context() as alone:
        alone.setattr(BaseClient, "_make_api_call", fail)
        yield failed


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.fault("F-48a")
def test_it_outlives_an_item_that_nobody_can_deal_with(
    stack: Stack,
    lambda_context: Context,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sweep: str,
) -> None:
    function = importlib.import_module(SWEEPS[sweep])
    stack.use(SWEEPS[sweep].removeprefix("background."))
    WORK[sweep](stack)
    with poisoned(monkeypatch) as failed:
        function.lambda_handler({"sweep": sweep}, lambda_context)
    assert failed
    told = capsys.readouterr().out
    assert '"SweepItemBroken"' in told
    assert '"UnhandledError"' in told


@pytest.mark.fault("F-48a")
def test_a_poisoned_item_is_behind_those_that_are_due_for_an_hour(
    stack: Stack, lambda_context: Context, monkeypatch: pytest.MonkeyPatch, items: Items
) -> None:
    from background.sweeps.devices import lambda_handler

    stack.use("sweeps.devices")
    rows, now = ProvisioningRows(), datetime.now(UTC)
    first, second = rows.new_claim(), rows.new_claim()
    for claim, ago in ((first, 60), (second, 50)):
        rows.claims.begin(claim, [f"EOS-{new_id()}"], due=now - timedelta(minutes=ago))
    with poisoned(monkeypatch):
        assert lambda_handler({"sweep": "provisioning"}, lambda_context) == {"changed": 1}
    assert rows.claims.get(second.user_id, second.id) is None
    (left,) = [item for item in items().values() if item.get("claim_id") == {"S": first.id} and "gsi1sk" in item]
    assert left["gsi1sk"]["S"] >= f"{iso(now + PUT_OFF)}#{first.id}"
    assert lambda_handler({"sweep": "provisioning"}, lambda_context) == {"changed": 0}
