"""The meter against DynamoDB Local, AWS's own build, which reports the units that it would bill."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from benchmarks.dynamodb_local import DynamoDbLocalMissing, dynamodb_local
from benchmarks.meter import Meter, Spent

TABLE = "metered"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    try:
        with dynamodb_local() as url:
            yield url
    except DynamoDbLocalMissing as missing:
        pytest.skip(str(missing))


def connect(endpoint: str) -> Any:
    return boto3.client(
        "dynamodb",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
    )


@pytest.fixture(scope="module")
def clients(endpoint: str) -> Iterator[tuple[Any, Any]]:
    client, lookup = connect(endpoint), connect(endpoint)
    keys = ["pk", "sk", "gsi1pk", "gsi1sk"]
    client.create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "gsi1",
                "KeySchema": [
                    {"AttributeName": "gsi1pk", "KeyType": "HASH"},
                    {"AttributeName": "gsi1sk", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )
    yield client, lookup
    client.close()
    lookup.close()


def item(sk: str, size: int = 10, *, index: str = "", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"pk": {"S": "P"}, "sk": {"S": sk}, "text": {"S": "x" * size}, **more}
    if index:
        found |= {"gsi1pk": {"S": "I"}, "gsi1sk": {"S": index}}
    return found


def key(sk: str) -> dict[str, Any]:
    return {"pk": {"S": "P"}, "sk": {"S": sk}}


def consumed(answer: Any) -> float:
    found = answer.get("ConsumedCapacity", 0)
    return sum(each["CapacityUnits"] for each in found) if isinstance(found, list) else float(found["CapacityUnits"])


def both(clients: tuple[Any, Any], operation: str, **parameters: Any) -> tuple[Spent, Any]:
    client, lookup = clients
    with Meter(client, lookup=lookup).recording() as spent:
        answer = getattr(client, operation)(ReturnConsumedCapacity="INDEXES", **parameters)
    return spent, answer


ONE = {"UpdateExpression": "SET a = :a", "ExpressionAttributeValues": {":a": {"N": "1"}}}
NESTED = {
    "M": {"a": {"L": [{"N": "12.50"}, {"BOOL": True}, {"NULL": True}]}, "ключ": {"B": b"123"}, "s": {"SS": ["a", "b"]}}
}


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("put_item", {"Item": item("new")}),
        ("put_item", {"Item": item("new-large", 3000)}),
        ("put_item", {"Item": item("small", 10)}),
        ("put_item", {"Item": item("large", 10)}),
        ("put_item", {"Item": item("exact", 1024 - len("pkPskexacttext"))}),
        ("put_item", {"Item": item("over", 1025 - len("pkPskovertext"))}),
        ("put_item", {"Item": item("indexed-new", index="z")}),
        ("put_item", {"Item": item("indexed", index="b")}),
        ("put_item", {"Item": item("moved", index="other")}),
        ("put_item", {"Item": item("left")}),
        ("update_item", {"Key": key("small"), **ONE, "ExpressionAttributeValues": {":a": NESTED}}),
        (
            "update_item",
            {"Key": key("large"), "UpdateExpression": "SET #t = :t", "ExpressionAttributeNames": {"#t": "text"},
             "ExpressionAttributeValues": {":t": {"S": "x"}}},
        ),
        ("update_item", {"Key": key("absent"), **ONE}),
        ("update_item", {"Key": key("indexed"), **ONE}),
        ("update_item", {"Key": key("left"), "UpdateExpression": "REMOVE gsi1pk, gsi1sk"}),
        ("delete_item", {"Key": key("large")}),
        ("delete_item", {"Key": key("indexed")}),
        ("delete_item", {"Key": key("absent")}),
    ],
)  # fmt: skip
def test_writes_cost_what_dynamodb_says(clients: tuple[Any, Any], operation: str, parameters: dict[str, Any]) -> None:
    _start(clients)
    spent, answer = both(clients, operation, TableName=TABLE, **parameters)
    assert spent.write_units == consumed(answer)
    assert spent.read_units == 0


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("sk", ["small", "large", "huge", "absent"])
def test_gets_cost_what_dynamodb_says(clients: tuple[Any, Any], sk: str, consistent: bool) -> None:
    _start(clients)
    spent, answer = both(clients, "get_item", TableName=TABLE, Key=key(sk), ConsistentRead=consistent)
    assert spent.read_units == consumed(answer)


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize("prefix", ["", "small"])
def test_queries_cost_what_dynamodb_says(clients: tuple[Any, Any], prefix: str, consistent: bool) -> None:
    _start(clients)
    values = {":p": {"S": "P"}, ":s": {"S": prefix or "a"}}
    condition = "pk = :p AND sk >= :s" if not prefix else "pk = :p AND begins_with(sk, :s)"
    spent, answer = both(
        clients, "query", TableName=TABLE, KeyConditionExpression=condition, ExpressionAttributeValues=values,
        ConsistentRead=consistent,
    )  # fmt: skip
    assert spent.read_units == consumed(answer)


def test_batches_and_transactions_cost_what_dynamodb_says(clients: tuple[Any, Any]) -> None:
    _start(clients)
    keys = [key("small"), key("huge")]
    spent, answer = both(clients, "batch_get_item", RequestItems={TABLE: {"Keys": keys}})
    assert spent.read_units == consumed(answer)
    spent, answer = both(
        clients,
        "batch_write_item",
        RequestItems={TABLE: [{"PutRequest": {"Item": item("b", 2000)}}, {"DeleteRequest": {"Key": key("indexed")}}]},
    )
    assert spent.write_units == consumed(answer)
    spent, answer = both(
        clients,
        "transact_write_items",
        TransactItems=[
            {"Put": {"TableName": TABLE, "Item": item("t", 2000, index="t")}},
            {"Delete": {"TableName": TABLE, "Key": key("large")}},
            {
                "ConditionCheck": {
                    "TableName": TABLE,
                    "Key": key("small"),
                    "ConditionExpression": "attribute_exists(pk)",
                }
            },
        ],
    )
    assert spent.write_units == consumed(answer)
    assert spent.calls == ["TransactWriteItems"]


def test_reading_an_absent_item_costs_a_block_as_aws_documents(clients: tuple[Any, Any]) -> None:
    """DynamoDB Local bills nothing for an empty Query or an absent key of a batch; AWS does."""
    _start(clients)
    spent, _ = both(clients, "batch_get_item", RequestItems={TABLE: {"Keys": [key("absent")]}})
    assert spent.read_units == 0.5
    spent, _ = both(
        clients,
        "query",
        TableName=TABLE,
        KeyConditionExpression="pk = :p",
        ExpressionAttributeValues={":p": {"S": "N"}},
    )
    assert spent.read_units == 0.5


def test_a_failed_condition_is_billed(clients: tuple[Any, Any]) -> None:
    _start(clients)
    client, lookup = clients
    with Meter(client, lookup=lookup).recording() as spent, pytest.raises(ClientError):
        client.put_item(TableName=TABLE, Item=item("large"), ConditionExpression="attribute_not_exists(pk)")
    assert spent.write_units == 3


def _start(clients: tuple[Any, Any]) -> None:
    _, lookup = clients
    for each in lookup.scan(TableName=TABLE)["Items"]:
        lookup.delete_item(TableName=TABLE, Key={"pk": each["pk"], "sk": each["sk"]})
    for each in (
        item("small"),
        item("large", 3000),
        item("huge", 9000),
        item("indexed", index="b"),
        item("moved", index="m"),
        item("left", index="l"),
    ):
        lookup.put_item(TableName=TABLE, Item=each)
