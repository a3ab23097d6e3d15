"""In-memory stand-ins of webhooks: stores that pass the same contract suite as those over DynamoDB, and a receiver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from karma.audit.domain import AuditEntry
from karma.core.errors import AlreadyExists, NotFound
from karma.core.ids import UserId
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import AccountGone
from karma.webhooks.domain import (
    LEASE,
    Agenda,
    AgendaState,
    Delivery,
    DeliveryId,
    DueBatch,
    DueLook,
    Lane,
    ReceiverAnswer,
    Webhook,
    WebhookChanged,
    WebhookId,
)
from karma.webhooks.ports import PostFailed, WebhookList
from tests.fakes.requests import MemoryRequests

Named = tuple[UserId, WebhookId]
Laned = tuple[UserId, Lane]


@dataclass
class StoredAgenda:
    """An agenda as it is stored."""

    version: int = 0
    holder: str = ""
    lease_until: datetime | None = None
    renewals: int = 0
    failures: int = 0
    failing_since: datetime | None = None
    rests_until: datetime | None = None
    look_at: datetime | None = None


@dataclass
class MemoryWebhooks:
    """Webhooks in dictionaries; deliveries and agendas are another view of the same."""

    webhooks: dict[Named, Webhook] = field(default_factory=dict)
    lists: dict[UserId, WebhookList] = field(default_factory=dict)
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    agendas: dict[Laned, StoredAgenda] = field(default_factory=dict)
    deliveries: dict[tuple[UserId, WebhookId, DeliveryId], Delivery] = field(default_factory=dict)
    disabled_accounts: set[UserId] = field(default_factory=set)
    deleted_accounts: set[UserId] = field(default_factory=set)
    entries: list[AuditEntry] = field(default_factory=list)

    def get(self, user_id: UserId, webhook_id: WebhookId) -> Webhook | None:
        return self.webhooks.get((user_id, webhook_id))

    def all(self, user_id: UserId) -> list[Webhook]:
        return sorted(
            (w for w in self.webhooks.values() if w.user_id == user_id and not w.is_default), key=lambda each: each.id
        )

    def listed(self, user_id: UserId) -> WebhookList:
        return self.lists.get(user_id, WebhookList(ids=(), version=0))

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> str | None:
        return self.requests.noted(user_id, request)

    def create(
        self, webhook: Webhook, *, seen: WebhookList | None, request: RepeatableRequest | None, entry: AuditEntry
    ) -> None:
        if webhook.user_id in self.deleted_accounts:
            raise AccountGone(webhook.user_id)
        self.requests.require_new(webhook.user_id, request)
        if self.get(webhook.user_id, webhook.id) is not None:
            raise _changed(webhook)
        if seen is not None:
            self._require_seen(webhook, seen)
            self._list(webhook, (*seen.ids, webhook.id))
        self.requests.note(webhook.user_id, request, webhook.id)
        self.webhooks[webhook.user_id, webhook.id] = webhook
        self.entries.append(entry)

    def replace(
        self,
        old: Webhook,
        new: Webhook,
        *,
        entry: AuditEntry,
        fresh: bool = False,
        request: RepeatableRequest | None = None,
    ) -> None:
        self.requests.require_new(new.user_id, request)
        self._require(old)
        self.requests.note(new.user_id, request, new.id)
        self.webhooks[new.user_id, new.id] = new
        if fresh:
            self.end_rest(new.user_id, new.lane, at=new.updated_at)
        self.entries.append(entry)

    def delete(self, webhook: Webhook, *, seen: WebhookList, entry: AuditEntry) -> None:
        self._require(webhook)
        self._require_seen(webhook, seen)
        del self.webhooks[webhook.user_id, webhook.id]
        self._list(webhook, tuple(each for each in seen.ids if each != webhook.id))
        self.have_looked_at(webhook.user_id, webhook.lane, at=entry.at)
        self.entries.append(entry)

    def have_looked_at(self, user_id: UserId, lane: Lane, *, at: datetime) -> StoredAgenda:
        agenda = self.agendas.setdefault((user_id, lane), StoredAgenda())
        agenda.version += 1
        agenda.look_at = at
        return agenda

    def end_rest(self, user_id: UserId, lane: Lane, *, at: datetime) -> None:
        agenda = self.have_looked_at(user_id, lane, at=at)
        agenda.failures, agenda.failing_since, agenda.rests_until = 0, None, None
        agenda.renewals += 1

    def _list(self, webhook: Webhook, ids: tuple[WebhookId, ...]) -> None:
        version = self.listed(webhook.user_id).version + 1
        self.lists[webhook.user_id] = WebhookList(ids=ids, version=version)

    def _require(self, seen: Webhook) -> None:
        stored = self.get(seen.user_id, seen.id)
        if stored is None or stored.version != seen.version:
            raise _changed(seen)

    def _require_seen(self, webhook: Webhook, seen: WebhookList) -> None:
        if self.listed(webhook.user_id).version != seen.version:
            raise _changed(webhook)


def _changed(webhook: Webhook) -> WebhookChanged:
    return WebhookChanged(f"Webhook {webhook.id}, or another one of the account, was changed by another request")


class MemoryDeliveries:
    """The deliveries and agendas of webhooks in memory."""

    def __init__(self, webhooks: MemoryWebhooks) -> None:
        self.webhooks = webhooks

    @property
    def stored(self) -> dict[tuple[UserId, WebhookId, DeliveryId], Delivery]:
        return self.webhooks.deliveries

    def add(self, delivery: Delivery, *, anew: bool = False, request: RepeatableRequest | None = None) -> None:
        named, due_at = (delivery.user_id, delivery.webhook_id), delivery.due_at
        assert due_at is not None
        if delivery.user_id in self.webhooks.deleted_accounts | self.webhooks.disabled_accounts:
            raise AccountGone(delivery.user_id)
        self.webhooks.requests.require_new(delivery.user_id, request)
        webhook = self.webhooks.get(*named)
        if webhook is None or not webhook.is_enabled:
            raise NotFound(f"Webhook {delivery.webhook_id} is not told anything")
        if (*named, delivery.id) in self.stored:
            raise AlreadyExists("The event has a delivery for this webhook")
        self.webhooks.requests.note(delivery.user_id, request, delivery.id)
        self.stored[*named, delivery.id] = delivery
        (self.webhooks.end_rest if anew else self.webhooks.have_looked_at)(delivery.user_id, delivery.lane, at=due_at)

    def get(self, user_id: UserId, webhook_id: WebhookId, delivery_id: DeliveryId) -> Delivery | None:
        return self.stored.get((user_id, webhook_id, delivery_id))

    def page(self, user_id: UserId, webhook_id: WebhookId, *, below: str, limit: int) -> list[Delivery]:
        mine = [each for key, each in self.stored.items() if key[:2] == (user_id, webhook_id)]
        newest = sorted((each for each in mine if not below or each.id < below), key=lambda e: e.id, reverse=True)
        return newest[:limit]

    def _pending(self, agenda: Agenda) -> list[tuple[datetime, Delivery]]:
        mine = [each for each in self.stored.values() if (each.user_id, each.lane) == (agenda.user_id, agenda.lane)]
        found = [(each.due_at, each) for each in mine if each.due_at]
        return sorted(found, key=lambda each: (each[0], each[1].id))

    def due(self, agenda: Agenda, *, at: datetime, limit: int) -> DueBatch:
        found = [each for due_at, each in self._pending(agenda) if due_at <= at][:limit]
        return DueBatch(self.webhooks.get(agenda.user_id, agenda.webhook_id) if found else None, tuple(found))

    def next_due(self, agenda: Agenda) -> datetime | None:
        return next((due_at for due_at, _ in self._pending(agenda)), None)

    def settle(self, old: Delivery, new: Delivery, *, anew: bool = False) -> bool:
        key = (new.user_id, new.webhook_id, new.id)
        stored = self.stored.get(key)
        if stored is None or _state(stored) != _state(old):
            return False
        self.stored[key] = new
        if anew and new.due_at is not None:
            self.webhooks.end_rest(new.user_id, new.lane, at=new.due_at)
        return True

    def agendas(self, user_id: UserId) -> Sequence[AgendaState]:
        return [
            AgendaState(lane=lane, leased_until=each.lease_until, failures=each.failures, rests_until=each.rests_until)
            for (owner, lane), each in self.webhooks.agendas.items()
            if owner == user_id
        ]

    def take(self, user_id: UserId, lane: Lane, *, holder: str, at: datetime) -> Agenda | None:
        found = self.webhooks.agendas.get((user_id, lane))
        if found is None or (found.lease_until is not None and found.lease_until > at):
            return None
        found.holder, found.lease_until, found.version = holder, at + LEASE, found.version + 1
        return Agenda(
            user_id=user_id,
            lane=lane,
            holder=holder,
            lease_until=found.lease_until,
            version=found.version,
            renewals=found.renewals,
            failures=found.failures,
            failing_since=found.failing_since,
            rests_until=found.rests_until,
        )

    def release(self, agenda: Agenda, *, look_at: datetime | None) -> bool:
        found = self.webhooks.agendas.get((agenda.user_id, agenda.lane))
        if found is None or found.holder != agenda.holder:
            return False
        is_as_taken = found.version == agenda.version
        found.holder, found.lease_until, found.version = "", None, found.version + 1
        if found.renewals == agenda.renewals:
            found.failures, found.failing_since = agenda.failures, agenda.failing_since
            found.rests_until = agenda.rests_until
        if is_as_taken:
            found.look_at = look_at
        return is_as_taken

    def clear(self, agenda: Agenda, *, pages: int) -> bool:
        named = (agenda.user_id, agenda.webhook_id)
        keys = [key for key in self.stored if key[:2] == named]
        for key in keys[: 100 * pages]:
            del self.stored[key]
        if len(keys) > 100 * pages:
            return False
        laned = (agenda.user_id, agenda.lane)
        if (found := self.webhooks.agendas.get(laned)) is not None and found.holder == agenda.holder:
            del self.webhooks.agendas[laned]
        return True

    def to_look_at(self, at: datetime, *, limit: int) -> Sequence[DueLook]:
        found = [
            DueLook(user_id=user_id, lane=lane, at=agenda.look_at)
            for (user_id, lane), agenda in self.webhooks.agendas.items()
            if agenda.look_at is not None and agenda.look_at <= at
        ]
        return sorted(found, key=lambda look: look.at)[:limit]

    def postpone(self, look: DueLook, *, until: datetime) -> bool:
        found = self.webhooks.agendas.get((look.user_id, look.lane))
        if found is None or found.look_at != look.at:
            return False
        found.look_at, found.version = until, found.version + 1
        return True


def _state(delivery: Delivery) -> object:
    return delivery.status, delivery.due_at, delivery.attempt_count


@dataclass
class HeardPosts:
    """A receiver that answers what a test says, by payload, and remembers what it got."""

    answer: Callable[[Mapping[str, str], bytes], ReceiverAnswer | PostFailed]
    got: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def post(self, url: str, payload: bytes, headers: Mapping[str, str]) -> ReceiverAnswer:
        self.urls.append(url)
        self.got.append((headers, payload))
        answered = self.answer(headers, payload)
        if isinstance(answered, PostFailed):
            raise answered
        return answered


@dataclass
class HeardQueue:
    """A queue that keeps its messages, with their delays in seconds."""

    sent: list[tuple[str, int]] = field(default_factory=list)

    def send(self, body: str, *, delay_s: int = 0) -> None:
        assert 0 <= delay_s <= 900, "SQS takes no more"
        self.sent.append((body, delay_s))

    def send_many(self, bodies: list[str]) -> None:
        for body in bodies:
            self.send(body)


class PlainSeal:
    """A seal that everybody can read, but that opens for its own context alone, as KMS does."""

    def seal(self, plain: bytes, *, context: Mapping[str, str]) -> bytes:
        return repr(sorted(context.items())).encode() + b"\0" + plain

    def unseal(self, sealed: bytes, *, context: Mapping[str, str]) -> bytes:
        from karma.integrations.kms import SealBroken

        bound, plain = sealed.split(b"\0", 1)
        if bound != repr(sorted(context.items())).encode():
            raise SealBroken("A stored secret cannot be read any more; give it anew")
        return plain
