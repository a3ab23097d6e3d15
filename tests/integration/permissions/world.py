"""Everybody who may call a route, and what a call of each route needs.

A new route needs a row in docs/permissions.md (the test prints it). When its path has a new `{name}`, OBJECTS says how
to make one that belongs to a person; when it takes a body, BODIES has the smallest one that is accepted; QUERIES has
what else a route needs.
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

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent
from karma.audit.transactional import note_once_a_minute
from karma.billing.arrival import Arrival
from karma.billing.repository.arrivals import ArrivalStore
from karma.billing.repository.customers import CustomerRepository
from karma.core.clock import SystemClock, epoch_ms
from karma.core.ids import ApiKeyId, DeviceId, UserId, new_id
from karma.devices.payloads import Refused
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.identity import permissions
from karma.identity.accounts import one_time
from karma.identity.accounts.one_time import Purpose
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.domain import ApiKey, Role, User
from karma.identity.oauth.domain import Flow, LoginCode, Profile, ProviderName, digest
from karma.identity.oauth.repository import OAuthRepository
from karma.identity.passwords.hashes import Argon2Passwords
from karma.identity.sessions import tokens
from karma.identity.sessions.authentication import API_KEY_PREFIX, hash_api_key
from karma.identity.sessions.keys import KeyRing
from karma.projects.domain import ProjectRole
from karma.projects.repository import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from tests.integration.api.test_runs import record
from tests.support.asgi import exchange
from tests.support.plans import subscribe
from tests.support.projects import invitations, join

PASSWORD = "correct horse battery"
ROLES = {"viewer": Role.VIEWER, "user": Role.USER, "another user": Role.USER, "admin": Role.ADMIN}


@dataclass(frozen=True)
class Target:
    """A route of one of the two functions."""

    function: str
    method: str
    path: str
    permission: str | None
    """None: nobody needs to be known; "": anybody who is known."""
    limit: str = "default"
    """A row of karma.identity.limits."""

    @property
    def name(self) -> str:
        return f"{self.function} {self.method} {self.path}"

    @property
    def parameters(self) -> list[str]:
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


def targets() -> list[Target]:
    """Every route of both functions."""
    from agent_stream.app import ROUTES
    from api.app import build
    from api.openapi import permissions as permissions_of
    from api.routing import Route

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
    """What a call came back with."""

    status: int
    text: str
    content_type: str = ""

    @property
    def data(self) -> Any:
        return json.loads(self.text)["data"]


_OF_LIMITS = ({"S": "bucket"}, {"S": "leases"})
_KEEPS_CALLERS = {"api": "api.deps.identity", "agent_stream": "agent_stream.deps"}
"""Modules of the functions' composition roots."""


def _compared(item: dict[str, Any]) -> object:
    """An item as it is compared; of what a plan's limit has taken only the amount, which may go up and down again."""
    return (item["sk"]["S"], item["value"]["N"]) if item.get("type") == {"S": "usage"} else item


@dataclass
class World:
    """The people, what belongs to them, and both functions in this process."""

    stack: Any
    event: Callable[..., dict[str, Any]]
    context: object
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
                self.objects[owner, name] = OBJECTS[name](self, owner, ids)
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
        return Answered(answer["statusCode"], answer.get("body", ""), answer["headers"].get("content-type", ""))

    def call(self, target: Target, *, owner: str, headers: Mapping[str, str]) -> Answered:
        """Make the smallest valid request to a route, on things of an owner's."""
        path = self.path_of(target, owner=owner)
        make = BODIES.get(f"{target.method} {target.path}")
        return self.send(target, path, make(self, owner) if make else None, headers)

    def path_of(self, target: Target, *, owner: str) -> str:
        """Return a route's path with things of an owner's in it."""
        ids: dict[str, str] = {}
        path = target.path
        for name in target.parameters:
            special = f"{name} of {target.method} {target.path}"
            ids[name] = self.thing(owner, special if special in OBJECTS else name, ids)
            path = path.replace(f"{{{name}}}", ids[name])
        return path

    def send(self, target: Target, path: str, body: object, headers: Mapping[str, str]) -> Answered:
        """Send a body to a route, with what else the route needs; text goes as it is."""
        if target.function == "api":
            ask = QUERIES.get(f"{target.method} {target.path}")
            query, more = ask() if ask else ("", {})
            return self.api(target.method, path, body, headers={**headers, **more}, query=query)
        return self._stream(target.method, path, body.encode() if isinstance(body, str) else body, headers)

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
        assert answer.status == 201, answer.text
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
        ApiKeyRepository().create_api_key(made, request_token=None, entry=entry)
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
        from agent_stream import deps
        from agent_stream.app import app

        request = exchange(method, path, body=body if body is not None else b"", headers=headers, query=query)

        async def serve() -> None:
            try:
                await request.run(app)
            finally:
                await deps.model().close()

        asyncio.run(serve())
        return Answered(request.status, request.data.decode(), request.answer_headers.get("content-type", ""))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


