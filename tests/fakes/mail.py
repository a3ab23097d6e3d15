"""The outbox, its queue and the provider in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from karma.core.clock import Clock
from karma.integrations.sqs import QueueUnavailable
from karma.mail.domain import DUE_AFTER, Letter, Mail, MailState
from karma.mail.ports import DueMail, MailRefused, MailUnavailable
from karma.mail.service import OutboxRelay


@dataclass
class MemoryOutbox:
    """Mails by id, as OutboxRepository stores them."""

    mails: dict[str, Mail] = field(default_factory=dict)
    due_at: dict[str, datetime] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)

    def add(self, mail: Mail) -> None:
        self.mails[mail.id] = mail
        self.due_at[mail.id] = mail.created_at + DUE_AFTER
        self.attempts[mail.id] = 0

    def get(self, mail_id: str) -> Mail | None:
        return self.mails.get(mail_id)

    def close(self, mail: Mail, state: MailState, *, now: datetime) -> None:
        found = self.mails.get(mail.id)
        if found is None or found.state is not MailState.PENDING:
            return
        del self.due_at[mail.id]
        if state is MailState.NOT_NEEDED:
            del self.mails[mail.id]
        else:
            self.mails[mail.id] = replace(found, state=state, to=None)

    def due(self, now: datetime, *, limit: int) -> list[DueMail]:
        late = sorted((due_at, mail_id) for mail_id, due_at in self.due_at.items() if due_at < now)
        return [DueMail(mail_id, self.attempts[mail_id]) for _, mail_id in late[:limit]]

    def postpone(self, mail_id: str, *, until: datetime) -> bool:
        if mail_id not in self.due_at:
            return False
        self.due_at[mail_id] = until
        self.attempts[mail_id] += 1
        return True


@dataclass
class MemoryQueue:
    """Bodies in the order of sending; `broken` refuses them."""

    bodies: list[str] = field(default_factory=list)
    broken: bool = False

    def send(self, body: str) -> None:
        self.send_many([body])

    def send_many(self, bodies: list[str]) -> None:
        if self.broken:
            raise QueueUnavailable("The queue did not answer; try again")
        self.bodies += bodies


@dataclass
class MemorySender:
    """Letters in the order of sending, with their address."""

    sent: list[tuple[str, Letter]] = field(default_factory=list)
    broken: bool = False
    refused: frozenset[str] = frozenset()

    def send(self, letter: Letter, *, to: str) -> None:
        if self.broken:
            raise MailUnavailable("The mail provider did not answer; try again")
        if to in self.refused:
            raise MailRefused
        self.sent.append((to, letter))


def outbox_relay(outbox: MemoryOutbox, clock: Clock, queue: MemoryQueue | None = None) -> OutboxRelay:
    return OutboxRelay(outbox=outbox, queue=queue or MemoryQueue(), clock=clock)
