"""Differences of the engines from each other, or of both from AWS: each row of the table in docs/stores.md.

A row that is not true any more fails here: then the page is to be changed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError

from tests.support.stores import Database, Engine

PAGE = Path(__file__).resolve().parents[3] / "docs" / "stores.md"


class Seen(NamedTuple):
    """Behaviour that each engine shows."""

    ministack: object
    dynamodb_local: object


def table(database: Database) -> str:
    return database.tables["devices"]


def key(sk: str, pk: str = "p") -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def put(database: Database, sk: str, **more: Any) -> Any:
    return database.client.put_item(TableName=table(database), Item={**key(sk), **more})


def query(database: Database, **more: Any) -> Any:
    values = {":p": {"S": "p"}}
    given = {"KeyConditionExpression": "pk = :p", "ExpressionAttributeValues": values, **more}
    return database.client.query(TableName=table(database), **given)


def in_index(database: Database) -> list[str]:
    found = query(database, IndexName="gsi1", KeyConditionExpression="gsi1pk = :p")
    return [item["sk"]["S"] for item in found["Items"]]


def code_of(call: Callable[[], object]) -> str:
    try:
        call()
    except ClientError as exc:
        return str(exc.response["Error"]["Code"])
    return "taken"


def index_at_once(database: Database) -> object:
    behind = 0
    for number in range(50):
        put(database, f"{number:03d}", gsi1pk={"S": "p"}, gsi1sk={"S": f"{number:03d}"})
        behind += len(in_index(database)) != number + 1
    return behind


def reads_at_once(database: Database) -> object:
    behind = 0
    for number in range(50):
        put(database, "s", n={"N": str(number)})
        found = database.client.get_item(TableName=table(database), Key=key("s"), ConsistentRead=False)
        behind += found["Item"]["n"]["N"] != str(number)
    return behind


def conflicts(database: Database) -> object:
    """Run eight transactions at a time that check one item and write another, as those of an account's items do."""
    put(database, "parent")
    name = table(database)

    def write(number: int) -> str:
        check = {"TableName": name, "Key": key("parent"), "ConditionExpression": "attribute_exists(pk)"}
        items = [{"ConditionCheck": check}, {"Put": {"TableName": name, "Item": key(f"child{number}")}}]
        return code_of(lambda: database.client.transact_write_items(TransactItems=items))

    with ThreadPoolExecutor(8) as pool:
        return sorted(set(pool.map(write, range(64))))


def throttled(database: Database) -> object:
    """Write a partition a hundred times, 30 KB each, as fast as possible."""
    codes = {code_of(lambda n=n: put(database, f"{n}", v={"S": "x" * 30_000})) for n in range(100)}  # type: ignore[misc]
    return sorted(codes)


def over_and_there(database: Database) -> object:
    put(database, "over", expires_at={"N": str(int(time.time()) - 30 * 24 * 3600)})
    return len(query(database)["Items"])


def units_of_a_read(database: Database) -> object:
    put(database, "nine KB", v={"S": "x" * 9_000})
    found = database.client.get_item(
        TableName=table(database), Key=key("nine KB"), ConsistentRead=True, ReturnConsumedCapacity="TOTAL"
    )
    return found["ConsumedCapacity"]["CapacityUnits"]


def long_index_key(database: Database) -> object:
    return code_of(lambda: put(database, "s", gsi1pk={"S": "p"}, gsi1sk={"S": "x" * 1025}))


def equal_sort_keys(database: Database) -> object:
    for sk in ("3", "1", "2", "0"):
        put(database, sk, gsi1pk={"S": "p"}, gsi1sk={"S": "same"})
    return in_index(database) == ["0", "1", "2", "3"]


def left_of_a_list(database: Database) -> object:
    put(database, "s", l={"L": [{"S": each} for each in "abcd"]})
    database.client.update_item(TableName=table(database), Key=key("s"), UpdateExpression="REMOVE l[0], l[1]")
    found = database.client.get_item(TableName=table(database), Key=key("s"))
    return "".join(each["S"] for each in found["Item"]["l"]["L"])


def items_of_a_page(database: Database) -> object:
    for number in range(8):
        put(database, f"{number}", v={"S": "x" * 300_000})
    return len(query(database)["Items"])


def backups(database: Database) -> object:
    return code_of(lambda: database.client.describe_continuous_backups(TableName=table(database)))


def message_of_a_used_token(database: Database) -> object:
    name = table(database)
    for sk in ("a", "b"):
        items = [{"Put": {"TableName": name, "Item": key(sk)}}]
        try:
            database.client.transact_write_items(ClientRequestToken="token", TransactItems=items)
        except ClientError as exc:
            return exc.response["Error"]["Code"], bool(exc.response["Error"]["Message"])
    return "taken"


ROWS: Mapping[str, tuple[Callable[[Database], object], Seen]] = {
    "index-at-once": (index_at_once, Seen(0, 0)),
    "reads-at-once": (reads_at_once, Seen(0, 0)),
    "no-conflicts": (conflicts, Seen(["taken"], ["taken"])),
    "no-throttling": (throttled, Seen(["taken"], ["taken"])),
    "ttl": (over_and_there, Seen(1, 1)),
    "read-units": (units_of_a_read, Seen(1.0, 3.0)),
    "index-key-size": (long_index_key, Seen("taken", "ValidationException")),
    "equal-sort-keys": (equal_sort_keys, Seen(True, False)),
    "page-size": (items_of_a_page, Seen(3, 4)),
    "backups": (backups, Seen("taken", "UnknownOperationException")),
    "messages": (
        message_of_a_used_token,
        Seen(("IdempotentParameterMismatchException", True), ("IdempotentParameterMismatchException", False)),
    ),
    "list-places": (left_of_a_list, Seen("bd", "cd")),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_difference_is_as_the_page_says(database: Database, row: str) -> None:
    probe, seen = ROWS[row]
    assert probe(database) == (seen.ministack if database.engine is Engine.MINISTACK else seen.dynamodb_local)


def test_the_page_has_these_rows_and_no_others() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert rows == list(ROWS)
