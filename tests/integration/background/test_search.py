"""Streams become rows of search: records that an engine wrote, twice and in disorder, deaths, and who finds what."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from karma.avatars.repository import AvatarRepository
from karma.core.clock import SystemClock, epoch_ms
from karma.core.happenings import ItemChange
from karma.core.ids import AvatarId, UserId, new_id
from karma.core.searchables import declared
from karma.devices.domain import Latest, PresenceEvent
from karma.search.feed import Feed
from karma.search.filling import Filling
from karma.search.repository import SearchRepository
from tests.contexts.avatars import avatar
from tests.contexts.files import StoredFileRows
from tests.contexts.projects import ProjectRows
from tests.contexts.tasks import TaskRows
from tests.contexts.threads import ThreadRows
from tests.support.accounts import open_account
from tests.support.crash import CrashTest
from tests.support.rows import LATER, NOW
from tests.support.stack import Context, Stack

ROUTERS = {"devices": "router", "agents": "events", "work": "work_router"}
Streams = Callable[[str], list[dict[str, Any]]]
Handle = Callable[[str, list[dict[str, Any]]], list[str]]


@pytest.fixture
def handle(stack: Stack, lambda_context: Context) -> Handle:
    """Give records of a table's stream to its router, and return those that must come again."""

    def give(table: str, records: list[dict[str, Any]]) -> list[str]:
        stack.use(ROUTERS[table])
        router = importlib.import_module(f"background.{ROUTERS[table]}")
        answered = router.lambda_handler({"Records": records}, lambda_context)
        return [failure["itemIdentifier"] for failure in answered["batchItemFailures"]]

    return give


def found(owner: UserId) -> dict[str, str]:
    """Return what an account finds: name and status by type and id."""
    rows = SearchRepository().newest(owner, most=1_000).rows
    return {f"{row.key.type} {row.key.id}": f"{row.text.name} {row.text.status}".strip() for row in rows}


