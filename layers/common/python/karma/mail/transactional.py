"""Adds mails to another context's transaction, so that a mail is stored together with its cause, or not at all."""

from __future__ import annotations

from karma.core.dynamo.transaction import Transaction
from karma.mail.domain import Mail
from karma.mail.repository import item_of


def add_mail(tx: Transaction, mail: Mail) -> None:
    """Store a mail with everything else of a transaction; OutboxRelay.dispatch enqueues it afterwards."""
    tx.put(item_of(mail))
