"""Webhooks and deliveries: one suite for the stores in memory and for DynamoDB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from karma.audit.domain import AuditEvent
from karma.core.clock import monotonic
from karma.core.errors import AlreadyExists, NotFound
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.identity.transactional import AccountGone
from karma.webhooks.domain import (
    DEFAULT,
    LEASE,
    Agenda,
    DeliveryAttempt,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    DueLook,
    Webhook,
    WebhookChanged,
    WebhookStatus,
)
from karma.webhooks.ports import Deliveries, WebhookList, Webhooks
from karma.webhooks.repository.deliveries import DeliveryRepository
from karma.webhooks.repository.webhooks import WebhookRepository
from tests.contexts.webhooks import a_delivery, a_webhook, an_entry
from tests.fakes.webhooks import MemoryDeliveries, MemoryWebhooks
from tests.support.accounts import disable_account, open_account
from tests.support.requests import asked
from tests.support.rows import NOW
from tests.support.stores import Database, Store

USER, OTHER, GONE = (UserId(new_id()) for _ in range(3))
NOTHING = WebhookList(ids=(), version=0)
SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Stores:
    """The two stores, over the same items."""

    webhooks: Webhooks
    deliveries: Deliveries

    def create(self, webhook: Webhook, token: str = "") -> Webhook:
        seen = self.webhooks.listed(webhook.user_id)
        self.webhooks.create(
            webhook, seen=seen, request=asked(token) if token else None, entry=an_entry(webhook.user_id)
        )
        return webhook

    def take(self, webhook: Webhook, holder: str = "h", seconds: float = 0) -> Agenda | None:
        at = NOW + timedelta(seconds=seconds)
        return self.deliveries.take(webhook.user_id, webhook.lane, holder=holder, at=at)


@pytest.fixture
def stores(store: Store) -> Stores:
    if store.in_memory:
        memory = MemoryWebhooks(deleted_accounts={GONE})
        return Stores(memory, MemoryDeliveries(memory))
    return stored(store.database)


def stored(_: Database) -> Stores:
    for user in (USER, OTHER):
        open_account(user)
    return Stores(WebhookRepository(), DeliveryRepository())


def test_a_webhook_reads_back_whole(stores: Stores) -> None:
    full = replace(
        a_webhook(USER),
        url="https://x.example:8443/a?b=c",
        description="d",
        events=("run.failed", "run.finished"),
        status=WebhookStatus.DISABLED,
        disabled_reason=DisabledReason.GONE,
        sealed=bytes(range(256)),
    )
    full = replace(full.rotated(b"new", now=NOW), version=1)
    stores.create(full)
    assert stores.webhooks.get(USER, full.id) == full
    assert stores.webhooks.get(OTHER, full.id) is None
    second = stores.create(a_webhook(USER))
    assert stores.webhooks.all(USER) == sorted([full, second], key=lambda each: each.id)
    assert stores.webhooks.all(OTHER) == []
    assert stores.webhooks.listed(USER) == WebhookList(ids=(full.id, second.id), version=2)


def test_creation_is_refused_for_deleted_accounts_stale_lists_and_repeats(stores: Stores) -> None:
    with pytest.raises(AccountGone):
        stores.create(a_webhook(GONE))
    made = stores.create(a_webhook(USER), "t")
    with pytest.raises(WebhookChanged):
        stores.webhooks.create(a_webhook(USER), seen=NOTHING, request=None, entry=an_entry(USER))
    with pytest.raises(AlreadyExists):
        stores.create(a_webhook(USER), "t")
    assert stores.webhooks.made_by(USER, asked("t")) == made.id
    assert stores.webhooks.made_by(USER, asked("t", at=NOW + RETENTION)) is None
    assert stores.webhooks.made_by(USER, asked("u")) is None
    with pytest.raises(IdempotencyKeyReused):
        stores.webhooks.made_by(USER, asked("t", "something else"))
    assert [each.id for each in stores.webhooks.all(USER)] == [made.id]


def test_only_what_was_read_is_changed_or_deleted(stores: Stores) -> None:
    old = stores.create(a_webhook(USER))
    new = old.next(NOW, description="new")
    stores.webhooks.replace(old, new, entry=an_entry(USER))
    stale_writes: tuple[Callable[[], None], ...] = (
        lambda: stores.webhooks.replace(old, new, entry=an_entry(USER)),
        lambda: stores.webhooks.delete(old, seen=stores.webhooks.listed(USER), entry=an_entry(USER)),
        lambda: stores.webhooks.delete(new, seen=NOTHING, entry=an_entry(USER)),
    )
    for stale in stale_writes:
        with pytest.raises(WebhookChanged):
            stale()
    assert stores.webhooks.get(USER, old.id) == new
    stores.webhooks.delete(new, seen=stores.webhooks.listed(USER), entry=an_entry(USER, AuditEvent.WEBHOOK_DELETED))
    assert (stores.webhooks.get(USER, old.id), stores.webhooks.listed(USER).ids) == (None, ())
    assert stores.take(old) is not None, "a worker has to clear it"


def test_a_delivery_reads_back_whole_and_exists_once(stores: Stores) -> None:
    webhook, other = stores.create(a_webhook(USER)), stores.create(a_webhook(USER))
    delivery = a_delivery(webhook)
    stores.deliveries.add(delivery)
    with pytest.raises(AlreadyExists):
        stores.deliveries.add(replace(delivery, payload="{}"))
    stores.deliveries.add(replace(delivery, webhook_id=other.id))
    assert stores.deliveries.get(USER, webhook.id, delivery.id) == delivery
    attempt = DeliveryAttempt(at=NOW, duration_ms=12, error=DeliveryError.TIMED_OUT)
    after = delivery.attempted(attempt, chance=lambda: 0.0)
    assert stores.deliveries.settle(delivery, after)
    assert not stores.deliveries.settle(delivery, after), "it was settled before"
    done = after.attempted(DeliveryAttempt(at=NOW + SECOND, duration_ms=1, status_code=204), chance=lambda: 0.0)
    assert stores.deliveries.settle(after, done)
    assert stores.deliveries.get(USER, webhook.id, delivery.id) == done
    assert done.status is DeliveryStatus.SUCCEEDED


def test_nothing_is_delivered_to_who_is_gone_or_disabled(stores: Stores) -> None:
    webhook = a_webhook(USER)
    with pytest.raises(NotFound):
        stores.deliveries.add(a_delivery(webhook))
    stores.create(webhook)
    disabled = webhook.next(NOW, status=WebhookStatus.DISABLED)
    stores.webhooks.replace(webhook, disabled, entry=an_entry(USER))
    with pytest.raises(NotFound):
        stores.deliveries.add(a_delivery(webhook))
    with pytest.raises(AccountGone):
        stores.deliveries.add(a_delivery(a_webhook(GONE)))


@pytest.mark.fault("F-45c")
def test_nothing_is_delivered_for_an_account_that_is_disabled(stores: Stores) -> None:
    webhook = stores.create(a_webhook(OTHER))
    if isinstance(stores.webhooks, MemoryWebhooks):
        stores.webhooks.disabled_accounts.add(OTHER)
    else:
        disable_account(OTHER)
    with pytest.raises(AccountGone):
        stores.deliveries.add(a_delivery(webhook))


def test_pages_go_from_the_newest_event_on(stores: Stores) -> None:
    webhook = stores.create(a_webhook(USER))
    ids = [f"01890000-0000-7000-8000-{number:012d}" for number in range(5)]
    for each in ids:
        stores.deliveries.add(a_delivery(webhook, delivery_id=each))
    first = stores.deliveries.page(USER, webhook.id, below="", limit=3)
    assert [each.id for each in first] == ids[:1:-1]
    rest = stores.deliveries.page(USER, webhook.id, below=first[-1].id, limit=3)
    assert [each.id for each in rest] == ids[1::-1]


def test_what_is_due_comes_in_its_order_and_to_its_holder_alone(stores: Stores) -> None:
    webhook = stores.create(a_webhook(USER))
    late, soon, now = (a_delivery(webhook, due_at=NOW + SECOND * n) for n in (60, 5, 0))
    for each in (late, soon, now):
        stores.deliveries.add(each)
    agenda = stores.take(webhook)
    assert agenda is not None
    assert stores.take(webhook, "other") is None
    assert stores.deliveries.due(agenda, at=NOW - SECOND, limit=5) == (None, ())
    assert stores.deliveries.due(agenda, at=NOW, limit=5) == (webhook, (now,))
    changed = webhook.next(NOW, url="https://y.example")
    stores.webhooks.replace(webhook, changed, entry=an_entry(USER))
    assert stores.deliveries.due(agenda, at=NOW + SECOND * 60, limit=2) == (changed, (now, soon))
    stores.deliveries.settle(now, now.closed(DeliveryStatus.CANCELLED))
    assert stores.deliveries.next_due(agenda) == soon.due_at
    for each in (soon, late):
        stores.deliveries.settle(each, each.closed(DeliveryStatus.FAILED))
    assert stores.deliveries.next_due(agenda) is None
    assert stores.take(webhook, "other", seconds=LEASE.total_seconds()) is not None, "the lease is over"
    assert not stores.deliveries.release(agenda, look_at=None), "it is another's now"


def test_a_release_keeps_what_was_learned_and_the_next_look(stores: Stores) -> None:
    webhook = stores.create(a_webhook(USER))
    stores.deliveries.add(a_delivery(webhook))
    agenda = stores.take(webhook)
    assert agenda is not None
    learned = replace(agenda, failures=3, failing_since=NOW, rests_until=NOW + SECOND)
    assert stores.deliveries.release(learned, look_at=NOW + SECOND * 9)
    look = DueLook(user_id=USER, lane=webhook.lane, at=NOW + SECOND * 9)
    assert look not in stores.deliveries.to_look_at(NOW + SECOND * 8, limit=100)
    assert look in stores.deliveries.to_look_at(NOW + SECOND * 9, limit=100)
    again = stores.take(webhook, "k")
    assert again is not None
    assert (again.failures, again.failing_since, again.rests_until) == (3, NOW, NOW + SECOND)
    assert again.version > learned.version
    assert stores.deliveries.release(replace(again, failures=0, failing_since=None, rests_until=None), look_at=None)
    assert all(each.lane != webhook.lane for each in stores.deliveries.to_look_at(NOW + SECOND * 99, limit=100))


@pytest.mark.parametrize("by", ["a delivery", "a redelivery", "a change", "the sweep"])
def test_what_was_added_since_keeps_its_look(stores: Stores, by: str) -> None:
    webhook = stores.create(a_webhook(USER))
    delivery = a_delivery(webhook)
    stores.deliveries.add(delivery)
    agenda = stores.take(webhook)
    assert agenda is not None
    if by == "a delivery":
        stores.deliveries.add(a_delivery(webhook, due_at=NOW + SECOND))
    elif by == "a redelivery":
        assert stores.deliveries.settle(delivery, delivery.again(NOW + SECOND), anew=True)
    elif by == "a change":
        stores.webhooks.replace(
            webhook, webhook.next(NOW + SECOND, url="https://y.example"), entry=an_entry(USER), fresh=True
        )
    else:
        look = DueLook(user_id=USER, lane=webhook.lane, at=NOW)
        assert stores.deliveries.postpone(look, until=NOW + SECOND)
        assert not stores.deliveries.postpone(look, until=NOW + SECOND)
    assert not stores.deliveries.release(replace(agenda, failures=2), look_at=None)
    look = DueLook(user_id=USER, lane=webhook.lane, at=NOW + SECOND)
    assert look in stores.deliveries.to_look_at(NOW + SECOND, limit=100)
    again = stores.take(webhook, "k")
    assert again is not None
    # Who asked for it anew, or moved it to another address, has nothing to do with failures of before.
    assert again.failures == (0 if by in {"a redelivery", "a change"} else 2)


def test_a_redelivery_ends_the_rest(stores: Stores) -> None:
    webhook = stores.create(a_webhook(USER))
    delivery = a_delivery(webhook)
    stores.deliveries.add(delivery)
    agenda = stores.take(webhook)
    assert agenda is not None
    assert stores.deliveries.release(replace(agenda, failures=9, failing_since=NOW, rests_until=NOW), look_at=NOW)
    assert stores.deliveries.settle(delivery, delivery.again(NOW + SECOND), anew=True)
    again = stores.take(webhook)
    assert again is not None
    assert (again.failures, again.failing_since, again.rests_until) == (0, None, None)
    stores.deliveries.add(a_delivery(webhook, due_at=NOW), anew=True)


def test_the_default_webhook_exists_once_and_stands_in_no_list(stores: Stores) -> None:
    default = replace(a_webhook(USER), id=DEFAULT, url="", events=())
    other = stores.create(a_webhook(USER))
    stores.webhooks.create(default, seen=None, request=asked("t"), entry=an_entry(USER))
    with pytest.raises(WebhookChanged):
        stores.webhooks.create(default, seen=None, request=None, entry=an_entry(USER))
    assert stores.webhooks.get(USER, DEFAULT) == default
    assert (stores.webhooks.all(USER), stores.webhooks.listed(USER).ids) == ([other], (other.id,))
    assert stores.webhooks.made_by(USER, asked("t")) == DEFAULT
    rotated = default.rotated(b"new", now=NOW)
    with pytest.raises(AlreadyExists):
        stores.webhooks.replace(default, rotated, entry=an_entry(USER), request=asked("t"))
    stores.webhooks.replace(default, rotated, entry=an_entry(USER), request=asked("u"))
    assert (stores.webhooks.made_by(USER, asked("u")), stores.webhooks.get(USER, DEFAULT)) == (DEFAULT, rotated)


def test_deliveries_to_addresses_are_listed_together_and_sent_by_their_lanes(stores: Stores) -> None:
    default = replace(a_webhook(USER), id=DEFAULT, url="", events=())
    stores.webhooks.create(default, seen=None, request=None, entry=an_entry(USER))
    first, second = (replace(a_delivery(default), url=f"https://{host}.example/x") for host in ("a", "c"))
    assert first.lane != second.lane
    for each in (first, second):
        stores.deliveries.add(each)
    found = stores.deliveries.page(USER, DEFAULT, below="", limit=5)
    assert {each.id: each for each in found} == {first.id: first, second.id: second}
    agenda = stores.deliveries.take(USER, first.lane, holder="h", at=NOW)
    assert agenda is not None
    assert stores.deliveries.due(agenda, at=NOW, limit=5) == (default, (first,))
    states = {each.lane: each for each in stores.deliveries.agendas(USER)}
    assert (states[first.lane].leased_until, states[second.lane].leased_until) == (NOW + LEASE, None)
    assert {look.lane for look in stores.deliveries.to_look_at(NOW, limit=100)} >= {first.lane, second.lane}
    done = first.attempted(DeliveryAttempt(at=NOW, duration_ms=1, status_code=204), chance=lambda: 0.0)
    assert stores.deliveries.settle(first, done)
    assert stores.deliveries.next_due(agenda) is None
    assert stores.deliveries.release(replace(agenda, failures=4, rests_until=NOW + SECOND), look_at=None)
    [state] = [each for each in stores.deliveries.agendas(USER) if each.lane == first.lane]
    assert (state.leased_until, state.failures, state.rests_until) == (None, 4, NOW + SECOND)
    assert stores.deliveries.agendas(OTHER) == []


def test_a_delivery_is_made_once_for_a_key(stores: Stores) -> None:
    webhook = stores.create(a_webhook(USER))
    delivery = a_delivery(webhook)
    stores.deliveries.add(delivery, anew=True, request=asked("t"))
    with pytest.raises(AlreadyExists):
        stores.deliveries.add(a_delivery(webhook), anew=True, request=asked("t"))
    assert stores.webhooks.made_by(USER, asked("t")) == delivery.id
    assert stores.deliveries.page(USER, webhook.id, below="", limit=5) == [delivery]


def test_a_deleted_webhook_is_cleared_a_part_at_a_time(stores: Stores) -> None:
    webhook, other = stores.create(a_webhook(USER)), stores.create(a_webhook(USER))
    for _ in range(3):
        stores.deliveries.add(a_delivery(webhook))
    kept = a_delivery(other)
    stores.deliveries.add(kept)
    stores.webhooks.delete(webhook, seen=stores.webhooks.listed(USER), entry=an_entry(USER))
    agenda = stores.take(webhook)
    assert agenda is not None
    assert not stores.deliveries.clear(agenda, pages=0)
    assert stores.deliveries.clear(agenda, pages=1)
    assert stores.deliveries.page(USER, webhook.id, below="", limit=5) == []
    assert stores.take(webhook, seconds=999) is None
    assert stores.deliveries.page(USER, other.id, below="", limit=5) == [kept]
    assert stores.take(other) is not None


def test_the_purge_of_an_account_leaves_nothing_and_nothing_comes_back(database: Database) -> None:
    stores = stored(database)
    webhook = stores.create(a_webhook(USER), "t")
    other = stores.create(a_webhook(OTHER))
    delivery = a_delivery(webhook)
    stores.deliveries.add(delivery)
    agenda = stores.take(webhook)
    assert agenda is not None
    purge = PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() + 60, settled=True)
    assert WebhookRepository().purge_account(purge)
    # What the worker still does behind it.
    assert not stores.deliveries.settle(delivery, delivery.again(NOW + SECOND))
    assert not stores.deliveries.release(agenda, look_at=NOW)
    assert not any(USER in item["pk"]["S"] for item in database.items("realtime"))
    assert stores.webhooks.get(OTHER, other.id) == other
