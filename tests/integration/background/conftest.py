from collections.abc import Callable
from typing import Any

import pytest

from tests.support import on_demand
from tests.support.stack import Stack

Items = Callable[[], dict[str, Any]]


@pytest.fixture
def items(stack: Stack) -> Items:
    """Return every item of every table, without accounts that others depend on."""

    def read() -> dict[str, Any]:
        pages = stack.aws("dynamodb").get_paginator("scan").paginate
        return {
            f"{name} {item['pk']} {item['sk']}": item
            for name, table in stack.tables.items()
            if not on_demand.is_owed(table)
            for page in pages(TableName=table, ConsistentRead=True)
            for item in page["Items"]
            if item.get("type") not in ({"S": "user"}, {"S": "email_guard"})
        }

    return read
