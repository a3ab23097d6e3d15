"""Counts of a list's rows, folded from the table's stream by the router: exact once all records have arrived.

A counter item stands beside the rows it counts, in their partition: pk of the rows, sk `COUNTER#<name>`. Records of
one partition reach the router in order, so a record counts only when its sequence number is above the last one
folded; a repeat of a batch changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from pynamodb.attributes import NumberAttribute, UnicodeAttribute

from karma.core.dynamo.access import update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item, Key
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound

_SEQUENCE_DIGITS = 40
"""DynamoDB documents stream sequence numbers as 21 to 40 digits; padded, they compare as text."""


def counter_key(pk: str, name: str) -> Key:
    """Key of the counter of a partition's rows."""
    return Key(pk, f"COUNTER#{name}")


class CounterAttributes:
    """Mixed into a table's counter item: `class DeviceCounter(CounterAttributes, DevicesItem, discriminator="...")`."""

    value = NumberAttribute(default=0)
    last_sequence = UnicodeAttribute(null=True)


def fold(counter: Item, *, change: int, sequence_number: str, require_parent: Callable[[Transaction], None]) -> bool:
    """Add `change` unless this record or a later one was folded already; tell whether it counted.

    The first record makes the counter, in a transaction that `require_parent` may let fail with NotFound: records of
    rows that went with their owner bring no counter back.
    """
    kind = type(counter)
    assert issubclass(kind, CounterAttributes)  # noqa: S101  a wiring error, not an input
    padded = sequence_number.zfill(_SEQUENCE_DIGITS)
    actions = [kind.value.add(change), kind.last_sequence.set(padded)]
    try:
        update(counter, actions, kind.last_sequence < padded)
    except ConditionFailed:
        tx = Transaction()
        require_parent(tx)
        tx.upsert(kind(*counter.key), actions, kind.pk.does_not_exist())
        try:
            tx.commit()
        except (ConditionFailed, NotFound):
            return False
    return True
