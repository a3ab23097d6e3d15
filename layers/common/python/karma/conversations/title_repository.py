"""Titles that a model proposes for threads: it is asked once, and never replaces what an owner has written."""

from __future__ import annotations

from datetime import datetime

from pynamodb.expressions.condition import Condition

from karma.billing.allowances import Adjustment, Reservation
from karma.billing.transactional import adjust_usage, reserve_usage
from karma.conversations.domain import ThreadKey, TitleSource
from karma.conversations.items import ThreadItem, head_key
from karma.core.clock import iso
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import new_id


class TitleRepository:
    """Proposed titles over DynamoDB."""

    def claim(self, key: ThreadKey, reservation: Reservation, *, at: datetime) -> bool:
        """Note that a model is asked, and reserve what it may cost, both or neither; False: it is not to be asked.

        Raises:
            QuotaExceeded: the owner's plan has less left; nothing was noted.
        """
        tx = Transaction(token=new_id())
        asked = [ThreadItem.title_asked_at.set(iso(at))]
        tx.update(ThreadItem(*head_key(key)), asked, _is_untitled() & ThreadItem.title_asked_at.does_not_exist())
        reserve_usage(tx, [reservation])
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def propose(self, key: ThreadKey, title: str, correction: Adjustment) -> bool:
        """Give a thread the proposed title, and correct what was reserved; False: its owner was first.

        What was reserved is corrected in any case. "" is no title.
        """
        if title:
            tx = Transaction(token=new_id())
            given = [ThreadItem.title.set(title), ThreadItem.title_from.set(TitleSource.MODEL.value)]
            tx.update(ThreadItem(*head_key(key)), given, _is_untitled())
            adjust_usage(tx, [correction])
            try:
                tx.commit()
            except ConditionFailed:
                pass  # its owner has named it, or deleted it
            else:
                return True
        tx = Transaction(token=new_id())
        adjust_usage(tx, [correction])
        tx.commit()
        return False


def _is_untitled() -> Condition:
    is_there = ThreadItem.pk.exists() & ThreadItem.deleted_at.does_not_exist()
    source = ThreadItem.title_from
    condition: Condition = is_there & (source.does_not_exist() | (source == TitleSource.WORDS.value))
    return condition
