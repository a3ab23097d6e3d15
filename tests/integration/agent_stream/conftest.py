import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.core.ids import UserId, new_id
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.domain import Role, User
from karma.identity.sessions import tokens
from karma.identity.sessions.signing_keys import KeyRing
from karma.integrations.anthropic import load_sdk
from tests.fakes.runs import events_of
from tests.support.asgi import Exchange, exchange
from tests.support.event_loop import nothing_blocks
from tests.support.model_server import ModelServer
from tests.support.stack import Context, Drain, HttpEvent, SqsEvent, Stack


@dataclass
class Streams:
    """The streaming function in this process, with a user, a scripted model and the engine's tables."""

    stack: Stack
    model: ModelServer
    user_id: UserId
    token: str

    def make(self, method: str, path: str, **more: Any) -> Exchange:
        headers = {"authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return exchange(method, path, headers={k: v for k, v in headers.items() if v}, **more)

    def agent(self, body: object, **more: Any) -> Exchange:
        return self.make("POST", "/api/agent", body=body, **more)

    def run(self, request: Exchange) -> Exchange:
        """Serve one request; no blocking call may happen on the event loop."""
        from agent_stream.app import app

        async def serve() -> None:
            with nothing_blocks():
                await request.run(app)

        self.serve(serve())
        return request

    def serve(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a loop of its own, which takes the model's connections with it."""
        from agent_stream import services

        async def and_close() -> None:
            try:
                await work
            finally:
                await services.model().close()
                await services.mcp_client().close()

        asyncio.run(and_close())

    def items(self) -> list[dict[str, Any]]:
        """Return what is in the table of agents, without counts of open streams."""
        pages = self.stack.aws("dynamodb").get_paginator("scan").paginate(TableName=self.stack.tables["agents"])
        return [item for page in pages for item in page["Items"] if item["type"] != {"S": "leases"}]


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


def add_user(stack: Stack, role: Role = Role.USER, name: str = "Ada") -> tuple[UserId, str]:
    now = datetime.now(UTC)
    user_id = UserId(new_id())
    UserRepository().create_user(
        User(
            id=user_id,
            email=f"{user_id}@example.com",
            name=name,
            avatar=None,
            password_hash="-",
            role=role,
            email_verified=True,
            created_at=now,
            updated_at=now,
        )
    )
    return user_id, tokens.issue(user_id, ring=KeyRing.parse(stack.secret_values["auth"]), now=now)


@pytest.fixture
def streams(stack: Stack, model_server: ModelServer) -> Streams:
    import agent_stream.app  # noqa: F401  before use(): it clears what the module keeps

    load_sdk()

    stack.use("agent_stream", MODEL_BASE_URL=model_server.url, MODEL_ID="claude-haiku-5-5")
    user_id, token = add_user(stack)
    return Streams(stack, model_server, user_id, token)


@pytest.fixture
def another_user(stack: Stack) -> Callable[..., tuple[UserId, str]]:
    return lambda **more: add_user(stack, **more)


class Background:
    """The API's function beside that of executions, in one process that has the variables of both."""

    def __init__(
        self, streams: Streams, http_event: HttpEvent, context: Context, drain: Drain, sqs_event: SqsEvent
    ) -> None:
        self.streams = streams
        self._event = http_event
        self._context = context
        self._drain = drain
        self._sqs_event = sqs_event
        stack = streams.stack
        more = {"MODEL_BASE_URL": streams.model.url, "MODEL_ID": "claude-haiku-5-5"}
        stack.use("agent_stream", **{**stack.environment("api"), **more})

    def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        from api.handler import lambda_handler

        sent = {"authorization": f"Bearer {self.streams.token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        answer = lambda_handler(self._event(method, path, body=body, headers=sent), self._context)
        told = json.loads(answer["body"])
        return answer["statusCode"], told.get("data") or told.get("error"), answer["headers"]

    def execute(self) -> None:
        """Hand the messages of the queue to the function of executions."""
        from agent_stream import execution, services

        asked = [json.loads(each["Body"]) for each in self._drain(self.streams.stack.queues["executions"])]
        with closing(execution.loop()) as loop:
            answer: Any = execution.lambda_handler(self._sqs_event(asked), self._context)
            loop.run_until_complete(services.model().close())
            loop.run_until_complete(services.mcp_client().close())
        execution.loop.cache_clear()
        assert answer == {"batchItemFailures": []}

    def events(self, run_id: str) -> list[dict[str, Any]]:
        return events_of(self.streams.run(self.streams.make("GET", f"/api/v1/runs/{run_id}/events")).data)


@pytest.fixture
def background(
    streams: Streams, http_event: HttpEvent, lambda_context: Context, drain: Drain, sqs_event: SqsEvent
) -> Background:
    return Background(streams, http_event, lambda_context, drain, sqs_event)
