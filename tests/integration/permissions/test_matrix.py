"""Every route of both functions, called by everybody: docs/permissions.md says what each is answered."""

from __future__ import annotations

import json
import os
import random
from datetime import timedelta
from pathlib import Path

import pytest

from karma.core.ids import UserId, new_id
from karma.identity.permissions import ROLES_OF
from tests.integration.permissions.world import EVERY_SCOPE, Target, World, bearer, targets
from tests.support import contexts
from tests.support.described import Described
from tests.support.model_server import ModelServer

TABLE = Path(__file__).resolve().parents[3] / "docs/permissions.md"
UNKNOWN = {
    "nobody": (401, "Authentication required"),
    "expired token": (401, "Invalid authentication credentials"),
    "malformed token": (401, "Invalid authentication credentials"),
    "unknown key": (401, "Invalid API Key"),
    "deleted user": (404, "User not found"),
}
"""Callers whom nobody knows, and what they are told wherever somebody must be known."""
PEOPLE = ("viewer", "user", "another user", "admin")
KEYS = ("key with scope", "key without")
COLUMNS = ("permission", *UNKNOWN, *PEOPLE, *KEYS)
ONLY = os.environ.get("ROUTES", "")
"""Routes whose path holds this are called: `ROUTES=/avatars`; all of them unless somebody asks for less."""
WHOLE = os.environ.get("MATRIX") == "all"
_PART = 1 / 3
NOTHING = "-"
"""Of a cell that no caller can be in."""

Row = dict[str, str]


def decided() -> dict[str, Row]:
    """Read the table."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    return {name: dict(zip(COLUMNS, cells, strict=True)) for name, *cells in rows}


def line(name: str, row: Row) -> str:
    return f"| `{name}` | " + " | ".join(row[column] for column in COLUMNS) + " |"


def named(permission: str | None) -> str:
    return {None: "public", "": "any caller"}.get(permission, permission or "")


class Asked:
    """Fills the rows of the table with what is answered."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wrong: dict[str, str] = {}
        """The first cell of a route that cannot stand in the table."""
        self.described = Described()
        """Each answer, beside what the documents say of it."""

    def row(self, target: Target) -> Row:
        unknown = [name for name in target.parameters if name not in contexts.objects()]
        if unknown:
            self._complain(target, f"OBJECTS in tests/contexts lacks {', '.join(unknown)}")
            return {}
        cells = {column: self._cell(target, column) for column in COLUMNS[1:]}
        return {"permission": named(target.permission), **cells}

    def _cell(self, target: Target, column: str) -> str:
        if column in KEYS and (target.permission is None or (not target.permission and column == "key without")):
            return NOTHING
        owner = "viewer" if column == "viewer" else "user"
        answer = self.world.call(target, owner=owner, headers=self._headers(target, column))
        self.described.compare(
            target.function,
            target.method,
            target.path,
            answer.status,
            answer.content_type,
            answer.text,
            answer.headers,
        )
        if answer.status in {400, 422, 429} or answer.status >= 500:
            self._complain(
                target, f"{column}: {answer.status} decides nothing; BODIES in tests/contexts? {answer.text[:300]}"
            )
        if column in UNKNOWN and target.permission is not None:
            status, message = UNKNOWN[column]
            if answer.status != status or _message(answer.text) != message:
                self._complain(target, f"{column}: not {status} {message!r} but {answer.text[:300]}")
        if column == "key without" and answer.status == 403:
            missing = (json.loads(answer.text)["error"].get("details") or {}).get("permission")
            if missing != target.permission:
                self._complain(target, f"{column}: names {missing!r} as missing")
        if answer.status < 300 and target.method != "GET":
            self.world.start_over()
        return str(answer.status)

    def _complain(self, target: Target, about: str) -> None:
        self.wrong.setdefault(target.name, about)

    def _headers(self, target: Target, column: str) -> dict[str, str]:
        world = self.world
        match column:
            case "nobody":
                return {}
            case "expired token":
                return bearer(world.token(world.person("user").id, age=timedelta(minutes=31)))
            case "malformed token":
                return bearer(world.person("user").token[:-8])
            case "unknown key":
                return {"x-api-key": "karma_" + "x" * 43}
            case "deleted user":
                return bearer(world.token(UserId(new_id())))
            case "key with scope":
                scopes = frozenset({target.permission or "audit:read"})
                return {"x-api-key": world.key(_key_owner(target), scopes)}
            case "key without":
                return {"x-api-key": world.key(_key_owner(target), EVERY_SCOPE - {target.permission or ""})}
            case _:
                return bearer(world.person(column).token)


