"""People of each role in a project, and a device that one of them shows in it."""

from __future__ import annotations

from typing import Any

from karma.core.clock import SystemClock
from karma.core.ids import ProjectId, UserId
from karma.devices.live import LiveDevices
from karma.projects.domain import ProjectRole
from karma.projects.repository.projects import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from tests.integration.api.conftest import Answer, Api
from tests.support.devices import World
from tests.support.projects import invitations, join, leave
from tests.support.stack import Stack

V1 = "/api/v1"
ROLES = {"owen": ProjectRole.OWNER, "adam": ProjectRole.ADMIN, "mia": ProjectRole.MEMBER, "vic": ProjectRole.VIEWER}

MEMBERS = sorted(ROLES)


class Team:
    """Ada's device, a project of hers, and people of each role in it."""

    def __init__(self, stack: Stack, api: Api) -> None:
        self.store, self.clock = ProjectRepository(), SystemClock()
        self.ids: dict[str, UserId] = {}
        self.api: dict[str, Api] = {}
        for name in ("ada", *ROLES, "eve"):
            user = api.register(verified=True)
            self.ids[name] = UserId(user["id"])
            self.api[name] = api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])
        self.projects = ProjectService(self.store, self.clock)
        self.project = self.make_project()
        for name, role in ROLES.items():
            join(invitations(self.store, self.clock), self.project, self.ids[name], role, by=self.ids["ada"])
        self.world = World(stack, user=self.ids["ada"])
        self.made = self.world.create(tags=("north",))
        self.device = self.made.current.device.id

    def make_project(self, owner: str = "ada") -> ProjectId:
        return self.projects.create(self.ids[owner], NewProject(name="Greenhouse")).project.id

    def call(self, name: str, method: str, path: str, body: object = None, **more: Any) -> Answer:
        return self.api[name].call(method, f"{V1}{path}", body, **more)

    def share(self, name: str = "ada", project: str = "") -> Answer:
        return self.call(name, "POST", f"/projects/{project or self.project}/devices", {"device_id": self.device})

    def reads(self, name: str) -> set[int]:
        """Return the statuses of all that reads the device."""
        at = f"/devices/{self.device}"
        return {self.call(name, "GET", at + path).status for path in ("", "/latest", "/telemetry", "/commands")}

    def sends(self, name: str) -> Answer:
        return self.call(name, "POST", f"/devices/{self.device}/commands", {"command": "blink", "ttl_s": 3600})

    def listed(self, name: str, project: str = "") -> list[str]:
        answer = self.call(name, "GET", "/devices", query=f"project={project or self.project}")
        assert answer.status == 200, answer.text
        return [each["id"] for each in answer.data["devices"]]

    def space(self, name: str) -> str:
        return LiveDevices().space("device", self.device, self.ids[name])

    def leave(self, name: str) -> None:
        leave(self.ids[name], self.project)
