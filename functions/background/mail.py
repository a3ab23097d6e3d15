"""The mail worker: one SQS message a mail id; karma/mail/service.py decides what is sent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from karma.core.clock import SystemClock
from karma.core.dynamo.tables import bind_tables
from karma.core.errors import AppError
from karma.core.ids import is_id
from karma.core.observability import count, logger
from karma.core.settings import FunctionSettings, load
from karma.identity.accounts.correspondence import Correspondence
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.accounts.repository.users import UserRepository
from karma.integrations.ses import SesSender
from karma.mail.repository import OutboxRepository
from karma.mail.service import MailWorker

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@dataclass(frozen=True, kw_only=True)
class Settings(FunctionSettings):
    """Variables of this function."""

    identity_table: str
    public_url: str
    """The web application that links lead to, without a slash at its end."""
    mail_sender: str
    """Sender in From, e.g. `Karma <no-reply@example.com>`."""
    mail_configuration_set: str


@cache
def courier() -> MailWorker:
    """Build the mail worker once a process."""
    settings = load(Settings)
    bind_tables(settings)
    return MailWorker(
        outbox=OutboxRepository(),
        recipients=Correspondence(people=UserRepository(), tokens=OneTimeRepository()),
        sender=SesSender(sender=settings.mail_sender, configuration_set=settings.mail_configuration_set),
        clock=SystemClock(),
        public_url=settings.public_url,
    )


def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Send a batch; each message that fails is delivered again by itself."""
    service = courier()
    failed = [record["messageId"] for record in event["Records"] if not _handled(service, record["body"], context)]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _handled(service: MailWorker, mail_id: str, context: LambdaContext) -> bool:
    request_id = context.aws_request_id
    if not is_id(mail_id):
        logger.error("mail.message_unreadable", request_id=request_id)
        return False
    try:
        state = service.deliver(mail_id)
    except AppError as error:
        logger.warning("mail.failed", code=error.code, mail_id=mail_id, request_id=request_id)
        return False
    except Exception:  # noqa: BLE001  the process edge of one message
        count("UnhandledError")
        logger.exception("mail.failed", mail_id=mail_id, request_id=request_id)
        return False
    logger.info("mail.handled", state=state.value if state else "unknown", mail_id=mail_id, request_id=request_id)
    return True
