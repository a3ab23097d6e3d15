"""Messages and records that we do not write: each is reported or passed over alone, and nothing is stored."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from karma.core.ids import UserId, new_id
from karma.runs.repository import RunRepository
from tests.integration.background.conftest import Items
from tests.integration.background.test_runs import USER as RUNNER
from tests.integration.background.test_runs import message, start
from tests.support import on_demand
from tests.support.accounts import open_account
from tests.support.stack import Context, SqsEvent, Stack

USER = UserId(new_id())


def waiting(stack: Stack) -> int:
    """Return the number of messages in all queues, delayed ones included."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed"]
    read = stack.aws("sqs").get_queue_attributes
    made = [url for url in stack.queues.values() if not on_demand.is_owed(url)]
    found = [read(QueueUrl=url, AttributeNames=names)["Attributes"] for url in made]
    return sum(int(attributes[name]) for attributes in found for name in names)


# Bodies that no queue of ours is sent.
BODIES: dict[str, str] = {
    "empty": "",
    "blank": "   ",
    "text": "hello, world",
    "broken JSON": '{"user_id": ',
    "two values": "{}{}",
    "null": "null\n",
    "negative number": "-7.5",
    "number of 5,000 digits": "9" * 5000,
    "NaN": '{"user_id": NaN, "run_id": NaN}',
    "list": "[]",
    "list of lists": '[["user_id", "run_id"]]',
    "empty object": "{}",
    "nested 60,000 deep": "[" * 60_000,
    "256 KB": "x" * 262_144,
    "lone surrogate": '"\ud800"',
    "nul": "\x00",
    "line break": "evt_1\r\n",
    "key separator": "evt_1#META",
    "path": "../evt_1",
    "SQL": "evt_1' OR 1=1 --",
    "bytes as text": "b'evt_1'",
    "an event in JSON": '{"id": "evt_1"}',
    "quoted id": '"evt_1"',
    "notification envelope": json.dumps({"Type": "Notification", "Message": "evt_1"}),
    "S3 test event": '{"Service":"Amazon S3","Event":"s3:TestEvent"}',
    "base64": "ZXZ0XzE=",
    "other alphabet": "evt_\u0131",
    "homograph": "\u0435vt_1",
    "very long id": "evt_" + "x" * 5000,
    "html": "<script>alert(1)</script>",
    "spaces around": " evt_1 ",
}


class TestTheInbox:
    @pytest.fixture
    def handle(self, stack: Stack, lambda_context: Context) -> Callable[[Any], list[str]]:
        stack.use("inbox")

        def call(event: Any) -> list[str]:
            from background.inbox import lambda_handler

            return [each["itemIdentifier"] for each in lambda_handler(event, lambda_context)["batchItemFailures"]]

        return call

    @pytest.mark.parametrize("name", BODIES)
    def test_reports_what_is_no_event_id(
        self, handle: Callable[[Any], list[str]], items: Items, sqs_event: SqsEvent, stack: Stack, name: str
    ) -> None:
        event = sqs_event([BODIES[name]])
        assert handle(event) == [event["Records"][0]["messageId"]]
        assert items() == {}
        assert waiting(stack) == 0

    @pytest.mark.parametrize("event_id", ["evt_unknown", "evt_0", "evt_" + "x" * 60, "null", "7"])
    def test_passes_over_events_that_nobody_stored(
        self, handle: Callable[[Any], list[str]], items: Items, sqs_event: SqsEvent, event_id: str
    ) -> None:
        assert handle(sqs_event([event_id, event_id])) == []
        assert items() == {}

    def test_takes_a_batch_of_all_of_them(
        self, handle: Callable[[Any], list[str]], items: Items, sqs_event: SqsEvent
    ) -> None:
        event = sqs_event([*BODIES.values(), "evt_unknown"])
        assert handle(event) == [record["messageId"] for record in event["Records"][:-1]]
        assert items() == {}


