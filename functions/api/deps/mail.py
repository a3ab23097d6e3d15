"""Services of mail."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from api.deps.process import clock, settings

if TYPE_CHECKING:
    from karma.mail.service import PostOffice


@cache
def post_office() -> PostOffice:
    """Return the service that enqueues written mails."""
    from karma.integrations.sqs import SqsQueue
    from karma.mail.repository import OutboxRepository
    from karma.mail.service import PostOffice

    outbox = OutboxRepository()
    return PostOffice(outbox=outbox, queue=SqsQueue(settings().mail_queue_url), clock=clock())
