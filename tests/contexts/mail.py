"""Declarations of mail for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from functools import cached_property

from karma.mail.domain import Mail, MailKind, MailState
from karma.mail.repository import OutboxRepository
from tests.fakes.mail import MemoryOutbox
from tests.support.contexts import Checks, Fakes, Scenarios, made
from tests.support.rows import DAY, LATER, NOW, AccountRows


class MailRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.outbox = OutboxRepository()

    @property
    def mail(self) -> Mail:
        return Mail(kind=MailKind.PASSWORD_CHANGED, user_id=self.ada.id, created_at=NOW, to=self.ada.email)

    @cached_property
    def pending(self) -> Mail:
        mail = self.mail
        self.outbox.add(mail)
        return mail


FAKES: Fakes = {MemoryOutbox: (OutboxRepository,)}

SCENARIOS = Scenarios[MailRows](
    MailRows,
    {
        "OutboxRepository.add": made(lambda r: r.mail, lambda r, mail: r.outbox.add(mail)),
        "OutboxRepository.get": made(lambda r: r.pending, lambda r, mail: r.outbox.get(mail.id)),
        "OutboxRepository.close": made(
            lambda r: r.pending, lambda r, mail: r.outbox.close(mail, MailState.SENT, now=LATER)
        ),
        "OutboxRepository.due": made(lambda r: r.pending, lambda r, _: r.outbox.due(NOW + DAY, limit=5)),
        "OutboxRepository.postpone": made(lambda r: r.pending, lambda r, mail: r.outbox.postpone(mail.id, until=LATER)),
    },
)


OUTLIVES = Checks[MailRows](
    MailRows,
    {
        # A mail that was sent is not sent again.
        "mail": lambda r: r.outbox.close(r.pending, MailState.SENT, now=NOW),
    },
)
