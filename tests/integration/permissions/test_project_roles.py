"""Every project route, called by members of each role and by a stranger: the second table of docs/permissions.md."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from karma.core.ids import new_id
from karma.identity.limits import INVITATIONS, RULES, Rule
from karma.projects import invitations
from karma.projects.domain import ProjectRole
from tests.integration.permissions.world import Person, Target, World, bearer, targets

TABLE = Path(__file__).resolve().parents[3] / "docs/permissions.md"
HEAD = "| of a project |"
PATH = "/api/v1/projects/{project_id}"
COLUMNS = (*(role.value for role in ProjectRole), "stranger")
RANK = ("viewer", "member", "admin", "owner")

Row = dict[str, str]
BODIES: dict[str, Callable[[Person], Any]] = {
    f"PATCH {PATH}": lambda _: {"progress": 50},
    f"POST {PATH}/members": lambda somebody: {"user_id": somebody.id},
    f"POST {PATH}/invitations": lambda somebody: {"user_id": somebody.id},
    f"PATCH {PATH}/members/{{user_id}}": lambda _: {"role": "viewer"},
}
ABOUT = {
    f"{method} {PATH}/members/{{user_id}}": ("member", "admin", "owner", "oneself") for method in ("PATCH", "DELETE")
} | {
    f"POST {PATH}/members": ("member", "admin", "owner"),
    f"POST {PATH}/invitations": ("member", "admin", "owner"),
    f"DELETE {PATH}/invitations/{{invitation_id}}": ("member", "admin", "owner"),
}
"""Roles of the person that a route is about, where that decides; the role given is the one named, a PATCH gives
`viewer`."""
ANSWERS = {f"POST {PATH}/invitations/accept", f"POST {PATH}/invitations/decline"}
"""Routes of invited people, who are no members: the rows of the first table cover them."""


def asked() -> list[tuple[Target, str]]:
    """Return each route of a project, with the role of the person that it is about."""
    found = [each for each in targets() if each.path.startswith(PATH) and f"{each.method} {each.path}" not in ANSWERS]
    return [(each, about) for each in found for about in ABOUT.get(f"{each.method} {each.path}", ("",))]


def named(target: Target, about: str) -> str:
    return f"{target.method} {target.path.removeprefix('/api/v1')}" + (f", {about}" if about else "")


def decided() -> dict[str, Row]:
    """Read the table."""
    lines = TABLE.read_text().splitlines()
    start = next(at for at, text in enumerate(lines) if text.startswith(HEAD)) + 2
    rows = [[cell.strip() for cell in text.strip("|").split("|")] for text in lines[start:] if text.startswith("| ")]
    return {name: dict(zip(COLUMNS, cells, strict=True)) for name, *cells in rows}


class Asked:
    """Fills the rows of the table with the answers."""

    def __init__(self, world: World) -> None:
        self._world = world

    def row(self, target: Target, about: str) -> Row:
        return {column: self._cell(target, about, column) for column in COLUMNS}

    def _cell(self, target: Target, about: str, column: str) -> str:
        world = self._world
        project_id = str(world.create("user", "/api/v1/projects", {"name": "Greenhouse"})["project"]["id"])
        caller = world.stranger()
        if column != "stranger":
            self._join(project_id, caller, column)
        key = f"{target.method} {target.path}"
        somebody = caller if about == "oneself" else world.stranger()
        if "{user_id}" in target.path and about != "oneself":
            self._join(project_id, somebody, about)
        if "{invitation_id}" in target.path:
            asked = {"user_id": somebody.id, "role": about}
            world.create("user", f"/api/v1/projects/{project_id}/invitations", asked)
        path = target.path.replace("{project_id}", project_id).replace("{user_id}", somebody.id)
        path = path.replace("{invitation_id}", somebody.id)
        body: Any = BODIES[key](somebody) if key in BODIES else None
        if key == f"POST {PATH}/devices":
            body = {"device_id": self._device(caller)}
        if "{device_id}" in path:
            shown = self._device(world.person("user"))
            world.create("user", f"/api/v1/projects/{project_id}/devices", {"device_id": shown})
            path = path.replace("{device_id}", shown)
        if target.method == "POST" and about:
            body |= {"role": about}
        answer = world.api(target.method, path, body, headers=bearer(caller.token))
        assert answer.status < 500, answer.text
        assert answer.status not in {400, 422, 429}, (key, answer.text)
        return str(answer.status)

    def _device(self, owner: Person) -> str:
        body = {"name": "Pump", "model": "EOS-3A", "mac": "AA:BB:CC:00:11:22", "serial_number": f"EOS-{new_id()}"}
        made = self._world.api("POST", "/api/v1/devices", body, headers=bearer(owner.token))
        assert made.status == 201, made.text
        return str(made.data["device"]["id"])

    def _join(self, project_id: str, person: Person, role: str) -> None:
        self._world.join("user", project_id, person, role)


@pytest.mark.req("R-K-17", "R-M-36")
def test_every_route_of_a_project_answers_each_role_as_was_decided(
    world: World, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # One person adds more members and devices here than anybody may in a minute.
    for name in ("member", "device"):
        monkeypatch.setitem(cast("dict[str, Rule]", RULES), name, RULES["default"])
    monkeypatch.setattr(invitations, "INVITATIONS", replace(INVITATIONS, amount=10_000))
    world.become("api")
    every, written = Asked(world), decided()
    names = {named(target, about) for target, about in asked()}
    # Half of the rows, others for another number of the run; MATRIX=all asks for each.
    chance = random.Random(seed)
    tried = [each for each in asked() if os.environ.get("MATRIX") == "all" or chance.random() < 0.5]
    found = {named(target, about): every.row(target, about) for target, about in tried}
    differing = [
        f"| {name} | " + " | ".join(row[column] for column in COLUMNS) + " |"
        for name, row in found.items()
        if written.get(name) != row
    ]
    assert not differing, "docs/permissions.md lacks these rows; check each cell, then write them:\n" + "\n".join(
        differing
    )
    assert written.keys() == names


class TestTheTable:
    """The rows of the committed table keep these rules."""

    def test_shows_a_stranger_nothing(self) -> None:
        assert {row["stranger"] for row in decided().values()} == {"404"}

    def test_shows_every_member_that_there_is_a_project(self) -> None:
        hidden = [name for name, row in decided().items() if "404" in {row[role.value] for role in ProjectRole}]
        assert hidden == []

    def test_lets_a_higher_role_do_what_a_lower_one_may(self) -> None:
        for name, row in decided().items():
            refused = [row[role] == "403" for role in RANK]
            assert refused == sorted(refused, reverse=True), name

    def test_lets_everybody_leave(self) -> None:
        for name in ("DELETE /projects/{project_id}/members/{user_id}, oneself", "POST /projects/{project_id}/leave"):
            assert {decided()[name][role.value] for role in ProjectRole} == {"204"}
