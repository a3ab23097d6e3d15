"""Effects of Stripe's events: read the row, fetch Stripe's objects, write if the row has the same version, else repeat.

The event is only a hint that something may have changed for a customer. What is written comes from every subscription
that Stripe has of the customers that are linked to the user, fetched after the row was read; every write raises the
row's version, even one that changes nothing, and so does every change of a link. So a worker that saw an older state
finds a newer version and fetches again, and losses, repeats, re-orderings and crashes all end in the state that Stripe
shows. An event of an account that is deleted is deleted as well, unless the customer has bought something since.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from karma.billing.domain import (
    RETRIES,
    EventState,
    Hint,
    InboxEvent,
    StripeSubscription,
    Subscription,
    Told,
    plan_of,
    projection,
    read_hint,
    told_of,
)
from karma.billing.naming import MAX_NOTED, NOTHING, advice, decisions_kept, paid_for, remembering, unnamed_in
from karma.billing.ports import CustomerLink, Customers, Inbox, Payments, Row, Subscriptions
from karma.billing.purge import stop_charging
from karma.core.clock import Clock
from karma.core.errors import Conflict
from karma.core.ids import UserId
from karma.core.observability import count, logger
from karma.identity.transactional import AccountGone
from karma.notices.domain import Notice, NoticeType

_ROUNDS = 5


class SubscriptionBusy(Conflict):
    """The row changed in every attempt; the event stays open and is tried again."""

    code = "SUBSCRIPTION_BUSY"


class _Shown(NamedTuple):
    """Subscriptions that Stripe shows of a user's customers."""

    found: list[StripeSubscription]
    """Subscriptions as `remembering` returned them."""
    kept: list[Subscription]
    """Subscriptions of the row about whose customers Stripe cannot be asked."""
    modes: list[str]
    """Customers whose mode was unknown until Stripe showed them."""
    decisions: dict[str, dict[str, str]]
    """Changed decisions about prices, by customer."""
    unseen: bool
    """True: a customer is of the other mode."""


