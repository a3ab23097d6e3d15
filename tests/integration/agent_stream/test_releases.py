"""A deployment meets runs of the release before it: it goes on with them, and the older one leaves newer ones alone.

tests/fixtures/runs has the items of three runs as each layout wrote them. Whoever changes what is stored of a run says
here which of these it is:

- Nothing that an older release does would be wrong by it: write the fixture of this layout anew
  (`python -m tests.support.stored_runs`).
- An older release would do otherwise, such as call a tool that this one asks about: raise ENGINE_SCHEMA, write the new
  layout's fixture, keep that of the one before, and remove older ones.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from karma.core.dynamo.packed import unpack
from karma.core.dynamo.tables import bind_names
from karma.runs.domain import ENGINE_SCHEMA, LEASE, RunStatus
from karma.runs.events import parse
from karma.runs.replay import read
from karma.runs.reservations import reserved_for
from tests.fakes.runs import KeptFrames, caller
from tests.support.agui import verify
from tests.support.lost_runs import Life, World, live
from tests.support.run_world import asked
from tests.support.stored_runs import FIXTURES, Items, key_of, store_all, stored_by, thread_of, world_of

LAYOUTS = (ENGINE_SCHEMA - 1, ENGINE_SCHEMA)
TABLES = ("identity", "agents", "billing")


@pytest.fixture
def told(aws: Callable[[str], Any], tables: Mapping[str, str]) -> Callable[[int], None]:
    """Return what puts the items of a layout into the tables."""

    def put(schema: int) -> None:
        bind_names(tables)
        for table in TABLES:
            for item in stored_by(schema)[table]:
                aws("dynamodb").put_item(TableName=tables[table], Item=item)

    return put


def conversation(world: World, name: str) -> list[tuple[str, str]]:
    thread = world.store.thread(thread_of(name))
    return [(each.role, str(each.content)) for each in thread.conversation(thread.latest).messages]


def events_of(world: World, name: str) -> list[dict[str, Any]]:
    found = read(world.store, key_of(name), after=0, limit=10**6, link=list)
    return [orjson.loads(data) for segment in found for data in segment.events]


@pytest.mark.parametrize("schema", LAYOUTS)
class TestARunOfThatLayout:
    def test_whose_process_died_in_the_deployment_ends_as_one_that_did_not(
        self, told: Callable[[int], None], schema: int
    ) -> None:
        told(schema)
        world = world_of("lost")
        before = world.store.run(key_of("lost"))
        assert before is not None
        assert (before.engine_schema, before.status) == (schema, RunStatus.RUNNING)
        begun = world.store.segments(key_of("lost"), after=0, limit=10**6)
        assert 1 < len(begun) < len(world.store.segments(key_of("ended"), after=0, limit=10**6))
        world.clock.pass_by(LEASE + timedelta(seconds=1))
        live(lambda: world.executor(Life(None)).go_on(key_of("lost")))

        after = world.store.run(key_of("lost"))
        assert after is not None
        assert (after.status, after.turns, after.budgets) == (RunStatus.FINISHED, 4, before.budgets)
        assert conversation(world, "lost") == conversation(world, "ended")
        verify(events_of(world, "lost"))
        log = world.store.segments(key_of("lost"), after=0, limit=10**6)
        assert [each.terminal for each in log] == [False] * (len(log) - 1) + [True]
        assert log[: len(begun)] == begun

    def test_is_counted_in_its_agent_s_day(self, told: Callable[[int], None], schema: int) -> None:
        told(schema)
        run = world_of("lost").store.run(key_of("lost"))
        assert run is not None
        assert [day.agent_id for day in reserved_for(run).days] == [run.agent_id]

    def test_that_waits_for_an_approval_goes_on_once_it_is_given(
        self, told: Callable[[int], None], schema: int
    ) -> None:
        told(schema)
        world = world_of("asked")
        thread = world.store.thread(thread_of("asked"))
        (question,) = world.store.interrupts(caller().user_id, thread.interrupts).values()
        stored, agents = world.store.run(key_of("asked")), world.agents()
        assert stored is not None
        assert stored.agent_id is not None
        agent = replace(agents.find("brief"), id=stored.agent_id)
        agents.find = lambda ref: agent  # type: ignore[method-assign]  # the agent that the release before has made
        world.given_agents = agents
        answer = {"interruptId": question.id, "status": "resolved", "payload": {"approved": True}}
        request = asked(
            thread=thread_of("asked").thread_id, run="approved", resume=[answer],
            forwardedProps={"agent_id": "brief"},
        )  # fmt: skip

        async def go() -> None:
            await (await world.service(Life(None)).start(caller(), request)).execute(KeptFrames())

        live(go)
        assert ("look", question.call.id if question.call else "") in world.effects
        # The next call of the same tool has to be approved again, by the rule that the agent has now.
        following = world.store.run(key_of("approved"))
        assert following is not None
        assert following.status is RunStatus.INTERRUPTED

    def test_is_taken_by_one_of_two_processes(self, told: Callable[[int], None], schema: int) -> None:
        told(schema)
        world = world_of("lost")
        world.clock.pass_by(LEASE + timedelta(seconds=1))

        async def both() -> list[bool]:
            executors = [world.executor(Life(None)) for _ in range(2)]
            return list(await asyncio.gather(*(each.go_on(key_of("lost")) for each in executors)))

        assert sorted(asyncio.run(both())) == [False, True]


def test_what_is_stored_of_a_run_is_that_of_its_layout(aws: Callable[[str], Any], tables: Mapping[str, str]) -> None:
    """A member that comes or goes is a decision about releases that run side by side: see the top of this file."""
    bind_names(tables)
    assert shape(store_all(aws("dynamodb"), tables)) == shape(stored_by(ENGINE_SCHEMA))


def test_the_layouts_that_are_read_are_kept_and_no_others() -> None:
    assert {path.name for path in FIXTURES.iterdir()} == {f"schema_{schema}.json" for schema in LAYOUTS}


def shape(items: Items) -> set[str]:
    """Return the members of all that is stored, by type of item; of compressed ones what is within."""
    return {
        f"{item['type']['S']}.{member}"
        for each in items["agents"]
        for item in [dict(each)]
        for member in _members(item)
    }


def _members(item: Mapping[str, Any]) -> Iterator[str]:
    for name, typed in item.items():
        ((kind, value),) = typed.items()
        yield name
        if kind == "B":
            yield from _within(name, _unpacked(bytes(value)))


def _unpacked(data: bytes) -> Any:
    plain = zlib.decompress(data) if data[:1] == b"x" else unpack(data)  # setups are compressed otherwise
    try:
        return orjson.loads(plain)
    except orjson.JSONDecodeError:
        return [parse(line).type for line in plain.split(b"\n") if line]


def _within(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            # Names of calls and ids are no part of a layout.
            shown = "*" if re.search(r"\d", key) else key
            yield f"{name}.{shown}"
            yield from _within(f"{name}.{shown}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _within(f"{name}[]", inner)
