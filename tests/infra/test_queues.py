"""Work outside the request: each queue has one consumer, and nothing that it cannot do is lost without a word."""

import json

import pytest

from infra.catalog import FUNCTIONS, FunctionName
from tests.infra.synthesized import Json, Synthesized
from tests.infra.test_app import aliases
from tests.infra.test_grants import readable


def consumed(synthesized: Synthesized) -> dict[str, tuple[FunctionName, Json]]:
    """Return consumer and mapping of each queue, by `part/logical id`."""
    by_alias = aliases(synthesized)
    found: dict[str, tuple[FunctionName, Json]] = {}
    queues = {
        readable(synthesized, {"Fn::GetAtt": [path.partition("/")[2], "Arn"]}): path
        for path in synthesized.of_type("AWS::SQS::Queue")
    }
    for mapping in synthesized.of_type("AWS::Lambda::EventSourceMapping").values():
        properties = mapping["Properties"]
        source = readable(synthesized, properties["EventSourceArn"]).rpartition("/")[2]
        if source in queues:
            text = json.dumps(properties["FunctionName"])
            (alias,) = [logical_id for logical_id in by_alias if f'"{logical_id}"' in text]
            found[queues[source]] = (by_alias[alias], properties)
    return found


def test_runs_of_free_plans_are_executed_by_half_as_many_processes_of_their_own(aws: Synthesized) -> None:
    (free,), (all_plans,) = (
        [
            mapping["ScalingConfig"]["MaximumConcurrency"]
            for path, (consumer, mapping) in consumed(aws).items()
            if consumer is FunctionName.EXECUTION and path.rpartition("/")[2].startswith(name)
        ]
        for name in ("FreeRuns", "Executions")
    )
    assert free * 2 == all_plans


@pytest.mark.req("R-K-05")
def test_each_work_queue_has_a_consumer_that_loses_nothing(aws: Synthesized) -> None:
    queues = aws.of_type("AWS::SQS::Queue")
    work = {path: item["Properties"] for path, item in queues.items() if "RedrivePolicy" in item["Properties"]}
    consumers = consumed(aws)
    assert set(consumers) == set(work)
    assert {FunctionName.INBOX, FunctionName.RUNS, FunctionName.DEVICE_INGEST} <= {
        name for name, _ in consumers.values()
    }
    for path, properties in work.items():
        name, mapping = consumers[path]
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"], name
        assert properties["VisibilityTimeout"] == 6 * FUNCTIONS[name].timeout_s, name
        dead = properties["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
        assert properties["RedrivePolicy"]["maxReceiveCount"] == 5, name
        dead_letters = queues[f"{path.partition('/')[0]}/{dead}"]["Properties"]
        assert dead_letters["MessageRetentionPeriod"] == 14 * 24 * 3600, name
        assert watched(aws, f"{path.partition('/')[0]}/{dead}"), f"nobody is told of {name}'s dead letters"


def watched(synthesized: Synthesized, queue: str) -> bool:
    """Tell whether an alarm of ops fires at the queue's first message."""
    wanted = {"Fn::GetAtt": [queue.partition("/")[2], "QueueName"]}
    for alarm in synthesized.of_type("AWS::CloudWatch::Alarm", "ops").values():
        properties = alarm["Properties"]
        for dimension in properties.get("Dimensions", []):
            if dimension["Name"] != "QueueName":
                continue
            name = readable(synthesized, dimension["Value"])
            if name.rpartition("/")[2] == readable(synthesized, wanted):
                return bool(
                    properties["Threshold"] == 1
                    and properties["MetricName"] == "ApproximateNumberOfMessagesVisible"
                    and properties["AlarmActions"]
                )
    return False
