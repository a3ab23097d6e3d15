"""The functions of the live channel over the engine's tables, streams and queue, and an endpoint that counts."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from infra.catalog import FunctionName
from infra.constructs.triggers import QUEUE_BATCH
from karma.core.clock import SystemClock
from karma.core.ids import UserId
from karma.identity.domain import Caller, Credential, Role
from karma.realtime.repository import RealtimeRepository
from karma.realtime.service import TicketService
from tests.support.rows import NOW
from tests.support.socket_endpoint import CountingEndpoint, counting_endpoint
from tests.support.stack import Context, Drain, SqsEvent, Stack
from tests.support.stream_filters import let_through

CONNECT = json.loads((Path(__file__).parents[2] / "events" / "websocket_connect.json").read_text())
SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "realtime.schema.json").read_text())
VALID = jsonschema_rs.validator_for(SCHEMA)
ROUTERS = {"devices": "router", "work": "work_router", "agents": "events", "identity": "identity_router"}
Streamed = Callable[[str], list[dict[str, Any]]]
Json = dict[str, Any]


class Live:
    """The functions of the live channel, each called in process with its own variables."""

    def __init__(self, stack: Stack, context: Context, streamed: Streamed, drain: Drain, sqs_event: SqsEvent) -> None:
        self.stack, self.context, self.streamed, self.drain, self.sqs_event = (
            stack,
            context,
            streamed,
            drain,
            sqs_event,
        )
        self.endpoint, self.url = CountingEndpoint(), ""
        self.read: dict[str, int] = {}
        self.heard: dict[str, int] = {}

    def connect(self, user: UserId, connection: str, *, role: Role = Role.USER, session: str = "") -> None:
        self.stack.use("realtime")
        credential = Credential(user_id=user, session_id=session, began_at=NOW) if session else None
        caller = Caller(
            user_id=user,
            role=role,
            method="jwt",
            scopes=frozenset(),
            email_verified=True,
            name="Ada",
            avatar=None,
            credential=credential,
        )
        service = TicketService(store=RealtimeRepository(), clock=SystemClock(), url="wss://live.example.com")
        ticket = service.issue(caller).ticket
        assert self._send("$connect", connection, queryStringParameters={"ticket": ticket})["statusCode"] == 200

    def say(self, connection: str, **message: object) -> Json:
        VALID.validate(message)
        self.stack.use("realtime")
        answer: Json = json.loads(self._send("$default", connection, body=json.dumps(message))["body"])
        VALID.validate(answer)
        return answer

    def _send(self, route: str, connection: str, **more: object) -> Json:
        from realtime.handler import lambda_handler

        event = copy.deepcopy(CONNECT) | more
        event["requestContext"] |= {"routeKey": route, "connectionId": connection}
        return lambda_handler(event, self.context)

    def route(self, table: str, *, again: bool = False) -> int:
        """Give a table's router what is new in its stream, or all of it again; return the number of jobs it queued."""
        records = self.streamed(table)
        new = let_through(
            FunctionName(f"background.{ROUTERS[table]}"), records[0 if again else self.read.get(table, 0) :]
        )
        self.read[table] = len(records)
        before = self.queued()
        self.stack.use(ROUTERS[table], **self.socket_url(ROUTERS[table]))
        handler = __import__(f"background.{ROUTERS[table]}", fromlist=["lambda_handler"]).lambda_handler
        assert handler({"Records": new}, self.context) == {"batchItemFailures": []}
        return self.queued() - before

    def socket_url(self, function: str) -> dict[str, str]:
        return {"WEBSOCKET_URL": self.url} if function in {"identity_router", "pushes"} else {}

    def queued(self) -> int:
        found = self.stack.aws("sqs").get_queue_attributes(
            QueueUrl=self.stack.queues["pushes"], AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(found["Attributes"]["ApproximateNumberOfMessages"])

    def push(self) -> None:
        from background.pushes import lambda_handler

        messages = self.drain(self.stack.queues["pushes"], self.queued()) if self.queued() else []
        self.stack.use("pushes", **self.socket_url("pushes"))
        for at in range(0, len(messages), QUEUE_BATCH):
            event = self.sqs_event(messages[at : at + QUEUE_BATCH])
            assert lambda_handler(event, self.context) == {"batchItemFailures": []}

    def news(self, connection: str) -> list[Json]:
        """Return what a connection was sent since this was asked last."""
        bodies = [json.loads(body) for body in self.endpoint.bodies.get(connection, [])]
        new = bodies[self.heard.get(connection, 0) :]
        self.heard[connection] = len(bodies)
        for each in new:
            VALID.validate(each)
        return new

    def told(self, table: str, connection: str) -> list[Json]:
        self.route(table)
        self.push()
        return self.news(connection)


@pytest.fixture
def live(
    stack: Stack, lambda_context: Context, streamed: Streamed, drain: Drain, sqs_event: SqsEvent
) -> Iterator[Live]:
    stack.use("realtime")
    made = Live(stack, lambda_context, streamed, drain, sqs_event)
    with counting_endpoint() as (made.endpoint, made.url):
        yield made