@cache
def _password_hash() -> str:
    return Argon2Passwords().hash(PASSWORD)


_MODEL = {"type": "model", "model": "claude-sonnet-5-5"}


def _serial() -> str:
    return f"EOS-{new_id()[-12:]}"


def _device(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/devices", _new_device(world, owner))["device"]["id"])


def _command(world: World, owner: str, ids: Mapping[str, str]) -> str:
    made = world.create(owner, f"/api/v1/devices/{ids['device_id']}/commands", {"command": "blink"})
    return str(made["command"]["id"])


def _letter(world: World, _: str, ids: Mapping[str, str]) -> str:
    letters, device_id = DeadLetterRepository(), DeviceId(ids["device_id"])
    refused, at_ms = [Refused("boot", "WRONG_VALUE")], epoch_ms(datetime.now(UTC))
    letters.store(device_id, refused=refused, topic="dt/karma/EOS-1/telemetry", payload=b"{}", received_ms=at_ms)
    [letter], _more = letters.page(device_id, limit=1)
    return letter.id


def _component(world: World, _: str, __: Mapping[str, str]) -> str:
    name = f"model-{new_id()}"
    answer = world.api("PUT", f"/api/v1/config/{name}", {"config": _MODEL}, headers=bearer(world.person("admin").token))
    assert answer.status == 200, answer.text
    return name


def _agent(world: World, _: str, __: Mapping[str, str]) -> str:
    return str(world.create("admin", "/api/v1/agents", _new_agent(world, "admin"))["agent"]["id"])


def _task(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/tasks", _new_task(world, owner))["task"]["id"])


def _subtask(world: World, owner: str, ids: Mapping[str, str]) -> str:
    token = bearer(world.person(owner).token)
    listed = world.api("GET", f"/api/v1/tasks/{ids['task_id']}/subtasks", headers=token)
    return str(listed.data["subtasks"][0]["id"])


def _avatar(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/avatars", _new_avatar(world, owner))["avatar"]["id"])


def _run(world: World, owner: str, _: Mapping[str, str]) -> str:
    run_id = new_id()
    record(world.stack, world.person(owner).id, run_id)
    return run_id


def _directory(world: World, owner: str, ids: Mapping[str, str]) -> str:
    made = world.create(owner, f"/api/v1/devices/{ids['device_id']}/directories", {"path": f"/d-{new_id()}"})
    return str(made["directory"]["id"])


def _upload(world: World, owner: str, ids: Mapping[str, str]) -> str:
    made = world.create(owner, f"/api/v1/devices/{ids['device_id']}/files", {"name": f"f-{new_id()}", "size": 0})
    return str(made["file"]["id"])


def _linked(world: World, owner: str, _: Mapping[str, str]) -> str:
    now, user = datetime.now(UTC), DirectoryRepository().read_user(world.person(owner).id)
    assert user is not None
    profile = Profile(provider=ProviderName.GITHUB, subject=new_id(), email=None, name="Ada")
    entry = AuditEntry(user_id=user.id, event=AuditEvent.PROVIDER_LINKED, at=now, actor_id=user.id)
    assert OAuthRepository().link(user, profile, now=now, entry=entry)
    return profile.provider.value


def _event(world: World, _: str, __: Mapping[str, str]) -> str:
    now = datetime.now(UTC)
    event_id = "evt_" + new_id().replace("-", "")
    arrival = Arrival(event_id, "invoice.paid", '{"type": "invoice.paid", "data": {}}')
    ArrivalStore().store(arrival, received_at=now, due_at=now)
    return event_id


def _customer(world: World, owner: str, _: Mapping[str, str]) -> str:
    customer_id = "cus_" + new_id().replace("-", "")
    links = CustomerRepository()
    assert links.link(customer_id, world.person(owner).id, seen=None, at=datetime.now(UTC))
    return customer_id


def _notice(world: World, owner: str, _: Mapping[str, str]) -> str:
    entry = AuditEntry(
        user_id=world.person(owner).id, event=AuditEvent.LOGIN_LOCKED, at=datetime.now(UTC), actor_id=None
    )
    note_once_a_minute(entry)
    return entry.id


def _project(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/projects", {"name": "Greenhouse"})["project"]["id"])


def _project_member(world: World, owner: str, ids: Mapping[str, str]) -> str:
    somebody = world.stranger()
    world.join(owner, ids["project_id"], somebody)
    return somebody.id


def _invited(world: World, owner: str, ids: Mapping[str, str]) -> str:
    somebody = world.stranger().id
    world.create(owner, f"/api/v1/projects/{ids['project_id']}/invitations", {"user_id": somebody})
    return somebody


def _project_of_somebody(*, accepted: bool) -> Callable[[World, str, Mapping[str, str]], str]:
    """Make a project of a stranger's, to which the person is invited, or belongs."""

    def make(world: World, owner: str, _: Mapping[str, str]) -> str:
        host, person = world.stranger(), world.person(owner)
        store = ProjectRepository()
        made = ProjectService(store, SystemClock()).create(host.id, NewProject(name="Greenhouse")).project
        service = invitations(store, SystemClock())
        if accepted:
            join(service, made.id, person.id, by=host.id)
        else:
            service.invite(host.id, made.id, person.id, ProjectRole.MEMBER, source=NOWHERE)
        return made.id

    return make


OBJECTS: dict[str, Callable[[World, str, Mapping[str, str]], str]] = {
    "user_id": lambda world, owner, _: world.person(owner).id,
    "key_id": lambda world, owner, _: str(
        world.create(owner, "/api/v1/api-keys", {"name": "ci", "current_password": PASSWORD})["api_key"]["id"]
    ),
    "device_id": _device,
    "command_id": _command,
    "letter_id": _letter,
    "agent_id": _agent,
    "component_name": _component,
    "run_id": _run,
    "task_id": _task,
    "subtask_id": _subtask,
    "avatar_id": _avatar,
    "event_id": _event,
    "customer_id": _customer,
    "notice_id": _notice,
    "component": lambda *_: "database",
    "provider": lambda *_: "github",
    "provider of DELETE /api/v1/users/me/links/{provider}": _linked,
    "project_id": _project,
    "project_id of POST /api/v1/projects/{project_id}/invitations/accept": _project_of_somebody(accepted=False),
    "project_id of POST /api/v1/projects/{project_id}/invitations/decline": _project_of_somebody(accepted=False),
    "project_id of POST /api/v1/projects/{project_id}/leave": _project_of_somebody(accepted=True),
    "invitation_id": _invited,
    "user_id of PATCH /api/v1/projects/{project_id}/members/{user_id}": _project_member,
    "user_id of DELETE /api/v1/projects/{project_id}/members/{user_id}": _project_member,
    "file_id": _directory,
    "file_id of POST /api/v1/devices/{device_id}/files/{file_id}/parts": _upload,
    "file_id of POST /api/v1/devices/{device_id}/files/{file_id}/complete": _upload,
}
"""How to make what a path names, belonging to a person; also for one route alone."""

SHARED = {"user_id", "agent_id", "component_name", "event_id", "customer_id", "component", "provider"}
"""What belongs to nobody: another person's request is not answered 404 for that."""


def _new_device(_: World, __: str) -> dict[str, Any]:
    return {"name": "Greenhouse", "model": "EOS-3A", "mac": "AA:BB:CC:00:11:22", "serial_number": _serial()}


def _new_agent(_: World, __: str) -> dict[str, Any]:
    return {"name": f"agent-{new_id()}", "model": "claude-sonnet-5-5", "system_prompt": "Help."}


def _new_task(_: World, __: str) -> dict[str, Any]:
    return {"title": "Inventory", "subtasks": [{"title": "Count"}]}


def _new_avatar(_: World, __: str) -> dict[str, Any]:
    return {"name": "Fern", "role": "gardener"}


def _log_in(world: World, owner: str) -> dict[str, Any]:
    return {"email": world.person(owner).email, "password": PASSWORD}


def _refresh(world: World, owner: str) -> dict[str, Any]:
    answer = world.api("POST", "/api/v1/auth/login", _log_in(world, owner), headers={})
    return {"refresh_token": answer.data["refresh_token"]}


def _login_code(world: World, owner: str) -> dict[str, Any]:
    now, text = datetime.now(UTC), new_id()
    made = LoginCode(
        hash=digest(text),
        user_id=world.person(owner).id,
        provider=ProviderName.GITHUB,
        expires_at=now + timedelta(minutes=1),
    )
    OAuthRepository().create_login_code(made, now=now)
    return {"code": text}


def _denied_login() -> tuple[str, dict[str, str]]:
    """Come back as a browser in which the person said no."""
    now, state = datetime.now(UTC), new_id()
    flow = Flow(
        state_hash=digest(state),
        provider=ProviderName.GITHUB,
        browser_hash=digest(state),
        code_verifier="v" * 64,
        nonce="n",
        redirect="https://app.example.com/",
        expires_at=now + timedelta(minutes=1),
    )
    OAuthRepository().create_flow(flow, now=now)
    cookie = f"__Host-karma-oauth={state}"
    return f"state={state}&error=access_denied", {"cookie": cookie, "accept": "text/html"}


QUERIES: dict[str, Callable[[], tuple[str, dict[str, str]]]] = {
    "GET /api/v1/auth/oauth/{provider}/callback": _denied_login,
}
"""Query and headers without which a route decides nothing."""


def _one_time(world: World, owner: str, purpose: Purpose) -> str:
    person, now = world.person(owner), datetime.now(UTC)
    text, token = one_time.issue(purpose, user_id=person.id, email=person.email, asked_at=now, now=now)
    OneTimeRepository().create_token(token, now=now)
    return text


def _reset(world: World, owner: str) -> dict[str, Any]:
    return {"token": _one_time(world, owner, Purpose.RESET_PASSWORD), "password": "another " + PASSWORD}


BODIES: dict[str, Callable[[World, str], Any]] = {
    "POST /api/v1/auth/register": lambda *_: {"email": f"{new_id()}@example.com", "password": PASSWORD, "name": "Eve"},
    "POST /api/v1/auth/login": _log_in,
    "POST /api/v1/auth/refresh": _refresh,
    "POST /api/v1/auth/logout": _refresh,
    "POST /api/v1/auth/logout-all": lambda *_: {"api_keys": False},
    "POST /api/v1/auth/oauth/exchange": _login_code,
    "POST /api/v1/auth/oauth/{provider}/link": lambda *_: {"current_password": PASSWORD},
    "POST /api/v1/auth/verify-email": lambda world, owner: {"token": _one_time(world, owner, Purpose.VERIFY_EMAIL)},
    "POST /api/v1/auth/forgot-password": lambda world, owner: {"email": world.person(owner).email},
    "POST /api/v1/auth/reset-password": _reset,
    "POST /api/v1/auth/change-password": lambda *_: {"current_password": PASSWORD, "password": "another " + PASSWORD},
    "POST /api/v1/billing/inbox/{event_id}/dismiss": lambda *_: {"reason": "a test"},
    "PUT /api/v1/billing/customers/{customer_id}/link": lambda world, owner: {"user_id": world.person(owner).id},
    "PATCH /api/v1/users/me": lambda *_: {"name": "Augusta"},
    "DELETE /api/v1/users/me": lambda *_: {"current_password": PASSWORD},
    "PATCH /api/v1/users/{user_id}": lambda *_: {"disabled": True},
    "POST /api/v1/api-keys": lambda *_: {"name": "ci", "scopes": ["*"], "current_password": PASSWORD},
    "POST /api/v1/devices": _new_device,
    "PATCH /api/v1/devices/{device_id}": lambda *_: {"name": "Kitchen"},
    "POST /api/v1/devices/{device_id}/commands": lambda *_: {"command": "blink"},
    "POST /api/v1/devices/{device_id}/files": lambda *_: {"name": f"{new_id()}.txt", "size": 1},
    "POST /api/v1/devices/{device_id}/files/{file_id}/parts": lambda *_: {"part_numbers": [1]},
    "PATCH /api/v1/devices/{device_id}/files/{file_id}": lambda *_: {"category": "log"},
    "POST /api/v1/devices/{device_id}/directories": lambda *_: {"path": "/logs"},
    "POST /api/v1/projects": lambda *_: {"name": "Greenhouse"},
    "PATCH /api/v1/projects/{project_id}": lambda *_: {"progress": 50},
    "POST /api/v1/projects/{project_id}/members": lambda world, _: {"user_id": world.stranger().id},
    "POST /api/v1/projects/{project_id}/invitations": lambda world, _: {"user_id": world.stranger().id},
    "PATCH /api/v1/projects/{project_id}/members/{user_id}": lambda *_: {"role": "viewer"},
    "POST /api/v1/agents": _new_agent,
    "PUT /api/v1/agents/{agent_id}": _new_agent,
    "POST /api/agents": _new_agent,
    "PUT /api/v1/config/{component_name}": lambda *_: {"config": {"enabled": False}},
    "POST /api/v1/config/{component_name}/rollback": lambda *_: {"version": 1},
    "PUT /api/config/{component_name}": lambda *_: {"config": {"enabled": False}},
    "POST /api/config/{component_name}/rollback": lambda *_: {"version": 1},
    "PUT /api/agents/{agent_id}": _new_agent,
    "POST /api/v1/tasks": _new_task,
    "PATCH /api/v1/tasks/{task_id}": lambda *_: {"title": "Stock"},
    "PATCH /api/v1/tasks/{task_id}/subtasks/{subtask_id}": lambda *_: {"status": "in_progress"},
    "POST /api/v1/avatars": _new_avatar,
    "PATCH /api/v1/avatars/{avatar_id}": lambda *_: {"name": "Moss"},
    "POST /api/agent": lambda *_: {"messages": [{"role": "user", "content": "Hello"}]},
    "POST /api/v1/agent": lambda *_: {"messages": [{"role": "user", "content": "Hello"}]},
}
"""The smallest body that a route accepts."""

EVERY_SCOPE = frozenset(permissions.ROLES_OF)
