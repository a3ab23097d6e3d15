"""Deletions of tasks that died are finished by the sweep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from karma.core.clock import SystemClock
from karma.tasks.domain import NewSubtask, NewTask
from karma.tasks.repository import TaskRepository
from karma.tasks.service import TaskService
from tests.support.accounts import open_account
from tests.support.stack import Context, Stack


@pytest.mark.req("R-M-06")
def test_subtasks_of_a_deletion_that_died_are_removed(stack: Stack, lambda_context: Context) -> None:
    stack.use("sweeps.tables")
    user_id = open_account()
    store = TaskRepository()
    service = TaskService(store, SystemClock())
    new = NewTask(title="t", metadata={}, subtasks=(NewSubtask(title="a", metadata={}),) * 3)
    now = datetime.now(UTC)
    old, young, kept = (service.create(user_id, new).task for _ in range(3))
    store.begin_delete(old, at=now - timedelta(minutes=5))
    store.begin_delete(young, at=now)

    from background.sweeps.tables import lambda_handler

    assert lambda_handler({"sweep": "tasks"}, lambda_context) == {"changed": 1}
    assert lambda_handler({"sweep": "tasks"}, lambda_context) == {"changed": 0}
    assert [len(store.subtasks(each.id)) for each in (old, young, kept)] == [0, 3, 3]
    assert store.get(user_id, kept.id) is not None
