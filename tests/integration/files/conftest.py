from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.api.conftest import Api
from tests.support.files import Files, put_device
from tests.support.stack import Context, Drain, HttpEvent, SqsEvent, Stack


@pytest.fixture
def consume(stack: Stack, drain: Drain, sqs_event: SqsEvent, lambda_context: Context) -> Callable[[], list[str]]:
    """Give what waits in the queue to the consumer; return the messages that it reports."""
    import background.files  # noqa: F401  before use(): it clears what the module keeps

    def run() -> list[str]:
        from background.files import lambda_handler

        event = sqs_event(drain(stack.queues["files"]))
        stack.use("files")
        failures: Any = lambda_handler(event, lambda_context)["batchItemFailures"]
        stack.use("api")
        return [each["itemIdentifier"] for each in failures]

    return run


@pytest.fixture
def person(stack: Stack, http_event: HttpEvent, lambda_context: Context) -> Callable[[], tuple[Api, str]]:
    """Register somebody; return the API as they see it, and their id."""
    stack.use("api")

    def make() -> tuple[Api, str]:
        api = Api(http_event, lambda_context)
        user = api.register()
        token = api.log_in(user["email"])["access_token"]
        return api.as_(authorization=f"Bearer {token}"), user["id"]

    return make


@pytest.fixture
def files(stack: Stack, person: Callable[[], tuple[Api, str]], consume: Callable[[], list[str]]) -> Files:
    api, user_id = person()
    return Files(stack, api, put_device(stack, user_id), consume)
