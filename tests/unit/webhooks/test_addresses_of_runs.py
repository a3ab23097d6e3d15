"""Deliveries to the addresses that runs name: signed by the default webhook, once, each host apart from dead ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from karma.audit.domain import NOWHERE
from karma.core.errors import AlreadyCreated, NotFound, StaleVersion, ValidationFailed
from karma.core.happenings import Happening
from karma.core.requests import IdempotencyKeyReused
from karma.webhooks.domain import (
    DEFAULT,
    DISABLE_AFTER,
    LANES,
    LONGEST_REST,
    PARALLEL,
    DeliveryError,
    DeliveryStatus,
    ReceiverAnswer,
    WebhookStatus,
    delivery_of,
    is_lane,
    webhook_of,
)
from karma.webhooks.errors import SigningSecretMissing, WebhookIsDefault
from karma.webhooks.looks import look_message, read_look
from karma.webhooks.service import ShownWebhook
from tests.support.requests import key
from tests.unit.webhooks.world import ADA, World

URL = "https://app.example.com/runs/7?token=t"


@pytest.fixture
def world() -> World:
    return World()


def sign(world: World, *, again: str = "") -> ShownWebhook:
    """Give the account a signing secret."""
    return world.service.rotate(ADA, DEFAULT, source=NOWHERE, idempotency_key=key(again) if again else None)


def ended(world: World, url: str = URL) -> Happening:
    return replace(world.happening(), address=url)


def test_it_is_told_once_signed_beside_the_webhooks_of_the_account(world: World) -> None:
    secret, other = sign(world).secret, world.create()
    event = ended(world)
    assert [world.tell(event), world.tell(event, event), world.tell(event)] == [2, 0, 0]
    world.work()
    assert sorted(world.posts.urls) == sorted([URL, other.webhook.url])
    by_url = dict(zip(world.posts.urls, world.posts.got, strict=True))
    headers, payload = by_url[URL]
    assert headers["webhook-id"] == event.id
    # By a clock that stands still the signature is old, so only its right is checked.
    stamped = Verifier(secret).sign(event.id, world.clock.now(), payload.decode())
    assert headers["webhook-signature"] == stamped
    [delivery] = world.service.deliveries(ADA, DEFAULT, below="", limit=5).deliveries
    assert (delivery.url, delivery.status) == (URL, DeliveryStatus.SUCCEEDED)
    assert not world.deliveries.page(ADA, other.webhook.id, below="x", limit=0)


def test_nobody_is_told_without_a_secret_or_while_it_is_disabled(world: World) -> None:
    assert world.tell(ended(world)) == 0
    with pytest.raises(SigningSecretMissing):
        world.service.require_receiver(ADA, URL)
    sign(world)
    world.service.require_receiver(ADA, URL)
    world.service.change(ADA, DEFAULT, {"status": WebhookStatus.DISABLED}, source=NOWHERE)
    assert world.tell(ended(world)) == 0
    world.service.change(ADA, DEFAULT, {"status": WebhookStatus.ENABLED}, source=NOWHERE)
    assert world.tell(ended(world)) == 1


@pytest.mark.parametrize("url", ["http://app.example.com/", "https://10.0.0.1/", "https://[::1]/", "https://x:0/"])
def test_an_address_that_may_not_be_told_is_refused_by_the_run_s_field(world: World, url: str) -> None:
    sign(world)
    with pytest.raises(ValidationFailed) as refused:
        world.service.require_receiver(ADA, url)
    details: Any = refused.value.details
    assert [each["field"] for each in details] == ["webhook"]


def test_the_default_webhook_is_made_by_its_first_secret_and_stays(world: World) -> None:
    with pytest.raises(NotFound):
        world.service.get(ADA, DEFAULT)
    with pytest.raises(NotFound):
        world.service.rotate(ADA, DEFAULT, source=NOWHERE, version=1)
    first, second = sign(world), sign(world)
    assert first.secret != second.secret
    stored = world.service.get(ADA, DEFAULT)
    assert (stored.version, len(stored.signing(world.clock.now()))) == (2, 2)
    assert world.service.all(ADA) == []
    with pytest.raises(StaleVersion):
        world.service.rotate(ADA, DEFAULT, source=NOWHERE, version=1)
    refused = (
        lambda: world.service.delete(ADA, DEFAULT, source=NOWHERE),
        lambda: world.service.try_out(ADA, DEFAULT),
        lambda: world.service.change(ADA, DEFAULT, {"url": URL}, source=NOWHERE),
        lambda: world.service.change(ADA, DEFAULT, {"events": ("*",)}, source=NOWHERE),
    )
    for attempt in refused:
        with pytest.raises(WebhookIsDefault):
            attempt()


@pytest.mark.parametrize("named", ["the default one", "another"])
def test_a_rotation_is_made_once_for_a_key_and_its_secret_is_not_repeated(world: World, named: str) -> None:
    webhook_id = DEFAULT if named == "the default one" else world.create().webhook.id

    def rotate(again: str = "k", version: int | None = None) -> ShownWebhook:
        return world.service.rotate(ADA, webhook_id, source=NOWHERE, version=version, idempotency_key=key(again))

    rotate()
    stored = world.service.get(ADA, webhook_id)
    with pytest.raises(AlreadyCreated) as repeated:
        rotate()
    assert repeated.value.details == {"id": webhook_id}
    with pytest.raises(IdempotencyKeyReused):
        rotate(version=1)
    assert world.service.get(ADA, webhook_id) == stored
    rotate("another")
    assert world.service.get(ADA, webhook_id).version == stored.version + 1


def test_a_test_is_sent_once_for_a_key_also_by_a_process_that_died_before_its_message(world: World) -> None:
    webhook = world.create().webhook
    first = world.service.try_out(ADA, webhook.id, idempotency_key=key("k"))
    world.queue.sent.clear()
    assert world.service.try_out(ADA, webhook.id, idempotency_key=key("k")).id == first.id
    world.work()
    assert world.only(webhook).status is DeliveryStatus.SUCCEEDED
    assert world.service.try_out(ADA, webhook.id, idempotency_key=key("k")).status is DeliveryStatus.SUCCEEDED
    assert world.service.try_out(ADA, webhook.id, idempotency_key=key("l")).id != first.id


def test_a_dead_host_keeps_no_other_waiting(world: World) -> None:
    sign(world)
    dead, alive = "https://dead.example/", "https://alive.example/"

    def answer(_: Mapping[str, str], __: bytes) -> object:
        return DeliveryError.TIMED_OUT if world.posts.urls[-1] == dead else 200

    world.answers = answer
    for _ in range(4):
        world.tell(ended(world, dead))
        world.work()
    world.tell(ended(world, alive))
    world.work()
    found = world.service.deliveries(ADA, DEFAULT, below="", limit=9).deliveries
    assert {each.url: each.status for each in found} == {
        dead: DeliveryStatus.PENDING,
        alive: DeliveryStatus.SUCCEEDED,
    }


def hosts_of_one_lane(world: World) -> tuple[str, str]:
    """Return addresses on two hosts whose deliveries are in the same lane."""
    first = "https://alive.example/"
    lane = delivery_of(ended(world, first), DEFAULT, now=world.clock.now()).lane
    others = (f"https://dead.example:{port}/" for port in range(1000, 2000))
    return first, next(
        url for url in others if delivery_of(ended(world, url), DEFAULT, now=world.clock.now()).lane == lane
    )


def test_a_host_s_retry_after_holds_no_other_host_of_its_lane_and_an_hour_at_the_most(world: World) -> None:
    sign(world)
    alive, busy = hosts_of_one_lane(world)
    world.answers = ReceiverAnswer(status_code=503, retry_after=timedelta(days=1))
    world.tell(ended(world, busy))
    world.work()
    world.answers = 200
    world.tell(ended(world, alive))
    world.work()
    assert world.posts.urls == [busy, alive]
    world.later(LONGEST_REST - timedelta(minutes=1))
    assert world.posts.urls == [busy, alive]
    world.later(timedelta(minutes=2))
    assert world.posts.urls == [busy, alive, busy]


def test_a_host_that_hangs_holds_up_no_other_of_its_lane_for_more_than_one_batch(world: World) -> None:
    sign(world)
    alive, hangs = hosts_of_one_lane(world)
    world.answers = lambda *_: DeliveryError.TIMED_OUT if world.posts.urls[-1] == hangs else 200
    for _ in range(5 * PARALLEL):
        world.tell(ended(world, hangs))
        world.clock.at += timedelta(milliseconds=1)
    world.tell(ended(world, alive))
    world.work()
    assert world.posts.urls == [hangs] * PARALLEL + [alive]
    for _ in range(80):
        world.later(timedelta(hours=1))
    found = world.service.deliveries(ADA, DEFAULT, below="", limit=100).deliveries
    assert all(each.attempt_count for each in found), "what was put off is not lost"


def test_410_of_one_address_ends_its_delivery_and_nothing_else(world: World) -> None:
    sign(world)
    world.answers = 410
    world.tell(ended(world))
    world.work()
    [delivery] = world.service.deliveries(ADA, DEFAULT, below="", limit=9).deliveries
    assert (delivery.status, delivery.attempt_count) == (DeliveryStatus.FAILED, 1)
    assert world.service.get(ADA, DEFAULT).is_enabled


def test_days_of_failures_do_not_end_it(world: World) -> None:
    sign(world)
    world.answers = 500
    world.tell(ended(world))
    world.work()
    for _ in range(5):
        world.later(DISABLE_AFTER)
        world.tell(ended(world))
        world.work()
    assert world.service.get(ADA, DEFAULT).is_enabled


def test_one_that_failed_is_redelivered_to_its_address(world: World) -> None:
    sign(world)
    world.answers = 410
    event = ended(world)
    world.tell(event)
    world.work()
    world.answers = 200
    world.service.redeliver(ADA, DEFAULT, event.id)
    world.work()
    assert world.posts.urls == [URL, URL]
    [delivery] = world.service.deliveries(ADA, DEFAULT, below="", limit=9).deliveries
    assert delivery.status is DeliveryStatus.SUCCEEDED


def test_lanes_are_few_and_their_messages_read_back() -> None:
    from tests.contexts.webhooks import a_delivery, a_webhook

    webhook = replace(a_webhook(ADA), id=DEFAULT)
    lanes = {replace(a_delivery(webhook), url=f"https://h{n}.example/{n}").lane for n in range(500)}
    assert len(lanes) == LANES
    for lane in (*lanes, a_webhook(ADA).lane):
        assert read_look(look_message(ADA, lane)) == (ADA, lane)
        assert webhook_of(lane) in {DEFAULT, lane}
    assert replace(a_delivery(webhook), url="https://Host.example/a").lane == (
        replace(a_delivery(webhook), url="https://host.example/b").lane
    )
    assert not any(map(is_lane, ("", "default.", "default.x", f"default.{LANES}", "default.1#", "defaults.1")))
