"""Counts of a list's rows, summed from the table's stream: exact once all records have arrived."""

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
    """Return the key of the counter of a partition's rows."""
    return Key(pk, f"COUNTER#{name}")


class CounterAttributes:
    """Attributes of a counter; mixed in: `class DeviceCounter(CounterAttributes, DevicesItem, discriminator="...")`."""

    value = NumberAttribute(default=0)
    last_sequence = UnicodeAttribute(null=True)


def fold(counter: Item, *, change: int, sequence_number: str, require_parent: Callable[[Transaction], None]) -> bool:
    """Add `change` unless this record or a later one was counted already; return whether it counted.

    The first record creates the counter in a transaction to which `require_parent` adds a condition, failing with
    NotFound, that the owner of the rows exists: deletions of rows together with their owner create no counter anew.
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
