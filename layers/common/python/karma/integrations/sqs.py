"""SQS for services: send one text, or many."""

from __future__ import annotations

from typing import Any

from karma.core import aws
from karma.core.errors import Upstream
from karma.core.faults import AWS_FAULTS, upstream_of

_BATCH = 10
"""SQS's limit on one SendMessageBatch."""


class QueueUnavailable(Upstream):
    """The queue did not accept a message; it may be sent again."""

    status = 503
    code = "QUEUE_UNAVAILABLE"
    retry_after_s = 1


class SqsQueue:
    """One queue, by its URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def send(self, body: str, *, delay_s: int = 0, group: str = "") -> None:
        """Enqueue one body; it becomes visible after `delay_s` seconds, at most 900.

        Of a group, such as an account, that holds many of the queue's consumers SQS delivers the others' messages first
        (fair queues); messages of none are each a group of their own.

        Raises:
            QueueUnavailable: SQS did not accept the message, or did not answer.
        """
        grouped: dict[str, Any] = {"MessageGroupId": group} if group else {}
        try:
            aws.client("sqs").send_message(QueueUrl=self._url, MessageBody=body, DelaySeconds=delay_s, **grouped)
        except AWS_FAULTS as exc:
            raise _public(exc) from exc

    def send_many(self, bodies: list[str]) -> None:
        """Enqueue any number of bodies, ten a call.

        Raises:
            QueueUnavailable: SQS did not accept at least one message, or did not answer.
        """
        for start in range(0, len(bodies), _BATCH):
            entries = [
                {"Id": str(index), "MessageBody": body} for index, body in enumerate(bodies[start : start + _BATCH])
            ]
            try:
                answer = aws.client("sqs").send_message_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]
            except AWS_FAULTS as exc:
                raise _public(exc) from exc
            if answer.get("Failed"):
                raise QueueUnavailable("The queue refused a message; try again")


def _public(exc: Exception) -> Upstream:
    found = upstream_of(exc, system="The queue", busy=QueueUnavailable, unavailable=QueueUnavailable)
    return found or QueueUnavailable("The queue did not take a message; try again")
