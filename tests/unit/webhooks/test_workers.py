"""The number of an account's workers at a time; and what it changed holds from the next batch on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest

from karma.audit.domain import NOWHERE
from karma.webhooks.domain import LEASE, PARALLEL, DeliveryStatus, Webhook, WebhookStatus
from karma.webhooks.worker import MAX_WORKERS
from tests.unit.webhooks.world import ADA, World


@pytest.fixture
def world() -> World:
    return World()


def several(world: World, number: int) -> list[Webhook]:
    return [world.create().webhook for _ in range(number)]


def taken(world: World, webhook: Webhook) -> None:
    """Let a worker have a webhook, as one whose receiver hangs does."""
    assert world.deliveries.take(ADA, webhook.lane, holder=webhook.id, at=world.clock.now())


def test_an_account_has_three_workers_and_the_rest_of_its_webhooks_waits_for_one(world: World) -> None:
    *hanging, waiting, other = several(world, MAX_WORKERS + 2)
    world.tell()
    for webhook in hanging:
        taken(world, webhook)
    world.clock.at += timedelta(milliseconds=1)
    world.queue.sent.clear()
    assert world.worker().look(ADA, waiting.lane) == "the account has its workers"
    [(_, delay_s)] = world.queue.sent
    assert delay_s >= 1
    assert world.only(waiting).status is DeliveryStatus.PENDING
    released = world.deliveries.take(ADA, hanging[0].lane, holder="x", at=world.clock.now() + LEASE)
    assert released is not None
    assert world.deliveries.release(released, look_at=None)
    assert world.worker().look(ADA, other.lane) == "attempted 1"
    assert world.worker().look(ADA, waiting.lane) == "attempted 1"


def test_workers_that_begin_at_the_same_moment_agree_which_of_them_go_on(world: World) -> None:
    webhooks = several(world, 2 * MAX_WORKERS)
    world.tell()
    for webhook in webhooks:
        taken(world, webhook)
    leased = sorted((each.leased_until, each.lane) for each in world.deliveries.agendas(ADA) if each.leased_until)
    worker = world.worker()
    agendas = [world.deliveries.take(ADA, each.lane, holder="y", at=world.clock.now() + LEASE) for each in webhooks]
    before = sorted(worker._workers_before(agenda) for agenda in agendas if agenda is not None)
    assert before == list(range(len(leased)))


def test_workers_of_other_accounts_and_of_processes_that_died_do_not_count(world: World) -> None:
    from karma.core.ids import UserId, new_id

    other = UserId(new_id())
    *hanging, mine = several(world, MAX_WORKERS + 1)
    theirs = world.create(user=other).webhook
    world.tell(world.happening(), world.happening(user=other))
    for webhook in hanging:
        taken(world, webhook)
    assert world.worker().look(other, theirs.lane) == "attempted 1"
    world.clock.at += LEASE
    assert world.worker().look(ADA, mine.lane) == "attempted 1"


@pytest.mark.parametrize("change", ["address", "secret", "pause", "deletion"])
def test_a_change_holds_from_the_next_batch_on(world: World, change: str) -> None:
    webhook = world.create().webhook
    for _ in range(PARALLEL + 1):
        world.tell()
    first: list[Mapping[str, str]] = []

    def meanwhile(headers: Mapping[str, str], _: bytes) -> int:
        if not first:
            first.append(headers)
            if change == "address":
                world.service.change(ADA, webhook.id, {"url": "https://new.example/"}, source=NOWHERE)
            elif change == "secret":
                world.service.rotate(ADA, webhook.id, source=NOWHERE)
            elif change == "pause":
                world.service.change(ADA, webhook.id, {"status": WebhookStatus.DISABLED}, source=NOWHERE)
            else:
                world.service.delete(ADA, webhook.id, source=NOWHERE)
        return 200

    world.answers = meanwhile
    world.worker().look(ADA, webhook.lane)
    if change == "address":
        assert world.posts.urls == [webhook.url] * PARALLEL + ["https://new.example/"]
    elif change == "secret":
        parts = [len(headers["webhook-signature"].split(" ")) for headers, _ in world.posts.got]
        assert parts[-1] == 2
    else:
        assert len(world.posts.got) == PARALLEL
    if change == "deletion":
        world.work()
        assert not world.store.deliveries
