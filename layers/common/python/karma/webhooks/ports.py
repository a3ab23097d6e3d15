"""Ports of webhooks; the second implementations are in tests/fakes/webhooks.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from karma.audit.domain import AuditEntry
from karma.core.ids import UserId
from karma.core.records import Record
from karma.core.requests import RepeatableRequest
from karma.webhooks.domain import (
    Agenda,
    AgendaState,
    Delivery,
    DeliveryError,
    DeliveryId,
    DueBatch,
    DueLook,
    Lane,
    ReceiverAnswer,
    Webhook,
    WebhookId,
)


class WebhookList(Record, kw_only=True):
    """The ids of an account's webhooks: who writes it decides that they are not too many."""

    ids: tuple[WebhookId, ...]
    version: int
    """Number of changes; 0: there never was one."""


class Webhooks(Protocol):
    """A store of webhooks. All calls block; each write is one transaction."""

    def get(self, user_id: UserId, webhook_id: WebhookId) -> Webhook | None:
        """Read one, consistently; None when it is absent, deleted, or another account's."""

    def all(self, user_id: UserId) -> list[Webhook]:
        """Return all of an account, the oldest first, consistently."""

    def listed(self, user_id: UserId) -> WebhookList:
        """Read the ids of an account's webhooks, consistently."""

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> str | None:
        """Return the id of what a request made, consistently; None: it made nothing within 25 hours.

        It is that of a webhook, also where the request gave it another secret, or of a delivery.

        Raises:
            IdempotencyKeyReused: the request that made it asked for something else.
        """

    def create(
        self, webhook: Webhook, *, seen: WebhookList | None, request: RepeatableRequest | None, entry: AuditEntry
    ) -> None:
        """Store a new webhook, its id in the list, the record of `request`, and the entry of the audit log.

        Args:
            webhook: the webhook.
            seen: the list as it was read; None: it does not stand in it, as the default one.
            request: the request that makes it, if it has a key.
            entry: what is noted of it.

        Raises:
            AlreadyExists: a request with this key made something within the last 25 hours; `made_by` names it.
            WebhookChanged: `seen` is not the stored list any more, or there is a webhook with this id.
            AccountGone: its account is deleted.
        """

    def replace(
        self,
        old: Webhook,
        new: Webhook,
        *,
        entry: AuditEntry,
        fresh: bool = False,
        request: RepeatableRequest | None = None,
    ) -> None:
        """Store `new`, which has the next version, in place of `old`, and the record of `request`.

        `fresh`: its rest and its failures are over.

        Raises:
            AlreadyExists: as `create`.
            WebhookChanged: `old` is not the stored one any more.
        """

    def delete(self, webhook: Webhook, *, seen: WebhookList, entry: AuditEntry) -> None:
        """Delete a webhook; a worker looks at it at once, and removes its deliveries.

        Raises:
            WebhookChanged: `webhook` or `seen` is not the stored one any more.
        """


class Deliveries(Protocol):
    """A store of deliveries and agendas. All calls block; each write is one transaction."""

    def add(self, delivery: Delivery, *, anew: bool = False, request: RepeatableRequest | None = None) -> None:
        """Store a pending delivery with its mark, and have its lane looked at; `anew`: its rest is over.

        Raises:
            AlreadyExists: the event has a delivery for the webhook, or `request` has made one before.
            NotFound: the webhook is deleted or disabled.
            AccountGone: the account is deleted.
        """

    def get(self, user_id: UserId, webhook_id: WebhookId, delivery_id: DeliveryId) -> Delivery | None:
        """Read one, consistently; None when it is absent, or older than it is kept."""

    def page(self, user_id: UserId, webhook_id: WebhookId, *, below: str, limit: int) -> list[Delivery]:
        """List deliveries, newest event first, whose ids are below `below`; "" is the first page."""

    def due(self, agenda: Agenda, *, at: datetime, limit: int) -> DueBatch:
        """Return deliveries that are due, those that are longest first, and their webhook, consistently."""

    def next_due(self, agenda: Agenda) -> datetime | None:
        """Return the moment when the next pending delivery is due, consistently; None: none is pending."""

    def settle(self, old: Delivery, new: Delivery, *, anew: bool = False) -> bool:
        """Store what became of a delivery, and its mark; False: `old` is not the stored one any more.

        `anew`: its webhook's rest is over, and it is looked at.
        """

    def agendas(self, user_id: UserId) -> Sequence[AgendaState]:
        """Return what all agendas of an account say, consistently: there are few, as lanes are."""

    def take(self, user_id: UserId, lane: Lane, *, holder: str, at: datetime) -> Agenda | None:
        """Take a lane's lease for LEASE; None: another worker has it, or the lane has no agenda."""

    def release(self, agenda: Agenda, *, look_at: datetime | None) -> bool:
        """Give the lease back, keep what the agenda says, and have the lane looked at then; None: never.

        False: something was added since `take`: the lease is given back, and the lane is to be looked at as it is
        stored. Where failures were forgotten since, what the agenda says of them is not kept.
        """

    def clear(self, agenda: Agenda, *, pages: int) -> bool:
        """Remove the marks and deliveries of a deleted webhook, and then its agenda; True: all are gone.

        `pages`: hundreds of items of each kind that are removed at the most.
        """

    def to_look_at(self, at: datetime, *, limit: int) -> Sequence[DueLook]:
        """Return lanes that had to be looked at by then, the longest first, eventually consistent."""

    def postpone(self, look: DueLook, *, until: datetime) -> bool:
        """Move a look; False: somebody else has."""


class SecretSeal(Protocol):
    """Encrypts secrets for one webhook of one account. Calls block."""

    def seal(self, plain: bytes, *, context: Mapping[str, str]) -> bytes:
        """Return the ciphertext, which is opened with the same context alone.

        Raises:
            SealUnavailable: the keys' service did not answer; the call may be repeated.
        """

    def unseal(self, sealed: bytes, *, context: Mapping[str, str]) -> bytes:
        """Return what was sealed.

        Raises:
            SealUnavailable: as `seal`.
            SealBroken: it was sealed with another key or context, or was changed.
        """


class PostFailed(Exception):
    """No answer came; the code says why."""

    def __init__(self, code: DeliveryError) -> None:
        super().__init__(code.value)
        self.code = code


class Posts(Protocol):
    """Sends payloads; calls block, several may be made side by side."""

    def post(self, url: str, payload: bytes, headers: Mapping[str, str]) -> ReceiverAnswer:
        """Send a payload, and return how it was answered within TIMEOUT_S.

        Raises:
            PostFailed: it was not.
        """


class LookQueue(Protocol):
    """Messages that have workers look at lanes."""

    def send(self, body: str, *, delay_s: int = 0) -> None:
        """Enqueue one.

        Raises:
            QueueUnavailable: SQS did not accept it.
        """

    def send_many(self, bodies: list[str]) -> None:
        """Enqueue any number.

        Raises:
            QueueUnavailable: SQS did not accept at least one.
        """
