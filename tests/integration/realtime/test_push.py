"""Stored changes come to their watchers: real items, their streams' records, the queue, and a socket's endpoint."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from karma.core.ids import RunId, ThreadId, new_id
from karma.devices.domain import Latest, PresenceEvent
from karma.devices.shadow import ChangeState
from karma.projects.domain import ProjectRole
from karma.projects.ports import MemberChange
from karma.runs.domain import RunEnd, RunStatus
from tests.contexts.devices import DeviceRows
from tests.contexts.projects import ProjectRows
from tests.contexts.runs import RunRows
from tests.contexts.tasks import TaskRows
from tests.integration.realtime.conftest import Live
from tests.support.crash import CrashTest
from tests.support.rows import LATER, NOW, AccountRows


@pytest.mark.req("R-K-21")
class TestWhatIsWatched:
    def test_a_device(self, live: Live) -> None:
        rows = DeviceRows()
        device, channel = rows.device, f"device:{rows.device.id}"
        live.connect(rows.ada.id, "c1")
        live.connect(rows.ada.id, "list")
        said = live.say("c1", action="subscribe", channel=channel)
        [first] = said["events"]
        assert (first["data"]["id"], first["data"]["status"]) == (device.id, "offline")
        assert live.say("list", action="subscribe", channel=f"user:{rows.ada.id}")["head"]["seq"] == 0
        live.route("devices")  # all of that is older than what was read
        live.push()
        assert all(each["version"] <= first["version"] for each in live.news("c1"))
        live.news("list")

        claim = rows.serial_claim
        rows.devices.merge_latest(claim, Latest(last_seen_ms=1_700_000_000_000), now=LATER)
        [seen] = live.told("devices", "c1")
        assert seen["version"] > first["version"]
        assert live.news("list") == [], "newest values are not told to who watches the list"
        rows.devices.merge_presence(claim, [PresenceEvent(1_795_262_400_000, 0, True, "s")], now=LATER)
        rows.devices.change(device.user_id, device.id, {"name": "Shed"}, version=device.version, now=LATER)
        [changed] = live.told("devices", "c1")
        assert (changed["data"]["name"], changed["data"]["status"]) == ("Shed", "online")
        [listed] = live.news("list")
        assert listed["data"] == changed["data"]
        again = live.say("c1", action="subscribe", channel=channel, held={"objects": {channel: changed["version"]}})
        assert (again["events"], again["objects"]) == ([], {channel: changed["version"]})

        command = rows.queued
        [queued] = live.told("devices", "c1")
        assert (queued["object"], queued["data"]["status"]) == (f"command:{command.id}", "queued")
        change = rows.settings_change
        [asked] = live.told("devices", "c1")
        assert asked["object"] == f"settings_change:{change.id}"
        rows.settings.settle(change, version=1)
        [applied] = live.told("devices", "c1")
        assert (asked["data"]["state"], applied["data"]["state"]) == ("asked", "applied")
        assert applied["version"] > asked["version"]
        report = replace(change, id=new_id(), changed_by=None, state=ChangeState.REPORTED, settings_version=2)
        rows.settings.keep(rows.ada.id, report)
        [told] = live.told("devices", "c1")
        view = told["data"]
        assert (view["changed_by"], view["state"], view["patch"]) == (None, "reported", {"interval_s": 30})
        assert not rows.settings.keep(rows.ada.id, report)
        assert live.told("devices", "c1") == [], "once"

        found = rows.devices.row(device.user_id, device.id)
        assert found is not None
        rows.devices.begin_delete(found, now=LATER)
        assert live.told("devices", "c1")[-1]["kind"] == "deleted"
        assert live.say("c1", action="subscribe", channel=channel)["objects"] == {}

    def test_a_task(self, live: Live) -> None:
        rows = TaskRows()
        task, _ = rows.task
        channel = f"task:{task.id}"
        live.connect(rows.ada.id, "c1")
        said = live.say("c1", action="subscribe", channel=channel)
        assert said["objects"] == {channel: 1}
        live.route("work")
        rows.tasks.replace(task, replace(task, title="x", version=2), ended=[])
        [changed] = [each for each in live.told("work", "c1") if each["version"] > 1]
        assert (changed["version"], changed["data"]["title"]) == (2, "x")
        rows.tasks.begin_delete(replace(task, title="x", version=2), at=NOW)
        assert [each["kind"] for each in live.told("work", "c1")] == ["deleted"]

    def test_a_run_and_its_thread(self, live: Live) -> None:
        rows = RunRows()
        live.connect(rows.ada.id, "c1")
        unknown = live.say("c1", action="subscribe", channel="run:r1")
        assert unknown["objects"] == {}, "it may begin later"
        live.say("c1", action="subscribe", channel="thread:t1")
        rows.running  # noqa: B018  it begins
        begun = live.told("agents", "c1")
        assert {each["object"] for each in begun} == {"run:r1", "log:r1", "thread:t1", "messages:t1"}
        rows.runs.append(rows.segment(2))
        [piece] = [each for each in live.told("agents", "c1") if each["object"] == "log:r1"]
        assert (piece["seq"], piece["prev"], piece["data"]) == (2, 1, {"n": 2, "events": [{}]})
        for n in range(3, 30):
            rows.runs.append(rows.segment(n))
        again = live.say("c1", action="subscribe", channel="run:r1", held={"objects": {"log:r1": 27}})
        assert [each.get("seq") for each in again["events"]] == [None, 28, 29]
        behind = live.say("c1", action="subscribe", channel="run:r1", held={"objects": {"run:r1": 99, "log:r1": 2}})
        [reference] = behind["events"]
        assert (reference["prev"], reference["seq"], reference["ref"]) == (2, 29, "/api/v1/runs/r1/events?after=2")
        thread = live.say("c1", action="subscribe", channel="thread:t1")
        assert thread["objects"]["messages:t1"] == 0

    def test_a_log_of_long_and_short_pieces_to_its_end(self, live: Live) -> None:
        """Items that are packed in the table, those that are not, and messages, of one batch."""
        rows = RunRows()
        live.connect(rows.ada.id, "c1")
        for channel in ("run:r1", "thread:t1"):
            live.say("c1", action="subscribe", channel=channel)
        rows.running  # noqa: B018  it begins
        long = b'{"delta":"%s"}' % (b"Moving the gantry. " * 100)
        for n in range(2, 7):
            said = rows.history(n) if n % 3 else None
            rows.runs.append(replace(rows.segment(n), events=(long, b"{}") if n % 2 else (b"{}",)), history=said)
        end = RunEnd(status=RunStatus.FINISHED, at=LATER)
        rows.runs.finish(rows.segment(7, terminal=True), end, thread=rows.thread_key)
        told = live.told("agents", "c1")
        log = [each for each in told if each["object"] == "log:r1"]
        assert [(each["prev"], each["seq"]) for each in log] == [(n - 1, n) for n in range(1, 8)]
        expected = [[json.loads(long), {}] if n in {3, 5} else [{}] for n in range(1, 8)]
        assert [each["data"]["events"] for each in log] == expected
        assert [each["seq"] for each in told if each["object"] == "messages:t1"] == [0, 2, 4, 5]
        [run] = [each for each in told if each["object"] == "run:r1"]
        assert run["data"]["status"] == "finished"
        # The other reader of this stream gets the same records.
        live.stack.use("metrics")
        from background.metrics import lambda_handler

        assert lambda_handler({"Records": live.streamed("agents")}, live.context) == {"batchItemFailures": []}

    def test_a_notice(self, live: Live) -> None:
        from karma.core.dynamo.transaction import Transaction
        from karma.notices.domain import Notice, NoticeType
        from karma.notices.transactional import add_notice

        rows = AccountRows()
        live.connect(rows.ada.id, "c1")
        live.say("c1", action="subscribe", channel=f"user:{rows.ada.id}")
        tx = Transaction()
        notice = Notice(id=rows.id, user_id=rows.ada.id, type=NoticeType.PASSWORD_CHANGED, created_at=NOW)
        add_notice(tx, notice)
        tx.commit()
        [told] = live.told("identity", "c1")
        assert (told["object"], told["ref"], "data" in told) == (f"notice:{rows.id}", "/api/v1/notices", False)

    def test_what_is_somebody_else_s_is_silent(self, live: Live) -> None:
        rows, other = TaskRows(), AccountRows()
        task, _ = rows.task
        live.connect(other.ada.id, "c1")
        asked = live.say("c1", action="subscribe", channel=f"task:{task.id}")
        missing = live.say("c1", action="subscribe", channel=f"task:{task.id[:-4]}0000")
        assert asked | {"channel": ""} == missing | {"channel": ""}
        assert live.told("work", "c1") == []

    def test_the_numbers_of_a_list_have_no_hole_and_a_repeat_makes_none(self, live: Live) -> None:
        rows = TaskRows()
        live.connect(rows.ada.id, "c1")
        head = live.say("c1", action="subscribe", channel=f"user:{rows.ada.id}")["head"]
        for _ in range(3):
            rows.tasks.create(*rows.new_task(), request=None)
        told = live.told("work", "c1")
        live.route("work", again=True)
        live.push()
        told += live.news("c1")
        assert [(each["head"]["prev"], each["head"]["seq"]) for each in told] == [(n, n + 1) for n in range(6)]
        assert {each["head"]["epoch"] for each in told} == {head["epoch"]}
        held = {"head": {"epoch": head["epoch"], "seq": 6}}
        assert live.say("c1", action="subscribe", channel=f"user:{rows.ada.id}", held=held)["gap"] is False
        assert live.say("c1", action="subscribe", channel=f"user:{rows.ada.id}", held={"head": head})["gap"] is True


class TestConnections:
    def test_that_are_gone_are_forgotten_and_slow_ones_are_told_what_they_missed(self, live: Live) -> None:
        rows = TaskRows()
        task, _ = rows.task
        for name in ("c1", "gone1", "busy1", "large1"):
            live.connect(rows.ada.id, name)
            live.say(name, action="subscribe", channel=f"task:{task.id}")
        live.route("work")
        live.push()
        assert len(live.news("c1")) == 1
        assert set(_connections(live)) == {"c1", "busy1", "large1"}
        missed = {name: live.say(name, action="ping")["missed"] for name in ("c1", "busy1", "large1")}
        assert missed == {"c1": 0, "busy1": 1, "large1": 1}
        rows.tasks.replace(task, replace(task, title="x", version=2), ended=[])
        live.route("work")
        live.push()
        assert live.endpoint.posts["gone1"] == 1, "nobody pushes to it again"


class TestRights:
    @pytest.mark.fault("F-35c", "F-46a")
    @pytest.mark.parametrize("end", ["taken back", "left", "the project is deleted"])
    def test_a_member_hears_of_a_device_as_long_as_a_project_shows_it(self, live: Live, end: str) -> None:
        rows, work = DeviceRows(), ProjectRows()
        work.ada = rows.ada
        device, (project, owner) = rows.device, work.project
        joining = work.joining()
        work.projects.change_member(joining)
        assert joining.after is not None
        member, channel = joining.after.user_id, f"device:{device.id}"
        live.connect(member, "member")
        live.connect(rows.ada.id, "owner")
        assert live.say("member", action="subscribe", channel=channel)["events"] == [], "nobody shows it yet"
        for name in ("owner", "member"):
            live.connect(rows.ada.id if name == "owner" else member, f"{name}'s project")
            live.say(f"{name}'s project", action="subscribe", channel=f"project:{project.id}")
        share = work.shown_device(device.id)
        for name in ("owner", "member"):
            [first] = live.say(name, action="subscribe", channel=channel)["events"]
            assert first["data"]["id"] == device.id
        live.route("work")
        live.route("devices")
        live.push()
        for name in ("owner", "member"):
            shown = [each for each in live.news(f"{name}'s project") if each["object"].startswith("share:")]
            assert [each["object"] for each in shown] == [f"share:{project.id}/{device.id}"]
        live.news("member")
        rows.devices.merge_latest(rows.serial_claim, Latest(last_seen_ms=1_700_000_000_000), now=LATER)
        assert len(live.told("devices", "member")) == 1

        if end == "taken back":
            assert work.project_devices.remove(share)
        elif end == "left":
            now, members = work.projects.read(project.id, owner.user_id, member)
            assert now is not None
            before, people = members[member], (owner.user_id,)
            gone = MemberChange(
                project=now, actor=owner, before=before, after=None, owners=people, at=LATER, entries=[]
            )
            work.projects.change_member(gone)
        else:
            found = work.projects.read(project.id, owner.user_id)
            assert found.project is not None
            work.projects.begin_delete(found.project, actor=found.members[owner.user_id], at=LATER)
            assert work.projects.finish_delete(project.id, most=5)
        live.route("work")
        live.news("owner")
        rows.devices.merge_latest(rows.serial_claim, Latest(last_seen_ms=1_700_000_009_000), now=LATER)
        assert live.told("devices", "member") == []
        assert len(live.news("owner")) == 1
        assert live.say("member", action="subscribe", channel=channel)["events"] == []

    def test_a_member_who_left_hears_nothing_more(self, live: Live) -> None:
        rows = ProjectRows()
        project, owner = rows.project
        joining = rows.joining()
        rows.projects.change_member(joining)
        assert joining.after is not None
        member = joining.after.user_id
        channel = f"project:{project.id}"
        for user, name in ((owner.user_id, "owner"), (member, "member")):
            live.connect(user, name)
            said = live.say(name, action="subscribe", channel=channel)
            assert set(said["objects"]) == {channel, f"member:{project.id}/{user}"}
            assert said["gap"] is False
        live.route("work")
        live.push()
        for name in ("owner", "member"):
            live.news(name)
        now, members = rows.projects.read(project.id, owner.user_id, member)
        assert now is not None
        leaving = MemberChange(
            project=now,
            actor=members[owner.user_id],
            before=members[member],
            after=None,
            owners=(owner.user_id,),
            at=LATER,
            entries=[],
        )
        rows.projects.change_member(leaving)
        told = live.told("work", "owner")
        assert f"member:{project.id}/{member}" in {each["object"] for each in told if each["kind"] == "deleted"}
        assert live.news("member") == []
        after = live.say("member", action="subscribe", channel=channel)
        assert (after["objects"], "head" in after) == ({}, False)
        assert leaving.before is not None
        assert leaving.before.role is ProjectRole.OWNER

    @pytest.mark.parametrize("how", ["session", "role", "deleted"])
    def test_a_session_that_is_over_takes_its_connections_along(self, live: Live, how: str) -> None:
        from karma.core.dynamo.access import put, update
        from karma.identity.items import AccountTombstone, SessionItem, UserItem, session_key, tombstone_key, user_key

        rows = AccountRows()
        user = rows.ada.id
        put(SessionItem(*session_key(user, "s1"), created_at="2026-11-21T12:00:00.000Z"))
        live.connect(user, "c1", session="s1")
        live.connect(user, "c2")
        for name in ("c1", "c2"):
            live.say(name, action="subscribe", channel=f"user:{user}")
        live.route("identity")
        assert set(_connections(live)) == {"c1", "c2"}
        if how == "session":
            update(SessionItem(*session_key(user, "s1")), [SessionItem.revoked_at.set("2026-11-21T12:00:01.000Z")])
        elif how == "role":
            update(UserItem(*user_key(user)), [UserItem.role.set("viewer")])
        else:
            live.stack.aws("dynamodb").delete_item(
                TableName=live.stack.tables["identity"], Key={"pk": {"S": user_key(user).pk}, "sk": {"S": "PROFILE"}}
            )
            put(AccountTombstone(*tombstone_key(user)))
        live.route("identity")
        assert set(_connections(live)) == ({"c2"} if how == "session" else set())
        assert _posted_deletes(live) == ({"c1"} if how == "session" else {"c1", "c2"})


def _connections(live: Live) -> list[str]:
    items = live.stack.aws("dynamodb").scan(TableName=live.stack.tables["realtime"])["Items"]
    return [item["pk"]["S"].removeprefix("CONN#") for item in items if item["type"] == {"S": "connection"}]


def _posted_deletes(live: Live) -> set[str]:
    return set(live.endpoint.posts)


class TestDeaths:
    """A function may die at any of its calls; what comes again ends in the same state."""

    def test_of_the_router_lose_no_message(self, live: Live) -> None:
        rows = TaskRows()
        live.connect(rows.ada.id, "c1")
        live.say("c1", action="subscribe", channel=f"user:{rows.ada.id}")
        rows.task  # noqa: B018
        records = live.streamed("work")
        live.stack.use("work_router")
        report = CrashTest(
            entry="background.work_router:lambda_handler",
            aws=live.stack.aws,
            tables=[],
            seed=lambda: {"Records": records},
            accept=lambda response: response == {"batchItemFailures": []},
        ).run()
        # docs/calls.md tells of them: who listens to the task, nobody; the list's number, and who listens to that.
        # And the rows of search: two writes find no head, without a journal or with one, and the third one makes it.
        reads = {"dynamodb.Query": 2, "dynamodb.GetItem": 1}
        searched = {"dynamodb.TransactWriteItems": 3}
        assert Counter(report.calls) == {**reads, **searched, "dynamodb.UpdateItem": 1, "sqs.SendMessageBatch": 1}
        live.push()
        told = live.news("c1")
        assert told
        assert {each["object"] for each in told} == {f"task:{rows.task[0].id}"}


def test_ids_of_others_never_lie_in_one_s_space() -> None:
    """Run and thread ids may be chosen by clients, so the space is part of the key."""
    from karma.core.live import Channel
    from karma.realtime.items import channel_pk

    one, other = (channel_pk(Channel(space, "run", RunId("r"))) for space in ("u1", "u2"))
    assert one != other
    assert channel_pk(Channel("u1", "thread", ThreadId("r"))) != one
