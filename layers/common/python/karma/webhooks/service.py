"""Use cases of webhooks: create, list, read, change, rotate, delete, try out, and see and repeat deliveries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from karma.audit.domain import AuditEntry, AuditEvent, Source
from karma.core.addresses import require_no_private_literal, require_server
from karma.core.clock import Clock
from karma.core.errors import (
    AlreadyCreated,
    AlreadyExists,
    NotFound,
    StaleVersion,
    StorageThrottled,
    ValidationFailed,
)
from karma.core.happenings import Happening
from karma.core.ids import UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, RepeatableRequest, no_longer, repeatable
from karma.webhooks.domain import (
    DEFAULT,
    EVERYTHING,
    MAX_WEBHOOKS,
    RETENTION,
    TEST_TYPE,
    Delivery,
    DeliveryId,
    DisabledReason,
    Webhook,
    WebhookChanged,
    WebhookId,
    WebhookStatus,
    default_webhook,
    delivery_of,
    shown_secret,
)
from karma.webhooks.errors import SigningSecretMissing, TooManyWebhooks, WebhookIsDefault, WebhookIsDisabled
from karma.webhooks.looks import send_look
from karma.webhooks.ports import Deliveries, LookQueue, WebhookList, Webhooks
from karma.webhooks.secrets import SigningSecrets

_MET = (StorageThrottled, WebhookChanged)


class NewWebhook(Record, kw_only=True):
    """A webhook as somebody describes it."""

    url: str
    events: tuple[str, ...]
    description: str


class ShownWebhook(Record, kw_only=True):
    """A webhook with a secret that was just made, which is shown this once."""

    webhook: Webhook
    secret: str


class DeliveryPage(Record, kw_only=True):
    """A page of deliveries, newest event first."""

    deliveries: tuple[Delivery, ...]
    next_below: DeliveryId | None
    """Ids of the next page are below this one; None at the end."""


class OutgoingWebhooks:
    """Use cases of webhooks. Each raises NotFound for a webhook of another account."""

    def __init__(
        self,
        store: Webhooks,
        deliveries: Deliveries,
        secrets: SigningSecrets,
        queue: LookQueue,
        clock: Clock,
        *,
        known_types: Callable[[], Sequence[str]],
        is_allowed: Callable[[str], bool],
        loopback: bool = False,
    ) -> None:
        """Make the service.

        Args:
            store: the webhooks.
            deliveries: their deliveries.
            secrets: makes and seals secrets.
            queue: has workers look at webhooks.
            clock: tells the time.
            known_types: returns the types of events that may be named, besides EVERYTHING.
            is_allowed: tells whether an address may be asked, as deliveries are judged.
            loopback: names of this machine may be given, by http:// too.
        """
        self._store = store
        self._deliveries = deliveries
        self._secrets = secrets
        self._queue = queue
        self._clock = clock
        self._known_types = known_types
        self._is_allowed = is_allowed
        self._loopback = loopback

    def get(self, user_id: UserId, webhook_id: str) -> Webhook:
        """Read one webhook.

        Raises:
            NotFound: absent or deleted.
        """
        is_name = is_id(webhook_id) or webhook_id == DEFAULT
        webhook = self._store.get(user_id, WebhookId(webhook_id)) if is_name else None
        if webhook is None:
            raise NotFound(f"Webhook {webhook_id} not found")
        return webhook

    def all(self, user_id: UserId) -> list[Webhook]:
        """Return all webhooks of an account but the default one, the oldest first: there are at most MAX_WEBHOOKS."""
        return self._store.all(user_id)

    def rests(self, user_id: UserId) -> Mapping[str, datetime]:
        """Return until when the webhooks of an account rest that do so now, by their ids."""
        now = self._clock.now()
        states = self._deliveries.agendas(user_id)
        return {each.lane: each.rests_until for each in states if each.rests_until and each.rests_until > now}

    def require_receiver(self, user_id: UserId, url: str, *, field: str = "webhook") -> None:
        """Check that what goes to an address that a run names can be sent and signed.

        Raises:
            ValidationFailed: of `field`: the address is not https:, or is private.
            SigningSecretMissing: the account has no default webhook.
        """
        self._require_address(url, field=field)
        if self._store.get(user_id, DEFAULT) is None:
            raise SigningSecretMissing

    def create(
        self, user_id: UserId, wanted: NewWebhook, *, source: Source, idempotency_key: IdempotencyKey | None = None
    ) -> ShownWebhook:
        """Make a webhook, once for each `idempotency_key` that is given.

        Raises:
            ValidationFailed: the address is not https:, or is private; or a type of event does not exist.
            TooManyWebhooks: the account has MAX_WEBHOOKS.
            AlreadyCreated: this request made a webhook before, whose secret was shown then.
            Gone: that webhook was deleted meanwhile.
            IdempotencyKeyReused: the first request asked for another webhook.
            SealUnavailable: its secret cannot be encrypted now.
            AccountGone: the account is deleted.
        """
        ValidationFailed.together(lambda: self._require_address(wanted.url), lambda: self._require_types(wanted.events))
        now = self._clock.now()
        request = repeatable(idempotency_key, wanted, at=now)
        if request is not None and (made := self._store.made_by(user_id, request)) is not None:
            raise self._earlier(user_id, made)
        _require_room(self._store.listed(user_id))
        webhook_id = WebhookId(new_id())
        secret, sealed = self._secrets.new(user_id, webhook_id)
        webhook = Webhook(
            id=webhook_id,
            user_id=user_id,
            url=wanted.url,
            description=wanted.description,
            events=wanted.events,
            status=WebhookStatus.ENABLED,
            sealed=sealed,
            created_at=now,
            updated_at=now,
            version=1,
        )
        entry = self._entry(webhook, AuditEvent.WEBHOOK_CREATED, source)

        def once() -> Webhook:
            seen = self._store.listed(user_id)
            _require_room(seen)
            self._store.create(webhook, seen=seen, request=request, entry=entry)
            return webhook

        self._once(user_id, once, request)
        count("WebhookCreated")
        logger.info("webhook.created", webhook_id=webhook.id)
        return ShownWebhook(webhook=webhook, secret=shown_secret(secret))

    def change(
        self,
        user_id: UserId,
        webhook_id: str,
        changes: Mapping[str, Any],
        *,
        source: Source,
        version: int | None = None,
    ) -> Webhook:
        """Change address, description, types or status; the same again changes nothing.

        Enabled again, or moved to another address, it has no failures behind it, and does not rest.

        Raises:
            NotFound: as `get`.
            StaleVersion: `version` is not the stored one.
            ValidationFailed: as `create`.
            WebhookIsDefault: it has neither an address nor types.
        """
        if webhook_id == DEFAULT and changes.keys() & {"url", "events"}:
            raise WebhookIsDefault("it has neither an address nor types of events to change")
        checks = []
        if "url" in changes:
            checks.append(lambda: self._require_address(changes["url"]))
        if "events" in changes:
            checks.append(lambda: self._require_types(changes["events"]))
        ValidationFailed.together(*checks)

        def once() -> Webhook:
            old = self._of_version(user_id, webhook_id, version)
            same = replace(old, **changes)
            if same.status is not old.status:
                reason = None if same.is_enabled else DisabledReason.REQUEST
                same = replace(same, disabled_reason=reason)
            if same == old:
                return old
            new = replace(same, updated_at=self._clock.now(), version=old.version + 1)
            fresh = new.is_enabled and (not old.is_enabled or new.url != old.url)
            entry = self._entry(new, AuditEvent.WEBHOOK_CHANGED, source)
            self._store.replace(old, new, entry=entry, fresh=fresh)
            return new

        return repeat(once, on=_MET)

    def rotate(
        self,
        user_id: UserId,
        webhook_id: str,
        *,
        source: Source,
        version: int | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> ShownWebhook:
        """Give a webhook a new secret; for OVERLAP the former one signs beside it. The first one makes the default one.

        Sent twice without an `idempotency_key`, it makes two secrets: those of before sign on, MAX_FORMER_SECRETS.

        Raises:
            NotFound, StaleVersion: as `change`.
            AlreadyCreated, Gone, IdempotencyKeyReused, SealUnavailable, AccountGone: as `create`.
        """
        now = self._clock.now()
        request = repeatable(idempotency_key, "rotate", webhook_id, version, at=now)
        if request is not None and (made := self._store.made_by(user_id, request)) is not None:
            raise self._earlier(user_id, made)
        named = DEFAULT if webhook_id == DEFAULT else self.get(user_id, webhook_id).id
        secret, sealed = self._secrets.new(user_id, named)

        def once() -> Webhook:
            if named == DEFAULT and version is None and self._store.get(user_id, DEFAULT) is None:
                new = default_webhook(user_id, sealed, at=now)
                entry = self._entry(new, AuditEvent.WEBHOOK_CREATED, source)
                self._store.create(new, seen=None, request=request, entry=entry)
                return new
            old = self._of_version(user_id, named, version)
            new = old.rotated(sealed, now=self._clock.now())
            entry = self._entry(new, AuditEvent.WEBHOOK_SECRET_ROTATED, source)
            self._store.replace(old, new, entry=entry, request=request)
            return new

        webhook = self._once(user_id, once, request)
        logger.info("webhook.secret_rotated", webhook_id=webhook.id)
        return ShownWebhook(webhook=webhook, secret=shown_secret(secret))

    def delete(self, user_id: UserId, webhook_id: str, *, source: Source, version: int | None = None) -> None:
        """Delete a webhook; a worker removes its deliveries, which nobody can read any more.

        Raises:
            NotFound, StaleVersion: as `change`.
            WebhookIsDefault: it stays.
        """
        if webhook_id == DEFAULT:
            raise WebhookIsDefault("disable it by PATCH, or rotate its secret")

        def once() -> Webhook:
            webhook = self._of_version(user_id, webhook_id, version)
            entry = self._entry(webhook, AuditEvent.WEBHOOK_DELETED, source)
            self._store.delete(webhook, seen=self._store.listed(user_id), entry=entry)
            return webhook

        webhook, now = repeat(once, on=_MET), self._clock.now()
        count("WebhookDeleted")
        logger.info("webhook.deleted", webhook_id=webhook.id)
        send_look(self._queue, user_id, webhook.lane, at=now, now=now)

    def try_out(self, user_id: UserId, webhook_id: str, *, idempotency_key: IdempotencyKey | None = None) -> Delivery:
        """Have a webhook told an event of TEST_TYPE, as any other, once for each `idempotency_key` that is given.

        Returns its delivery, which is pending; to a repeat, the delivery of the first request as it is by then.

        Raises:
            NotFound: as `get`.
            WebhookIsDisabled: it is told nothing.
            WebhookIsDefault: it has no address.
            Gone: what the first request made is deleted.
            IdempotencyKeyReused: the first request asked for something else.
        """
        if webhook_id == DEFAULT:
            raise WebhookIsDefault("begin a run that names one")
        now = self._clock.now()
        request = repeatable(idempotency_key, "test", webhook_id, at=now)
        if request is not None and (made := self._store.made_by(user_id, request)) is not None:
            return self._tried_out(user_id, webhook_id, made)
        webhook = self._enabled(user_id, webhook_id)
        happening = Happening(id=new_id(), user_id=user_id, type=TEST_TYPE, at=now, data={"webhook_id": webhook.id})
        delivery = delivery_of(happening, webhook.id, now=now)
        try:
            self._deliveries.add(delivery, anew=True, request=request)
        except NotFound:
            raise _disabled(webhook) from None
        except AlreadyExists:  # by the same request, sent twice at once
            made = self._store.made_by(user_id, request) if request else None
            return self._tried_out(user_id, webhook_id, made or delivery.id)
        self._look(delivery)
        return delivery

    def _tried_out(self, user_id: UserId, webhook_id: str, made: str) -> Delivery:
        found = self._deliveries.get(user_id, self.get(user_id, webhook_id).id, DeliveryId(made))
        if found is None:
            raise no_longer(made)
        self._look(found)  # whoever made it may have died before this
        return found

    def deliveries(self, user_id: UserId, webhook_id: str, *, below: str, limit: int) -> DeliveryPage:
        """Return a page of a webhook's deliveries, from below an id on; "" is the newest event.

        Raises:
            NotFound: as `get`.
        """
        webhook = self.get(user_id, webhook_id)
        found = self._deliveries.page(user_id, webhook.id, below=below, limit=limit + 1)
        shown = found[:limit]
        return DeliveryPage(
            deliveries=tuple(each for each in shown if self._is_kept(each)),
            next_below=shown[-1].id if len(found) > limit else None,
        )

    def redeliver(self, user_id: UserId, webhook_id: str, delivery_id: str) -> Delivery:
        """Deliver an event once more, at once and with all pauses before it, whatever became of it; its id is the same.

        Raises:
            NotFound: as `get`, or the delivery is absent, or older than it is kept.
            WebhookIsDisabled: the webhook is told nothing.
        """
        webhook = self._enabled(user_id, webhook_id)

        def once() -> Delivery:
            old = self._deliveries.get(user_id, webhook.id, DeliveryId(delivery_id)) if is_id(delivery_id) else None
            if old is None or not self._is_kept(old):
                raise NotFound(f"Delivery {delivery_id} not found")
            new = old.again(self._clock.now())
            if not self._deliveries.settle(old, new, anew=True):
                raise WebhookChanged(f"Delivery {delivery_id} was attempted meanwhile; try again")
            return new

        delivery = repeat(once, on=_MET)
        self._look(delivery)
        return delivery

    def _is_kept(self, delivery: Delivery) -> bool:
        return delivery.asked_at + RETENTION > self._clock.now()

    def _look(self, delivery: Delivery) -> None:
        now = self._clock.now()
        send_look(self._queue, delivery.user_id, delivery.lane, at=now, now=now)

    def _once(self, user_id: UserId, write: Callable[[], Webhook], request: RepeatableRequest | None) -> Webhook:
        """Write what a request makes.

        Raises:
            AlreadyCreated, Gone: the same request, sent twice at once, was faster.
        """
        try:
            return repeat(write, on=_MET)
        except TooManyWebhooks:
            raise
        except AlreadyExists:
            made = self._store.made_by(user_id, request) if request else None
            if made is None:
                raise
            raise self._earlier(user_id, made) from None

    def _enabled(self, user_id: UserId, webhook_id: str) -> Webhook:
        webhook = self.get(user_id, webhook_id)
        if not webhook.is_enabled:
            raise _disabled(webhook)
        return webhook

    def _of_version(self, user_id: UserId, webhook_id: str, version: int | None) -> Webhook:
        webhook = self.get(user_id, webhook_id)
        if version is not None and webhook.version != version:
            raise StaleVersion(f"Webhook {webhook.id} has version {webhook.version}")
        return webhook

    def _entry(self, webhook: Webhook, event: AuditEvent, source: Source) -> AuditEntry:
        return AuditEntry(
            user_id=webhook.user_id,
            event=event,
            at=self._clock.now(),
            actor_id=webhook.user_id,
            source=source,
            details={"webhook_id": webhook.id},
        )

    def _earlier(self, user_id: UserId, made: str) -> Exception:
        if self._store.get(user_id, WebhookId(made)) is None:
            return no_longer(made)
        return AlreadyCreated("This request was carried out; its answer was shown once", details={"id": made})

    def _require_address(self, url: str, *, field: str = "url") -> None:
        try:
            found = require_server(url, loopback=self._loopback)
            require_no_private_literal(found, is_allowed=self._is_allowed)
        except ValueError as exc:
            raise ValidationFailed.of(field, str(exc)) from None

    def _require_types(self, events: Sequence[str]) -> None:
        known = self._known_types()
        for at, event in enumerate(events):
            if event != EVERYTHING and event not in known:
                raise ValidationFailed.of(f"events.{at}", f"must be * or one of {', '.join(known)}")


def _disabled(webhook: Webhook) -> WebhookIsDisabled:
    return WebhookIsDisabled(f"Webhook {webhook.id} is disabled; enable it first by PATCH")


def _require_room(seen: WebhookList) -> None:
    if len(seen.ids) >= MAX_WEBHOOKS:
        raise TooManyWebhooks(f"An account has at most {MAX_WEBHOOKS} webhooks")
