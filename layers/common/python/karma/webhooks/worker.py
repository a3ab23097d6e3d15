"""The worker that sends what is due in one lane, while it has the lane's lease."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import repeat as repeat_of
from typing import Final, NamedTuple

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.clock import Clock, monotonic
from karma.core.errors import Upstream
from karma.core.ids import UserId, short_id
from karma.core.observability import count, logger
from karma.core.repeat import repeat
from karma.webhooks.domain import (
    FIRST_REST,
    GIVE_UP_AFTER,
    LONGEST_REST,
    PARALLEL,
    PAUSES,
    Agenda,
    Chance,
    Delivery,
    DeliveryAttempt,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    Lane,
    ReceiverAnswer,
    Webhook,
    WebhookChanged,
    WebhookStatus,
    headers_of,
)
from karma.webhooks.looks import send_look
from karma.webhooks.ports import Deliveries, LookQueue, PostFailed, Posts, Webhooks
from karma.webhooks.secrets import SigningSecrets

BEGIN_WITHIN_S: Final = 25.0
"""Seconds of an invocation in which attempts begin; the last ones take TIMEOUT_S more, and the lease is longer."""
MAX_WORKERS: Final = 3
"""Workers that an account has at a time, of the fifty that there are, however many of its receivers hang."""
_WAIT: Final = timedelta(seconds=1)
"""Time after which a lane asks again for a worker of its account, and up to that again."""
_LATER: Final = timedelta(minutes=1)
_CLEARED_PAGES: Final = 5
"""Hundreds of items of a deleted webhook that are removed at a time, in some seconds."""
_GONE: Final = 410


class _Outcome(NamedTuple):
    attempt: DeliveryAttempt
    retry_after: timedelta | None


class _Rests:
    """Hosts of runs' addresses that failed in this look: what else is due to them must not hold up other hosts."""

    def __init__(self) -> None:
        self._until: dict[str, datetime] = {}

    def until(self, delivery: Delivery) -> datetime | None:
        """Return the end of the rest of a delivery's host; None: it does not rest."""
        return self._until.get(delivery.host)

    def note(self, delivery: Delivery, outcome: _Outcome) -> None:
        """Let a delivery's host rest if the attempt has failed; one that answers does not rest."""
        attempt, retry_after = outcome
        if not delivery.host or attempt.error is None:
            return
        rest = FIRST_REST
        if attempt.status_code is None:
            # It costs each attempt its time, so it rests for half as long as this delivery waits: others go first then.
            rest = max(rest, PAUSES[min(delivery.round, len(PAUSES) - 1)] / 2)
        until = attempt.ended_at + min(max(rest, retry_after or rest), LONGEST_REST)
        self._until[delivery.host] = max(until, self._until.get(delivery.host, until))


