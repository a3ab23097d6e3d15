"""Every sweep of the catalog finds work, and does it with no tables but those that its own function is told of.

A sweep without a row here fails, since a sweep that only ever found nothing may be dead on a deployed stage.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from infra.catalog import SWEEPS
from karma.core.clock import epoch_ms
from karma.core.dynamo import tables
from karma.core.ids import new_id
from karma.devices.repository.devices import DeviceRepository
from karma.files.domain import FileStatus
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.runs.domain import MAX_PAUSE
from karma.runs.repository import RunRepository
from karma.tasks.domain import NewTask
from karma.tasks.repository import TaskRepository
from karma.tasks.service import TaskService
from tests.contexts.accounts import PersonRows
from tests.contexts.alarms import AlarmRows
from tests.contexts.billing import BillingRows
from tests.contexts.devices import DeviceRows
from tests.contexts.firmware import FirmwareRows
from tests.contexts.mail import MailRows
from tests.contexts.projects import ProjectRows
from tests.contexts.provisioning import ProvisioningRows
from tests.contexts.schedules import ScheduleRows
from tests.contexts.telemetry import TelemetryRows
from tests.contexts.webhooks import WebhookRows
from tests.fakes.devices import FakeClock
from tests.integration.background.test_files import USER as FILES_USER
from tests.integration.background.test_files import store_file
from tests.integration.background.test_hostile_sweeps import add_event, overdue_command
from tests.integration.background.test_run_sweep import paused, waiting_question
from tests.integration.background.test_sweeps import POLICY, USER, provisioning
from tests.support.accounts import open_account
from tests.support.files import put_device
from tests.support.plans import reserved
from tests.support.stack import Context, Stack

AGO = datetime.now(UTC) - timedelta(hours=1)


def _deletion(_: Stack) -> None:
    user_id = PersonRows().gone
    DeletionRepository().postpone(user_id, due_at=AGO, waits_for=None)


def _task(_: Stack) -> None:
    store = TaskRepository()
    new = NewTask(title="t", metadata={}, subtasks=())
    store.begin_delete(TaskService(store, FakeClock(AGO)).create(open_account(), new).task, at=AGO)


def _file(stack: Stack) -> None:
    store_file(stack, put_device(stack, FILES_USER), status=FileStatus.UPLOADING)


def _bulk(_: Stack) -> None:
    rows = DeviceRows()
    rows.added(rows.new_bulk(expires_ms=epoch_ms(datetime.now(UTC)) + 60_000))


def _rotation(_: Stack) -> None:
    rows = DeviceRows()
    rows.rotations.begin(rows.new_rotation(), due=AGO)


def _claim(_: Stack) -> None:
    rows = ProvisioningRows()
    rows.claims.begin(rows.new_claim(), ["EOS-1"], due=AGO)


def _orphan(stack: Stack) -> None:
    stack.aws("iot").create_policy(policyName=POLICY, policyDocument='{"Version": "2012-10-17", "Statement": []}')
    open_account(USER)
    device = provisioning(new_id(), "EOS-half-made")
    DeviceRepository().claim(device, reservation=reserved(USER), attempt="a", now=AGO)


WORK: dict[str, Callable[[Stack], object]] = {
    "inbox": lambda stack: add_event(stack, "evt_due"),
    "subscriptions": lambda _: BillingRows().customer,
    "mail": lambda _: MailRows().pending,
    "deletions": _deletion,
    "commands": overdue_command,
    "bulks": _bulk,
    "interrupts": lambda _: waiting_question(open_account(), at=AGO),
    "webhooks": lambda _: WebhookRows().pending,
    "schedules": lambda _: ScheduleRows().first,
    "alarms": lambda _: AlarmRows().look,
    "rollups": lambda _: TelemetryRows().dirty,
    "projects": lambda _: ProjectRows().deleted_project,
    "tasks": _task,
    "runs": lambda _: paused(RunRepository(), open_account(), at=AGO - MAX_PAUSE),
    "files": _file,
    "orphans": _orphan,
    "rotations": _rotation,
    "provisioning": _claim,
    "rollouts": lambda _: FirmwareRows().first,
}
"""Functions that give each sweep work, by the sweep's name."""


def test_none_is_without_a_test() -> None:
    lacking = sorted(SWEEPS.keys() - WORK.keys())
    assert not lacking, f"give these sweeps of infra/catalog.py their work in WORK of this module: {lacking}"
    assert not WORK.keys() - SWEEPS.keys()


@pytest.mark.parametrize("sweep", SWEEPS)
def test_it_finds_its_work_by_its_own_function_s_tables(
    stack: Stack, lambda_context: Context, monkeypatch: pytest.MonkeyPatch, sweep: str
) -> None:
    function = importlib.import_module(SWEEPS[sweep])
    stack.use(SWEEPS[sweep].removeprefix("background."))
    WORK[sweep](stack)
    # What this process has bound for its own reads is unknown to a function of its own process.
    with monkeypatch.context() as alone:
        alone.setattr(tables, "_deployed", {})
        assert function.lambda_handler({"sweep": sweep}, lambda_context)["changed"] >= 1
