"""Declarations of webhooks for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.errors import AlreadyExists
from karma.core.ids import UserId, new_id
from karma.core.requests import RETENTION
from karma.webhooks.domain import (
    EVERYTHING,
    MAX_PAYLOAD_BYTES,
    MAX_URL_CHARS,
    MAX_WEBHOOKS,
    Agenda,
    Delivery,
    DeliveryAttempt,
    DeliveryId,
    DueLook,
    Webhook,
    WebhookId,
    WebhookStatus,
)
from karma.webhooks.domain import RETENTION as KEPT
from karma.webhooks.repository.deliveries import DeliveryRepository
from karma.webhooks.repository.webhooks import WebhookRepository
from tests.fakes.webhooks import MemoryDeliveries, MemoryWebhooks
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Checks, Fakes, Pages, Scenarios, made
from tests.support.requests import asked
from tests.support.rows import NOW, AccountRows


def a_webhook(user_id: UserId, *, webhook_id: str = "", url: str = "https://app.example.com/hook") -> Webhook:
    """Return a webhook that is told everything."""
    return Webhook(
        id=WebhookId(webhook_id or new_id()),
        user_id=user_id,
        url=url,
        description="",
        events=(EVERYTHING,),
        status=WebhookStatus.ENABLED,
        sealed=b"sealed",
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


def a_delivery(webhook: Webhook, *, due_at: datetime = NOW, delivery_id: str = "") -> Delivery:
    """Return a pending delivery."""
    return Delivery(
        id=DeliveryId(delivery_id or new_id()),
        user_id=webhook.user_id,
        webhook_id=webhook.id,
        type="run.finished",
        payload='{"type":"run.finished"}',
        due_at=due_at,
        made_at=NOW,
        asked_at=NOW,
    )


def an_entry(user_id: UserId, event: AuditEvent = AuditEvent.WEBHOOK_CHANGED) -> AuditEntry:
    """Return an entry of the audit log."""
    return AuditEntry(user_id=user_id, event=event, at=NOW, actor_id=user_id, details={"webhook_id": "w"})


class WebhookRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.store = WebhookRepository()
        self.deliveries = DeliveryRepository()

    @cached_property
    def first(self) -> Webhook:
        webhook = a_webhook(self.ada.id)
        self.create(webhook, request=asked("t"))
        return webhook

    @cached_property
    def pending(self) -> Delivery:
        delivery = a_delivery(self.first)
        self.deliveries.add(delivery)
        return delivery

    @cached_property
    def succeeded(self) -> Delivery:
        attempt = DeliveryAttempt(at=NOW, duration_ms=1, status_code=200)
        done = self.pending.attempted(attempt, chance=lambda: 0.0)
        assert self.deliveries.settle(self.pending, done)
        return done

    @cached_property
    def taken(self) -> Agenda:
        waiting = self.pending
        agenda = self.deliveries.take(waiting.user_id, waiting.lane, holder="h", at=NOW)
        assert agenda is not None
        return agenda

    def create(self, webhook: Webhook, **more: Any) -> None:
        given = {"request": None, "entry": an_entry(webhook.user_id, AuditEvent.WEBHOOK_CREATED), **more}
        self.store.create(webhook, seen=self.store.listed(webhook.user_id), **given)

    def look(self) -> DueLook:
        waiting = self.pending
        return DueLook(user_id=waiting.user_id, lane=waiting.lane, at=NOW)


FAKES: Fakes = {MemoryWebhooks: (WebhookRepository,), MemoryDeliveries: (DeliveryRepository,)}

SCENARIOS = Scenarios[WebhookRows](
    WebhookRows,
    {
        "WebhookRepository.get": made(lambda r: r.first, lambda r, w: r.store.get(w.user_id, w.id)),
        "WebhookRepository.all": made(lambda r: r.first, lambda r, w: r.store.all(w.user_id)),
        "WebhookRepository.listed": made(lambda r: r.first, lambda r, w: r.store.listed(w.user_id)),
        "WebhookRepository.made_by": made(lambda r: r.first, lambda r, w: r.store.made_by(w.user_id, asked("t"))),
        "WebhookRepository.create": made(
            lambda r: (a_webhook(r.ada.id), r.store.listed(r.ada.id)),
            lambda r, w: r.store.create(w[0], seen=w[1], request=asked("t"), entry=an_entry(w[0].user_id)),
        ),
        "WebhookRepository.replace": made(
            lambda r: r.first,
            lambda r, w: r.store.replace(
                w, w.next(NOW, url="https://x.example"), entry=an_entry(w.user_id), fresh=True
            ),
        ),
        "WebhookRepository.delete": made(
            lambda r: (r.first, r.store.listed(r.ada.id)),
            lambda r, w: r.store.delete(w[0], seen=w[1], entry=an_entry(w[0].user_id)),
        ),
        "WebhookRepository.purge_account": made(
            lambda r: (r.pending, r.purge()), lambda r, n: r.store.purge_account(n[1])
        ),
        "DeliveryRepository.add": made(lambda r: a_delivery(r.first), lambda r, d: r.deliveries.add(d)),
        "DeliveryRepository.get": made(
            lambda r: r.pending, lambda r, d: r.deliveries.get(d.user_id, d.webhook_id, d.id)
        ),
        "DeliveryRepository.page": made(
            lambda r: r.pending, lambda r, d: r.deliveries.page(d.user_id, d.webhook_id, below="", limit=5)
        ),
        "DeliveryRepository.due": made(lambda r: r.taken, lambda r, a: r.deliveries.due(a, at=NOW, limit=5)),
        "DeliveryRepository.next_due": made(lambda r: r.taken, lambda r, a: r.deliveries.next_due(a)),
        "DeliveryRepository.agendas": made(lambda r: r.taken, lambda r, a: r.deliveries.agendas(a.user_id)),
        "DeliveryRepository.settle": made(
            lambda r: r.pending, lambda r, d: r.deliveries.settle(d, d.again(NOW + timedelta(seconds=1)), anew=True)
        ),
        "DeliveryRepository.take": made(
            lambda r: r.pending, lambda r, d: r.deliveries.take(d.user_id, d.lane, holder="x", at=NOW)
        ),
        "DeliveryRepository.release": made(lambda r: r.taken, lambda r, a: r.deliveries.release(a, look_at=NOW)),
        "DeliveryRepository.clear": made(lambda r: r.taken, lambda r, a: r.deliveries.clear(a, pages=1)),
        "DeliveryRepository.to_look_at": made(lambda r: r.pending, lambda r, _: r.deliveries.to_look_at(NOW, limit=5)),
        "DeliveryRepository.postpone": made(
            lambda r: r.look(), lambda r, look: r.deliveries.postpone(look, until=NOW + timedelta(minutes=2))
        ),
    },
)


def _made_webhook_over(rows: WebhookRows) -> None:
    rows.first  # noqa: B018
    again = a_webhook(rows.ada.id)
    with pytest.raises(AlreadyExists):
        rows.create(again, request=asked("t"))
    rows.create(again, request=asked("t", at=NOW + RETENTION))


def _delivery_over(rows: WebhookRows) -> None:
    from tests.unit.webhooks.world import service_over

    done = rows.succeeded
    shown = service_over(rows.store, rows.deliveries, at=NOW + KEPT - timedelta(seconds=1))
    assert shown.deliveries(done.user_id, done.webhook_id, below="", limit=5).deliveries
    over = service_over(rows.store, rows.deliveries, at=NOW + KEPT)
    assert not over.deliveries(done.user_id, done.webhook_id, below="", limit=5).deliveries


EXPIRES = Checks[WebhookRows](WebhookRows, {"webhook_request": _made_webhook_over, "webhook_delivery": _delivery_over})


def _webhook(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/webhooks", {"url": "https://app.example.com/hook"})["webhook"]["id"])


def _test_delivery(world: World, owner: str, ids: Mapping[str, str]) -> str:
    return str(world.create(owner, f"/api/v1/webhooks/{ids['webhook_id']}/test", {})["delivery"]["id"])


OBJECTS: Objects = {"webhook_id": _webhook, "delivery_id": _test_delivery}

PAGES: Pages = {
    "webhooks": (MAX_WEBHOOKS, 2 * MAX_URL_CHARS + 10_000),
    "webhooks/{webhook_id}/deliveries": (100, MAX_PAYLOAD_BYTES + 5_000),
}

BODIES: Bodies = {
    "POST /api/v1/webhooks": lambda _, __: {"url": "https://app.example.com/hook"},
    "PATCH /api/v1/webhooks/{webhook_id}": lambda _, __: {"description": "other"},
}
