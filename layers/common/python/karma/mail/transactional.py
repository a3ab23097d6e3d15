"""Mails that are stored in another context's transaction: with what causes them, or not at all."""

from __future__ import annotations

from karma.core.dynamo.transaction import Transaction
from karma.mail.domain import Mail
from karma.mail.repository import item_of


def add_mail(tx: Transaction, mail: Mail) -> None:
    """Store a mail with everything else of a transaction; PostOffice.dispatch enqueues it afterwards."""
    tx.put(item_of(mail))
