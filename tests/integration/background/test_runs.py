"""The watchdog's consumer on real queues and tables."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.conversations.domain import ThreadKey
from karma.core.ids import RunId, ThreadId, UserId, new_id
from karma.integrations.sqs import SqsQueue
from karma.runs.domain import NOBODYS, Run, RunEnd, RunKey, RunStatus, Segment
from karma.runs.repository import RunRepository
from karma.runs.turns import MAX_QUEUED
from karma.runs.watchdog import GIVE_UP_AFTER, QueueWatchdog, read_message
from tests.contexts.runs import plain_setup, question
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.stack import Context, Drain, SqsEvent, Stack

USER = UserId("01890000-0000-7000-8000-000000000001")
STARTED = b'{"type":"RUN_STARTED"}'


@pytest.fixture
def store(stack: Stack) -> RunRepository:
    import background.runs  # noqa: F401  before use(): it clears what the module keeps

    stack.use("runs")
    open_account(USER)
    return RunRepository()


def start(
    store: RunRepository,
    *,
    lease: timedelta,
    events: tuple[bytes, ...] = (STARTED,),
    thread: ThreadKey = ThreadKey(USER, ThreadId("t1")),  # noqa: B008  immutable
    at: datetime | None = None,
    epoch: int = 1,
    reserved_micros: int = 0,
) -> Run:
    now = at or datetime.now(UTC)
    key = RunKey(USER, RunId(new_id()))
    run = Run(
        key=key,
        thread_id=thread.thread_id,
        status=RunStatus.RUNNING,
        model="m",
        created_at=now,
        reserved_micros=reserved_micros,
    )
    segment = Segment(key=key, n=1, writer="w", epoch=epoch, lease_until=now + lease, events=events)
    store.start(run, thread=store.thread(thread), segment=segment, messages=())
    return run


def handle(event: dict[str, Any], context: Context) -> Any:
    from background.runs import lambda_handler

    return lambda_handler(event, context)


def message(run: Run) -> dict[str, str]:
    return {"user_id": run.key.user_id, "run_id": run.key.run_id}


def test_a_run_that_nobody_goes_on_with_is_ended_with_what_it_left_open_closed(
    store: RunRepository, sqs_event: SqsEvent, lambda_context: Context
) -> None:
    left_open = (
        b'{"type":"RUN_STARTED"}',
        b'{"type":"TEXT_MESSAGE_START","messageId":"m1","role":"assistant"}',
        b'{"type":"TOOL_CALL_START","toolCallId":"c1","toolCallName":"f","parentMessageId":"m1"}',
    )
    run = start(store, lease=-GIVE_UP_AFTER, events=left_open)

    answers = [handle(sqs_event([message(run)]), lambda_context) for _ in range(2)]

    assert answers == [{"batchItemFailures": []}] * 2
    log = store.segments(run.key, after=1, limit=10)
    assert [(each.n, each.epoch, each.terminal) for each in log] == [(2, 2, True)]
    assert log[0].events == (
        b'{"type":"TEXT_MESSAGE_END","messageId":"m1"}',
        b'{"type":"TOOL_CALL_END","toolCallId":"c1"}',
        b'{"type":"RUN_ERROR","message":"The process that executed the run was lost","code":"OWNER_LOST"}',
    )
    stored = store.run(run.key)
    assert stored is not None
    assert (stored.status, stored.error_code) == (RunStatus.FAILED, "OWNER_LOST")
    assert store.thread(ThreadKey(USER, run.thread_id)).active_run_id is None


def test_a_process_is_asked_to_go_on_with_a_lost_run(
    stack: Stack, store: RunRepository, drain: Drain, sqs_event: SqsEvent, lambda_context: Context
) -> None:
    run = start(store, lease=timedelta(seconds=-1))

    handle(sqs_event([message(run)]), lambda_context)

    (asked,) = drain(stack.queues["executions"])
    assert read_message(asked["Body"]) == run.key
    assert waiting(stack) == "1"  # looked at again, should that process be lost as well
    assert len(store.segments(run.key, after=0, limit=10)) == 1


def counted(stack: Stack) -> set[int]:
    """Return what is counted of the account's model spend, in the month and in its days."""
    found = stack.aws("dynamodb").scan(TableName=stack.tables["billing"], ConsistentRead=True)["Items"]
    return {int(item["value"]["N"]) for item in found if item["type"]["S"] == "usage"}


def waiting(stack: Stack) -> str:
    found = stack.aws("sqs").get_queue_attributes(
        QueueUrl=stack.queues["runs"], AttributeNames=["ApproximateNumberOfMessagesDelayed"]
    )
    return str(found["Attributes"]["ApproximateNumberOfMessagesDelayed"])


def test_a_living_run_is_looked_at_again(
    stack: Stack, store: RunRepository, sqs_event: SqsEvent, lambda_context: Context
) -> None:
    run = start(store, lease=timedelta(seconds=20))

    handle(sqs_event([message(run)]), lambda_context)

    assert waiting(stack) == "1"
    assert len(store.segments(run.key, after=0, limit=10)) == 1


