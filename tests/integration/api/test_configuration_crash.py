"""A change of the configuration dies before or after each of its AWS calls; its repeat ends in the same history."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from karma.agents.domain import MODELS
from tests.integration.api.conftest import ENTRY, Api
from tests.integration.api.test_agents import add_person
from tests.integration.api.test_configuration import V1, put
from tests.support.crash import CrashReport, CrashTest
from tests.support.stack import HttpEvent, Stack


class TestAChangeThatDies:
    @pytest.fixture
    def die(self, stack: Stack, api: Api, http_event: HttpEvent) -> Callable[..., CrashReport]:
        admin = add_person(api, stack, "admin")

        def run(method: str, path: str, body: object, *, accept: set[int], **headers: str) -> CrashReport:
            def seed() -> dict[str, Any]:
                put(admin, "gpt4", {"type": "model", "model": MODELS[0]})
                put(admin, "gpt4", {"enabled": False})
                return http_event(method, f"{V1}/gpt4{path}", body=body, headers={**admin.headers, **headers})

            return CrashTest(
                entry=ENTRY,
                aws=stack.aws,
                tables=[stack.tables["agents"]],
                seed=seed,
                accept=lambda answer: answer["statusCode"] in accept,
            ).run()

        return run

    @pytest.mark.parametrize(
        ("method", "path", "body", "accept", "headers"),
        [
            ("PUT", "", {"config": {"tags": ["late"]}}, {200}, {}),
            # A death after the write: the repeat is told that the version it names is not there any more.
            ("PUT", "", {"config": {"tags": ["late"]}}, {200, 409}, {"if-match": '"2"'}),
            ("POST", "/rollback", {"version": 1}, {200}, {}),
            ("DELETE", "", None, {204, 404}, {}),
        ],
    )
    def test_leaves_one_entry(
        self,
        die: Callable[..., CrashReport],
        method: str,
        path: str,
        body: object,
        accept: set[int],
        headers: dict[str, str],
    ) -> None:
        report = die(method, path, body, accept=accept, **headers)
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
