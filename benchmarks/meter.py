"""Counts DynamoDB calls and computes their capacity units from item sizes, by AWS's rules.

The local engine reports constants, so units come from the items themselves:

    read    4 KB a unit, half when eventually consistent, double in a transaction; an absent item counts as one block;
            a Query is rounded once over what it read
    write   1 KB a unit of the larger of the item before and after; double in a transaction; a failed condition bills
            the item that is there, a check in a transaction like a write
    index   1 KB a unit of each entry put or removed; an entry whose key moves is removed and put; an index entry that
            the write leaves unchanged costs nothing

Item images before and after a write come from an extra, unmetered client, so this is for tests and benchmarks only.

    meter = Meter(aws.client("dynamodb"), lookup=another_client)
    with meter.recording() as spent: ...
    spent.calls, spent.read_units, spent.write_units
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

Item = Mapping[str, Any]
_READ_BLOCK = 4096
_WRITE_BLOCK = 1024
_INDEX_KEYS = {"gsi1": ("gsi1pk", "gsi1sk")}
_STATEMENT = re.compile(r'(INSERT|UPDATE)(?: INTO)? "([^"]+)" ')
_CHANGES = {"Put": "Item", "Update": "Key", "Delete": "Key", "ConditionCheck": "Key"}


@dataclass
class Spent:
    """Calls and units of a recording."""

    calls: list[str] = field(default_factory=list)
    read_units: float = 0.0
    write_units: float = 0.0
    by_operation: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Read and write units by operation."""

    def add(self, operation: str, reads: float, writes: float) -> None:
        """Add one call."""
        self.calls.append(operation)
        self.read_units += reads
        self.write_units += writes
        before = self.by_operation.get(operation, (0.0, 0.0))
        self.by_operation[operation] = (before[0] + reads, before[1] + writes)


class Meter:
    """Watches one botocore client of DynamoDB."""

    def __init__(self, client: Any, *, lookup: Any, indexes: Mapping[str, tuple[str, str]] = _INDEX_KEYS) -> None:
        """Make a meter; `lookup` reads images and is not counted, `indexes` are name to (partition, sort) key."""
        self._client = client
        self._lookup = lookup
        self._indexes = indexes
        self._spent: Spent | None = None

    @contextmanager
    def recording(self) -> Iterator[Spent]:
        """Count every call of the client inside the block, by one thread."""
        self._spent = spent = Spent()
        events = self._client.meta.events
        events.register("before-parameter-build.dynamodb", self._before)
        events.register("after-call.dynamodb", self._after)
        try:
            yield spent
        finally:
            events.unregister("before-parameter-build.dynamodb", self._before)
            events.unregister("after-call.dynamodb", self._after)
            self._spent = None

    def _before(self, params: Any, model: Any, context: dict[str, Any], **_: Any) -> None:
        context["karma_params"] = params
        context["karma_images"] = [
            (kind, change, self._image(change)) for kind, change in writes_of(model.name, params)
        ]

    def _after(self, parsed: Any, model: Any, context: dict[str, Any], **_: Any) -> None:
        if self._spent is None or "karma_params" not in context:
            return
        params, images = context["karma_params"], context["karma_images"]
        reads = read_units(model.name, params, parsed)
        factor = 2 if model.name == "TransactWriteItems" else 1
        failed = "Error" in parsed
        writes = 0.0
        for kind, change, before in images:
            after = before if failed or kind == "ConditionCheck" else self._image(change)
            writes += factor * table_units(before, after)
            writes += factor * sum(index_units(before, after, keys) for keys in self._indexes.values())
        self._spent.add(model.name, reads, writes)

    def _image(self, change: Mapping[str, Any]) -> Item | None:
        key = change.get("Key") or {name: change["Item"][name] for name in ("pk", "sk")}
        # Outside of the context of the function at work, whose call it is not.
        read = partial(self._lookup.get_item, TableName=change["TableName"], Key=key, ConsistentRead=True)
        found: Item | None = Context().run(read).get("Item")
        return found


