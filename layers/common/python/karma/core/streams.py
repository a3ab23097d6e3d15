"""Records of a table's stream, and who takes them: a router (functions/background) gives each batch to its consumers.

A stream has two readers at the most, so whatever else wants to know of a table's changes is one more consumer of the
router that reads it. A stream brings records twice, late and, from a queue of failures, out of order; a consumer is
given a whole batch again when it failed, and also when another consumer of the same router did. What follows a record
that a consumer cannot take is given to it all the same, and again with that record, unless it takes records `InOrder`.

Lambda's event is JSON, in which binary values are text in Base64; a client of DynamoDB gives bytes, and so do images.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

from karma.core.dynamo.items import Key
from karma.core.happenings import Image, ItemChange


class StreamRecord(NamedTuple):
    """One change of one item."""

    key: Key
    change: ItemChange
    sequence_number: str
    """Ascends with each change of one item; compared as a number."""

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """Read a record of Lambda's event.

        Raises:
            ValueError: a binary value is no Base64.
        """
        row = record["dynamodb"]
        keys = row["Keys"]
        return cls(
            Key(keys["pk"]["S"], keys["sk"]["S"]),
            ItemChange(image_of(row.get("OldImage")), image_of(row.get("NewImage"))),
            row["SequenceNumber"],
        )


def image_of(image: Mapping[str, Any] | None) -> Image | None:
    """Return an image of Lambda's event with its binary values as bytes, at any depth, as DynamoDB's client gives them.

    Values that are bytes already stay as they are.

    Raises:
        ValueError: a binary value is no Base64.
    """
    return None if image is None else {name: _decoded(value) for name, value in image.items()}


def _decoded(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an attribute value of DynamoDB's JSON with bytes in it; one without any is returned itself."""
    match value:
        case {"B": held}:
            return {"B": _bytes(held)}
        case {"BS": held}:
            return {"BS": [_bytes(each) for each in held]}
        case {"M": held}:
            return {"M": image_of(held)}
        case {"L": held}:
            return {"L": [_decoded(each) for each in held]}
    return value


def _bytes(held: str | bytes) -> bytes:
    return b64decode(held, validate=True) if isinstance(held, str) else held


class StreamConsumer(Protocol):
    """Takes changes for one purpose; what it has taken before, it may be given again."""

    def take(self, records: Sequence[StreamRecord]) -> int:
        """Carry out what the records mean, and return how many meant something.

        Raises:
            Upstream: something that it needs does not answer; all of them must come again.
        """
        ...


class InOrder:
    """Mark of a consumer that takes no record behind one that it could not take, since it would then drop that one."""
