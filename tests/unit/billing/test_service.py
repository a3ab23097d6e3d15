"""The webhook's events are stored, enqueued, and enqueued again until they are handled."""

import itertools
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
import stripe

from karma.billing.arrival import DUE_AFTER, Stored
from karma.billing.domain import EventState, SubscriptionStatus, project
from karma.billing.inbox import InboxService
from karma.billing.plans import PlanName
from karma.billing.ports import Row
from karma.billing.signature import SignatureInvalid
from karma.billing.subscriptions import SubscriptionService
from karma.billing.webhook import MAX_BODY, WebhookDisabled, WebhookService
from karma.core.errors import AppError, InvalidRequest, NotFound, PayloadTooLarge
from karma.core.ids import UserId
from tests.fakes.billing import MemoryBilling, MemoryQueue
from tests.unit.billing.test_domain import stripe_subscription

SECRET = "whsec_unit"
START = datetime(2026, 11, 21, 12, tzinfo=UTC)


class StoppedClock:
    def __init__(self) -> None:
        self.moment = START

    def now(self) -> datetime:
        return self.moment


class Webhook:
    def __init__(self, *, secrets: tuple[str, ...] = (SECRET,)) -> None:
        self.cached = self.current = secrets
        self.reads = 0
        self.clock = StoppedClock()
        self.store = MemoryBilling()
        self.queue = MemoryQueue()
        self.service = WebhookService(secrets=self.secrets, arrivals=self.store, queue=self.queue, clock=self.clock)
        self.inbox = InboxService(inbox=self.store, queue=self.queue, clock=self.clock)

    def secrets(self, *, fresh: bool) -> tuple[str, ...]:
        """Return secrets as Secrets Manager behind a cache does."""
        if fresh:
            self.reads += 1
            self.cached = self.current
        return self.cached

    def post(self, event: object, *, secret: str = SECRET) -> Stored:
        raw = event if isinstance(event, bytes) else json.dumps(event).encode()
        header = stripe.WebhookSignature.generate_signature_header(
            raw.decode(), secret, timestamp=int(self.clock.now().timestamp())
        )
        return self.service.receive(raw, header)


def event(event_id: str = "evt_1", **changes: object) -> Mapping[str, object]:
    return {"id": event_id, "type": "invoice.paid", "data": {"object": {"id": "in_1"}}, **changes}


@pytest.fixture(autouse=True)
def _namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Karma")


def test_a_new_event_is_stored_and_enqueued() -> None:
    webhook = Webhook()
    assert webhook.post(event()) is Stored.NEW
    assert webhook.queue.bodies == ["evt_1"]
    assert webhook.store.due_at["evt_1"] == START + DUE_AFTER


def test_a_repeat_is_enqueued_until_it_is_handled() -> None:
    webhook = Webhook()
    webhook.post(event())
    assert webhook.post(event(pending_webhooks=2)) is Stored.OPEN
    assert webhook.queue.bodies == ["evt_1", "evt_1"]
    webhook.store.close("evt_1", at=START, note="")
    assert webhook.post(event()) is Stored.CLOSED
    assert webhook.queue.bodies == ["evt_1", "evt_1"]


def test_another_event_under_the_same_id_changes_nothing() -> None:
    webhook = Webhook()
    webhook.post(event())
    assert webhook.post(event(data={"object": {"id": "in_2"}})) is Stored.CONFLICT
    assert webhook.queue.bodies == ["evt_1"]
    assert '"in_1"' in webhook.store.events["evt_1"].body


def test_a_queue_that_is_down_loses_nothing() -> None:
    webhook = Webhook()
    webhook.queue.down = True
    assert webhook.post(event()) is Stored.NEW
    webhook.queue.down = False
    webhook.clock.moment += DUE_AFTER + timedelta(seconds=1)
    assert webhook.inbox.requeue_due() == 1
    assert webhook.queue.bodies == ["evt_1"]