def writes_of(operation: str, params: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """List the single writes of a call as (kind, parameters with TableName and Key or Item)."""
    if operation in {"PutItem", "UpdateItem", "DeleteItem"}:
        return [(operation.removesuffix("Item"), params)]
    if operation == "TransactWriteItems":
        return [(kind, change) for entry in params["TransactItems"] for kind, change in entry.items()]
    if operation in {"ExecuteStatement", "BatchExecuteStatement"}:
        return [_written(each) for each in params.get("Statements", (params,))]
    if operation == "BatchWriteItem":
        return [
            (kind.removesuffix("Request"), {"TableName": table, **change})
            for table, entries in params["RequestItems"].items()
            for entry in entries
            for kind, change in entry.items()
        ]
    return []


def _written(statement: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the write of a PartiQL statement: an INSERT, or an UPDATE of one item."""
    text, values = statement["Statement"], statement["Parameters"]
    found = _STATEMENT.match(text)
    if found is None:
        raise ValueError(f"units of {text[:40]!r} are not known")
    names = ("'pk'", "'sk'") if found[1] == "INSERT" else ('"pk" = ?', '"sk" = ?')
    pk, sk = (values[text[: text.index(name)].count("?")] for name in names)
    return "Update", {"TableName": found[2], "Key": {"pk": pk, "sk": sk}}


def read_units(operation: str, params: Mapping[str, Any], answer: Mapping[str, Any]) -> float:
    """Return the units of a read, 0 for a write; of a filtered Query, which reads more than it returns, at least."""
    if operation == "GetItem":
        return _reads(item_size(answer.get("Item") or {}), consistent=bool(params.get("ConsistentRead")))
    if operation == "Query":
        size = sum(item_size(item) for item in answer.get("Items", ()))
        return _reads(size, consistent=bool(params.get("ConsistentRead")))
    if operation == "BatchGetItem":
        total = 0.0
        for table, request in params["RequestItems"].items():
            found = answer.get("Responses", {}).get(table, [])
            consistent = bool(request.get("ConsistentRead"))
            total += sum(_reads(item_size(item), consistent=consistent) for item in found)
            total += (len(request["Keys"]) - len(found)) * _reads(0, consistent=consistent)
        return total
    if operation == "TransactGetItems":
        return sum(
            2 * _reads(item_size(each.get("Item") or {}), consistent=True) for each in answer.get("Responses", ())
        )
    return 0.0


def table_units(before: Item | None, after: Item | None) -> float:
    """Return the write units of one item on its table."""
    larger = max(item_size(before or {}), item_size(after or {}))
    return max(1, math.ceil(larger / _WRITE_BLOCK))


def index_units(before: Item | None, after: Item | None, keys: tuple[str, str]) -> float:
    """Return the write units of one item on an index that projects everything."""
    old = before if before and all(key in before for key in keys) else None
    new = after if after and all(key in after for key in keys) else None
    if old == new:
        return 0.0
    if old and new and all(old[key] == new[key] for key in keys):
        return max(1, math.ceil(max(item_size(old), item_size(new)) / _WRITE_BLOCK))
    return float(sum(max(1, math.ceil(item_size(entry) / _WRITE_BLOCK)) for entry in (old, new) if entry))


def item_size(item: Item) -> int:
    """Return the bytes of an item as DynamoDB counts them: UTF-8 names and values."""
    return sum(len(name.encode()) + value_size(value) for name, value in item.items())


def value_size(value: Mapping[str, Any]) -> int:
    """Return the bytes of one attribute value in DynamoDB's JSON form (`{"S": "text"}`)."""
    ((kind, content),) = value.items()
    if kind == "S":
        return len(content.encode())
    if kind == "B":
        return len(content)
    if kind == "N":
        return _number_size(content)
    if kind in {"BOOL", "NULL"}:
        return 1
    if kind == "L":
        return 3 + sum(1 + value_size(each) for each in content)
    if kind == "M":
        return 3 + sum(1 + len(name.encode()) + value_size(each) for name, each in content.items())
    return sum(value_size({kind[0]: each}) for each in content)


def _number_size(text: str) -> int:
    """Return about one byte for two significant digits, one for the exponent, one for a minus sign."""
    digits = text.lower().partition("e")[0].lstrip("-+").replace(".", "").lstrip("0")
    significant = len(digits.rstrip("0"))
    return min(21, math.ceil(significant / 2) + 1 + text.startswith("-"))


def _reads(size: int, *, consistent: bool) -> float:
    blocks = max(1, math.ceil(size / _READ_BLOCK))
    return float(blocks) if consistent else blocks / 2
