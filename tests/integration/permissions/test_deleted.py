"""A repeat of a creation whose object was deleted is 410 with its id, on every route that reads `Idempotency-Key`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from karma.core.ids import new_id
from karma.identity.permissions import ROLES_OF
from tests.integration.permissions.world import Answered, Person, Target, World, bearer, targets
from tests.support import contexts, contract

PART_OF = {
    "/api/v1/devices/{device_id}/certificates": "/api/v1/devices/{device_id}",
    "/api/v1/devices/{device_id}/commands": "/api/v1/devices/{device_id}",
    "/api/v1/devices/{device_id}/transfer": "/api/v1/devices/{device_id}",
    "/api/v1/projects/{project_id}/devices": "/api/v1/projects/{project_id}",
    "/api/v1/projects/{project_id}/invitations": "/api/v1/projects/{project_id}",
    "/api/v1/projects/{project_id}/members": "/api/v1/projects/{project_id}",
}
"""Objects that cannot be deleted by themselves, each with the one that it goes with."""
OF_THREADS = ("/api/v1/runs", "/api/v1/checkpoints", "/api/runs", "/api/checkpoints")
"""Runs and their points have no route that deletes them: they go with their thread (tests/integration/threads)."""
OF_WEBHOOKS = ("/api/v1/webhooks/{webhook_id}/rotate-secret", "/api/v1/webhooks/{webhook_id}/test")
"""These make a secret and a delivery, which are no objects of their own and go with their webhook."""
KEPT = (
    "/api/v1/commands/bulk",
    "/api/v1/firmware/rollouts",
    "/api/v1/telemetry/exports",
    "/api/v1/devices/import",
    "/api/v1/devices/{device_id}/files/{file_id}/move",
)
"""No route deletes a bulk command, a rollout or an export: it is cancelled, or paused, and kept for some time then.
The move of a directory is no object either, but work that is over at some time. An import makes many objects:
tests/integration/devices/test_import.py.
"""
REGISTER = "/api/v1/auth/register"
UNNOTED = {REGISTER, *PART_OF}
"""Creations that have no record of their request in their transaction, or whose parent is looked for first."""


def creations() -> list[Target]:
    described = {
        path
        for path, operations in contract.committed("api")["paths"].items()
        if any(each["name"] == "Idempotency-Key" for each in operations.get("post", {}).get("parameters", ()))
    }
    found = [target for target in targets() if target.method == "POST" and target.path in described]
    return [target for target in found if not target.path.startswith((*OF_THREADS, *OF_WEBHOOKS, *KEPT))]


class Creation:
    """One creation with an Idempotency-Key, by somebody who may."""

    def __init__(self, world: World, target: Target) -> None:
        self._world = world
        self._target = target
        self._key = new_id()  # of this address alone: all addresses of an operation share their keys
        owner = "user" if not target.permission or "user" in ROLES_OF[target.permission] else "admin"
        self._person: Person = world.person(owner)
        self._path = world.path_of(target, owner=owner)
        self._body = contexts.bodies()[f"POST {target.path}"](world, owner)

    def ask(self) -> Answered:
        known = {} if self._target.permission is None else bearer(self._person.token)
        return self._world.send(self._target, self._path, self._body, {**known, "idempotency-key": self._key})

    def delete(self, made: str) -> Answered:
        """Delete what was made, or what it is a part of."""
        if self._target.path == REGISTER:
            given = {"email": self._body["email"], "password": self._body["password"]}
            tokens = self._world.api("POST", "/api/v1/auth/login", given, headers={}).data
            headers = bearer(tokens["access_token"])
            return self._world.api(
                "DELETE", "/api/v1/users/me", {"current_password": given["password"]}, headers=headers
            )
        part = self._target.path in PART_OF
        path = self._path.rpartition("/")[0] if part else f"{self._path}/{made}"
        if self._target.path.endswith("/directories"):
            path = path.replace("/directories/", "/files/")
        return self._world.api("DELETE", path, headers=bearer(self._person.token))

    def forget_answer(self) -> None:
        """Lose the stored answer, as when the process had died before it was written."""
        dynamodb, table = self._world.stack.aws("dynamodb"), self._world.stack.environment("api")["IDENTITY_TABLE"]
        pk = {"S": f"IDEMPOTENCY#{self._person.id}"}
        found = dynamodb.query(
            TableName=table, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": pk}
        )["Items"]
        assert found
        for item in found:
            dynamodb.delete_item(TableName=table, Key={"pk": pk, "sk": item["sk"]})


def made_id(answer: Answered) -> str:
    whole = json.loads(answer.text)
    data: dict[str, Any] = whole.get("data", whole)
    inside = [each["id"] for each in data.values() if isinstance(each, dict) and "id" in each]
    return str(data.get("id") or next(iter(inside), ""))


@pytest.mark.fault("F-21m")
def test_what_was_deleted_is_told_to_be_gone(world: World) -> None:
    world.become("api")
    wrong: list[object] = []
    for target in creations():
        world.objects.clear()
        creation = Creation(world, target)
        first, again = creation.ask(), creation.ask()
        made = made_id(first)
        if again.status != first.status and '"ALREADY_CREATED"' not in again.text:
            wrong.append((target.path, "while it is there", again))
        assert creation.delete(made).status in {200, 202, 204}, target.path
        gone = [creation.ask()]
        if target.path not in UNNOTED:
            creation.forget_answer()
            gone.append(creation.ask())
        for answer in gone:
            named = target.path in PART_OF or made in answer.text
            if (first.status // 100, answer.status, named) != (2, 410, True):
                wrong.append((target.path, first, answer))
    assert wrong == [], wrong
    assert len(creations()) > 12
