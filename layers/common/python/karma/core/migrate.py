"""Rewrite stored items from one `schema` number to the next, table by table, in resumable batches.

Repositories read old layouts at any time, so a migration is never urgent and may run while the system serves: it
exists so that the code for an old layout can be deleted. It scans, which only an operator's role may do; no function
may.

    STEPS = (MigrationStep(table="devices", type="device", schema=2, up=split_location, down=join_location),)

Progress is an item of the table itself, `MIGRATION#<type>#<direction>#<schema>` / `STATE`, written after each page: a
run that was killed goes on where it stopped. Each item is written on the version that was read, so that a concurrent
change wins and the item is rewritten by the next pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from karma.core.records import Record

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Attributes = dict[str, Any]
"""Attributes of an item as DynamoDB's API has them: name to `{"S": ...}`."""
Direction = Literal["up", "down"]
_PAGE = 100


class MigrationStep(Record, kw_only=True):
    """Brings items of one type from schema `schema - 1` to `schema` and back."""

    table: str
    """Logical name of the table: devices, billing, ..."""
    type: str
    schema: int
    up: Callable[[Attributes], Attributes]
    down: Callable[[Attributes], Attributes]


class Report(Record, kw_only=True):
    """Result of one step."""

    step: MigrationStep
    rewritten: int
    skipped: int
    """Items that somebody else changed meanwhile; the next run rewrites them."""


STEPS: Sequence[MigrationStep] = ()
"""All steps ever released, oldest first. Empty: every stored layout is the first one."""


class Migrator:
    """Runs steps against deployed tables."""

    def __init__(
        self,
        client: DynamoDBClient,
        tables: Mapping[str, str],
        steps: Sequence[MigrationStep] = STEPS,
        *,
        page: int = _PAGE,
    ) -> None:
        """Make a migrator; `tables` maps logical names to deployed tables, progress is stored every `page` items."""
        self._client = client
        self._tables = tables
        self._steps = steps
        self._page = page

    def status(self) -> dict[str, dict[tuple[str, int], int]]:
        """Count the items of each table by type and schema number; reads every item."""
        found: dict[str, dict[tuple[str, int], int]] = {}
        for name, table in sorted(self._tables.items()):
            counts: Counter[tuple[str, int]] = Counter()
            for page, _ in self._pages(table, None, projection="#type, #schema"):
                counts.update((_text(item, "type"), _number(item, "schema")) for item in page)
            found[name] = dict(counts)
        return found

    def up(self) -> Iterator[Report]:
        """Run every step in order; yields a report a step."""
        for step in self._steps:
            yield self._run(step, "up", source=step.schema - 1, change=step.up, result=step.schema)

    def down(self) -> Iterator[Report]:
        """Undo the last step."""
        for step in self._steps[-1:]:
            yield self._run(step, "down", source=step.schema, change=step.down, result=step.schema - 1)

    def _run(
        self,
        step: MigrationStep,
        direction: Direction,
        *,
        source: int,
        change: Callable[[Attributes], Attributes],
        result: int,
    ) -> Report:
        table = self._tables[step.table]
        state_key, opposite_key = (
            {"pk": {"S": f"MIGRATION#{step.type}#{way}#{step.schema}"}, "sk": {"S": "STATE"}}
            for way in (direction, "down" if direction == "up" else "up")
        )
        # Progress of the opposite direction is void once this one has run: it would begin from the start.
        self._client.delete_item(TableName=table, Key=opposite_key)
        state = self._client.get_item(TableName=table, Key=state_key, ConsistentRead=True).get("Item", {})
        start = dict(state["position"]["M"]) if "position" in state else None
        rewritten = skipped = 0
        for page, last in self._pages(table, start):
            for item in page:
                if _text(item, "type") != step.type or _number(item, "schema") != source:
                    continue
                new = {**change(dict(item)), "schema": {"N": str(result)}}
                if self._replace(table, item, new):
                    rewritten += 1
                else:
                    skipped += 1
            if last:
                self._client.put_item(
                    TableName=table, Item={**state_key, "type": {"S": "migration"}, "position": {"M": last}}
                )
        self._client.delete_item(TableName=table, Key=state_key)
        return Report(step=step, rewritten=rewritten, skipped=skipped)

    def _pages(
        self, table: str, start: Attributes | None, projection: str | None = None
    ) -> Iterator[tuple[list[Attributes], Attributes | None]]:
        arguments: Attributes = {"TableName": table, "Limit": self._page, "ConsistentRead": True}
        if projection:
            arguments["ProjectionExpression"] = projection
            arguments["ExpressionAttributeNames"] = {"#type": "type", "#schema": "schema"}
        while True:
            if start:
                arguments["ExclusiveStartKey"] = start
            answer = self._client.scan(**arguments)
            start = answer.get("LastEvaluatedKey")
            yield answer["Items"], start
            if not start:
                return

    def _replace(self, table: str, old: Attributes, new: Attributes) -> bool:
        version = _number(old, "version")
        new["version"] = {"N": str(version + 1)}
        try:
            self._client.put_item(
                TableName=table,
                Item=new,
                ConditionExpression="#version = :seen",
                ExpressionAttributeNames={"#version": "version"},
                ExpressionAttributeValues={":seen": {"N": str(version)}},
            )
        except ClientError as exc:
            if exc.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
            return False
        return True


def _text(item: Mapping[str, Any], name: str) -> str:
    return str(item.get(name, {}).get("S", ""))


def _number(item: Mapping[str, Any], name: str) -> int:
    return int(item.get(name, {}).get("N", "0"))
