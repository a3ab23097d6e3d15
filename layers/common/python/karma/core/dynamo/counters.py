"""Counts of a list's rows, folded from the table's stream by the router: exact once all records have arrived.

A counter item stands beside the rows it counts, in their partition: pk of the rows, sk `COUNTER#<name>`. Records of
one partition reach the router in order, so a record counts only when its sequence number is above the last one
folded; a repeat of a batch changes nothing.
"""

from __future__ import annotations

from pynamodb.attributes import NumberAttribute, UnicodeAttribute

from karma.core.dynamo.access import upsert
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.items import Item, Key

_SEQUENCE_DIGITS = 40
"""DynamoDB documents stream sequence numbers as 21 to 40 digits; padded, they compare as text."""


def counter_key(pk: str, name: str) -> Key:
    """Key of the counter of a partition's rows."""
    return Key(pk, f"COUNTER#{name}")


class CounterAttributes:
    """Mixed into a table's counter item: `class DeviceCounter(CounterAttributes, DevicesItem, discriminator="...")`."""

    value = NumberAttribute(default=0)
    last_sequence = UnicodeAttribute(null=True)


def fold(counter: Item, *, change: int, sequence_number: str) -> bool:
    """Add `change` unless this record or a later one was folded already; tell whether it counted."""
    kind = type(counter)
    assert issubclass(kind, CounterAttributes)  # noqa: S101  a wiring error, not an input
    padded = sequence_number.zfill(_SEQUENCE_DIGITS)
    try:
        upsert(
            counter,
            [kind.value.add(change), kind.last_sequence.set(padded)],
            kind.last_sequence.does_not_exist() | (kind.last_sequence < padded),
        )
    except ConditionFailed:
        return False
    return True
