"""Messages of a queue, looked at without receiving them."""

from __future__ import annotations

from tests.support.stack import Stack


def delayed_messages(stack: Stack, queue: str) -> int:
    """Count the messages of a queue that cannot be received yet."""
    name = "ApproximateNumberOfMessagesDelayed"
    found = stack.aws("sqs").get_queue_attributes(QueueUrl=stack.queues[queue], AttributeNames=[name])
    return int(found["Attributes"][name])
