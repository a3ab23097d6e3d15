"""Services of mail."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.services.process import clock, settings

if TYPE_CHECKING:
    from karma.mail.service import OutboxRelay


@cache
def outbox_relay() -> OutboxRelay:
    """Return the service that enqueues written mails."""
    from karma.integrations.sqs import SqsQueue
    from karma.mail.repository import OutboxRepository
    from karma.mail.service import OutboxRelay

    outbox = OutboxRepository()
    return OutboxRelay(outbox=outbox, queue=SqsQueue(settings().mail_queue_url), clock=clock())
