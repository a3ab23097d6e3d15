"""Store of drafts of threads in the table `agents`: see drafts.py; karma.conversations.items has the keys."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from types import MappingProxyType

from karma.billing.allowances import Reservation
from karma.billing.transactional import require_usage
from karma.conversations.domain import History, Message, ThreadChanged, ThreadKey
from karma.conversations.transactional import add_messages, draft_thread, require_draft
from karma.core.clock import iso
from karma.core.dynamo.transaction import Transaction
from karma.identity.transactional import require_account
from karma.runs.attachment_repository import note_attachments


class DraftRepository:
    """Drafts over DynamoDB."""

    def begin(
        self, key: ThreadKey, *, at: datetime, removed_at: datetime, reservations: Sequence[Reservation] = ()
    ) -> None:
        """See Drafts; one transaction of two items, a check, and one for each reservation that has a limit."""
        tx = Transaction()
        require_account(tx, key.user_id)
        require_usage(tx, reservations)
        draft_thread(tx, key, at=iso(at), removed_at=iso(removed_at), on_fail=ThreadChanged())
        tx.commit()

    def add(self, key: ThreadKey, messages: tuple[Message, ...], *, n: int, at: datetime) -> None:
        """See Drafts; one transaction of two checks, an item for each 350 KB, and one for each attachment."""
        tx, changed = Transaction(), ThreadChanged()
        require_account(tx, key.user_id)
        require_draft(tx, key, on_fail=changed)
        add_messages(tx, History(key, n, messages), at=iso(at), on_fail=changed)
        note_attachments(tx, key, messages, new=MappingProxyType({}), at=iso(at), on_fail=changed)
        tx.commit()