class EventProjector:
    """Handles stored events, and asks Stripe where no event came."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        subscriptions: Subscriptions,
        customers: Customers,
        payments: Payments,
        clock: Clock,
        retries: timedelta = RETRIES,
    ) -> None:
        """Build the projector.

        `retries` is the time for which Stripe retries failed payments, as set in its dashboard.
        """
        self._inbox = inbox
        self._subscriptions = subscriptions
        self._customers = customers
        self._payments = payments
        self._clock = clock
        self._retries = retries

    def handle(self, event_id: str) -> str:
        """Update the row that an event concerns and close the event; return the note that it was closed with.

        Repeatable at any point: an event is closed in the transaction that writes its effect.

        Raises:
            PaymentsUnavailable: Stripe does not answer; the event stays open, as after each of these.
            StorageThrottled, StorageUnavailable: the database does not answer.
            SubscriptionBusy: the row changed in every attempt.
        """
        event = self._inbox.get(event_id)
        if event is None:
            count("InboxUnknownEvent")
            logger.warning("billing.event_unknown", event_id=event_id)
            return "unknown"
        if event.handled_at is not None:
            return "handled before"
        hint = read_hint(event)
        if not hint.concerns_us:
            return self._ignore(event, "nothing of ours can have changed")
        if hint.account:
            return self._ignore(event, f"it happened in the connected account {hint.account}")
        if hint.livemode is not self._payments.livemode:
            return self._ignore(
                event, f"it happened in {'live' if hint.livemode else 'test'} mode, our key is not of it"
            )
        if hint.named:
            return self._look_at_payers(event, hint)
        return self._follow(event, hint)

    def refresh(self, user_id: UserId) -> str:
        """Update a user's row though no event came, and reopen the events that wait for a link.

        Raises:
            PaymentsUnavailable: Stripe does not answer; call again, as after each of these.
            StorageThrottled, StorageUnavailable: the database does not answer.
            SubscriptionBusy: the row changed in every attempt.
        """
        for _ in range(_ROUNDS):
            try:
                note = self._project(user_id)
            except AccountGone:
                return "the account was deleted"
            if note is not None:
                self._reopen(self._customers.links_of(user_id), EventState.UNLINKED)
                return note
        raise SubscriptionBusy("The subscription keeps changing; try again")

    def _follow(self, event: InboxEvent, hint: Hint) -> str:
        for _ in range(_ROUNDS):
            link = self._customers.link_of(hint.customer_id)
            if link is None:
                note = self._without_link(event, hint)
            elif link.user_id is None:
                note = self._after_deletion(event, hint, link)
            else:
                try:
                    note = self._project(link.user_id, event=event, customer_id=hint.customer_id)
                except AccountGone:
                    # The deletion takes the customer from it first; the event is handled by the sweep after that.
                    return "the account is being deleted"
            if note is not None:
                return note
            again = self._inbox.get(event.id)
            if again is None or again.handled_at is not None:
                return "handled before"
        raise SubscriptionBusy("The subscription keeps changing; try again")

    def _project(self, user_id: UserId, *, event: InboxEvent | None = None, customer_id: str = "") -> str | None:
        """Write what Stripe shows of all of a user's customers; None: the row changed meanwhile, try again.

        `customer_id` is the event's customer, whose mode therefore is the key's.
        """
        row = self._subscriptions.row(user_id)
        links = self._customers.links_of(user_id)
        if customer_id and customer_id not in {link.customer_id for link in links}:
            return None  # it was linked to somebody else since
        shown = self._ask(links, row, customer_id)
        now = self._clock.now()
        paid = paid_for(shown.found, before=row.paid, at=now, unseen=shown.unseen)
        waiting = {each.customer_id for each in shown.found if unnamed_in(each)}
        if paid.unnamed:
            count("BillingUnnamedPrice")
            logger.warning("billing.price_unnamed", prices=list(paid.unnamed), since=str(paid.unnamed_since))
        if row.paid.unnamed or event is None:
            # Before the row forgets that they wait: what dies in between opens them once more.
            self._reopen([link for link in links if link.customer_id not in waiting], EventState.UNNAMED)
        subscription = projection(shown.found, user_id=user_id, retries=self._retries, kept=shown.kept)
        note = f"{subscription.plan} {subscription.stripe_status}" if subscription else "no subscription"
        note += f"; {advice(paid.unnamed)}" if paid.unnamed else ""
        saved = self._subscriptions.save(
            user_id,
            subscription,
            seen=row,
            at=now,
            event_id=event.id if event else "",
            note=note,
            notice=_notice(user_id, row.told, told_of(subscription, now), at=now),
            shown=shown.modes,
            livemode=self._payments.livemode,
            paid=paid,
            decisions=shown.decisions,
            waits_of=customer_id if customer_id in waiting else "",
        )
        return note if saved else None

    def _ask(self, links: list[CustomerLink], row: Row, customer_id: str) -> _Shown:
        shown = _Shown([], [], [], {}, unseen=False)
        for link in links:
            mode = self._payments.livemode if link.customer_id == customer_id else link.livemode
            answer = self._payments.subscriptions_of(link.customer_id, livemode=mode)
            if answer is None:
                held = row.subscription.all if row.subscription else ()
                shown.kept.extend(each for each in held if each.stripe_customer_id == link.customer_id)
                shown = shown._replace(unseen=shown.unseen or mode is not None)
                continue
            found = remembering(answer, link.decisions)
            shown.found.extend(found)
            shown.modes.extend([link.customer_id] if link.livemode is None else [])
            if (decisions := decisions_kept(link.decisions, found)) != link.decisions:
                shown.decisions[link.customer_id] = decisions
        return shown

    def _without_link(self, event: InboxEvent, hint: Hint) -> str | None:
        asked_at = self._clock.now()
        found = self._payments.subscriptions_of(hint.customer_id, livemode=hint.livemode) or []
        return self._leave_unlinked(event, hint, found, asked_at=asked_at, note="no account is linked to the customer")

    def _after_deletion(self, event: InboxEvent, hint: Hint, link: CustomerLink) -> str | None:
        """End what was bought before the account was deleted and heard of after it: nobody else would end it.

        What was bought since is not the deleted account's: it is treated as that of a customer without a link.
        """
        asked_at = self._clock.now()
        deleted_at = link.deleted_at or asked_at
        seen = link._replace(livemode=self._payments.livemode)
        found = stop_charging(self._payments, seen, deleted_at=deleted_at)
        since = [each for each in found if each.created > deleted_at]
        if not since:
            return self._forget(event)
        note = "the account that had the customer was deleted before this was bought"
        return self._leave_unlinked(event, hint, since, asked_at=asked_at, note=note)

    def _leave_unlinked(
        self, event: InboxEvent, hint: Hint, found: list[StripeSubscription], *, asked_at: datetime, note: str
    ) -> str | None:
        if not any(plan_of(each) for each in found):
            return self._ignore_payer(event, hint, found, asked_at=asked_at, note=f"{note}, which buys nothing of ours")
        if not self._inbox.close_unlinked(event.id, hint.customer_id, at=self._clock.now(), note=note):
            return None
        count("BillingUnlinked")
        return note

    def _ignore_payer(
        self, event: InboxEvent, hint: Hint, found: list[StripeSubscription], *, asked_at: datetime, note: str
    ) -> str | None:
        """Close an event of a customer who seems to pay for another product, without an alarm.

        None: the event or link changed meanwhile, try again. If a price is ours after all, the event is opened again
        when it is named.
        """
        now = self._clock.now()
        ids = paid_for(found, before=NOTHING, at=now).ids[:MAX_NOTED]
        if not ids:
            return self._ignore(event, note)
        note += f"; opened again once one of these names a plan: {', '.join(ids)}"
        closed = self._inbox.ignore_payer(event.id, hint.customer_id, ids, asked_at=asked_at, at=now, note=note)
        return note if closed else None

    def _look_at_payers(self, event: InboxEvent, hint: Hint) -> str:
        """Have Stripe asked about all users who pay for what was named, and reopen events of customers without a link.

        After a crash a repeat goes on from there.

        Questions that are due already are moved too: a worker may have asked Stripe before the name was there, and must
        not save that answer.
        """
        at, told = event.received_at, 0
        start: dict[str, str] | None = None
        while True:
            page = self._subscriptions.payers_of(hint.named, but_at=at, start=start)
            told += sum(self._subscriptions.hasten_look(user_id, at=at) for user_id in page.user_ids)
            start = page.last
            if start is None:
                break
        opened = self._inbox.reopen_payers_of(hint.named, at=self._clock.now())
        note = f"{told} accounts that pay for it are looked at"
        note += f"; ignored events of customers without an account that are opened again: {opened}" if opened else ""
        self._inbox.close(event.id, at=self._clock.now(), note=note)
        return note

    def _reopen(self, links: list[CustomerLink], state: EventState) -> None:
        now = self._clock.now()
        for link in links:
            for event_id in self._inbox.waiting_of(link.customer_id, state):
                self._inbox.reopen(event_id, at=now, due_at=now)

    def _forget(self, event: InboxEvent) -> str:
        self._inbox.forget(event.id)
        count("BillingAccountGone")
        return "the account was deleted"

    def _ignore(self, event: InboxEvent, note: str) -> str:
        self._inbox.close(event.id, at=self._clock.now(), note=note, state=EventState.IGNORED)
        return note


def _notice(user_id: UserId, before: Told | None, now: Told, *, at: datetime) -> Notice | None:
    """Return the notice of a state that is another than what was told last; None: nothing has changed.

    Of the number of subscriptions that renew it tells where there are several, or were: one may be paid for unwanted.
    It names the plan that holds, not the one bought: after its end, or while it is paused, another plan holds. A user
    without a row has the free plan and knows it.
    """
    told = before or told_of(None, at)
    data = {"plan": now.plan.value, "status": now.status.value}
    if now.renewing > 1 and now.renewing != told.renewing:
        data["count"] = str(now.renewing)
        return Notice(user_id=user_id, type=NoticeType.SUBSCRIPTIONS_SEVERAL, created_at=at, data=data)
    were_several = told.renewing > 1 and now.renewing != told.renewing
    if (now.plan, now.status) == (told.plan, told.status) and not were_several:
        return None
    return Notice(user_id=user_id, type=NoticeType.SUBSCRIPTION_CHANGED, created_at=at, data=data)
