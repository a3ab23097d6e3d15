"""What other contexts call to write a mail with what causes it: either both are stored or neither is."""

from __future__ import annotations

from karma.core.dynamo.transaction import Transaction
from karma.mail.domain import Mail
from karma.mail.repository import item_of


def write(tx: Transaction, mail: Mail) -> None:
    """Store a mail with everything else of a transaction; PostOffice.dispatch enqueues it afterwards."""
    tx.put(item_of(mail))