def test_what_arms_is_what_the_consumer_reads(
    stack: Stack, store: RunRepository, drain: Drain, sqs_event: SqsEvent, lambda_context: Context
) -> None:
    run = start(store, lease=-GIVE_UP_AFTER)
    QueueWatchdog(SqsQueue(stack.queues["runs"])).arm(run.key, delay=timedelta(0))

    handle(sqs_event(drain(stack.queues["runs"])), lambda_context)

    tail = store.tail(run.key)
    assert tail is not None
    assert tail.terminal


def queue_behind_a_question(store: RunRepository, *, for_s: float, at: datetime) -> Run:
    """Store a run that has asked something, for so many seconds, and one that waits for its turn behind it."""
    thread = ThreadKey(USER, ThreadId(new_id()))
    first = start(store, lease=timedelta(0), thread=thread, at=at)
    waits = replace(first, key=RunKey(USER, RunId(new_id())), status=RunStatus.QUEUED, reserved_micros=700)
    segment = Segment(key=waits.key, n=1, writer="w", epoch=0, lease_until=at + NOBODYS, events=(STARTED,))
    store.start(waits, thread=store.thread(thread), segment=segment, messages=(), setup=plain_setup(USER))
    asked = replace(question(first), expires_at=at + timedelta(seconds=for_s))
    last = Segment(key=first.key, n=2, writer="w", epoch=1, lease_until=at, events=(b"{}",), terminal=True)
    store.finish(last, RunEnd(status=RunStatus.INTERRUPTED, at=at, interrupts=(asked,)), thread=thread)
    return waits


@pytest.mark.parametrize("for_s", [3600, -1], ids=["open", "expired"])
def test_a_run_behind_a_question_is_looked_at_until_it_may_begin(
    stack: Stack, store: RunRepository, drain: Drain, sqs_event: SqsEvent, lambda_context: Context, for_s: float
) -> None:
    waits = queue_behind_a_question(store, for_s=for_s, at=datetime.now(UTC))

    assert handle(sqs_event([message(waits)]), lambda_context) == {"batchItemFailures": []}

    assert waiting(stack) == "1"
    begins = [read_message(each["Body"]) for each in drain(stack.queues["executions"], int(for_s < 0))]
    assert begins == [waits.key] * (for_s < 0)


@pytest.mark.parametrize(
    ("status", "ends_as"), [(RunStatus.QUEUED, RunStatus.CANCELLED), (RunStatus.RUNNING, RunStatus.FAILED)]
)
def test_a_run_that_it_ends_gives_back_what_was_reserved_for_it(
    stack: Stack,
    store: RunRepository,
    sqs_event: SqsEvent,
    lambda_context: Context,
    status: RunStatus,
    ends_as: RunStatus,
) -> None:
    long_ago = datetime.now(UTC) - 2 * MAX_QUEUED
    if status is RunStatus.QUEUED:
        run = queue_behind_a_question(store, for_s=0, at=long_ago)
    else:
        run = start(store, lease=timedelta(0), at=long_ago, reserved_micros=700, epoch=0)

    assert handle(sqs_event([message(run)]), lambda_context) == {"batchItemFailures": []}

    stored = store.run(run.key)
    assert stored is not None
    assert (stored.status, stored.cost_micros) == (ends_as, 0)
    assert counted(stack) == {-700}


@pytest.mark.parametrize("body", ["not json", "[]", "{}", '{"user_id":"x"}', "null", "7"])
def test_what_is_no_message_of_ours_goes_to_the_dead_letters_alone(
    stack: Stack, store: RunRepository, sqs_event: SqsEvent, lambda_context: Context, body: str
) -> None:
    run = start(store, lease=-GIVE_UP_AFTER)
    event = sqs_event([body, message(run), message(run) | {"run_id": "unknown"}])

    answer = handle(event, lambda_context)

    assert answer == {"batchItemFailures": [{"itemIdentifier": event["Records"][0]["messageId"]}]}
    stored = store.run(run.key)
    assert stored is not None
    assert stored.status is RunStatus.FAILED


@pytest.mark.parametrize(
    "lease", [-GIVE_UP_AFTER, timedelta(seconds=-1), timedelta(minutes=5)], ids=["given up", "lost", "living"]
)
def test_a_crash_at_any_call_is_repaired_by_the_redelivery(
    stack: Stack, store: RunRepository, sqs_event: SqsEvent, lease: timedelta
) -> None:
    def is_waiting() -> bool:
        return int(waiting(stack)) > 0

    def seed() -> Any:
        return sqs_event([message(start(store, lease=lease))])

    def steady(item: dict[str, Any]) -> dict[str, Any]:
        compared = {"type", "status", "error_code", "terminal", "epoch"}
        kept = {name: value for name, value in item.items() if name in compared}
        blank = item["pk"].rpartition("#")[0] if item["pk"].startswith("RUN") else item["pk"]
        return {**kept, "pk": blank, "sk": item["sk"], "active": "active_run_id" in item}

    report = CrashTest(
        entry="background.runs:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["agents"]],
        seed=seed,
        normalise=steady,
        other_state=is_waiting,
        accept=lambda answer: answer == {"batchItemFailures": []},
    ).run()
    ends = "dynamodb.TransactWriteItems" if lease == -GIVE_UP_AFTER else "sqs.SendMessage"
    assert f"after {ends}" in " ".join(report.at)
    assert is_waiting() is (lease > -GIVE_UP_AFTER)
