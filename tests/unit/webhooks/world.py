"""Webhooks on fakes: a service, a fan-out and a worker over one store, a receiver that answers as a test says."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from karma.audit.domain import NOWHERE
from karma.core.happenings import Happening
from karma.core.ids import UserId, derived_id, new_id
from karma.integrations.guard import is_public
from karma.webhooks.domain import Delivery, DeliveryError, ReceiverAnswer, Webhook
from karma.webhooks.fanout import Fanout
from karma.webhooks.looks import read_look, send_due_looks
from karma.webhooks.ports import Deliveries, PostFailed, Webhooks
from karma.webhooks.secrets import SigningSecrets
from karma.webhooks.service import NewWebhook, OutgoingWebhooks, ShownWebhook
from karma.webhooks.worker import DeliveryWorker
from tests.fakes.identity import MovableClock
from tests.fakes.webhooks import HeardPosts, HeardQueue, MemoryDeliveries, MemoryWebhooks, PlainSeal
from tests.support.requests import key

TYPES = ("run.failed", "run.finished")
ADA = UserId(new_id())


class SetTime:
    """A clock that stands still."""

    def __init__(self, at: datetime) -> None:
        self._at = at

    def now(self) -> datetime:
        return self._at


def service_over(store: Webhooks, deliveries: Deliveries, *, at: datetime) -> OutgoingWebhooks:
    """Return a service over stores that are there, at a moment."""
    secrets = SigningSecrets(PlainSeal())
    return OutgoingWebhooks(
        store,
        deliveries,
        secrets,
        HeardQueue(),
        SetTime(at),
        known_types=lambda: TYPES,
        is_allowed=is_public,
    )


class World:
    """Webhooks of accounts, and what their receivers get."""

    def __init__(self) -> None:
        self.store, self.queue, self.clock = MemoryWebhooks(), HeardQueue(), MovableClock()
        self.deliveries = MemoryDeliveries(self.store)
        self.secrets = SigningSecrets(PlainSeal())
        self.answers: Any = 200
        """Status of the receiver, or what it is called with to tell."""
        self.posts = HeardPosts(self._answer)
        self.service = OutgoingWebhooks(
            self.store,
            self.deliveries,
            self.secrets,
            self.queue,
            self.clock,
            known_types=lambda: TYPES,
            is_allowed=is_public,
        )
        self.fanout = Fanout(self.store, self.deliveries, self.queue, self.clock)
        self._numbers = itertools.count()

    def _answer(self, headers: Mapping[str, str], payload: bytes) -> ReceiverAnswer | PostFailed:
        answer = self.answers(headers, payload) if callable(self.answers) else self.answers
        if isinstance(answer, DeliveryError):
            return PostFailed(answer)
        return answer if isinstance(answer, ReceiverAnswer) else ReceiverAnswer(status_code=answer)

    def worker(self) -> DeliveryWorker:
        """Return a worker, as another process would have it."""
        return DeliveryWorker(
            is_disabled=self.store.disabled_accounts.__contains__,
            webhooks=self.store,
            deliveries=self.deliveries,
            secrets=self.secrets,
            posts=self.posts,
            queue=self.queue,
            clock=self.clock,
            chance=lambda: 0.0,
            timer=lambda: self.clock.at.timestamp(),
        )

    def create(self, *events: str, user: UserId = ADA, again: str = "", **more: Any) -> ShownWebhook:
        """Make a webhook; without events, for all."""
        wanted = NewWebhook(
            **{"url": "https://app.example.com/hook", "events": events or ("*",), "description": "", **more}
        )
        return self.service.create(user, wanted, source=NOWHERE, idempotency_key=key(again) if again else None)

    def happening(self, event_type: str = "run.finished", *, user: UserId = ADA, name: str = "") -> Happening:
        """Return an event; the same `name` gives the same one."""
        at = self.clock.now()
        return Happening(
            id=derived_id(at, name or str(next(self._numbers))),
            user_id=user,
            type=event_type,
            at=at,
            data={"run_id": "r"},
        )

    def tell(self, *happenings: Happening) -> int:
        """Fan events out."""
        return self.fanout.tell(happenings or [self.happening()])

    def work(self) -> list[str]:
        """Handle all messages that are there by now, and return what the worker says of each."""
        sent, self.queue.sent = self.queue.sent, []
        now = [body for body, delay_s in sent if delay_s == 0]
        self.queue.sent = [each for each in sent if each[1]]
        return [self.worker().look(*read_look(body)) for body in now]

    def later(self, pause: timedelta) -> list[str]:
        """Let time pass: late messages come, the sweep sends others, and all are handled."""
        self.clock.at += pause
        came = pause.total_seconds()
        self.queue.sent = [(body, max(0, int(delay_s - came))) for body, delay_s in self.queue.sent]
        send_due_looks(self.deliveries, self.queue, self.clock)
        return self.work()

    def only(self, webhook: Webhook) -> Delivery:
        """Return the one delivery of a webhook."""
        [delivery] = self.deliveries.page(webhook.user_id, webhook.id, below="", limit=10)
        return delivery

    def only_made(self) -> Delivery:
        """Tell one event, and return its delivery."""
        self.tell()
        [delivery] = self.store.deliveries.values()
        return delivery
