"""Store of deliveries and agendas over DynamoDB; items.py has the keys."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import chain, islice
from typing import Any, Final

from pynamodb.expressions.condition import Condition
from pynamodb.expressions.update import Action

from karma.core.clock import epoch_ms, from_epoch_ms, iso, parse_iso
from karma.core.dynamo.access import batch_get, delete, get, query, query_by_id, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.partitions import pages
from karma.core.dynamo.requests import note_request, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import AlreadyExists, Conflict, NotFound
from karma.core.ids import UserId
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import require_account_in_use
from karma.webhooks.domain import (
    LEASE,
    RETENTION,
    Agenda,
    AgendaState,
    Delivery,
    DeliveryAttempt,
    DeliveryError,
    DeliveryId,
    DeliveryStatus,
    DueBatch,
    DueLook,
    Lane,
    WebhookId,
    WebhookStatus,
)
from karma.webhooks.items import (
    AGENDA,
    LOOK_PK,
    AgendaItem,
    DeliveryItem,
    DeliveryMarkItem,
    WebhookItem,
    WebhookRequestItem,
    WebhooksItem,
    agenda_key,
    delivery_key,
    look_sk,
    mark_key,
    mark_prefix,
    owner_pk,
    parse_look_sk,
    parse_mark_sk,
    webhook_key,
)
from karma.webhooks.repository.agendas import end_rest, have_looked_at
from karma.webhooks.repository.webhooks import webhook_in

_AFTER_ALL: Final = "~"
"""Sorts after every moment."""
_MOST_AGENDAS: Final = 100
"""More than there are lanes, since those of webhooks that were just deleted are still there."""


class _Moved(Conflict):
    """The delivery is not as it was read."""


class DeliveryRepository:
    """Deliveries and agendas over DynamoDB."""

    def add(self, delivery: Delivery, *, anew: bool = False, request: RepeatableRequest | None = None) -> None:
        """See Deliveries; 2 checks and 3 items, and one for a key."""
        user_id, webhook_id, due_at = delivery.user_id, delivery.webhook_id, delivery.due_at
        assert due_at is not None  # noqa: S101  a new delivery is pending
        tx = Transaction()
        require_account_in_use(tx, user_id)
        if request is not None:
            note_request(tx, WebhookRequestItem(*request_key(owner_pk(user_id), request)), request, delivery.id)
        enabled = WebhookItem.status == WebhookStatus.ENABLED.value
        gone = NotFound(f"Webhook {webhook_id} is not told anything")
        tx.check(WebhookItem, webhook_key(user_id, webhook_id), enabled, on_fail=gone)
        tx.put(_item(delivery), on_fail=AlreadyExists("The event has a delivery for this webhook"))
        tx.put(DeliveryMarkItem(*mark_key(user_id, delivery.lane, due_at, delivery.id)))
        (end_rest if anew else have_looked_at)(tx, user_id, delivery.lane, at=due_at)
        tx.commit()

    def get(self, user_id: UserId, webhook_id: WebhookId, delivery_id: DeliveryId) -> Delivery | None:
        """See Deliveries; one Get."""
        item = get(DeliveryItem, delivery_key(user_id, webhook_id, delivery_id), consistent=True)
        return _delivery(item) if item else None

    def page(self, user_id: UserId, webhook_id: WebhookId, *, below: str, limit: int) -> list[Delivery]:
        """See Deliveries; one Query a megabyte, eventually consistent."""
        return query_by_id(DeliveryItem, delivery_key(user_id, webhook_id, ""), below, _delivery, limit=limit)

    def due(self, agenda: Agenda, *, at: datetime, limit: int) -> DueBatch:
        """See Deliveries; one Query, and one BatchGet of what it finds and of the webhook."""
        ids = [delivery_id for _, delivery_id in self._marks(agenda, until=f"{iso(at)}{_AFTER_ALL}", limit=limit)]
        if not ids:
            return DueBatch(None, ())
        named = webhook_key(agenda.user_id, agenda.webhook_id)
        keys = [delivery_key(agenda.user_id, agenda.webhook_id, each) for each in ids]
        found = batch_get(WebhooksItem, [named, *keys], consistent=True)
        webhook, items = found.get(named), [found.get(key) for key in keys]
        return DueBatch(
            webhook_in(webhook) if isinstance(webhook, WebhookItem) else None,
            tuple(_delivery(item) for item in items if isinstance(item, DeliveryItem)),
        )

    def next_due(self, agenda: Agenda) -> datetime | None:
        """See Deliveries; one Query of one item."""
        return next((due_at for due_at, _ in self._marks(agenda, until=_AFTER_ALL, limit=1)), None)

    def _marks(self, agenda: Agenda, *, until: str, limit: int) -> list[tuple[datetime, str]]:
        prefix = mark_prefix(agenda.lane)
        within = WebhooksItem.sk.between(prefix, f"{prefix}{until}")
        page = query(WebhooksItem, owner_pk(agenda.user_id), within, limit=limit, consistent=True)
        return [parse_mark_sk(item.sk) for item in page.items]

    def settle(self, old: Delivery, new: Delivery, *, anew: bool = False) -> bool:
        """See Deliveries; up to 3 items, and the agenda when `anew`."""
        user_id, webhook_id = new.user_id, new.webhook_id
        tx = Transaction()
        unmoved = DeliveryItem.attempt_count == old.attempt_count
        unmoved &= DeliveryItem.status == old.status.value
        unmoved &= (
            DeliveryItem.due_at == iso(old.due_at) if old.due_at is not None else DeliveryItem.due_at.does_not_exist()
        )
        named = DeliveryItem(*delivery_key(user_id, webhook_id, new.id))
        moved = _Moved("The delivery was changed")
        tx.update(named, _changes(new), unmoved, on_fail=moved)
        if old.due_at != new.due_at:
            if old.due_at is not None:
                tx.delete(DeliveryMarkItem(*mark_key(user_id, new.lane, old.due_at, new.id)))
            if new.due_at is not None:
                tx.put(DeliveryMarkItem(*mark_key(user_id, new.lane, new.due_at, new.id)), on_fail=moved)
        if anew and new.due_at is not None:
            end_rest(tx, user_id, new.lane, at=new.due_at)
        try:
            tx.commit()
        except _Moved:
            return False
        return True

    def agendas(self, user_id: UserId) -> Sequence[AgendaState]:
        """See Deliveries; one Query of some 26 small items at the most."""
        of_lanes = WebhooksItem.sk.startswith(AGENDA)
        page = query(WebhooksItem, owner_pk(user_id), of_lanes, limit=_MOST_AGENDAS, consistent=True)
        return [_state(item) for item in page.items if isinstance(item, AgendaItem)]

    def take(self, user_id: UserId, lane: Lane, *, holder: str, at: datetime) -> Agenda | None:
        """See Deliveries; one Update."""
        free = AgendaItem.lease_until_ms.does_not_exist() | (AgendaItem.lease_until_ms <= epoch_ms(at))
        try:
            item = update(
                AgendaItem(*agenda_key(user_id, lane)),
                [AgendaItem.holder.set(holder), AgendaItem.lease_until_ms.set(epoch_ms(at + LEASE))],
                AgendaItem.pk.exists() & free,
            )
        except ConditionFailed:
            return None
        return Agenda(
            user_id=user_id,
            lane=lane,
            holder=holder,
            lease_until=from_epoch_ms(epoch_ms(at + LEASE)),
            version=int(item.version),
            renewals=int(item.renewals or 0),
            failures=int(item.failures or 0),
            failing_since=parse_iso(item.failing_since) if item.failing_since else None,
            rests_until=parse_iso(item.rests_until) if item.rests_until else None,
        )

    def release(self, agenda: Agenda, *, look_at: datetime | None) -> bool:
        """See Deliveries; one Update, two when something was added, three when failures were forgotten."""
        named = agenda_key(agenda.user_id, agenda.lane)
        mine = AgendaItem.holder == agenda.holder
        given: list[Action] = [AgendaItem.holder.remove(), AgendaItem.lease_until_ms.remove()]
        known: list[Action] = [
            AgendaItem.failures.set(agenda.failures),
            _set_or_remove(AgendaItem.failing_since, agenda.failing_since),
            _set_or_remove(AgendaItem.rests_until, agenda.rests_until),
        ]
        look: list[Action] = [AgendaItem.gsi1pk.remove(), AgendaItem.gsi1sk.remove()]
        if look_at is not None:
            listed = look_sk(agenda.user_id, agenda.lane, look_at)
            look = [AgendaItem.gsi1pk.set(LOOK_PK), AgendaItem.gsi1sk.set(listed)]
        try:
            update(AgendaItem(*named), [*given, *known, *look], mine & (AgendaItem.version == agenda.version))
        except ConditionFailed:
            # Where the lease was over, or the account is deleted, neither is written: another one knows better.
            for actions, condition in (([*given, *known], mine & _is_not_renewed_since(agenda)), (given, mine)):
                with suppress(ConditionFailed):
                    update(AgendaItem(*named), actions, condition)
                    break
            return False
        return True

    def clear(self, agenda: Agenda, *, pages: int) -> bool:
        """See Deliveries; a Query and a hundred Deletes a hundred items."""
        owner = owner_pk(agenda.user_id)
        for prefix in (mark_prefix(agenda.lane), delivery_key(agenda.user_id, agenda.webhook_id, "").sk):
            if not _emptied(owner, prefix, most=pages):
                return False
        with suppress(ConditionFailed):  # the lease was over, and who has it now clears what is left
            delete(AgendaItem(*agenda_key(agenda.user_id, agenda.lane)), AgendaItem.holder == agenda.holder)
        return True

    def to_look_at(self, at: datetime, *, limit: int) -> Sequence[DueLook]:
        """See Deliveries; one Query of the index."""
        until = WebhooksItem.gsi1sk < f"{iso(at)}{_AFTER_ALL}"
        page = query(WebhooksItem, LOOK_PK, until, limit=limit, index=WebhooksItem.gsi1)
        return [parse_look_sk(item.gsi1sk) for item in page.items if item.gsi1sk]

    def postpone(self, look: DueLook, *, until: datetime) -> bool:
        """See Deliveries; one Update."""
        try:
            update(
                AgendaItem(*agenda_key(look.user_id, look.lane)),
                [AgendaItem.gsi1sk.set(look_sk(look.user_id, look.lane, until))],
                AgendaItem.gsi1sk == look_sk(look.user_id, look.lane, look.at),
            )
        except ConditionFailed:
            return False
        return True


def _state(item: AgendaItem) -> AgendaState:
    return AgendaState(
        lane=Lane(item.sk.removeprefix(AGENDA)),
        leased_until=from_epoch_ms(int(item.lease_until_ms)) if item.lease_until_ms else None,
        failures=int(item.failures),
        rests_until=parse_iso(item.rests_until) if item.rests_until else None,
    )


def _emptied(owner: str, prefix: str, *, most: int) -> bool:
    # One by one: only the function that deletes accounts may write batches, which know no conditions.
    found = list(islice(pages(WebhooksItem, owner, prefix=prefix), most + 1))
    for key in chain.from_iterable(found[:most]):
        delete(WebhooksItem(*key))
    return len(found) <= most


def _is_not_renewed_since(agenda: Agenda) -> Condition:
    found: Condition = AgendaItem.renewals == agenda.renewals
    if not agenda.renewals:
        found = AgendaItem.renewals.does_not_exist()
    return found


def _set_or_remove(attribute: Any, moment: datetime | None) -> Action:
    changed: Action = attribute.remove() if moment is None else attribute.set(iso(moment))
    return changed


def _changes(delivery: Delivery) -> list[Action]:
    kept_until = _kept_until(delivery)
    return [
        DeliveryItem.status.set(delivery.status.value),
        _set_or_remove(DeliveryItem.due_at, delivery.due_at),
        DeliveryItem.asked_at.set(iso(delivery.asked_at)),
        DeliveryItem.attempts.set(_dump(delivery.attempts)),
        DeliveryItem.attempt_count.set(delivery.attempt_count),
        DeliveryItem.round.set(delivery.round),
        DeliveryItem.expires_at.remove() if kept_until is None else DeliveryItem.expires_at.set(kept_until),
    ]


def _kept_until(delivery: Delivery) -> int | None:
    """Return the end of a delivery, once it is done: of a pending one only the mark would be left."""
    if delivery.status is DeliveryStatus.PENDING:
        return None
    return epoch_ms(delivery.asked_at + RETENTION) // 1000


def _dump(attempts: Sequence[DeliveryAttempt]) -> list[list[Any]]:
    return [[iso(each.at), each.duration_ms, each.status_code, each.error] for each in attempts]


def _item(delivery: Delivery) -> DeliveryItem:
    return DeliveryItem(
        *delivery_key(delivery.user_id, delivery.webhook_id, delivery.id),
        webhook_id=delivery.webhook_id,
        user_id=delivery.user_id,
        event_type=delivery.type,
        payload=delivery.payload,
        url=delivery.url or None,
        status=delivery.status.value,
        due_at=iso(delivery.due_at) if delivery.due_at else None,
        made_at=iso(delivery.made_at),
        asked_at=iso(delivery.asked_at),
        attempts=_dump(delivery.attempts),
        attempt_count=delivery.attempt_count,
        round=delivery.round,
        expires_at=_kept_until(delivery),
    )


def _delivery(item: DeliveryItem) -> Delivery:
    attempts: Any = item.attempts
    return Delivery(
        id=DeliveryId(item.sk.rpartition("#")[2]),
        user_id=UserId(item.user_id),
        webhook_id=WebhookId(item.webhook_id),
        type=item.event_type,
        payload=item.payload,
        url=item.url or "",
        status=DeliveryStatus(item.status),
        due_at=parse_iso(item.due_at) if item.due_at else None,
        made_at=parse_iso(item.made_at),
        asked_at=parse_iso(item.asked_at),
        attempts=tuple(
            DeliveryAttempt(
                at=parse_iso(at),
                duration_ms=duration_ms,
                status_code=status_code,
                error=DeliveryError(error) if error else None,
            )
            for at, duration_ms, status_code, error in attempts
        ),
        attempt_count=int(item.attempt_count),
        round=int(item.round),
    )