def _key_owner(target: Target) -> str:
    """Return the role whose key is used: a user's where users have the permission, else an administrator's."""
    return "user" if not target.permission or "user" in ROLES_OF[target.permission] else "admin"


def _message(text: str) -> str:
    error = json.loads(text)["error"]
    return str(error["message"])


@pytest.mark.fault("F-24b")
@pytest.mark.req("R-M-36", "R-A-33", "R-A-34", "R-A-35", "R-K-25", "R-K-35", "R-K-36")
def test_every_route_answers_everybody_as_was_decided(world: World, model: ModelServer, seed: int) -> None:
    chance = random.Random(seed)
    asked, written, found = Asked(world), decided(), {}
    names = {target.name for target in targets()}
    model.fail(401, "authentication_error", times=100)
    for function, environment in (("api", {}), ("agent_stream", {"MODEL_BASE_URL": model.url})):
        world.become(function, **environment)
        for target in targets():
            # A third of the routes, others for another number of the run; MATRIX=all asks at each.
            if target.function == function and ONLY in target.path and (ONLY or WHOLE or chance.random() < _PART):
                found[target.name] = asked.row(target)
    assert not asked.wrong, "\n".join(f"{name}: {about}" for name, about in asked.wrong.items())
    differing = [line(name, row) for name, row in found.items() if written.get(name) != row]
    gone = [] if ONLY else sorted(written.keys() - names)
    assert not differing, "docs/permissions.md lacks these rows; check each cell, then write them:\n" + "\n".join(
        differing
    )
    assert not gone, f"docs/permissions.md has rows of routes that are no more: {gone}"
    untrue = asked.described.wrong
    assert not untrue, "answers that are not as their documents say:\n" + "\n".join(
        f"{where}: {problem}" for where, problem in untrue.items()
    )
    assert found.keys() - asked.described.succeeded == set(), "of each route an answer of success is compared"


class TestTheTable:
    """The rows of the committed table keep these rules."""

    @pytest.fixture
    def rows(self) -> dict[str, Row]:
        return decided()

    @pytest.fixture
    def routes(self, rows: dict[str, Row]) -> list[Target]:
        return [target for target in targets() if target.name in rows]

    def test_refuses_those_whom_nobody_knows(self, rows: dict[str, Row], routes: list[Target]) -> None:
        for target in routes:
            if target.permission is not None:
                for column, (status, _) in UNKNOWN.items():
                    assert rows[target.name][column] == str(status), (target.name, column)

    @pytest.mark.req("R-A-34", "R-A-35")
    def test_refuses_a_role_exactly_without_the_permission(self, rows: dict[str, Row], routes: list[Target]) -> None:
        for target in routes:
            for column, role in (("viewer", "viewer"), ("user", "user"), ("another user", "user"), ("admin", "admin")):
                if target.permission:
                    allowed = role in ROLES_OF[target.permission]
                    assert (rows[target.name][column] != "403") == allowed, (target.name, column)

    def test_refuses_a_key_without_the_scope(self, rows: dict[str, Row], routes: list[Target]) -> None:
        for target in routes:
            if target.permission:
                assert rows[target.name]["key without"] == "403", target.name

    @pytest.mark.req("R-K-25")
    def test_hides_what_is_another_s(self, rows: dict[str, Row], routes: list[Target]) -> None:
        for target in routes:
            if target.permission and set(target.parameters) - contexts.shared():
                assert rows[target.name]["another user"] in {"403", "404"}, target.name
                assert rows[target.name]["admin"] in {"404"}, target.name

    def test_asks_for_no_permission_only_about_the_caller_s_own_account(self, rows: dict[str, Row]) -> None:
        own = ("/api/v1/auth/", "/api/v1/users/me")
        asked = [name.split(" ")[2] for name, row in rows.items() if row["permission"] == "any caller"]
        assert asked
        assert all(path.startswith(own) for path in asked), asked