RUN_BODIES: dict[str, object] = {
    "user a number": {"user_id": 1, "run_id": "r"},
    "run a number": {"user_id": USER, "run_id": 10**30},
    "user null": {"user_id": None, "run_id": "r"},
    "run null": {"user_id": USER, "run_id": None},
    "user a list": {"user_id": [USER], "run_id": "r"},
    "run an object": {"user_id": USER, "run_id": {"S": "r"}},
    "run true": {"user_id": USER, "run_id": True},
    "no run": {"user_id": USER},
    "no user": {"run_id": "r"},
    "camel case": {"userId": USER, "runId": "r"},
}
FOREIGN: dict[str, dict[str, str]] = {
    "unknown run": {"user_id": USER, "run_id": str(new_id())},
    "unknown user": {"user_id": str(new_id()), "run_id": "r"},
    "separator in the run": {"user_id": USER, "run_id": "a#b"},
    "separator in the user": {"user_id": f"{USER}#x", "run_id": "r"},
    "key of a segment": {"user_id": USER, "run_id": "r#SEG#00000001"},
    "unknown field": {"user_id": USER, "run_id": "r", "status": "finished"},
    "nul in the run": {"user_id": USER, "run_id": "\x00"},
    "line break in the run": {"user_id": USER, "run_id": "r\r\n"},
}


class TestRuns:
    @pytest.fixture
    def handle(self, stack: Stack, lambda_context: Context) -> Callable[[Any], list[str]]:
        import background.runs  # noqa: F401  before use(): it clears what the module keeps

        stack.use("runs")

        def call(event: Any) -> list[str]:
            from background.runs import lambda_handler

            failures: Any = lambda_handler(event, lambda_context)["batchItemFailures"]
            return [each["itemIdentifier"] for each in failures]

        return call

    @pytest.mark.parametrize("body", [*BODIES.values(), *RUN_BODIES.values()], ids=[*BODIES.keys(), *RUN_BODIES.keys()])
    def test_reports_what_is_no_message_of_a_run(
        self, handle: Callable[[Any], list[str]], items: Items, sqs_event: SqsEvent, stack: Stack, body: object
    ) -> None:
        event = sqs_event([body])
        assert handle(event) == [event["Records"][0]["messageId"]]
        assert items() == {}
        assert waiting(stack) == 0

    @pytest.mark.parametrize("name", FOREIGN)
    def test_passes_over_runs_that_nobody_started(
        self, handle: Callable[[Any], list[str]], items: Items, sqs_event: SqsEvent, stack: Stack, name: str
    ) -> None:
        assert handle(sqs_event([FOREIGN[name]] * 2)) == []
        assert items() == {}
        assert waiting(stack) == 0

    def test_leaves_another_s_run_alone(
        self, handle: Callable[[Any], list[str]], items: Items, sqs_event: SqsEvent, stack: Stack
    ) -> None:
        open_account(RUNNER)
        run = start(RunRepository(), lease=timedelta(seconds=-1))
        before = items()
        assert handle(sqs_event([message(run) | {"user_id": USER}])) == []
        assert items() == before

    def test_takes_a_batch_of_all_of_them(
        self, handle: Callable[[Any], list[str]], items: Items, sqs_event: SqsEvent
    ) -> None:
        event = sqs_event([*BODIES.values(), *RUN_BODIES.values(), *FOREIGN.values()])
        wrong = len(BODIES) + len(RUN_BODIES)
        assert handle(event) == [record["messageId"] for record in event["Records"][:wrong]]
        assert items() == {}


ACTIVE = {"type": {"S": "device"}, "state": {"S": "active"}}
ROW = {"pk": {"S": f"USER#{USER}"}, "sk": {"S": f"DEVICE#{new_id()}"}}


def change(
    keys: Any = None, *, old: Any = None, new: Any = ACTIVE, number: str = "1" * 21, **more: Any
) -> dict[str, Any]:
    images = {name: image for name, image in (("OldImage", old), ("NewImage", new)) if image is not None}
    return {"dynamodb": {"Keys": keys or ROW, "SequenceNumber": number, **images}, **more}


def keys(pk: str, sk: str) -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


