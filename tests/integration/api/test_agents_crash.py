"""A request on agents dies before or after each of its AWS calls; its repeat ends in the same catalogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from karma.agents.domain import MODELS
from karma.core.ids import new_id
from tests.integration.api.conftest import ENTRY, Api, reopen_if_open
from tests.integration.api.test_agents import V1, add_person, create
from tests.support.crash import CrashReport, CrashTest
from tests.support.stack import HttpEvent, Stack

BODY = {"name": "after", "model": MODELS[0], "system_prompt": "Be brief.", "tags": ["kept", "added"]}


class TestARequestThatDies:
    @pytest.fixture
    def die(self, stack: Stack, api: Api, http_event: HttpEvent) -> Callable[..., CrashReport]:
        admin = add_person(api, stack, "admin")

        def rows() -> list[tuple[str, ...]]:
            """Return the stored items, without the ids and times that each repetition of the test makes anew."""
            items = stack.aws("dynamodb").scan(TableName=stack.tables["agents"], ConsistentRead=True)["Items"]
            shown = ("type", "name", "tags", "agent_version", "value")
            lists = [item["pk"]["S"] if item["sk"]["S"].startswith("AGENT#") else "" for item in items]
            return sorted(
                (where, *(next(iter(item.get(name, {"S": ""}).values())) for name in shown))
                for where, item in zip(lists, items, strict=True)
            )

        def redeliver(event: dict[str, Any]) -> dict[str, Any]:
            reopen_if_open(stack)
            return event

        def run(method: str, *, accept: set[int], **headers: str) -> CrashReport:
            def seed() -> dict[str, Any]:
                body = None if method == "DELETE" else BODY
                sent = {**admin.headers, **headers}
                if method == "POST":
                    return http_event(method, V1, body=body, headers={**sent, "idempotency-key": new_id()})
                made = create(admin, "before", tags=["kept", "gone"])
                return http_event(method, f"{V1}/{made['id']}", body=body, headers=sent)

            return CrashTest(
                entry=ENTRY,
                aws=stack.aws,
                tables=[stack.tables["agents"]],
                seed=seed,
                redeliver=redeliver,
                normalise=lambda _item: None,
                other_state=rows,
                accept=lambda answer: answer["statusCode"] in accept,
            ).run()

        return run

    def test_while_it_creates_leaves_one_agent(self, die: Callable[..., CrashReport]) -> None:
        report = die("POST", accept={201})
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_replaces_leaves_the_new_version(self, die: Callable[..., CrashReport]) -> None:
        report = die("PUT", accept={200})
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)

    def test_while_it_replaces_a_version_leaves_the_next(self, die: Callable[..., CrashReport]) -> None:
        # A death after the write: the repeat is told that the version it names is not there any more.
        die("PUT", accept={200, 409}, **{"if-match": '"1"'})

    def test_while_it_deletes_leaves_none(self, die: Callable[..., CrashReport]) -> None:
        report = die("DELETE", accept={204, 404})
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
