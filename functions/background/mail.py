"""The mail worker: one SQS message a mail id; karma/mail/service.py decides what is sent."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from karma.core.batch import Ids, each_message
from karma.core.clock import SystemClock
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.dynamo.tables import bind_tables
from karma.core.ids import is_id
from karma.core.settings import FunctionSettings, load
from karma.identity.accounts.correspondence import Correspondence
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.limits import UnprovenMails
from karma.integrations.ses import SesSender
from karma.mail.repository import OutboxRepository
from karma.mail.service import MailWorker

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


class Settings(FunctionSettings, kw_only=True):
    """Variables of this function."""

    identity_table: str
    public_url: str
    """The web application that links lead to, without a slash at its end."""
    mail_sender: str
    """Sender in From, e.g. `Karma <no-reply@example.com>`."""
    mail_configuration_set: str


@cache
def services() -> MailWorker:
    """Build the mail worker once a process."""
    settings = load(Settings)
    bind_tables(settings)
    return MailWorker(
        outbox=OutboxRepository(),
        recipients=Correspondence(people=UserRepository(), tokens=OneTimeRepository()),
        sender=SesSender(sender=settings.mail_sender, configuration_set=settings.mail_configuration_set),
        unproven=UnprovenMails(DynamoBuckets()),
        clock=SystemClock(),
        public_url=settings.public_url,
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Send a batch; each message that fails is delivered again by itself."""
    return each_message(event, context.aws_request_id, name="mail", read=_read, handle=_send)


def _read(body: str) -> tuple[str, Ids]:
    if not is_id(body):
        raise ValueError("names no mail")
    return body, {"mail_id": body}


def _send(mail_id: str) -> str:
    state = services().deliver(mail_id)
    return state.value if state else "unknown"
