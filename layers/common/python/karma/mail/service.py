"""The outbox's two ends: the post office enqueues what was written, the courier sends what was enqueued."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from karma.core.clock import Clock
from karma.core.errors import Upstream
from karma.core.ids import is_id
from karma.core.observability import count, logger
from karma.mail.domain import DUE_AFTER, SEND_WITHIN, Mail, MailState
from karma.mail.ports import MailRefused, Outbox, Queue, Recipients, Sender
from karma.mail.texts import compose

_SWEEP_LIMIT = 500
_LONGEST_PAUSE = timedelta(hours=6)


class PostOffice:
    """Sees to it that written mails are sent."""

    def __init__(self, *, outbox: Outbox, queue: Queue, clock: Clock) -> None:
        self._outbox = outbox
        self._queue = queue
        self._clock = clock

    def post(self, mail: Mail) -> None:
        """Write a mail that nothing else is written with, and enqueue it."""
        self.write([mail])
        self.dispatch([mail])

    def write(self, mails: Sequence[Mail]) -> None:
        """Write mails that nothing else is written with; `dispatch` enqueues them once what they tell of is done."""
        for mail in mails:
            self._outbox.add(mail)

    def dispatch(self, mails: Sequence[Mail]) -> None:
        """Enqueue mails that were just written; what the queue does not take now the sweep sends in two minutes."""
        for mail in mails:
            try:
                self._queue.send(mail.id)
            except Upstream as error:
                logger.warning("mail.not_enqueued", mail_id=mail.id, code=error.code)

    def requeue_due(self) -> int:
        """Enqueue every pending mail whose time has come, up to 500; the pause doubles with each attempt, to 6 h.

        The due time moves before the message is sent: a crash in between costs a pause, not a storm of messages.
        """
        now = self._clock.now()
        sent: list[str] = []
        for due in self._outbox.due(now, limit=_SWEEP_LIMIT):
            pause = min(DUE_AFTER * 2 ** min(due.attempts, 20), _LONGEST_PAUSE)
            if self._outbox.postpone(due.mail_id, until=now + pause):
                sent.append(due.mail_id)
        self._queue.send_many(sent)
        if sent:
            count("MailRequeued", len(sent))
        return len(sent)


class Courier:
    """Sends one mail at a time, at least once: a crash between sending and noting it sends it again."""

    def __init__(
        self, *, outbox: Outbox, recipients: Recipients, sender: Sender, clock: Clock, public_url: str
    ) -> None:
        """`public_url` is the web application that links lead to, without a slash at its end."""
        self._outbox = outbox
        self._recipients = recipients
        self._sender = sender
        self._clock = clock
        self._public_url = public_url

    def deliver(self, mail_id: str) -> MailState | None:
        """Send a mail unless it is closed; return its state, None when there is no such mail.

        Raises:
            MailUnavailable: the provider did not take it.
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
        try:
            self._sender.send(compose(addressed, public_url=self._public_url), to=addressed.to)
        except MailRefused:
            return MailState.REFUSED
        return MailState.SENT
