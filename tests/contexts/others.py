from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from karma.audit.domain import NOWHERE, AuditEntry, AuditEvent
from karma.audit.transactional import note_once_a_minute
from karma.billing.arrival import Arrival
from karma.billing.repository.arrivals import ArrivalStore
from karma.billing.repository.customers import CustomerRepository
from karma.core.clock import SystemClock, epoch_ms
from karma.core.ids import DeviceId, new_id
from karma.devices.payloads import Refused
from karma.devices.repository.dead_letters import DeadLetterRepository
from karma.identity.accounts import one_time
from karma.identity.accounts.one_time import Purpose
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.oauth.domain import Flow, LoginCode, Profile, ProviderName, digest
from karma.identity.oauth.repository import OAuthRepository
from karma.projects.domain import ProjectRole
from karma.projects.repository import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from tests.integration.api.test_runs import record
from tests.integration.permissions.world import PASSWORD, Bodies, Objects, Queries, World, bearer
from tests.support.projects import invitations, join

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


OBJECTS: Objects = {
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


QUERIES: Queries = {
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


BODIES: Bodies = {
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
    "POST /api/agent": lambda *_: {"messages": [{"role": "user", "content": "Hello"}]},
    "POST /api/v1/agent": lambda *_: {"messages": [{"role": "user", "content": "Hello"}]},
}
"""The smallest body that a route accepts."""
