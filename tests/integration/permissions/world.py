"""Everybody who may call a route, and what a call of each route needs.

A new route needs a row in docs/permissions.md (the test prints it). When its path has a new `{name}`, OBJECTS of its
context's module in tests/contexts says how to make one that belongs to a person; when it takes a body, BODIES there has
the smallest one that is accepted; QUERIES has what else a route needs.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from random import SystemRandom
from typing import Any

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.ids import ApiKeyId, UserId, new_id
from karma.identity import permissions
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.domain import ApiKey, Role, User
from karma.identity.passwords.hashes import Argon2Passwords
from karma.identity.sessions import tokens
from karma.identity.sessions.authentication import API_KEY_PREFIX, hash_api_key
from karma.identity.sessions.signing_keys import KeyRing
from tests.support import contexts
from tests.support.asgi import exchange
from tests.support.plans import subscribe
from tests.support.stack import Context, HttpEvent, Stack

PASSWORD = "correct horse battery"
ROLES = {"viewer": Role.VIEWER, "user": Role.USER, "another user": Role.USER, "admin": Role.ADMIN}


@dataclass(frozen=True)
class Target:
    """A route of one of the two functions."""

    function: str
    method: str
    path: str
    permission: str | None
    """Permission of the route; "": any caller; None: no caller."""
    limit: str = "default"
    """Name of a row of karma.identity.limits."""

    @property
    def name(self) -> str:
        return f"{self.function} {self.method} {self.path}"

    @property
    def parameters(self) -> list[str]:
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


def targets() -> list[Target]:
    """Return every route of both functions."""
    from agent_stream.app import ROUTES
    from api.app import build
    from karma.http.openapi import permissions as permissions_of
    from karma.http.routing import Route

    found = [
        Target("api", method, route.path, next(iter(permissions_of(route.described.dependant)), None), route.limit)
        for route in build().router.routes
        if isinstance(route, Route) and route.described.include_in_schema
        for method in sorted(route.methods or ())
    ]
    found += [Target("agent_stream", route.method, route.path, route.permission, route.limit) for route in ROUTES]
    return [*found, Target("agent_stream", "GET", "/health", None)]


@dataclass(frozen=True)
class Person:
    """An account and its access token."""

    id: UserId
    email: str
    token: str


@dataclass(frozen=True)
class Answered:
    """Answer to a call."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "")

    @property
    def data(self) -> Any:
        return json.loads(self.text)["data"]


_OF_LIMITS = ({"S": "bucket"}, {"S": "leases"})
_KEEPS_CALLERS = {"api": "api.services.identity", "agent_stream": "agent_stream.services"}
"""Modules of the functions' composition roots."""


def _compared(item: dict[str, Any]) -> object:
    """Return an item in comparable form; of usage only the amount, which may go up and down again."""
    return (item["sk"]["S"], item["value"]["N"]) if item.get("type") == {"S": "usage"} else item


