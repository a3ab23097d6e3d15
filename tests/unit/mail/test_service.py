"""The worker sends each mail once, and the relay enqueues those that wait too long."""

from __future__ import annotations

from datetime import timedelta

import pytest

from karma.mail.domain import DUE_AFTER, SEND_WITHIN, MailState
from karma.mail.ports import MailUnavailable
from tests.fakes.accounts import AccountWorld


@pytest.fixture
def world() -> AccountWorld:
    return AccountWorld()


def only_state(world: AccountWorld) -> MailState:
    [mail] = world.outbox.mails.values()
    return mail.state


class TestTheWorker:
    @pytest.mark.req("R-C-30")
    def test_sends_a_mail_once_however_often_its_message_comes(self, world: AccountWorld) -> None:
        world.register()
        [mail_id] = world.queue.bodies
        assert world.courier.deliver(mail_id) is MailState.SENT
        assert world.courier.deliver(mail_id) is MailState.SENT
        assert len(world.sender.sent) == 1

    def test_leaves_a_mail_pending_that_the_provider_did_not_take(self, world: AccountWorld) -> None:
        world.register()
        world.sender.broken = True
        [mail_id] = world.queue.bodies
        with pytest.raises(MailUnavailable):
            world.courier.deliver(mail_id)
        assert only_state(world) is MailState.PENDING
        world.sender.broken = False
        assert world.courier.deliver(mail_id) is MailState.SENT

    def test_makes_a_token_for_each_attempt_and_either_works(self, world: AccountWorld) -> None:
        world.register()
        [mail_id] = world.queue.bodies
        world.courier.deliver(mail_id)
        [mail] = world.outbox.mails.values()
        world.outbox.add(mail)  # as if the process had died before it noted the sending
        world.outbox.mails[mail_id] = type(mail)(**{**vars(mail), "state": MailState.PENDING})
        world.courier.deliver(mail_id)
        assert len(world.sender.sent) == len(world.identities.one_time) == 2

    def test_does_not_try_again_what_is_refused_for_good(self, world: AccountWorld) -> None:
        world.sender.refused = frozenset({"ada@example.com"})
        world.register()
        world.deliver()
        assert only_state(world) is MailState.REFUSED

    def test_sends_nothing_that_nobody_waits_for_any_more(self, world: AccountWorld) -> None:
        world.register()
        world.clock.at += SEND_WITHIN + timedelta(seconds=1)
        assert world.deliver() == []
        assert only_state(world) is MailState.TOO_LATE

    def test_passes_over_an_account_that_is_gone(self, world: AccountWorld) -> None:
        world.register()
        world.identities.users.clear()
        assert world.deliver() == []
        assert world.outbox.mails == {}

    @pytest.mark.parametrize("mail_id", ["", "x", "00000000-0000-7000-8000-000000000000", "MAIL#1"])
    def test_knows_nothing_of_other_ids(self, world: AccountWorld, mail_id: str) -> None:
        assert world.courier.deliver(mail_id) is None


class TestTheRelay:
    def test_sends_again_what_waited_for_two_minutes(self, world: AccountWorld) -> None:
        world.register()
        world.queue.bodies.clear()
        world.clock.at += DUE_AFTER
        assert world.outbox_relay.requeue_due() == 0
        world.clock.pass_(seconds=1)
        assert world.outbox_relay.requeue_due() == 1
        assert world.queue.bodies == list(world.outbox.mails)

    def test_waits_longer_each_time(self, world: AccountWorld) -> None:
        world.register()
        pauses = []
        for _ in range(12):
            [due_at] = world.outbox.due_at.values()
            world.clock.at = due_at + timedelta(seconds=1)
            assert world.outbox_relay.requeue_due() == 1
            [next_due] = world.outbox.due_at.values()
            pauses.append(next_due - world.clock.at)
        assert pauses[:3] == [timedelta(minutes=2), timedelta(minutes=4), timedelta(minutes=8)]
        assert pauses[-1] == timedelta(hours=6)

    def test_leaves_what_is_sent(self, world: AccountWorld) -> None:
        world.register()
        world.deliver()
        world.clock.pass_(hours=1)
        assert world.outbox_relay.requeue_due() == 0
