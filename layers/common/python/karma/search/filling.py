"""Writes the rows of objects that are older than search, or whose rows are to be made anew, when an operator asks.

It scans, which only an operator's role may do, and gives each item to the feed as if it had just been made; what a
record of a stream has written stays. Progress is an item of the table itself, `FILL#<table>` / `STATE`, written after
each page: a fill that was killed goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from karma.core.happenings import ItemChange
from karma.core.ids import UserId
from karma.search.feed import Feed

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "devices": ("device", "device_file"),
    "work": ("project", "task"),
    "agents": ("avatar", "run", "thread"),
}
"""Types of items that rows are made of, by their table."""
_PAGE: Final = 500


class FilledTable(NamedTuple):
    """A table of which all items were seen."""

    name: str
    written: int


class Filling:
    """Fills the rows of all accounts, or of one."""

    def __init__(self, client: DynamoDBClient, tables: Mapping[str, str], feed: Feed, *, page: int = _PAGE) -> None:
        """Make a filling; `tables` maps logical names to deployed tables, progress is stored every `page` items."""
        self._client = client
        self._tables = tables
        self._feed = feed
        self._page = page

    def run(self, *, owner: UserId | None = None) -> Iterator[FilledTable]:
        """Fill from each table, and yield what was written. For one account all is read as well, from the start."""
        for name, types in _TYPES.items():
            yield FilledTable(name, self._fill(name, types, owner))

    def _fill(self, name: str, types: tuple[str, ...], owner: UserId | None) -> int:
        table = self._tables["search"]
        key = {"pk": {"S": f"FILL#{name}"}, "sk": {"S": "STATE"}}
        state = self._client.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item", {})
        start: Any = dict(state["position"]["M"]) if "position" in state and owner is None else None
        written = 0
        while True:
            values = {f":t{n}": {"S": each} for n, each in enumerate(types)}
            answer = self._client.scan(
                TableName=self._tables[name],
                Limit=self._page,
                ConsistentRead=True,
                FilterExpression=f"#type IN ({', '.join(values)})",
                ExpressionAttributeNames={"#type": "type"},
                ExpressionAttributeValues=values,
                **({"ExclusiveStartKey": start} if start else {}),
            )
            written += self._feed.fill((ItemChange(None, item) for item in answer["Items"]), owner=owner)
            start = answer.get("LastEvaluatedKey")
            if not start:
                break
            if owner is None:
                self._client.put_item(
                    TableName=table, Item={**key, "type": {"S": "search_fill"}, "position": {"M": start}}
                )
        if owner is None:
            self._client.delete_item(TableName=table, Key=key)
        return written