@pytest.mark.parametrize("secrets", [(), ("",), (" \t",)])
def test_without_a_secret_nothing_is_verified(secrets: tuple[str, ...]) -> None:
    webhook = Webhook(secrets=secrets)
    with pytest.raises(WebhookDisabled):
        webhook.post(event(), secret="")
    assert not webhook.store.events


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"", InvalidRequest),
        (b"{", InvalidRequest),
        (b"[]", InvalidRequest),
        (b"null", InvalidRequest),
        (b'{"id": "evt_1", "type": "x"}', InvalidRequest),
        (b'{"id": "evt_1", "data": {"object": {}}}', InvalidRequest),
        (b'{"id": 7, "type": "x", "data": {"object": {}}}', InvalidRequest),
        (b'{"id": "evt#1", "type": "x", "data": {"object": {}}}', InvalidRequest),
        (b'{"id": "evt\\u0000", "type": "x", "data": {"object": {}}}', InvalidRequest),
        (b'{"id": "' + b"e" * 201 + b'", "type": "x", "data": {"object": {}}}', InvalidRequest),
        (b'{"id": "evt_1", "type": "X Y", "data": {"object": {}}}', InvalidRequest),
        (b'{"id": "evt_1", "type": "x", "data": {"object": []}}', InvalidRequest),
        (b"[" * 100_000, InvalidRequest),
        (b" " * (MAX_BODY + 1), PayloadTooLarge),
    ],
)
def test_what_is_not_an_event_is_refused_even_when_signed(body: bytes, refusal: type[AppError]) -> None:
    webhook = Webhook()
    with pytest.raises(refusal):
        webhook.post(body)
    assert not webhook.store.events
    assert not webhook.queue.bodies


def test_a_wrong_signature_stores_nothing() -> None:
    webhook = Webhook()
    with pytest.raises(SignatureInvalid):
        webhook.post(event(), secret="whsec_other")
    assert not webhook.store.events


@pytest.mark.fault("F-18b")
@pytest.mark.parametrize(
    ("before", "after"), [((SECRET,), ("whsec_next",)), ((SECRET,), (SECRET, "whsec_next")), ((), ("whsec_next",))]
)
def test_a_secret_that_was_rolled_since_it_was_cached_is_read_once_more(
    before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    webhook = Webhook(secrets=before)
    webhook.current = after
    for number in range(3):
        assert webhook.post(event(f"evt_{number}"), secret="whsec_next") is Stored.NEW
    assert webhook.reads == 1


@pytest.mark.fault("F-18b")
def test_a_flood_of_forged_signatures_reads_the_secret_once_in_five_seconds() -> None:
    webhook = Webhook()
    for tenth in range(100):
        webhook.clock.moment = START + timedelta(seconds=tenth / 10)
        with pytest.raises(SignatureInvalid):
            webhook.post(event(), secret="whsec_forged")
    assert webhook.reads == 2
    webhook.current = ("whsec_next",)
    webhook.clock.moment += timedelta(seconds=5)
    assert webhook.post(event(), secret="whsec_next") is Stored.NEW


@pytest.mark.fault("F-18b")
@pytest.mark.parametrize("header", [None, "", "t=1", "v1=00", "t=x,v1=00"])
def test_what_cannot_be_a_signature_reads_nothing(header: str | None) -> None:
    webhook = Webhook()
    with pytest.raises(SignatureInvalid):
        webhook.service.receive(b"{}", header)
    assert webhook.reads == 0


def test_the_sweep_waits_longer_after_each_attempt() -> None:
    webhook = Webhook()
    webhook.post(event())
    sent_at: list[int] = []
    for minute in range(1500):
        webhook.clock.moment = START + timedelta(minutes=minute, seconds=1)
        if webhook.inbox.requeue_due():
            sent_at.append(minute)
    pauses = [later - earlier for earlier, later in itertools.pairwise(sent_at)]
    assert sent_at[0] == 2
    assert pauses[:5] == [3, 5, 9, 17, 33]
    assert max(pauses) <= 361


def test_replay_opens_a_handled_event_again() -> None:
    webhook = Webhook()
    webhook.post(event())
    webhook.store.close("evt_1", at=START, note="done", state=EventState.IGNORED)
    webhook.inbox.replay("evt_1")
    assert webhook.queue.bodies == ["evt_1", "evt_1"]
    assert webhook.store.events["evt_1"].handled_at is None
    for unknown in ("evt_2", "evt#1", ""):
        with pytest.raises(NotFound):
            webhook.inbox.replay(unknown)


@pytest.mark.req("R-C-29")
def test_everybody_has_a_subscription() -> None:
    store, clock = MemoryBilling(), StoppedClock()
    service = SubscriptionService(subscriptions=store, clock=clock)
    user = UserId("01890000-0000-7000-8000-000000000001")
    assert service.current(user).plan is PlanName.FREE
    assert service.plan(user).name is PlanName.FREE
    bought = project(
        stripe_subscription(current_period_start=START, current_period_end=START + timedelta(days=30)), user_id=user
    )
    store.rows[user] = Row(bought, 1, "")
    assert service.current(user).status is SubscriptionStatus.ACTIVE
    assert service.plan(user).name is PlanName.TEAM
    assert next(plan.name for plan in service.catalog().plans) is PlanName.FREE