class DeliveryWorker:
    """Sends deliveries, at least once each; several of one lane side by side, and few lanes of an account at a time."""

    def __init__(
        self,
        *,
        is_disabled: Callable[[UserId], bool],
        webhooks: Webhooks,
        deliveries: Deliveries,
        secrets: SigningSecrets,
        posts: Posts,
        queue: LookQueue,
        clock: Clock,
        chance: Chance = random.random,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self._is_disabled = is_disabled
        self._webhooks = webhooks
        self._deliveries = deliveries
        self._secrets = secrets
        self._posts = posts
        self._queue = queue
        self._clock = clock
        self._chance = chance
        self._timer = timer

    def look(self, user_id: UserId, lane: Lane, *, seconds: float = BEGIN_WITHIN_S) -> str:
        """Send what is due in a lane, and say in a word or two what was done; attempts begin within `seconds`.

        Raises:
            Upstream: the database or the keys' service does not answer; the lane is looked at again.
        """
        agenda = self._deliveries.take(user_id, lane, holder=short_id(), at=self._clock.now())
        if agenda is None:
            return "another worker has it"
        if self._workers_before(agenda) >= MAX_WORKERS:
            self._leave(agenda, look_at=self._clock.now() + _WAIT * (1 + self._chance()))
            return "the account has its workers"
        webhook = self._webhooks.get(user_id, agenda.webhook_id)
        if webhook is None:
            if self._deliveries.clear(agenda, pages=_CLEARED_PAGES):
                return "cleared"
            self._leave(agenda, look_at=self._clock.now())
            return "partly cleared"
        if self._is_disabled(user_id):
            return self._cancelled(agenda, until=self._timer() + seconds)
        agenda, sent = self._send(webhook, agenda, until=self._timer() + seconds)
        look_at = self._deliveries.next_due(agenda)
        if look_at is not None and agenda.is_resting(look_at):
            look_at = agenda.rests_until
        self._leave(agenda, look_at=look_at)
        return f"attempted {sent}"

    def _cancelled(self, agenda: Agenda, *, until: float) -> str:
        """Cancel what waits in the lane of an account that is disabled: nothing goes out in its name."""
        cancelled, far = 0, self._clock.now() + GIVE_UP_AFTER
        while self._timer() < until:
            batch = self._deliveries.due(agenda, at=far, limit=PARALLEL)
            closed = [each.closed(DeliveryStatus.CANCELLED) for each in batch.deliveries]
            settled = sum(map(self._deliveries.settle, batch.deliveries, closed))
            if not settled:
                break
            cancelled += settled
        self._leave(agenda, look_at=self._deliveries.next_due(agenda))
        return f"account disabled, cancelled {cancelled}"

    def _workers_before(self, agenda: Agenda) -> int:
        """Return how many workers of the account began before; those that begin at once agree on their order."""
        now, mine = self._clock.now(), (agenda.lease_until, agenda.lane)
        others = self._deliveries.agendas(agenda.user_id)
        leases = [(each.leased_until, each.lane) for each in others if each.leased_until and each.leased_until > now]
        return sum(lease < mine for lease in leases)

    def _leave(self, agenda: Agenda, *, look_at: datetime | None) -> None:
        now = self._clock.now()
        if not self._deliveries.release(agenda, look_at=look_at):
            look_at = now  # for what was added while the lease was ours, or asked for in spite of a rest
        if look_at is not None:
            send_look(self._queue, agenda.user_id, agenda.lane, at=look_at, now=now)

    def _signing(self, webhook: Webhook, agenda: Agenda) -> tuple[bytes, ...]:
        """Return the secrets; (): they cannot be read any more, which costs each delivery its attempt."""
        try:
            return self._secrets.of(webhook, now=self._clock.now())
        except Upstream as exc:
            if exc.code != DeliveryError.SECRET_LOST.value:
                self._leave(agenda, look_at=self._clock.now() + _LATER)
                raise
            logger.error("webhook.secret_lost", webhook_id=webhook.id)
            return ()

    def _send(self, webhook: Webhook, agenda: Agenda, *, until: float) -> tuple[Agenda, int]:
        """Send until nothing is due, the lane rests, or the time is over; return agenda and attempts.

        Address and secrets are those that the webhook has when a batch begins.
        """
        sent, rests = 0, _Rests()
        with ThreadPoolExecutor(max_workers=PARALLEL) as pool:
            while self._timer() < until:
                now = self._clock.now()
                if webhook.is_enabled and agenda.is_resting(now):
                    break
                goes_well = agenda.failures == 0 or agenda.is_shared
                side_by_side = PARALLEL if goes_well or not webhook.is_enabled else 1
                batch = self._deliveries.due(agenda, at=now, limit=side_by_side)
                if batch.webhook is None:
                    break
                webhook = batch.webhook
                live = [each for each in batch.deliveries if self._is_live(webhook, each, rests, now=now)]
                secrets = self._signing(webhook, agenda) if live else ()
                outcomes = list(pool.map(self._attempt, repeat_of(webhook), live, repeat_of(secrets)))
                # Before the deliveries are settled: a process that died between would leave nobody to find the 410.
                if not webhook.is_default and any(each.attempt.status_code == _GONE for each in outcomes):
                    webhook = self._disabled(webhook, DisabledReason.GONE)
                for delivery, outcome in zip(live, outcomes, strict=True):
                    sent += 1
                    agenda = self._note(delivery, outcome, agenda)
                    rests.note(delivery, outcome)
                if not webhook.is_default and webhook.is_enabled and agenda.is_hopeless(self._clock.now()):
                    webhook = self._disabled(webhook, DisabledReason.FAILING)
        return agenda, sent

    def _is_live(self, webhook: Webhook, delivery: Delivery, rests: _Rests, *, now: datetime) -> bool:
        """Tell whether a delivery is to be attempted; close it otherwise, or put it off while its host rests."""
        if not webhook.is_enabled:
            self._deliveries.settle(delivery, delivery.closed(DeliveryStatus.CANCELLED))
            return False
        if now - delivery.asked_at < GIVE_UP_AFTER:
            until = rests.until(delivery)
            if until is not None and until > now:
                self._deliveries.settle(delivery, replace(delivery, due_at=until))
                return False
            return True
        told = DeliveryAttempt(at=now, duration_ms=0, error=DeliveryError.EXPIRED)
        closed = replace(delivery.closed(DeliveryStatus.FAILED), attempts=(*delivery.attempts, told))
        self._deliveries.settle(delivery, closed)
        count("WebhookDeliveryFailed")
        return False

    def _attempt(self, webhook: Webhook, delivery: Delivery, secrets: Sequence[bytes]) -> _Outcome:
        at, began = self._clock.now(), self._timer()
        answered: ReceiverAnswer | None = None
        error: DeliveryError | None = DeliveryError.SECRET_LOST
        if secrets:
            try:
                headers = headers_of(delivery, secrets, at=at)
                answered = self._posts.post(delivery.url or webhook.url, delivery.payload.encode(), headers)
                error = _error_of(answered.status_code)
            except PostFailed as exc:
                error = exc.code
        attempt = DeliveryAttempt(
            at=at,
            duration_ms=int((self._timer() - began) * 1000),
            status_code=answered.status_code if answered else None,
            error=error,
        )
        return _Outcome(attempt, answered.retry_after if answered and error else None)

    def _note(self, delivery: Delivery, outcome: _Outcome, agenda: Agenda) -> Agenda:
        """Store what became of a delivery, and return what it says of the webhook."""
        attempt, retry_after = outcome
        after = delivery.attempted(attempt, retry_after=retry_after, chance=self._chance)
        if attempt.status_code == _GONE:
            after = after.closed(DeliveryStatus.FAILED)
        self._deliveries.settle(delivery, after)
        count("WebhookAttempt", outcome="succeeded" if attempt.error is None else attempt.error.value.lower())
        if after.status is DeliveryStatus.FAILED:
            count("WebhookDeliveryFailed")
        logger.info(
            "webhook.attempt",
            webhook_id=delivery.webhook_id,
            delivery_id=delivery.id,
            status=attempt.status_code,
            error=attempt.error,
            duration_ms=attempt.duration_ms,
        )
        return agenda.met(attempt, retry_after=retry_after, chance=self._chance)

    def _disabled(self, webhook: Webhook, reason: DisabledReason) -> Webhook:
        def once() -> Webhook:
            now = self._clock.now()
            stored = self._webhooks.get(webhook.user_id, webhook.id)
            if stored is None or stored.url != webhook.url:
                # Deleted, or moved to another address: what the old one did says nothing of it.
                return stored or webhook.next(now, status=WebhookStatus.DISABLED)
            if not stored.is_enabled:
                return stored
            new = stored.next(now, status=WebhookStatus.DISABLED, disabled_reason=reason)
            entry = AuditEntry(
                user_id=webhook.user_id,
                event=AuditEvent.WEBHOOK_DISABLED,
                at=now,
                actor_id=None,
                details={"webhook_id": webhook.id, "reason": reason.value},
            )
            self._webhooks.replace(stored, new, entry=entry)
            count("WebhookDisabled", reason=reason.value)
            logger.info("webhook.disabled", webhook_id=webhook.id, reason=reason.value)
            return new

        return repeat(once, on=(WebhookChanged,))


def _error_of(status_code: int) -> DeliveryError | None:
    if 200 <= status_code < 300:
        return None
    return DeliveryError.REDIRECTED if 300 <= status_code < 400 else DeliveryError.STATUS
