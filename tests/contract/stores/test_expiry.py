"""Expired items count as deleted while the database still has them: TTL deletes days late, and is off in the suites."""

from __future__ import annotations

import pytest

from tests.support import contexts
from tests.support.stores import Database

EXPIRES, OUTLIVES = contexts.expires(), contexts.outlives()


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("kind", EXPIRES)
def test_an_expired_item_counts_as_deleted(kind: str) -> None:
    EXPIRES[kind]()


def test_no_other_items_have_an_end(database: Database) -> None:
    for made in (*EXPIRES.values(), *OUTLIVES.values()):
        made()
    found = {item["type"]["S"] for table in database.tables for item in database.items(table) if "expires_at" in item}
    assert found == {*EXPIRES, *OUTLIVES}
