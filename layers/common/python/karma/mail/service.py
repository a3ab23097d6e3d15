"""The two services of the outbox: one enqueues mails that were stored, the mail worker sends enqueued ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.ids import is_id
from karma.core.observability import count, logger
from karma.mail.domain import DUE_AFTER, SEND_WITHIN, Mail, MailState
from karma.mail.ports import DueMail, MailRefused, MailUnavailable, Outbox, Queue, Recipients, Sender, Unproven
from karma.mail.texts import compose

_SWEEP_LIMIT = 500
_LONGEST_PAUSE = timedelta(hours=6)


class OutboxRelay:
    """Enqueues stored mails, and those again that were not sent in time."""

    def __init__(self, *, outbox: Outbox, queue: Queue, clock: Clock) -> None:
        self._outbox = outbox
        self._queue = queue
        self._clock = clock

    def post(self, mail: Mail) -> None:
        """Store a mail that is not part of another transaction, and enqueue it."""
        self.write([mail])
        self.dispatch([mail])

    def write(self, mails: Sequence[Mail]) -> None:
        """Store mails that are not part of another transaction; `dispatch` enqueues them once their cause is done."""
        for mail in mails:
            self._outbox.add(mail)

    def dispatch(self, mails: Sequence[Mail]) -> None:
        """Enqueue mails that were just stored; those that the queue does not accept the sweep sends in two minutes."""
        for mail in mails:
            try:
                self._queue.send(mail.id)
            except Upstream as error:
                logger.warning("mail.not_enqueued", mail_id=mail.id, code=error.code)

    def requeue_due(self) -> int:
        """Enqueue pending mails whose due time has passed, up to 500; the pause doubles with each attempt, up to 6 h.

        The due time moves before the message is sent: a crash in between delays a mail, and never sends many messages.
        """
        from karma.core.sweeping import sweep_each  # local: those who do no sweep do without

        now = self._clock.now()
        sent: list[str] = []

        def move(due: DueMail) -> int:
            pause = min(DUE_AFTER * 2 ** min(due.attempts, 20), _LONGEST_PAUSE)
            if self._outbox.postpone(due.mail_id, until=now + pause):
                sent.append(due.mail_id)
            return 0

        found = self._outbox.due(now, limit=_SWEEP_LIMIT)
        sweep_each("mail", found, move, name=lambda due: due.mail_id, clock=self._clock)
        self._queue.send_many(sent)
        if sent:
            count("MailRequeued", len(sent))
        return len(sent)


class MailWorker:
    """The mail worker: sends one mail at a time, at least once; a crash after sending sends it again."""

    def __init__(
        self,
        *,
        outbox: Outbox,
        recipients: Recipients,
        sender: Sender,
        unproven: Unproven,
        clock: Clock,
        public_url: str,
    ) -> None:
        """Make a worker.

        `unproven` limits mails to addresses that nobody has proven, of all kinds together; `public_url` is the web
        application to which links lead, without a slash at its end.
        """
        self._outbox = outbox
        self._recipients = recipients
        self._sender = sender
        self._unproven = unproven
        self._clock = clock
        self._public_url = public_url

    def deliver(self, mail_id: str) -> MailState | None:
        """Send a pending mail; return its state, None when there is no such mail.

        Raises:
            MailUnavailable: the provider did not accept the mail.
        """
        mail = self._outbox.get(mail_id) if is_id(mail_id) else None
        if mail is None or mail.state is not MailState.PENDING:
            return mail.state if mail else None
        state = self._send(mail)
        self._outbox.close(mail, state, now=self._clock.now())
        count("MailRefused" if state is MailState.REFUSED else "MailClosed", kind=mail.kind.value, state=state.value)
        return state

    def _send(self, mail: Mail) -> MailState:
        now = self._clock.now()
        if now - mail.created_at > SEND_WITHIN:
            return MailState.TOO_LATE
        addressed = self._recipients.address(mail, now=now)
        if addressed is None:
            return MailState.NOT_NEEDED
        if not addressed.proven and not self._unproven.take(now=now):
            return MailState.TOO_MANY
        try:
            self._sender.send(compose(addressed, public_url=self._public_url), to=addressed.to)
        except MailRefused:
            return MailState.REFUSED
        except MailUnavailable:
            if not addressed.proven:
                self._unproven.give_back(now=now)
            raise
        return MailState.SENT
