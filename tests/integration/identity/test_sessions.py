"""Sessions over the engine: two requests at the same moment use one refresh token."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest

from karma.audit.domain import AuditEvent, Source
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.errors import RateLimited, Unauthenticated
from karma.core.ids import UserId, new_id
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.domain import REFRESH_GRACE, Caller, Role, User
from karma.identity.sessions.logins import LoginThrottle
from karma.identity.sessions.repository import SessionRepository
from karma.identity.sessions.service import SessionService
from tests.fakes.identity import RING, CountingPasswords, MovableClock
from tests.support.clients import hooked
from tests.support.stack import Stack

TRIES = 200
HERE = Source(address="203.0.113.7")


class World:
    def __init__(self, stack: Stack) -> None:
        self._table = stack.tables["identity"]
        self._client = stack.aws("dynamodb")
        self.clock = MovableClock(at=datetime.now(UTC))
        self.ended: list[UserId] = []
        self.repository = SessionRepository()
        self.service = SessionService(
            accounts=UserRepository(),
            sessions=self.repository,
            throttle=LoginThrottle(buckets=DynamoBuckets(), networks=self.repository, clock=self.clock),
            passwords=CountingPasswords(),
            dummy_hash="now:nobody",
            key_ring=lambda: RING,
            clock=self.clock,
            on_change=self.ended.append,
        )
        now = self.clock.now()
        self.user = User(
            id=UserId(new_id()),
            email="ada@example.com",
            name="Ada",
            avatar=None,
            password_hash="now:x",
            role=Role.USER,
            email_verified=True,
            created_at=now,
            updated_at=now,
        )
        UserRepository().create_user(self.user)

    def start(self) -> str:
        return self.service.start(self.user, method="password", source=HERE, now=self.clock.now()).refresh_token

    def refresh(self, token: str) -> str:
        return self.service.refresh(token, source=HERE).refresh_token

    def items(self, kind: str) -> list[dict[str, Any]]:
        pages = self._client.get_paginator("scan").paginate(TableName=self._table, ConsistentRead=True)
        return [item for page in pages for item in page["Items"] if item["type"]["S"] == kind]

    def events(self) -> list[str]:
        return [item["event"]["S"] for item in self.items("audit_entry")]


@pytest.fixture
def world(stack: Stack) -> World:
    return World(stack)


def _caller(user: User) -> Caller:
    return Caller(
        user_id=user.id,
        role=user.role,
        method="jwt",
        scopes=frozenset(),
        email_verified=True,
        name=user.name,
        avatar=None,
    )


class TestTwoRequestsWithOneToken:
    def test_get_the_same_next_token_and_keep_the_session(self, world: World) -> None:
        barrier = Barrier(2)

        def ask(token: str) -> str:
            barrier.wait(30)
            return world.refresh(token)

        token = world.start()
        with ThreadPoolExecutor(2) as pool:
            for _ in range(TRIES):
                answers = set(pool.map(ask, [token, token]))
                assert len(answers) == 1
                token = answers.pop()
        world.refresh(token)
        assert len(world.items("refresh_token")) == TRIES + 2
        assert world.events() == [AuditEvent.LOGGED_IN]

    def test_of_whom_one_is_a_thief_end_the_session(self, world: World) -> None:
        stolen = world.start()
        second = world.refresh(stolen)
        other = world.start()
        world.clock.at += REFRESH_GRACE + timedelta(seconds=1)
        for token in (stolen, second, stolen):
            with pytest.raises(Unauthenticated):
                world.refresh(token)
        world.refresh(other)
        assert world.events().count(AuditEvent.REFRESH_REUSED) == 1

    def test_and_a_logout_between_them_get_nothing_more(self, world: World) -> None:
        first = world.start()
        second = world.refresh(first)
        other = world.start()
        world.clock.at += timedelta(seconds=1)
        world.service.log_out_everywhere(_caller(world.user), source=HERE)
        for token in (first, second, other):
            with pytest.raises(Unauthenticated):
                world.refresh(token)
        assert world.ended == [world.user.id]
        assert AuditEvent.REFRESH_REUSED not in world.events()


WRITES = {"PutItem", "UpdateItem"}


@pytest.fixture
def calls(world: World) -> Iterator[list[str]]:
    """Record the calls to DynamoDB from now on: "read" or "write"."""
    found: list[str] = []

    def note(model: Any, **_: Any) -> None:
        found.append("write" if model.name in WRITES else "read")

    with hooked("dynamodb", "before-call.dynamodb.*", note):
        yield found


class TestAWrongPassword:
    def test_costs_the_same_calls_with_and_without_an_account(self, world: World, calls: list[str]) -> None:
        costs = []
        for email in (world.user.email, "nobody@example.com"):
            calls.clear()
            with pytest.raises(Unauthenticated):
                world.service.log_in(email=email, password="wrong", source=HERE)
            costs.append(tuple(calls))
        assert costs[0] == costs[1]
        assert AuditEvent.LOGIN_FAILED in world.events()

    def test_costs_the_same_calls_once_there_were_too_many(self, world: World, calls: list[str]) -> None:
        costs = []
        for email in (world.user.email, "nobody@example.com"):
            for _ in range(6):
                calls.clear()
                with pytest.raises((Unauthenticated, RateLimited)) as caught:
                    world.service.log_in(email=email, password="wrong", source=HERE)
            assert caught.type is RateLimited
            costs.append(tuple(calls))
        assert costs[0] == costs[1] == ("read", "write")
