"""The course of deliveries: retries, rest, disabling, and what repeats, deaths and two at once change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from karma.audit.domain import NOWHERE, AuditEvent
from karma.core.ids import UserId, new_id
from karma.webhooks.domain import (
    DISABLE_AFTER,
    GIVE_UP_AFTER,
    LEASE,
    LONGEST_REST,
    MAX_KEPT_ATTEMPTS,
    MAX_RETRY_AFTER,
    PARALLEL,
    PAUSES,
    Delivery,
    DeliveryAttempt,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    ReceiverAnswer,
    WebhookStatus,
)
from karma.webhooks.looks import look_message, read_look
from tests.unit.webhooks.world import ADA, World

MINUTE = timedelta(minutes=1)


@pytest.fixture
def world() -> World:
    return World()


def is_soon_after(delivery: Delivery, moment: datetime) -> bool:
    """Tell whether a delivery is due then; its attempt took some milliseconds, which are waited besides."""
    return delivery.due_at is not None and timedelta(0) <= delivery.due_at - moment < timedelta(seconds=5)


def test_an_event_is_told_once_to_each_that_wants_it(world: World) -> None:
    everything, failures = world.create().webhook, world.create("run.failed").webhook
    world.create(user=UserId(new_id()))
    event = world.happening()
    assert [world.tell(event), world.tell(event, event), world.tell(event)] == [1, 0, 0]
    world.work()
    assert len(world.posts.got) == 1
    assert world.only(everything).status is DeliveryStatus.SUCCEEDED
    assert not world.deliveries.page(ADA, failures.id, below="", limit=5)
    assert world.store.agendas[ADA, everything.lane].look_at is None


@pytest.mark.fault("F-45c")
def test_nothing_goes_out_for_an_account_that_is_disabled(world: World) -> None:
    webhook = world.create().webhook
    assert world.tell(world.happening()) == 1
    world.store.disabled_accounts.add(ADA)
    world.work()
    assert world.posts.got == []
    assert world.only(webhook).status is DeliveryStatus.CANCELLED
    assert world.store.agendas[ADA, webhook.lane].look_at is None
    assert world.tell(world.happening()) == 0
    world.store.disabled_accounts.clear()
    assert world.tell(world.happening()) == 1
    world.work()
    assert len(world.posts.got) == 1


def test_pauses_grow_as_the_specification_has_them(world: World) -> None:
    webhook = world.create().webhook
    world.answers = 500
    world.tell()
    world.work()
    began = world.clock.now()
    for pause in PAUSES:
        delivery = world.only(webhook)
        assert is_soon_after(delivery, world.clock.now() + pause)
        world.later(pause + 2 * MINUTE if pause > MINUTE else 2 * pause)
    done = world.only(webhook)
    assert (done.status, done.attempt_count, done.due_at) == (DeliveryStatus.FAILED, 10, None)
    assert {(each.status_code, each.error) for each in done.attempts} == {(500, DeliveryError.STATUS)}
    assert len({headers["webhook-id"] for headers, _ in world.posts.got}) == 1
    assert timedelta(hours=75) < world.clock.now() - began < timedelta(hours=80)
    assert not world.later(timedelta(days=1))


def test_chance_makes_pauses_longer_and_no_more_than_a_tenth(world: World) -> None:
    world.create()
    delivery = world.only_made()
    attempt = DeliveryAttempt(at=world.clock.now(), duration_ms=0, status_code=500, error=DeliveryError.STATUS)
    due = [delivery.attempted(attempt, chance=lambda part=part: part).due_at for part in (0.0, 0.5, 1.0)]  # type: ignore[misc]
    assert due == [world.clock.now() + PAUSES[0] * part for part in (1, 1.05, 1.1)]


@pytest.mark.parametrize(
    ("asked", "obtained"),
    [
        (timedelta(seconds=1), PAUSES[0]),
        (timedelta(minutes=40), timedelta(minutes=40)),
        (timedelta(days=9), MAX_RETRY_AFTER),
    ],
)
def test_retry_after_is_honoured_in_its_bounds(world: World, asked: timedelta, obtained: timedelta) -> None:
    webhook = world.create().webhook
    world.answers = ReceiverAnswer(status_code=429, retry_after=asked)
    world.tell()
    world.tell()
    world.work()
    first = world.deliveries.page(ADA, webhook.id, below="", limit=5)[-1]
    assert is_soon_after(first, world.clock.now() + obtained)
    # The other one, too, waits for as long as the receiver asked, before it is attempted at all.
    assert len(world.posts.got) <= 2
    world.answers = 200
    world.later(obtained + 2 * MINUTE)
    found = world.deliveries.page(ADA, webhook.id, below="", limit=5)
    assert {each.status for each in found} == {DeliveryStatus.SUCCEEDED}


def test_a_dead_receiver_is_asked_ever_less_and_costs_one_attempt_a_rest(world: World) -> None:
    webhook = world.create().webhook
    world.answers = DeliveryError.TIMED_OUT
    for _ in range(50):
        world.tell()
    world.work()
    assert len(world.posts.got) == PARALLEL
    agenda = world.store.agendas[ADA, webhook.lane]
    assert agenda.rests_until is not None
    before = len(world.posts.got)
    for _ in range(10):
        world.later(MINUTE)
    assert len(world.posts.got) - before <= 5
    for _ in range(12):
        world.later(timedelta(hours=1))
    assert agenda.rests_until - world.clock.now() <= LONGEST_REST + MINUTE
    world.answers = 200
    for _ in range(4):
        world.later(LONGEST_REST + 2 * MINUTE)
    for _ in range(40):
        world.later(timedelta(hours=3))
    found = world.deliveries.page(ADA, webhook.id, below="", limit=100)
    assert {each.status for each in found} == {DeliveryStatus.SUCCEEDED}


def test_one_that_fails_does_not_stop_those_that_succeed(world: World) -> None:
    """A receiver that refuses one event for good is no dead one."""
    webhook = world.create().webhook
    bad = world.happening("run.failed")
    world.answers = lambda headers, _: 500 if headers["webhook-id"] == bad.id else 204
    world.tell(bad)
    for _ in range(20):
        world.tell()
        world.later(MINUTE)
    found = {each.id: each.status for each in world.deliveries.page(ADA, webhook.id, below="", limit=100)}
    assert found.pop(bad.id) is DeliveryStatus.PENDING  # type: ignore[call-overload]
    assert set(found.values()) == {DeliveryStatus.SUCCEEDED}


def test_what_rests_too_long_is_given_up_without_an_attempt(world: World) -> None:
    webhook = world.create().webhook
    world.tell()
    agenda = world.store.agendas[ADA, webhook.lane]
    agenda.rests_until = world.clock.now() + GIVE_UP_AFTER
    world.work()
    world.later(GIVE_UP_AFTER + MINUTE)
    given_up = world.only(webhook)
    assert (given_up.status, given_up.attempt_count) == (DeliveryStatus.FAILED, 0)
    assert [each.error for each in given_up.attempts] == [DeliveryError.EXPIRED]
    assert not world.posts.got


def test_410_disables_and_tells_the_owner(world: World) -> None:
    webhook = world.create().webhook
    world.answers = 410
    world.tell()
    world.work()
    world.tell()
    stored = world.store.get(ADA, webhook.id)
    assert stored is not None
    assert (stored.status, stored.disabled_reason) == (WebhookStatus.DISABLED, DisabledReason.GONE)
    entry = world.store.entries[-1]
    assert (entry.event, entry.details) == (AuditEvent.WEBHOOK_DISABLED, {"webhook_id": webhook.id, "reason": "gone"})
    assert world.only(webhook).status is DeliveryStatus.FAILED
    assert len(world.posts.got) == 1


def test_days_of_failures_disable_and_what_waits_is_cancelled(world: World) -> None:
    webhook = world.create().webhook
    world.answers = 503
    began = world.clock.now()
    while world.clock.now() - began < DISABLE_AFTER - timedelta(hours=2):
        world.tell()
        world.later(timedelta(hours=6))
    stored = world.store.get(ADA, webhook.id)
    assert stored is not None
    assert stored.is_enabled
    world.tell()
    for _ in range(6):
        world.later(timedelta(hours=6))
    stored = world.store.get(ADA, webhook.id)
    assert stored is not None
    assert stored.disabled_reason is DisabledReason.FAILING
    for _ in range(30):
        world.later(timedelta(hours=6))
    found = world.deliveries.page(ADA, webhook.id, below="", limit=100)
    assert {each.status for each in found} == {DeliveryStatus.FAILED, DeliveryStatus.CANCELLED}
    assert world.store.agendas[ADA, webhook.lane].look_at is None


def test_a_success_forgets_the_failures(world: World) -> None:
    webhook = world.create().webhook
    world.answers = 500
    for _ in range(2):
        world.tell()
        world.work()
    world.answers = 200
    world.later(MINUTE)
    agenda = world.store.agendas[ADA, webhook.lane]
    assert (agenda.failures, agenda.failing_since, agenda.rests_until) == (0, None, None)


def test_a_deleted_webhook_leaves_nothing(world: World) -> None:
    webhook = world.create().webhook
    world.answers = 500
    for _ in range(3):
        world.tell()
    world.work()
    world.service.delete(ADA, webhook.id, source=NOWHERE)
    world.tell()
    world.work()
    assert not world.store.deliveries
    assert not world.store.agendas


def test_two_workers_at_once_are_one(world: World) -> None:
    webhook = world.create().webhook
    world.tell()

    def another_comes(_: Mapping[str, str], __: bytes) -> int:
        assert world.worker().look(ADA, webhook.lane) == "another worker has it"
        return 200

    world.answers = another_comes
    assert world.worker().look(ADA, webhook.lane) == "attempted 1"


def test_what_is_added_while_a_worker_has_the_webhook_is_sent(world: World) -> None:
    webhook = world.create().webhook
    world.tell()
    added: list[str] = []

    def one_more(headers: Mapping[str, str], _: bytes) -> int:
        if not added:
            event = world.happening()
            added.append(event.id)
            world.tell(event)
            world.clock.at += timedelta(seconds=1)
        return 200

    world.answers = one_more
    # No time for another batch: what came meanwhile is the next message's.
    assert world.worker().look(ADA, webhook.lane, seconds=1) == "attempted 1"
    world.work()
    world.work()
    found = world.deliveries.page(ADA, webhook.id, below="", limit=5)
    assert {each.status for each in found} == {DeliveryStatus.SUCCEEDED}
    assert len(found) == 2


def test_a_worker_that_died_is_followed_by_another(world: World) -> None:
    """Whatever was sent and not noted is sent again, with the same id."""
    webhook = world.create().webhook
    world.tell()

    class Killed(BaseException):
        """The process is gone."""

    def die(_: Mapping[str, str], __: bytes) -> int:
        raise Killed

    world.answers = die
    with pytest.raises(Killed):
        world.work()
    world.answers = 200
    assert world.worker().look(ADA, webhook.lane) == "another worker has it"
    world.later(LEASE + MINUTE)
    assert world.only(webhook).status is DeliveryStatus.SUCCEEDED
    assert len({headers["webhook-id"] for headers, _ in world.posts.got}) == 1
    assert len(world.posts.got) == 2


def test_a_message_that_is_lost_is_replaced_by_the_sweep(world: World) -> None:
    webhook = world.create().webhook
    world.tell()
    world.queue.sent.clear()
    assert world.later(MINUTE)
    assert world.only(webhook).status is DeliveryStatus.SUCCEEDED
    assert not world.later(timedelta(hours=1))


def test_a_slow_one_is_left_for_others_after_half_a_minute(world: World) -> None:
    webhook = world.create().webhook
    for _ in range(3 * PARALLEL):
        world.tell()
    assert world.worker().look(ADA, webhook.lane, seconds=0.0) == "attempted 0"
    assert (look_message(ADA, webhook.lane), 0) in world.queue.sent


def test_a_secret_that_is_lost_costs_attempts_and_no_crash(world: World) -> None:
    webhook = world.create().webhook
    world.store.webhooks[ADA, webhook.id] = replace(webhook, sealed=b"moved\0secret")
    world.tell()
    world.work()
    assert [each.error for each in world.only(webhook).attempts] == [DeliveryError.SECRET_LOST]
    assert not world.posts.got


def test_redelivery_begins_anew_whatever_became_of_it(world: World) -> None:
    webhook = world.create().webhook
    world.answers = 500
    world.tell()
    for _ in range(6):
        world.tell()
        world.work()
    oldest = world.deliveries.page(ADA, webhook.id, below="", limit=50)[-1]
    assert world.store.agendas[ADA, webhook.lane].rests_until is not None
    world.answers = 200
    asked = world.service.redeliver(ADA, webhook.id, oldest.id)
    assert (asked.status, asked.due_at, asked.round) == (DeliveryStatus.PENDING, world.clock.now(), 0)
    world.work()
    again = world.deliveries.get(ADA, webhook.id, oldest.id)
    assert again is not None
    assert again.status is DeliveryStatus.SUCCEEDED
    assert again.attempt_count == oldest.attempt_count + 1


def test_only_the_latest_attempts_are_kept(world: World) -> None:
    webhook = world.create().webhook
    world.tell()
    world.work()
    delivery = world.only(webhook)
    for _ in range(MAX_KEPT_ATTEMPTS + 5):
        world.service.redeliver(ADA, webhook.id, delivery.id)
        world.work()
    found = world.only(webhook)
    assert (len(found.attempts), found.attempt_count) == (MAX_KEPT_ATTEMPTS, MAX_KEPT_ATTEMPTS + 6)


@pytest.mark.parametrize("form", ["", "x", "{0}", "{0} x", "x {0}", "{0}  {1}"])
def test_a_message_that_names_no_webhook_is_refused(form: str) -> None:
    body = form.format(new_id(), new_id())
    with pytest.raises(ValueError, match="names no webhook"):
        read_look(body)


def test_a_webhook_without_an_agenda_has_nothing_due(world: World) -> None:
    made: Any = world.create().webhook
    assert world.worker().look(ADA, made.lane) == "another worker has it"


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("asked", ["a test", "a redelivery", "another address", "to be enabled again"])
def test_what_is_asked_while_a_worker_has_it_is_not_undone_by_failures_that_it_knew(
    world: World, asked: str, is_first: bool
) -> None:
    webhook = world.create().webhook
    first = world.only_made()
    if not is_first:
        world.service.try_out(ADA, webhook.id)
    world.answers = 500
    world.work()

    def ask(headers: Mapping[str, str], payload: bytes) -> ReceiverAnswer:
        if asked == "a test":
            world.service.try_out(ADA, webhook.id)
        elif asked == "a redelivery":
            world.service.redeliver(ADA, webhook.id, first.id)
        elif asked == "another address":
            world.service.change(ADA, webhook.id, {"url": "https://other.example.com"}, source=NOWHERE)
        else:
            for status in (WebhookStatus.DISABLED, WebhookStatus.ENABLED):
                world.service.change(ADA, webhook.id, {"status": status}, source=NOWHERE)
        return ReceiverAnswer(status_code=503, retry_after=timedelta(hours=9))

    world.answers = ask
    world.tell()
    world.work()
    stored = world.store.agendas[ADA, webhook.lane]
    assert (stored.failures, stored.failing_since, stored.rests_until) == (0, None, None)
    sent, world.answers = len(world.posts.got), 200
    world.later(timedelta(seconds=1))
    assert len(world.posts.got) == sent + (asked in {"a test", "a redelivery"})


def test_a_receiver_s_retry_after_keeps_its_other_deliveries_an_hour_at_the_most(world: World) -> None:
    webhook = world.create().webhook
    world.answers = ReceiverAnswer(status_code=503, retry_after=timedelta(days=1))
    world.tell()
    world.work()
    rests_until = world.store.agendas[ADA, webhook.lane].rests_until
    assert rests_until is not None
    assert timedelta(0) < rests_until - world.clock.now() <= LONGEST_REST
    [delivery] = world.deliveries.page(ADA, webhook.id, below="", limit=5)
    assert delivery.due_at is not None
    assert delivery.due_at - world.clock.now() > LONGEST_REST  # its own next attempt may be a day away
