"""A repeat under an Idempotency-Key has no second effect, on every route that takes one, at each of its addresses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from karma.core.ids import new_id
from tests.integration.permissions.world import Answered, Target, World, bearer, targets
from tests.support import contexts

CHANGED: Mapping[str, Any] = {
    "url": "https://app.example.com/other",
    "name": "another",
    "title": "Another",
    "message": "Another",
    "description": "another",
    "command": "reboot",
    "path": "/other",
    "max_downloads": 4,
    "overlap_s": 7_200,
    "modifications": {"message": "Stop"},
}
"""Other values of fields, by one of which a body that is not made anew each time becomes another one."""


def operations() -> Iterator[tuple[str, list[Target]]]:
    """Yield each operation that takes a key, with the routes of its addresses."""
    from api.app import build
    from karma.http.routing import Route

    paths: dict[str, list[str]] = {}
    for route in build().router.routes:
        if isinstance(route, Route) and route.idempotent:
            paths.setdefault(route.operation, []).append(route.path)
    known = {target.path: target for target in targets() if (target.function, target.method) == ("api", "POST")}
    for operation, addresses in paths.items():
        yield operation, [known[path] for path in addresses]


def address(target: Target, like: Target, path: str) -> str:
    """Return the path of another address of the request that went to `path`, an address of `like`."""
    given = [text for name, text in zip(like.path.split("/"), path.split("/"), strict=True) if name.startswith("{")]
    return "/".join(given.pop(0) if part.startswith("{") else part for part in target.path.split("/"))


def rows(world: World) -> list[object]:
    """Return what is stored; a repeat may ask once more for the execution of a run that nobody has taken yet."""
    stored = world.stored()
    assert isinstance(stored, list)
    return [each for each in stored if not isinstance(each, dict)]


def said(answer: Answered) -> object:
    """Return what an answer says in all of its styles."""
    told = json.loads(answer.text)
    told = told.get("data", told)
    [*values] = told.values()
    return values[0] if len(values) == 1 else told


def another(world: World, target: Target, owner: str, body: Any) -> Any:
    """Return a body that asks for something else; None: the route takes none."""
    made = made_body(world, target, owner)
    if made is None or made != body:
        return made
    name = next(each for each in CHANGED if each in body)
    return body | {name: CHANGED[name]}


def made_body(world: World, target: Target, owner: str) -> Any:
    make = contexts.bodies().get(f"POST {target.path}")
    return make(world, owner) if make else None


def begun(world: World, target: Target, key: Mapping[str, str]) -> tuple[str, Any, Answered]:
    """Send a first request; return its path, body and answer."""
    for _ in range(2):
        path, body = world.path_of(target, owner="admin"), made_body(world, target, "admin")
        first = world.send(target, path, body, {**bearer(world.person("admin").token), **key})
        if first.status < 300:
            return path, body, first
        world.start_over()  # what another route's request has made stands in the way
    raise AssertionError(f"{target.name}: {first.text}")


@pytest.mark.fault("F-21k")
def test_a_repeat_at_any_address_has_no_second_effect(world: World) -> None:
    world.become("api")
    tried = 0
    for operation, addresses in operations():
        target, key = addresses[0], {"idempotency-key": new_id()}
        path, body, first = begun(world, target, key)
        mine = bearer(world.person("admin").token)
        between = world.send(target, path, made_body(world, target, "admin"), mine | {"idempotency-key": new_id()})
        assert between.status < 300 or between.status == 409, between.text
        other = another(world, target, "admin", body) if target.permission is not None else None
        before = rows(world)
        for each in addresses:
            place = address(each, target, path)
            again = world.send(each, place, body, mine | key)
            if again.status == 409:
                assert "ALREADY_CREATED" in again.text, (operation, again.text)
            else:
                assert (again.status, said(again)) == (first.status, said(first)), operation
            if other is not None:
                refused = world.send(each, place, other, mine | key)
                assert refused.status == 409, (operation, refused.text)
                assert "Idempotency-Key was used for another" in refused.text, (operation, refused.text)
            tried += 1
        assert rows(world) == before, operation
        theirs = bearer(world.person("another user").token)
        path, body = world.path_of(target, owner="another user"), made_body(world, target, "another user")
        answer = world.send(target, path, body, theirs | key)
        assert answer.status in {first.status, 403}, (operation, answer.text)
        assert "idempotent-replayed" not in answer.headers, operation
        assert said(answer) != said(first)
    assert tried > 30


def test_addresses_of_one_operation_share_its_keys() -> None:
    """An address of the Agio API is one of what has its path below our prefix, which takes a key as well."""
    several = {tuple(sorted(each.path for each in addresses)) for _, addresses in operations() if addresses[1:]}
    below = (
        "agents",
        "runs/{run_id}/checkpoints",
        "checkpoints/{checkpoint_id}/restore",
        "checkpoints/{checkpoint_id}/fork",
    )
    twins = {(f"/api/{path}", f"/api/v1/{path}") for path in below}
    members = tuple(f"/api/v1/projects/{{project_id}}/{name}" for name in ("invitations", "members"))
    assert several == {*twins, members}
    ours = [operation for operation, _ in operations()]
    assert all(operation.startswith("/api/v1/") for operation in ours)
    assert all(addresses[0].path == operation for operation, addresses in operations())
