"""Messages of a queue: counted without being received, or taken from it."""

from __future__ import annotations

from tests.support.stack import Stack


def delayed_messages(stack: Stack, queue: str) -> int:
    """Count the messages of a queue that cannot be received yet."""
    name = "ApproximateNumberOfMessagesDelayed"
    found = stack.aws("sqs").get_queue_attributes(QueueUrl=stack.queues[queue], AttributeNames=[name])
    return int(found["Attributes"][name])


def received(stack: Stack, queue: str) -> list[str]:
    """Take up to ten messages that can be received now from a queue; return their bodies."""
    sqs, url = stack.aws("sqs"), stack.queues[queue]
    found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    for message in found:
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return [message["Body"] for message in found]
