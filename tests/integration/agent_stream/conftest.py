import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from karma.core.ids import UserId, new_id
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.domain import Role, User
from karma.identity.sessions import tokens
from karma.identity.sessions.signing_keys import KeyRing
from karma.integrations.anthropic import load_sdk
from tests.support.asgi import Exchange, exchange
from tests.support.model_server import ModelServer
from tests.support.stack import Stack


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
            with blockbuster_ctx():
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

        asyncio.run(and_close())

    def items(self) -> list[dict[str, Any]]:
        pages = self.stack.aws("dynamodb").get_paginator("scan").paginate(TableName=self.stack.tables["agents"])
        return [item for page in pages for item in page["Items"]]


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