@dataclass
class World:
    """Everybody who calls, their objects, and both functions in this process."""

    stack: Stack
    event: HttpEvent
    context: Context
    function: str = ""
    people: dict[str, Person] = field(default_factory=dict)
    objects: dict[tuple[str, str], str] = field(default_factory=dict)

    def become(self, function: str, **environment: str) -> None:
        """Make this process one of the two functions."""
        self.stack.use(function, **environment)
        self.function = function
        self.start_over()

    def person(self, name: str) -> Person:
        """Return somebody, made on first use."""
        if name not in self.people:
            self.people[name] = self._make(ROLES[name])
        return self.people[name]

    def stranger(self) -> Person:
        """Make somebody whom nobody has heard of."""
        return self._make(Role.USER)

    def thing(self, owner: str, name: str, ids: Mapping[str, str]) -> str:
        """Return the id of something of an owner's, made on first use; `ids` are those before it in the path."""
        if (owner, name) not in self.objects:
            with self._as_user(owner):
                self.objects[owner, name] = contexts.objects()[name](self, owner, ids)
        return self.objects[owner, name]

    def start_over(self) -> None:
        """Let everybody and everything be made anew: something was changed."""
        self.people.clear()
        self.objects.clear()

    def api(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str], query: str = ""
    ) -> Answered:
        """Call the API, from another address each time."""
        from api.handler import lambda_handler

        address = "198.51.100." + str(SystemRandom().randrange(1, 255))
        event = self.event(method, path, body=body, headers=headers, query=query, source_ip=address)
        answer = lambda_handler(event, self.context)
        return Answered(answer["statusCode"], answer.get("body", ""), answer["headers"])

    def call(self, target: Target, *, owner: str, headers: Mapping[str, str]) -> Answered:
        """Make the smallest valid request to a route, on things of an owner's."""
        path = self.path_of(target, owner=owner)
        make = contexts.bodies().get(f"{target.method} {target.path}")
        return self.send(target, path, make(self, owner) if make else None, headers)

    def path_of(self, target: Target, *, owner: str) -> str:
        """Return a route's path with things of an owner's in it."""
        ids: dict[str, str] = {}
        path = target.path
        for name in target.parameters:
            special = f"{name} of {target.method} {target.path}"
            ids[name] = self.thing(owner, special if special in contexts.objects() else name, ids)
            path = path.replace(f"{{{name}}}", ids[name])
        return path

    def send(self, target: Target, path: str, body: object, headers: Mapping[str, str]) -> Answered:
        """Send a body to a route, with what else the route needs; text goes as it is."""
        ask = contexts.queries().get(f"{target.method} {target.path}")
        query, more = ask() if ask else ("", {})
        if target.function == "api":
            return self.api(target.method, path, body, headers={**headers, **more}, query=query)
        return self._stream(target.method, path, body.encode() if isinstance(body, str) else body, headers, query=query)

    def ask(self, target: Target, *, query: str, headers: Mapping[str, str], body: object = None) -> Answered:
        """Make a request with a query of one's own to a route, on things that nobody has made."""
        path = re.sub(r"\{\w+\}", new_id(), target.path)
        if target.function == "api":
            return self.api(target.method, path, body, headers=headers, query=query)
        return self._stream(target.method, path, body, headers, query=query)

    def stored(self) -> object:
        """Return all that the function may have stored: items but those of limits, things, messages."""
        iot, sqs, dynamodb = (self.stack.aws(service) for service in ("iot", "sqs", "dynamodb"))
        environment = self.stack.environment(self.function)
        found: list[object] = [iot.list_things()["things"], iot.list_certificates()["certificates"]]
        for name, value in sorted(environment.items()):
            if name.endswith("_QUEUE_URL"):
                counted = sqs.get_queue_attributes(QueueUrl=value, AttributeNames=["ApproximateNumberOfMessages"])
                found.append(counted["Attributes"])
            elif name.endswith("_TABLE"):
                pages = dynamodb.get_paginator("scan").paginate(TableName=value)
                items = [item for page in pages for item in page["Items"] if item.get("type") not in _OF_LIMITS]
                found.append([_compared(item) for item in items if item.get("value") != {"N": "0"}])
        return found

    def create(self, owner: str, path: str, body: object) -> Any:
        """Make something by the API."""
        answer = self.api("POST", path, body, headers=bearer(self.person(owner).token))
        assert answer.status in {201, 202}, answer.text
        return answer.data

    def join(self, owner: str, project_id: str, somebody: Person, role: str = "member") -> None:
        """Let the owner of a project ask somebody, who accepts."""
        path = f"/api/v1/projects/{project_id}/invitations"
        self.create(owner, path, {"user_id": somebody.id, "role": role})
        answer = self.api("POST", f"{path}/accept", None, headers=bearer(somebody.token))
        assert answer.status == 200, answer.text

    def key(self, owner: str, scopes: frozenset[str]) -> str:
        """Make an API key."""
        secret = API_KEY_PREFIX + new_id()
        made = ApiKey(
            id=ApiKeyId(new_id()),
            user_id=self.person(owner).id,
            name="program",
            prefix=secret[:12],
            hash=hash_api_key(secret),
            scopes=scopes,
            created_at=datetime.now(UTC),
            expires_at=None,
            revoked_at=None,
        )
        entry = AuditEntry(user_id=made.user_id, event=AuditEvent.API_KEY_CREATED, at=made.created_at, actor_id=None)
        ApiKeyRepository().create_api_key(made, request=None, entry=entry)
        return secret

    def token(self, user_id: UserId, *, age: timedelta = timedelta()) -> str:
        """Sign an access token."""
        return tokens.issue(user_id, ring=KeyRing.parse(self.stack.secret_values["auth"]), now=datetime.now(UTC) - age)

    def _make(self, role: Role) -> Person:
        now = datetime.now(UTC)
        user = User(
            id=UserId(new_id()),
            email=f"{new_id()}@example.com",
            name="Ada",
            avatar=None,
            password_hash=_password_hash(),
            role=role,
            email_verified=True,
            created_at=now,
            updated_at=now,
        )
        DirectoryRepository().create_user(user)
        # What a plan's limit would refuse is another question.
        subscribe(user.id)
        return Person(user.id, user.email, self.token(user.id))

    @contextmanager
    def _as_user(self, name: str) -> Iterator[None]:
        """Give somebody the rights that making things takes."""
        if ROLES[name] is not Role.VIEWER:
            yield
            return
        self._give(name, Role.USER)
        yield
        self._give(name, ROLES[name])

    def _give(self, name: str, role: Role) -> None:
        directory = DirectoryRepository()
        before = directory.read_user(self.person(name).id)
        assert before is not None
        directory.change_account(before, replace(before, role=role), actor_id=None, entries=[])
        importlib.import_module(_KEEPS_CALLERS[self.function]).authenticator().forget(before.id)

    def _stream(self, method: str, path: str, body: object, headers: Mapping[str, str], *, query: str = "") -> Answered:
        from agent_stream import live, services
        from agent_stream.app import app

        live.HOLD_S = 0.0  # it would be open for a minute
        request = exchange(method, path, body=body if body is not None else b"", headers=headers, query=query)

        async def serve() -> None:
            try:
                await request.run(app)
            finally:
                await services.model().close()

        asyncio.run(serve())
        return Answered(request.status, request.data.decode(), request.answer_headers)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@cache
def _password_hash() -> str:
    return Argon2Passwords().hash(PASSWORD)


Objects = Mapping[str, Callable[[World, str, Mapping[str, str]], str]]
Bodies = Mapping[str, Callable[[World, str], Any]]
Queries = Mapping[str, Callable[[], tuple[str, dict[str, str]]]]

EVERY_SCOPE = frozenset(permissions.ROLES_OF)
