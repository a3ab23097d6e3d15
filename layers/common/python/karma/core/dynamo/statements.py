"""Conditional writes of many single items in one call, each of which takes effect or not by itself.

    outcomes = write_each([insert(item), Statement(text, parameters)])
    is_done, there = write_one(statement)

`Transaction` writes all of its items or none, and pays for each twice. This is for items that have nothing to do with
each other and wait together, as the messages of a queue's batch do: most of a call's CPU is the client's, whatever it
writes, and the units are those of single writes. BatchExecuteStatement is the only such call of DynamoDB that takes
conditions; its statements are PartiQL.

No write of several raises anything: one that may not have taken effect is made once more, alone, by whoever wants it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from botocore.exceptions import ClientError

from karma.core import aws
from karma.core.dynamo.failures import storage_errors
from karma.core.dynamo.items import Item, base_of
from karma.core.dynamo.tables import deployed
from karma.core.faults import AWS_FAULTS, code_of
from karma.core.observability import count, logger

MOST: Final = 25
"""Statements of one call."""
_REFUSALS: Final = frozenset({"ConditionalCheckFailed", "DuplicateItem"})


class WriteOutcome(StrEnum):
    """Fate of one of several writes."""

    DONE = "done"
    REFUSED = "refused"
    """The write's condition is false, or, of an `insert`, an item is there."""
    UNKNOWN = "unknown"
    """The write was not made, or its answer is lost: DynamoDB was too busy, say, or takes no such statement."""


class Statement(NamedTuple):
    """One write."""

    text: str
    """PartiQL, with `?` for each value; up to 8,192 characters."""
    parameters: Sequence[Mapping[str, Any]]
    """Values in the order of their marks, as DynamoDB types them (`{"S": "text"}`)."""


def insert(item: Item) -> Statement:
    """Return the statement that writes a new item unless one is there, as `put` would."""
    item.version = 1
    values: Mapping[str, Any] = item.serialize()
    names = ", ".join(f"'{name}': ?" for name in values)  # names of attributes are ours, and have no quotes
    return Statement(f"INSERT INTO {table_name(type(item))} VALUE {{{names}}}", list(values.values()))


def table_name(kind: type[Item]) -> str:
    """Return an item's deployed table as PartiQL names it."""
    return quoted(deployed(base_of(kind).Meta.logical))  # type: ignore[attr-defined]


def quoted(name: str) -> str:
    """Return a name as PartiQL writes those with odd characters in it."""
    return '"' + name.replace('"', '""') + '"'


def write_one(statement: Statement) -> tuple[bool, Item | None]:
    """Write this; return whether its condition held, and the item that is there if it did not (None: there is none).

    Raises:
        StorageThrottled, StorageUnavailable: it may have taken effect.
    """
    with storage_errors():
        try:
            aws.client("dynamodb").execute_statement(
                Statement=statement.text,
                Parameters=statement.parameters,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except ClientError as exc:
            if code_of(exc) != "ConditionalCheckFailedException":
                raise
            there: Any = exc.response.get("Item")
            return False, Item.from_raw_data(dict(there)) if there else None
    return True, None


def write_each(statements: Sequence[Statement]) -> list[WriteOutcome]:
    """Write each of these, by a call for every 25; tell what became of each. Nothing is raised.

    After a lost answer the client asks again, so a write that took effect may be told as refused.
    """
    return [
        outcome for start in range(0, len(statements), MOST) for outcome in _write(statements[start : start + MOST])
    ]


def _write(statements: Sequence[Statement]) -> list[WriteOutcome]:
    sent: list[Any] = [{"Statement": each.text, "Parameters": each.parameters} for each in statements]
    try:
        answers = aws.client("dynamodb").batch_execute_statement(Statements=sent)["Responses"]
    except AWS_FAULTS as exc:
        # As loud as nobody else will be: each is written alone now, and the work goes on.
        count("StatementsFailed")
        logger.warning("statements.failed", statements=len(sent), code=code_of(exc) or type(exc).__name__)
        return [WriteOutcome.UNKNOWN] * len(sent)
    return [_outcome(answer.get("Error")) for answer in answers]


def _outcome(error: Mapping[str, Any] | None) -> WriteOutcome:
    if error is None:
        return WriteOutcome.DONE
    return WriteOutcome.REFUSED if error.get("Code") in _REFUSALS else WriteOutcome.UNKNOWN
