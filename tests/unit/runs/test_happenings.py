"""Happenings of a change of a run's row: an end, once, whoever ended it, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from karma.core.happenings import Happening, ItemChange, declared_types
from karma.core.ids import UserId, is_id, new_id
from karma.runs.domain import ACTIVE, Run, RunStatus
from karma.runs.happenings import source
from karma.runs.stored import run_item
from karma.webhooks.domain import MAX_PAYLOAD_BYTES, payload_of
from tests.contexts.metrics import counted_run
from tests.support.contract import ROOT

ADA = UserId(new_id())
ENDED = sorted({*RunStatus} - ACTIVE)


def image(run: Run) -> Mapping[str, Any]:
    """Return a run's row as the stream has it."""
    item = run_item(run)
    item.finished_at = "2026-11-21T12:00:02.000Z" if run.finished_at else None
    item.error_code = run.error_code
    item.version = 1
    return dict(item.serialize())


def told(old: Run | None, new: Run | None) -> Happening | None:
    return source().happened(ItemChange(image(old) if old else None, image(new) if new else None))


@pytest.mark.parametrize("status", ENDED)
@pytest.mark.parametrize("was", sorted(ACTIVE))
def test_an_end_is_told_by_its_name(was: RunStatus, status: RunStatus) -> None:
    run = counted_run(ADA, status)
    found = told(replace(run, status=was), run)
    assert found is not None
    assert (found.type, found.user_id, found.data["run_id"]) == (f"run.{status.value}", ADA, run.key.run_id)
    assert found.type in {each.name for each in declared_types()}
    assert is_id(found.id)
    assert told(replace(run, status=was), run) == found, "the same each time that it is read"
    assert told(None, run) == found, "also where the record has no old image"


@pytest.mark.parametrize("status", RunStatus)
def test_nothing_else_is_told(status: RunStatus) -> None:
    run = counted_run(ADA, status)
    assert told(run, None) is None, "a run that is removed"
    for was in ENDED:
        assert told(replace(run, status=was), run) is None, "a change behind its end"
    if status in ACTIVE:
        assert told(None, run) is None
        assert told(replace(run, status=RunStatus.QUEUED), run) is None


@pytest.mark.parametrize(
    "other", [{}, {"type": {"S": "thread"}}, {"type": {"S": "run"}}, {"status": {"S": "finished"}}]
)
def test_items_of_others_are_no_runs(other: Mapping[str, Any]) -> None:
    assert source().happened(ItemChange(None, other)) is None


def test_no_two_ends_have_one_id() -> None:
    runs = [counted_run(user, run_id=name) for user in (ADA, UserId(new_id())) for name in ("a", "b")]
    found = {each.id for run in runs if (each := told(None, run)) is not None}
    assert len(found) == len(runs)


def test_no_word_of_a_conversation_leaves_and_the_payload_is_small() -> None:
    run = replace(
        counted_run(ADA, RunStatus.FAILED, run_id="r" * 128), error_code="MODEL_REFUSED", input_query="canary"
    )
    found = told(None, run)
    assert found is not None
    payload = payload_of(found)
    assert len(payload) < MAX_PAYLOAD_BYTES // 10
    assert "canary" not in payload
    large = replace(found, data={**found.data, "much": "x" * MAX_PAYLOAD_BYTES})
    kept = orjson.loads(payload_of(large))
    assert kept["data"]["run_id"] == run.key.run_id
    assert "much" not in kept["data"]


def test_each_type_is_told_of_in_the_api_s_guide() -> None:
    text = (ROOT / "docs/api.md").read_text()
    assert not [each.name for each in declared_types() if f"`{each.name}`" not in text]