def routed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of the agents table that its router is given: see infra/stacks/app.py."""
    images = ("NewImage", "OldImage")
    shown = ("run", "thread", "avatar")
    return [
        record
        for record in records
        if any(record["dynamodb"].get(image, {}).get("type", {}).get("S") in shown for image in images)
    ]


@pytest.mark.req("R-C-31")
def test_every_type_of_object_is_found_by_its_owner_once_its_record_came(
    stack: Stack, streamed: Streams, handle: Handle
) -> None:
    stack.use("router")
    devices, tasks, projects, threads = StoredFileRows(), TaskRows(), ProjectRows(), ThreadRows()
    file, [task, _], [project, owner], run = devices.ready, tasks.task, projects.project, threads.running
    made = replace(avatar(user=threads.ada.id), id=AvatarId(new_id()))
    AvatarRepository().create(made, request=None)
    dice = random.Random(8)
    for table in ROUTERS:
        records = streamed(table)
        if table == "agents":
            records = routed(records)
        assert handle(table, records) == []
        before = {each: found(each) for each in (devices.ada.id, tasks.ada.id, owner.user_id, threads.ada.id)}
        for _ in range(3):
            dice.shuffle(records)
            assert handle(table, records[: dice.randint(1, len(records))]) == []
        assert {each: found(each) for each in before} == before
    shown = {f"device {devices.device.id}": f"{devices.device.name} offline", f"file {file.id}": file.name}
    assert found(devices.ada.id).items() >= shown.items()
    assert found(tasks.ada.id) == {f"task {task.id}": f"{task.title} pending"}
    assert found(owner.user_id) == {f"project {project.id}": f"{project.name} active"}
    assert found(threads.ada.id) == {
        f"avatar {made.id}": f"{made.name} idle",
        f"run {run.key.run_id}": "running",
        f"thread {run.thread_id}": threads.head.title,
    }


def test_what_is_deleted_is_not_found_whatever_comes_late(stack: Stack, streamed: Streams, handle: Handle) -> None:
    stack.use("router")
    tasks, devices, threads = TaskRows(), StoredFileRows(), ThreadRows()
    tasks.gone_task  # noqa: B018
    devices.ready, devices.half_deleted  # noqa: B018
    threads.over  # noqa: B018
    for table in ROUTERS:
        records = routed(streamed(table)) if table == "agents" else streamed(table)
        handle(table, records)
        for each in (records[:1], records[::-1], records):
            handle(table, each)
    assert found(tasks.ada.id) == {}
    assert not any(name.startswith("device") for name in found(devices.ada.id))
    assert not any(name.startswith("thread") for name in found(threads.ada.id))


def test_a_project_is_found_by_its_members_as_long_as_they_are(stack: Stack, streamed: Streams, handle: Handle) -> None:
    stack.use("router")
    rows = ProjectRows()
    project, owner = rows.project
    joining = rows.joining()
    assert joining.after is not None
    joined = joining.after.user_id
    rows.projects.change_member(joining)
    handle("work", streamed("work"))
    name = f"project {project.id}"
    assert found(owner.user_id) == found(joined) == {name: f"{project.name} active"}

    read = rows.projects.read(project.id, owner.user_id, joined)
    assert read.project is not None
    renamed = replace(read.project, name="Another name", updated_at=LATER)
    rows.projects.change(read.project, renamed, actor=read.members[owner.user_id])
    handle("work", streamed("work"))
    assert found(owner.user_id) == found(joined) == {name: "Another name active"}

    read = rows.projects.read(project.id, owner.user_id, joined)
    assert read.project is not None
    member = read.members[joined]
    leaves = replace(
        joining,
        project=read.project,
        actor=member,
        before=member,
        after=None,
        owners=(owner.user_id,),
        entries=[],
        invitation=None,
    )
    rows.projects.change_member(leaves)
    records = streamed("work")
    handle("work", records)
    handle("work", records[::-1])
    assert (found(owner.user_id), found(joined)) == ({name: "Another name active"}, {})

    read = rows.projects.read(project.id, owner.user_id)
    assert read.project is not None
    rows.projects.begin_delete(read.project, actor=read.members[owner.user_id], at=NOW)
    handle("work", streamed("work"))
    assert found(owner.user_id) == {}


def test_a_device_s_status_is_that_of_its_presence_and_messages(
    stack: Stack, streamed: Streams, handle: Handle
) -> None:
    stack.use("router")
    rows = StoredFileRows()
    device, moment = rows.device, epoch_ms(datetime.now(UTC))
    name = f"device {device.id}"

    def status() -> str:
        handle("devices", streamed("devices"))
        return found(rows.ada.id)[name].rpartition(" ")[2]

    assert status() == "offline"
    rows.devices.merge_presence(rows.serial_claim, [PresenceEvent(moment, 1, connected=True, session="s")], now=NOW)
    assert status() == "online"
    rows.devices.merge_latest(rows.serial_claim, Latest(condition_ms=moment, condition="error"), now=NOW)
    assert status() == "error"
    rows.devices.merge_latest(rows.serial_claim, Latest(condition_ms=moment + 1, condition=""), now=NOW)
    rows.devices.merge_presence(
        rows.serial_claim, [PresenceEvent(moment + 9, 1, connected=False, session="s")], now=NOW
    )
    assert status() == "offline"
    # It speaks again, though nobody told of its connection.
    rows.devices.merge_latest(rows.serial_claim, Latest(last_seen_ms=moment + 20_000), now=NOW)
    assert status() == "online"


def test_a_device_that_goes_on_speaking_costs_nothing(stack: Stack, streamed: Streams, handle: Handle) -> None:
    stack.use("router")
    rows = StoredFileRows()
    for second in range(100, 104):
        rows.devices.merge_latest(rows.serial_claim, Latest(last_seen_ms=second * 1_000), now=NOW)
    handle("devices", streamed("devices"))
    changes = SearchRepository().head(rows.ada.id).changes
    spoken = [
        each
        for each in streamed("devices")
        if each["eventName"] == "MODIFY" and each["dynamodb"]["Keys"]["sk"]["S"].endswith("#LATEST")
    ]
    assert len(spoken) == 4
    handle("devices", spoken[1:])
    assert SearchRepository().head(rows.ada.id).changes == changes


def test_nothing_is_found_of_an_account_that_is_gone(stack: Stack, streamed: Streams, handle: Handle) -> None:
    stack.use("router")
    rows, gone = TaskRows(), UserId(new_id())
    task, _ = rows.task
    records = json.loads(json.dumps(streamed("work")).replace(rows.ada.id, gone))
    assert handle("work", records) == []
    assert found(gone) == {}
    open_account(gone)
    assert handle("work", records) == []
    assert found(gone) == {f"task {task.id}": f"{task.title} pending"}


@pytest.mark.parametrize("table", ["devices", "work"])
def test_a_death_at_any_call_is_repaired_by_the_redelivery(stack: Stack, streamed: Streams, table: str) -> None:
    stack.use("router")
    rows = StoredFileRows() if table == "devices" else ProjectRows()
    if isinstance(rows, StoredFileRows):
        rows.folder  # noqa: B018
    else:
        rows.projects.change_member(rows.joining())
    records = streamed(table)
    stack.use(ROUTERS[table])
    CrashTest(
        entry=f"background.{ROUTERS[table]}:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["search"]],
        ignore=("version", "changed_ms", "expires_at"),
        seed=lambda: {"Records": records},
        accept=lambda response: response == {"batchItemFailures": []},
    ).run()
    assert found(rows.ada.id)


def test_older_objects_are_found_once_they_were_filled_by_however_many_runs(
    stack: Stack, streamed: Streams, handle: Handle
) -> None:
    stack.use("router")
    rows, tasks, projects, threads = StoredFileRows(), TaskRows(), ProjectRows(), ThreadRows()
    file, [task, _], [project, owner], run = rows.ready, tasks.task, projects.project, threads.running
    later = TaskRows()
    gone = later.gone_task
    handle("work", [each for each in streamed("work") if gone.task_id in json.dumps(each)])
    stack.use("api")
    client = stack.aws("dynamodb")

    class Dies(Feed):
        left = 12

        def fill(self, changes: Iterable[ItemChange], *, owner: UserId | None = None) -> int:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().fill(changes, owner=owner)

    def filling(kind: type[Feed]) -> Filling:
        return Filling(client, stack.tables, kind(SearchRepository(), declared(), SystemClock()), page=4)

    for _ in range(200):
        try:
            list(filling(Dies).run())
        except KeyboardInterrupt:
            continue
        break
    shown = {f"device {rows.device.id}": f"{rows.device.name} offline", f"file {file.id}": file.name}
    assert found(rows.ada.id).items() >= shown.items()
    assert found(tasks.ada.id) == {f"task {task.id}": f"{task.title} pending"}
    assert found(owner.user_id) == {f"project {project.id}": f"{project.name} active"}
    assert f"run {run.key.run_id}" in found(threads.ada.id)
    assert found(later.ada.id) == {}
    assert sum(each.written for each in filling(Feed).run()) == 0
    SearchRepository().forget(tasks.ada.id)
    assert sum(each.written for each in filling(Feed).run(owner=tasks.ada.id)) == 1
    assert found(tasks.ada.id) == {f"task {task.id}": f"{task.title} pending"}
