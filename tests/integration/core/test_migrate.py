"""Old items become new ones in batches, once each, also when the run dies half-way."""

from collections.abc import Callable
from typing import Any

import pytest

from karma.core import aws as core_aws
from karma.core.migrate import Attributes, Migrator, Step


def split_name(item: Attributes) -> Attributes:
    first, last = item.pop("name")["S"].split(" ")
    return {**item, "first": {"S": first}, "last": {"S": last}}


def join_name(item: Attributes) -> Attributes:
    first, last = item.pop("first")["S"], item.pop("last")["S"]
    return {**item, "name": {"S": f"{first} {last}"}}


STEP = Step(table="devices", type="owner", schema=2, up=split_name, down=join_name)
ITEMS = 230


@pytest.fixture
def table(account: str, tables: dict[str, str], aws: Callable[[str], Any]) -> str:
    for number in range(ITEMS):
        aws("dynamodb").put_item(
            TableName=tables["devices"],
            Item={
                "pk": {"S": f"OWNER#{number:04d}"},
                "sk": {"S": "META"},
                "type": {"S": "owner"},
                "schema": {"N": "1"},
                "version": {"N": "7"},
                "name": {"S": f"first{number} last{number}"},
            },
        )
    return tables["devices"]


def migrator(table: str, *steps: Step) -> Migrator:
    return Migrator(core_aws.client("dynamodb"), {"devices": table}, steps)


@pytest.mark.req("R-K-03")
def test_items_go_up_and_down_again(table: str) -> None:
    subject = migrator(table, STEP)
    assert [report.rewritten for report in subject.up()] == [ITEMS]
    assert subject.status() == {"devices": {("owner", 2): ITEMS}}
    assert [report.rewritten for report in subject.up()] == [0]
    assert [report.rewritten for report in subject.down()] == [ITEMS]
    assert subject.status() == {"devices": {("owner", 1): ITEMS}}


def test_a_run_that_died_goes_on_where_it_stopped(table: str) -> None:
    calls = 0

    def dying(item: Attributes) -> Attributes:
        nonlocal calls
        calls += 1
        if calls == 150:
            raise KeyboardInterrupt
        return split_name(item)

    with pytest.raises(KeyboardInterrupt):
        list(migrator(table, Step(table="devices", type="owner", schema=2, up=dying, down=join_name)).up())
    assert [report.rewritten for report in migrator(table, STEP).up()] == [ITEMS - 149]
    assert migrator(table).status() == {"devices": {("owner", 2): ITEMS}}


def test_an_item_that_changed_meanwhile_is_left_for_the_next_run(table: str, aws: Callable[[str], Any]) -> None:
    def racing(item: Attributes) -> Attributes:
        if item["pk"]["S"] == "OWNER#0003":
            aws("dynamodb").update_item(
                TableName=table,
                Key={"pk": item["pk"], "sk": item["sk"]},
                UpdateExpression="ADD #version :one",
                ExpressionAttributeNames={"#version": "version"},
                ExpressionAttributeValues={":one": {"N": "1"}},
            )
        return split_name(item)

    step = Step(table="devices", type="owner", schema=2, up=racing, down=join_name)
    assert [(report.rewritten, report.skipped) for report in migrator(table, step).up()] == [(ITEMS - 1, 1)]
    assert [(report.rewritten, report.skipped) for report in migrator(table, STEP).up()] == [(1, 0)]
