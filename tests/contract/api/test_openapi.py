from __future__ import annotations

from typing import Any

import pytest

from tests.support import contract

pytestmark = pytest.mark.req("R-M-21")


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


class TestTheCommittedDocument:
    def test_is_what_the_api_serves(self) -> None:
        changed = list(contract.changes(contract.committed(), contract.served()))
        assert not changed, "\n".join(
            [*changed, "If clients can live with that: .venv/bin/python -m tests.support.contract"]
        )

    def test_names_every_operation_once(self) -> None:
        names = [operation["operationId"] for operation in operations(contract.served())]
        assert sorted(set(names)) == sorted(names)
        assert all(name.isidentifier() for name in names)

    def test_says_what_every_operation_does(self) -> None:
        nameless = [o["operationId"] for o in operations(contract.served()) if not o.get("description")]
        assert nameless == []


class TestADifference:
    def test_is_named_where_it_is(self) -> None:
        before = {"paths": {"/a": {"get": {"summary": "A"}}, "/b": {}}}
        after = {"paths": {"/a": {"get": {"summary": "B"}}, "/c": {}}}
        assert list(contract.changes(before, after)) == [
            'changed: paths > /a > get > summary: "A" -> "B"',
            "removed: paths > /b",
            "added: paths > /c",
        ]
