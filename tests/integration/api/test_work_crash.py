"""A request on tasks or avatars dies before or after each of its AWS calls; its repeat ends in the same tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from karma.core.ids import new_id
from tests.integration.api.conftest import Api
from tests.integration.api.test_avatars import AVATARS, FERN
from tests.integration.api.test_avatars import create as create_avatar
from tests.integration.api.test_crash import ENTRY, reopen_if_open
from tests.integration.api.test_tasks import CHAIN, TASKS, create
from tests.support.crash import CrashReport, CrashTest

SHOWN = ("type", "title", "name", "status", "completed_count", "value", "version", "avatar")
WROTE = "after dynamodb.TransactWriteItems"


@pytest.fixture
def die(stack: Any, ada: Api, http_event: Callable[..., dict[str, Any]]) -> Callable[..., CrashReport]:
    def items(table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = stack.aws("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]
        return found

    def held() -> list[dict[str, Any]]:
        return [item for item in items(stack.tables["identity"]) if item.get("sk") == {"S": "HOLDINGS"}]

    def rows(table: str) -> list[str]:
        """What is stored, without the ids and times that each repetition of the test makes anew."""
        shown = [[item[name] for name in SHOWN if name in item] for item in [*items(table), *held()]]
        return sorted(map(str, shown))

    def redeliver(event: dict[str, Any]) -> dict[str, Any]:
        reopen_if_open(stack)
        return event

    def run(method: str, path: Callable[[], str], *, table: str, accept: set[int], body: object = None) -> CrashReport:
        def seed() -> dict[str, Any]:
            for item in held():
                key = {"pk": item["pk"], "sk": item["sk"]}
                stack.aws("dynamodb").delete_item(TableName=stack.tables["identity"], Key=key)
            return http_event(method, path(), body=body, headers={**ada.headers, "idempotency-key": new_id()})

        return CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables[table]],
            seed=seed,
            redeliver=redeliver,
            normalise=lambda _item: None,
            other_state=lambda: rows(stack.tables[table]),
            accept=lambda answer: answer["statusCode"] in accept,
        ).run()

    return run


class TestATask:
    def test_that_is_made_is_made_once(self, die: Callable[..., CrashReport]) -> None:
        report = die("POST", lambda: TASKS, table="work", accept={201}, body=CHAIN)
        assert WROTE in " ".join(report.at)

    @pytest.mark.req("R-M-06")
    def test_that_is_deleted_leaves_nothing(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        report = die("DELETE", lambda: f"{TASKS}/{create(ada, CHAIN)['task']['id']}", table="work", accept={204, 404})
        assert "dynamodb.DeleteItem" in report.calls


class TestAnAvatar:
    def test_that_is_made_is_made_and_held_once(self, die: Callable[..., CrashReport]) -> None:
        report = die("POST", lambda: AVATARS, table="agents", accept={201}, body=FERN)
        assert WROTE in " ".join(report.at)

    def test_that_is_deleted_holds_nothing(self, ada: Api, die: Callable[..., CrashReport]) -> None:
        report = die("DELETE", lambda: f"{AVATARS}/{create_avatar(ada)['id']}", table="agents", accept={204, 404})
        assert WROTE in " ".join(report.at)
