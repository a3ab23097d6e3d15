"""A run's process dies before or after each of its AWS calls; the next goes on with it, and counts what it cost."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from karma.billing.allowances import Metric
from karma.billing.repository.usage import UsageRepository
from karma.conversations.domain import ThreadKey
from karma.core.ids import RunId, ThreadId
from karma.models.domain import Target, Usage
from karma.models.prices import cost
from karma.runs.domain import RunKey, RunStatus
from karma.runs.explain import explain
from karma.runs.repository import RunRepository
from tests.fakes.runs import SetClock, caller
from tests.support.accounts import open_account
from tests.support.agui import verify
from tests.support.crash_processes import Processes, Side
from tests.support.plans import allowance
from tests.support.stack import Stack

ENTRY = f"{Path(__file__).with_name('crash_entry.py')}:run_once"
KEY = RunKey(caller().user_id, RunId("r1"))
THREAD = ThreadKey(caller().user_id, ThreadId("t1"))
COST = 2 * cost(Usage(10, 5), Target(model="claude-test"), datetime.now(UTC))
"""Cost of both scripted calls, in micro-dollars."""


def empty(stack: Stack, table: str) -> None:
    for page in stack.aws("dynamodb").get_paginator("scan").paginate(TableName=table):
        for item in page["Items"]:
            stack.aws("dynamodb").delete_item(TableName=table, Key={"pk": item["pk"], "sk": item["sk"]})


def used(stack: Stack) -> tuple[int, int]:
    """Return the runs and micro-dollars that the plan counts."""
    read = UsageRepository().read(allowance(KEY.user_id, at=datetime.now(UTC)))
    found = {each.metric: each.used for each in read}
    return found[Metric.RUNS], found[Metric.MODEL_SPEND]


@pytest.mark.fault("F-19a")
@pytest.mark.parametrize("side", ["before", "after"])
def test_wherever_the_process_dies_the_run_goes_on_to_its_end(stack: Stack, side: Side) -> None:
    stack.use("runs")
    store = RunRepository()
    open_account(KEY.user_id)
    event = {
        "tables": {name: stack.tables[name] for name in ("agents", "identity", "billing")},
        "queue": stack.queues["runs"],
        "deliver": "request",
        "body": {"threadId": "t1", "runId": "r1", "messages": [{"id": "u1", "role": "user", "content": "hi"}]},
    }
    ends: list[str] = []
    with Processes(ENTRY) as processes:
        for n in range(1, 40):
            for table in ("agents", "billing"):
                empty(stack, stack.tables[table])
            died = processes.run(event, die=(side, "", n))
            assert not died.error, died.error
            looked = [processes.run({**event, "deliver": "execution"}) for _ in range(2)]  # a repeat is harmless
            assert not any(each.error for each in looked), looked
            run = store.run(KEY)
            taken = used(stack)
            if run is None:
                assert store.thread(THREAD).version == 0
                assert taken == (0, 0)
                ends.append("not started")
                continue
            assert run.status is not RunStatus.RUNNING
            assert store.thread(THREAD).active_run_id is None
            log = store.segments(KEY, after=0, limit=100)
            assert [segment.n for segment in log] == list(range(1, len(log) + 1))
            assert [segment.terminal for segment in log].count(True) == 1
            verify([orjson.loads(data) for segment in log for data in segment.events])
            told = explain(KEY.run_id, store=store, clock=SetClock(datetime.now(UTC) + timedelta(hours=1)))
            assert str(run.status) in told
            assert (", which took over" in told) is any(each.epoch > 1 for each in log)
            # An answer that broke off is counted with an estimate, beside the one that was made anew.
            assert taken == (1, run.cost_micros)
            assert run.cost_micros is not None
            assert run.cost_micros >= COST
            ends.append(run.error_code or "finished")
            if not died.crashed:
                break
        else:
            pytest.fail("the run never got through")

    assert ends[0] == "not started"
    assert ends.count("finished") >= 3
    assert set(ends) == {"not started", "finished"}
