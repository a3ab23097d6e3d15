"""Runs as a release stores them: the items of three, in the tables of DynamoDB.

    lost     its process died within its second turn
    asked    it ended with a call that waits to be approved
    ended    it finished

tests/fixtures/runs has what each layout of `ENGINE_SCHEMA` wrote: a release of that layout, with this module, for later
ones to read (tests/integration/agent_stream/test_releases.py).
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.calls import on_dynamodb_local
from karma.conversations.domain import ThreadKey
from karma.core.dynamo.leases import DynamoLeases
from karma.core.dynamo.tables import bind_names
from karma.core.ids import RunId, ThreadId
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.domain import Role, User
from karma.models.budgets import Budget
from karma.runs.domain import ENGINE_SCHEMA, RunKey
from karma.runs.repository import RunRepository
from karma.tools.domain import ApprovalPolicy, ApprovalRule, ToolApproval
from tests.fakes.agents import catalogue
from tests.fakes.runs import KeptFrames, caller
from tests.support.lost_runs import TOOLS, Life, World, live
from tests.support.run_world import asked, spec, user

FIXTURES: Final = Path(__file__).parents[1] / "fixtures/runs"
NAMES: Final = ("lost", "asked", "ended")
Items = Mapping[str, Sequence[Mapping[str, Any]]]


def key_of(name: str) -> RunKey:
    return RunKey(caller().user_id, RunId(name))


def thread_of(name: str) -> ThreadKey:
    return ThreadKey(caller().user_id, ThreadId(f"thread-{name}"))


def world_of(name: str) -> World:
    """Return a world whose store is DynamoDB."""
    world = World()
    world.store = RunRepository()  # type: ignore[assignment]
    world.leases = DynamoLeases("agents")
    rule = (
        ApprovalRule(policy=ApprovalPolicy.ALWAYS)
        if name == "asked"
        else ApprovalRule(policy=ApprovalPolicy.WHEN, when='args.word == "never"')
    )
    agents = catalogue(tools=TOOLS)
    agents.create(
        spec(tools=TOOLS, approvals=(ToolApproval(tool="look", rule=rule),), budget=Budget(max_tokens=10_000))
    )
    world.given_agents = agents
    return world


def store_all(client: Any, tables: Mapping[str, str]) -> Items:
    """Let this release store the runs, and return all items of its tables."""
    user_id = caller().user_id
    at = World().clock.now()
    UserRepository().create_user(
        User(id=user_id, email="runs@example.com", name="Runs", password_hash="x", role=Role.USER, created_at=at,
             updated_at=at, email_verified=True, avatar=None)
    )  # fmt: skip
    for name in NAMES:
        world = world_of(name)
        life = Life(_STEPS if name == "lost" else None)
        request = asked(user("go", f"u-{name}"), thread=thread_of(name).thread_id, run=name,
                        forwardedProps={"agent_id": "brief"})  # fmt: skip
        live(partial(_run, world, life, request))
        world.clock.pass_by(timedelta(seconds=1))
    return {name: client.scan(TableName=tables[name])["Items"] for name in ("identity", "agents", "billing")}


async def _run(world: World, life: Life, request: Any) -> None:
    await (await world.service(life).start(caller(), request)).execute(KeptFrames())


_STEPS: Final = 30


def main() -> int:
    """Write what this release stores: `python -m tests.support.stored_runs`."""
    os.environ.update(AWS_ACCESS_KEY_ID="123456789012", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")
    os.environ.update(POWERTOOLS_SERVICE_NAME="runs", POWERTOOLS_METRICS_NAMESPACE="Karma")
    names = {name: f"runs-{name}" for name in ("identity", "agents", "billing", "devices")}
    with on_dynamodb_local(names) as client:
        bind_names(names)
        found = store_all(client, names)
    path = FIXTURES / f"schema_{ENGINE_SCHEMA}.json"
    path.write_text(json.dumps(found, indent=1, sort_keys=True, default=in_base64) + "\n")
    return 0


def in_base64(value: object) -> object:
    """Return bytes of an item as JSON has them."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    raise TypeError(type(value))


def out_of_base64(value: dict[str, Any]) -> object:
    """Read what `in_base64` wrote; for `json.loads`."""
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value


def stored_by(schema: int) -> Items:
    """Return what a release of a layout has stored."""
    found: Items = json.loads((FIXTURES / f"schema_{schema}.json").read_text(), object_hook=out_of_base64)
    return found


if __name__ == "__main__":
    sys.exit(main())