# Records of the stream that are no change of a device's row between counted and not counted.
CHANGES: dict[str, dict[str, Any]] = {
    "another item of the user": change(keys(f"USER#{USER}", "COUNTER#devices")),
    "facts of a device": change(keys(f"USER#{USER}", f"DEVICE#{new_id()}#LATEST"), new={"type": {"S": "latest"}}),
    "unique serial number": change(keys("SERIAL#x", "META")),
    "command": change(keys(f"DEV#{new_id()}", f"CMD#{new_id()}")),
    "lower case": change(keys(f"user#{USER}", f"DEVICE#{new_id()}")),
    "no separator": change(keys(f"USER{USER}", f"DEVICE#{new_id()}")),
    "prefix inside": change(keys(f"X#USER#{USER}", f"DEVICE#{new_id()}")),
    "row as partition": change(keys(f"DEVICE#{new_id()}", f"USER#{USER}")),
    "empty sort key": change(keys(f"USER#{USER}", "")),
    "no images": change(new=None),
    "empty image": change(new={}),
    "same image twice": change(old=ACTIVE),
    "not active twice": change(old={"type": {"S": "device"}, "state": {"S": "deleting"}}, new=None),
    "state of another type": change(new={**ACTIVE, "state": {"N": "1"}}),
    "state a list": change(new={**ACTIVE, "state": {"L": [{"S": "active"}]}}),
    "state null": change(new={**ACTIVE, "state": {"NULL": True}}),
    "state binary": change(new={**ACTIVE, "state": {"B": "YWN0aXZl"}}),
    "state a set": change(new={**ACTIVE, "state": {"SS": ["active"]}}),
    "state in capitals": change(new={**ACTIVE, "state": {"S": "ACTIVE"}}),
    "state with a line break": change(new={**ACTIVE, "state": {"S": "active\r\n"}}),
    "state unknown": change(new={**ACTIVE, "state": {"S": "sold"}}),
    "state empty": change(new={**ACTIVE, "state": {"S": ""}}),
    "no state": change(new={"type": {"S": "device"}}),
    "type of another type": change(new={**ACTIVE, "type": {"BOOL": True}}),
    "type unknown": change(new={**ACTIVE, "type": {"S": "robot"}}),
    "type with a surrogate": change(new={**ACTIVE, "type": {"S": "\ud800"}}),
    "no type": change(new={"state": {"S": "active"}}),
    "image of 400 KB": change(new={"type": {"S": "device"}, "state": {"S": "x" * 400_000}}),
    "nested map": change(new={"type": {"M": {"S": {"S": "device"}}}, "state": {"S": "active"}}),
    "expired by TTL, never active": change(
        new=None,
        old={"type": {"S": "device"}, "state": {"S": "provisioning"}},
        userIdentity={"type": "Service", "principalId": "dynamodb.amazonaws.com"},
        eventName="REMOVE",
    ),
    "unknown fields": change(new={}, old={}, eventVersion="9.9", extra={"x": [1]}),
}


class TestTheRouter:
    @pytest.fixture
    def handle(self, stack: Stack, lambda_context: Context) -> Callable[..., list[str]]:
        stack.use("router")
        open_account(USER)

        def call(*records: Any) -> list[str]:
            from background.router import lambda_handler

            failures = lambda_handler({"Records": list(records)}, lambda_context)["batchItemFailures"]
            return [each["itemIdentifier"] for each in failures]

        return call

    @pytest.mark.parametrize("name", CHANGES)
    def test_counts_nothing_that_is_no_change_of_a_device(
        self, handle: Callable[..., list[str]], items: Items, name: str
    ) -> None:
        assert handle(CHANGES[name], CHANGES[name]) == []
        assert items() == {}

    def test_is_not_held_back_by_them(self, handle: Callable[..., list[str]], items: Items) -> None:
        last = change(number="9" * 21)
        assert handle(*CHANGES.values(), last) == []
        [counter] = items().values()
        assert counter["value"] == {"N": "1"}

    @pytest.mark.parametrize("number", ["1" * 21, "0" * 21, "1", "2" * 21])
    def test_folds_no_record_twice_nor_an_older_one(
        self, handle: Callable[..., list[str]], items: Items, number: str
    ) -> None:
        assert handle(change(number="2" * 21)) == []
        before = items()
        assert handle(change(number=number), copy.deepcopy(change(number=number))) == []
        assert items() == before
