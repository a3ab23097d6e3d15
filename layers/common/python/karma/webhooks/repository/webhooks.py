"""Store of webhooks over DynamoDB; items.py has the keys."""

from __future__ import annotations

import base64
from typing import Any

from karma.audit.domain import AuditEntry
from karma.audit.transactional import add_audit_entry
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get, query
from karma.core.dynamo.partitions import empty
from karma.core.dynamo.requests import note_request, noted, request_key
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.core.purge import PurgeAttempt
from karma.core.requests import RepeatableRequest
from karma.identity.transactional import require_account
from karma.webhooks.domain import (
    MAX_WEBHOOKS,
    DisabledReason,
    FormerSecret,
    Webhook,
    WebhookChanged,
    WebhookId,
    WebhookStatus,
)
from karma.webhooks.items import (
    WEBHOOK,
    WebhookItem,
    WebhookListItem,
    WebhookRequestItem,
    WebhooksItem,
    list_key,
    owner_pk,
    webhook_key,
)
from karma.webhooks.ports import WebhookList
from karma.webhooks.repository.agendas import end_rest, have_looked_at


class WebhookRepository:
    """Webhooks over DynamoDB."""

    name = "webhooks"
    """Name of its step in the deletion of an account."""

    def get(self, user_id: UserId, webhook_id: WebhookId) -> Webhook | None:
        """See Webhooks; one Get."""
        item = get(WebhookItem, webhook_key(user_id, webhook_id), consistent=True)
        return webhook_in(item) if item else None

    def all(self, user_id: UserId) -> list[Webhook]:
        """See Webhooks; one Query of at most 70 KB."""
        most = MAX_WEBHOOKS + 1  # the default one stands among them
        page = query(WebhooksItem, owner_pk(user_id), WebhooksItem.sk.startswith(WEBHOOK), limit=most, consistent=True)
        found = [webhook_in(item) for item in page.items if isinstance(item, WebhookItem)]
        return [each for each in found if not each.is_default]

    def listed(self, user_id: UserId) -> WebhookList:
        """See Webhooks; one Get."""
        item = get(WebhookListItem, list_key(user_id), consistent=True)
        return WebhookList(ids=tuple(item.ids), version=int(item.version)) if item else WebhookList(ids=(), version=0)

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> str | None:
        """See Webhooks; one Get."""
        return noted(WebhookRequestItem, request_key(owner_pk(user_id), request), request)

    def create(
        self, webhook: Webhook, *, seen: WebhookList | None, request: RepeatableRequest | None, entry: AuditEntry
    ) -> None:
        """See Webhooks; a check and 3 items, and one for a key."""
        tx = Transaction()
        require_account(tx, webhook.user_id)
        _note(tx, webhook, request)
        tx.put(_item(webhook), on_fail=_changed(webhook))
        if seen is not None:
            _put_list(tx, webhook, seen, (*seen.ids, webhook.id))
        add_audit_entry(tx, entry)
        tx.commit()

    def replace(
        self,
        old: Webhook,
        new: Webhook,
        *,
        entry: AuditEntry,
        fresh: bool = False,
        request: RepeatableRequest | None = None,
    ) -> None:
        """See Webhooks; 2 items, the agenda when `fresh`, one for a key, and the notice of an event that has one."""
        tx = Transaction()
        _note(tx, new, request)
        item = _item(new)
        item.version = old.version
        tx.put(item, on_fail=_changed(old))
        if fresh:
            end_rest(tx, new.user_id, new.lane, at=new.updated_at)
        add_audit_entry(tx, entry)
        tx.commit()

    def delete(self, webhook: Webhook, *, seen: WebhookList, entry: AuditEntry) -> None:
        """See Webhooks; 4 items."""
        tx = Transaction()
        item = WebhookItem(*webhook_key(webhook.user_id, webhook.id))
        item.version = webhook.version
        tx.delete(item, locked=True, on_fail=_changed(webhook))
        _put_list(tx, webhook, seen, tuple(each for each in seen.ids if each != webhook.id))
        have_looked_at(tx, webhook.user_id, webhook.lane, at=entry.at)
        add_audit_entry(tx, entry)
        tx.commit()

    def purge_account(self, purge: PurgeAttempt) -> bool:
        """Remove an account's webhooks, secrets, deliveries and agendas; True when it is done.

        None is made behind it: what makes one checks for the account, and what changes one for the item.
        """
        return empty(WebhooksItem, owner_pk(purge.user_id), purge)


def _note(tx: Transaction, webhook: Webhook, request: RepeatableRequest | None) -> None:
    if request is not None:
        item = WebhookRequestItem(*request_key(owner_pk(webhook.user_id), request))
        note_request(tx, item, request, webhook.id)


def _put_list(tx: Transaction, webhook: Webhook, seen: WebhookList, ids: tuple[WebhookId, ...]) -> None:
    item = WebhookListItem(*list_key(webhook.user_id), ids=list(ids))
    if seen.version:
        item.version = seen.version
    tx.put(item, on_fail=_changed(webhook))


def _changed(webhook: Webhook) -> WebhookChanged:
    return WebhookChanged(f"Webhook {webhook.id}, or another one of the account, was changed by another request")


def _item(webhook: Webhook) -> WebhookItem:
    return WebhookItem(
        *webhook_key(webhook.user_id, webhook.id),
        webhook_id=webhook.id,
        user_id=webhook.user_id,
        url=webhook.url,
        description=webhook.description,
        events=list(webhook.events),
        status=webhook.status.value,
        disabled_reason=webhook.disabled_reason.value if webhook.disabled_reason else None,
        sealed=webhook.sealed,
        former=[[base64.b64encode(each.sealed).decode(), iso(each.until)] for each in webhook.former],
        created_at=iso(webhook.created_at),
        updated_at=iso(webhook.updated_at),
    )


def webhook_in(item: WebhookItem) -> Webhook:
    """Read a webhook."""
    former: Any = item.former
    return Webhook(
        id=WebhookId(item.webhook_id),
        user_id=UserId(item.user_id),
        url=item.url,
        description=item.description,
        events=tuple(item.events),
        status=WebhookStatus(item.status),
        disabled_reason=DisabledReason(item.disabled_reason) if item.disabled_reason else None,
        sealed=item.sealed,
        former=tuple(FormerSecret(sealed=base64.b64decode(sealed), until=parse_iso(until)) for sealed, until in former),
        created_at=parse_iso(item.created_at or ""),
        updated_at=parse_iso(item.updated_at or ""),
        version=int(item.version),
    )
