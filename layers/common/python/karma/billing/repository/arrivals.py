"""The webhook's one write, by the DynamoDB client without PynamoDB.

The webhook is cold more often than any other function and does this single put: without PynamoDB it starts .1 of a
boto3 client sooner and spends 50 us less a call. tests/integration/billing reads its items back through
`repository.inbox`.
"""

from __future__ import annotations

import zlib
from datetime import datetime
from typing import TYPE_CHECKING

import orjson

from karma.billing.arrival import Arrival, Stored
from karma.billing.repository.keys import EVENT_DISCRIMINATOR, UNHANDLED, event_key, inbox_sort_key
from karma.core import aws
from karma.core.clock import iso
from karma.core.dynamo.tables import deployed
from karma.core.errors import PayloadTooLarge, StorageThrottled, StorageUnavailable
from karma.core.faults import AWS_FAULTS, code_of, upstream_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

_PLAIN_MAX = 300_000
_PACKED_MAX = 380_000
"""Largest packed body in bytes: DynamoDB's limit is 400 KB an item, names and keys included."""


class ArrivalRepository:
    """Stores events once."""

    def store(self, arrival: Arrival, *, received_at: datetime, due_at: datetime) -> Stored:
        """Store an event unless it is stored already; return which.

        Raises:
            PayloadTooLarge: the event exceeds an item of DynamoDB, even compressed.
            StorageUnavailable: the database does not answer; the event may be stored.
        """
        key = event_key(arrival.id)
        received = iso(received_at)
        try:
            aws.client("dynamodb").put_item(
                TableName=deployed("billing"),
                Item={
                    "pk": {"S": key.pk},
                    "sk": {"S": key.sk},
                    "type": {"S": EVENT_DISCRIMINATOR},
                    "schema": {"N": "1"},
                    "version": {"N": "1"},
                    "created_at": {"S": received},
                    "updated_at": {"S": received},
                    "event_type": {"S": arrival.type},
                    "attempts": {"N": "0"},
                    "gsi1pk": {"S": UNHANDLED},
                    "gsi1sk": {"S": inbox_sort_key(due_at, arrival.id)},
                    **_body(arrival.body),
                },
                ConditionExpression="attribute_not_exists(pk)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except AWS_FAULTS as exc:
            if code_of(exc) == "ConditionalCheckFailedException":
                there = getattr(exc, "response", {}).get("Item")
                return _compare(arrival, there if isinstance(there, dict) else {})
            public = upstream_of(exc, system="The database", busy=StorageThrottled, unavailable=StorageUnavailable)
            raise public or StorageUnavailable("The event could not be stored; send it again") from exc
        return Stored.NEW


def _body(text: str) -> dict[str, AttributeValueTypeDef]:
    if len(text) * 3 <= _PLAIN_MAX or len(raw := text.encode()) <= _PLAIN_MAX:
        return {"body": {"S": text}}
    packed = zlib.compress(raw, 6)
    if len(packed) > _PACKED_MAX:
        raise PayloadTooLarge("The event is larger than the inbox can hold")
    return {"body_packed": {"B": packed}}


def _compare(arrival: Arrival, there: dict[str, dict[str, object]]) -> Stored:
    """Tell a repeat from another event with the same id; a repeat may differ outside `type` and `data`."""
    text = there.get("body", {}).get("S")
    packed = there.get("body_packed", {}).get("B")
    before = orjson.loads(
        text if isinstance(text, str) else zlib.decompress(packed) if isinstance(packed, bytes) else "{}"
    )
    now = orjson.loads(arrival.body)
    if before and (before["type"], before["data"]) != (now["type"], now["data"]):
        return Stored.CONFLICT
    return Stored.CLOSED if "handled_at" in there else Stored.OPEN
