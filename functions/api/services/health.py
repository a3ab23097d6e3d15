"""Probes of `/health`."""

from __future__ import annotations

from functools import cache

from api.services import files
from api.services.process import settings
from karma.core import aws
from karma.core.health import Health, HealthComponent


@cache
def probes() -> Health:
    """Return the probes of all that the API depends on, and may reach."""
    table = settings().identity_table
    queue_url = settings().inbox_queue_url

    def database() -> None:
        aws.client("dynamodb").get_item(TableName=table, Key={"pk": {"S": "HEALTH"}, "sk": {"S": "HEALTH"}})

    def queue() -> None:
        aws.client("sqs").get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])

    def storage() -> None:
        files.store().probe()

    def messaging() -> None:
        aws.client("iot").describe_endpoint(endpointType="iot:Data-ATS")

    return Health(
        {
            "database": HealthComponent(probe=database),
            "cache": HealthComponent(probe=database, replaced="dynamodb"),
            "redis": HealthComponent(probe=database, replaced="dynamodb"),
            "queue": HealthComponent(probe=queue if queue_url else None),
            "messaging": HealthComponent(probe=messaging),
            "storage": HealthComponent(probe=storage),
            "llm": HealthComponent(probe=None, note="models are called by the streaming function only"),
        }
    )
