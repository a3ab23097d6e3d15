"""Triggers of the functions that no client calls: queues, a table's stream, schedules."""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.catalog import SWEEPS, FunctionName
from infra.constructs.python_function import PythonFunction
from infra.constructs.waivers import waive

QUEUE_BATCH = 10
STREAM_BATCH = 100
STREAM_RETRIES = 5
SWEEP_PERIOD = Duration.minutes(1)


class QueueTrigger(Construct):
    """Messages of a queue, at most ten a call, each with its own success or failure."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        function: PythonFunction,
        queue: sqs.IQueue,
        concurrency: int,
        batch: int = QUEUE_BATCH,
    ) -> None:
        super().__init__(scope, construct_id)
        mapping = lambda_.EventSourceMapping(
            self,
            "Mapping",
            target=function.target,
            event_source_arn=queue.queue_arn,
            batch_size=batch,
            max_concurrency=concurrency,
            report_batch_item_failures=True,
        )
        waive(
            mapping,
            "Serverless-LambdaEventSourceMappingDestination",
            "Lambda takes no destination for SQS; the queue redrives to its own dead-letter queue",
        )


class StreamTrigger(Construct):
    """Changes of a table, in order for each item; a failing batch is halved, retried, then reported to a queue."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        function: PythonFunction,
        table: dynamodb.Table,
        failures: sqs.IQueue,
        filters: Sequence[Mapping[str, Any]] = (),
        batch: int = STREAM_BATCH,
        window: Duration | None = None,
    ) -> None:
        """Build the trigger; `filters` are patterns of Lambda's, of which one lets a record through: none, all are.

        `window`: time for which records are collected while there are fewer than `batch`.
        """
        super().__init__(scope, construct_id)
        mapping = lambda_.EventSourceMapping(
            self,
            "Mapping",
            target=function.target,
            event_source_arn=table.table_stream_arn,
            starting_position=lambda_.StartingPosition.TRIM_HORIZON,
            batch_size=batch,
            max_batching_window=window,
            bisect_batch_on_error=True,
            retry_attempts=STREAM_RETRIES,
            max_record_age=Duration.hours(12),
            report_batch_item_failures=True,
            on_failure=sources.SqsDlq(failures),
            filters=[lambda_.FilterCriteria.filter(dict(each)) for each in filters] or None,
        )
        self.mapping_id = mapping.event_source_mapping_id


class SweepSchedules(Construct):
    """A call a minute for each sweep, of the function that has its rights, with the sweep's name as the whole event."""

    def __init__(
        self, scope: Construct, construct_id: str, *, functions: Mapping[FunctionName, PythonFunction]
    ) -> None:
        super().__init__(scope, construct_id)
        for sweep, name in SWEEPS.items():
            rule = events.Rule(
                self,
                sweep.capitalize(),
                description=f"{name}: {sweep}",
                schedule=events.Schedule.rate(SWEEP_PERIOD),
                targets=[
                    targets.LambdaFunction(
                        functions[name].target,
                        event=events.RuleTargetInput.from_object({"sweep": sweep}),
                        # The next minute's call does the same work: a late one has no use.
                        retry_attempts=0,
                        max_event_age=Duration.minutes(1),
                    )
                ],
            )
            waive(
                rule, "Serverless-EventBusDLQ", "the event carries nothing; the next minute's call does the same work"
            )
