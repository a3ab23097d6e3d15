"""Requests that share, take back or end a share die at each of their calls, come twice, late, or beside others.

Whatever is left behind by then: a process that knew what a project shows tells what one that has just begun tells, so
nobody finds what is shown no more; and the repeat ends in the same tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from karma.audit.domain import NOWHERE
from karma.core.ids import DeviceId, ProjectId, UserId, new_id
from karma.devices.transactional import require_device
from karma.identity.accounts.repository.users import UserRepository
from karma.projects.access import ProjectAccess
from karma.projects.all_shares import AllShares
from karma.projects.devices import ProjectDevices
from karma.projects.domain import ProjectRole
from karma.projects.members import MemberService
from karma.projects.permissions import ProjectPermission
from karma.projects.removal import SharesOfDevices
from karma.projects.repository.devices import ProjectDeviceRepository
from karma.projects.repository.projects import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from tests.contexts.projects import stored_device
from tests.fakes.devices import FakeClock
from tests.integration.api.conftest import ENTRY, reopen_if_open
from tests.support.accounts import open_account
from tests.support.at_once import at_once
from tests.support.crash import CrashReport, CrashTest
from tests.support.plans import subscribe
from tests.support.projects import invitations, join
from tests.support.stack import HttpEvent, Stack

REMOVAL = f"{Path(__file__).with_name('removal_entry.py')}:run"
TABLES = ("work", "identity", "billing")
TRIES = 4


class Sharing:
    """Ada owns a project with Eve, in which Bob shows his device to Vic; made anew for each crash."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.clock = stack, FakeClock()
        self.store, self.projects = ProjectDeviceRepository(), ProjectRepository()
        self.devices = ProjectDevices(self.store, ProjectAccess(self.projects), self.clock)
        self.members = MemberService(self.projects, UserRepository(), self.clock)
        self.known = AllShares(self.store)
        """A process that asks each time."""
        self.ada, self.eve, self.bob, self.vic = (UserId(new_id()) for _ in range(4))
        self.project_id, self.device_id = ProjectId(""), DeviceId("")

    def seed(self, *, shown: bool = True) -> None:
        for user_id in (self.ada, self.eve, self.bob, self.vic):
            open_account(user_id)
            subscribe(user_id)
        service = invitations(self.projects, self.clock)
        self.project_id = ProjectService(self.projects, self.clock).create(self.ada, NewProject(name="Shed")).project.id
        for user_id, role in (
            (self.eve, ProjectRole.OWNER),
            (self.bob, ProjectRole.MEMBER),
            (self.vic, ProjectRole.VIEWER),
        ):
            join(service, self.project_id, user_id, role, by=self.ada)
        self.device_id = stored_device(self.bob)
        other = stored_device(self.eve)
        self.show(self.eve, other)
        if shown:
            self.show(self.bob, self.device_id)
        assert self.seen() == {other, self.device_id} if shown else {other}

    def show(self, owner: UserId, device_id: DeviceId) -> None:
        self.devices.share(
            owner, self.project_id, device_id, also=lambda tx: require_device(tx, owner, DeviceId(device_id))
        )

    def seen(self) -> set[DeviceId]:
        """Return what Vic sees, which whoever knew it before and whoever asks for the first time agree on."""
        fresh = {each.device_id for each in AllShares(self.store).seen_by(self.vic, [self.project_id])}
        known = {each.device_id for each in self.known.seen_by(self.vic, [self.project_id])}
        assert known == fresh
        read = ProjectPermission.READ_DEVICES
        for share in self.store.of_project(self.project_id):
            found = self.devices.shown_to(self.vic, share.device_id, read)
            assert (found is not None) == (share.device_id in fresh), "found by search and read by id alike"
        return fresh

    def left(self) -> Counter[str]:
        """Return how many items of each type there are of the project."""
        table = self.stack.tables["work"]
        items = self.stack.aws("dynamodb").scan(TableName=table, ConsistentRead=True)["Items"]
        return Counter(item["type"]["S"] for item in items if item["pk"]["S"] == f"PROJECT#{self.project_id}")


@pytest.fixture
def sharing(stack: Stack) -> Sharing:
    stack.use("api")
    return Sharing(stack)


@pytest.fixture
def die(stack: Stack, sharing: Sharing, http_event: HttpEvent) -> Callable[..., CrashReport]:
    from api.services import process
    from karma.identity.sessions import tokens

    def run(method: str, path: str, *, by: str, accept: set[int], shows: bool = False) -> CrashReport:
        def seed() -> dict[str, Any]:
            sharing.seed(shown=not shows)
            ring, now = process.key_ring(), process.clock().now()
            sent = {"authorization": f"Bearer {tokens.issue(getattr(sharing, by), ring=ring, now=now)}"}
            if method == "POST":
                sent["idempotency-key"] = new_id()
            where = path.format(project=sharing.project_id, device=sharing.device_id, bob=sharing.bob, vic=sharing.vic)
            body = {"device_id": sharing.device_id} if shows else None
            return http_event(method, f"/api/v1/projects/{where}", body=body, headers=sent)

        def redeliver(event: dict[str, Any]) -> dict[str, Any]:
            sharing.seen()
            reopen_if_open(stack)
            return event

        def ended() -> tuple[int, Counter[str]]:
            return len(sharing.seen()), sharing.left()

        return CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables[name] for name in (*TABLES, "devices")],
            seed=seed,
            redeliver=redeliver,
            normalise=lambda _item: None,
            other_state=ended,
            accept=lambda answer: answer["statusCode"] in accept,
        ).run()

    return run


@pytest.mark.fault("F-44b")
@pytest.mark.parametrize(
    ("method", "path", "by", "accept", "sees"),
    [
        ("POST", "{project}/devices", "bob", {201}, 2),
        ("DELETE", "{project}/devices/{device}", "bob", {204, 404}, 1),
        ("DELETE", "{project}/members/{bob}", "ada", {204, 404}, 1),
        ("DELETE", "{project}", "ada", {204, 404}, 0),
    ],
    ids=["share", "taken back", "owner removed", "project deleted"],
)
def test_a_request_that_dies_anywhere_is_made_good_by_its_repeat(
    sharing: Sharing, die: Callable[..., CrashReport], method: str, path: str, by: str, accept: set[int], sees: int
) -> None:
    report = die(method, path, by=by, accept=accept, shows=path.endswith("devices"))
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
    assert len(sharing.seen()) == sees
    if path == "{project}":
        assert sharing.left() == {}


@pytest.mark.fault("F-44b")
def test_a_removal_of_a_gone_devices_shares_that_dies_is_finished_by_its_repeat(stack: Stack, sharing: Sharing) -> None:
    def seed() -> dict[str, Any]:
        sharing.seed()
        project = ProjectService(sharing.projects, sharing.clock).create(sharing.bob, NewProject(name="More")).project
        sharing.devices.share(sharing.bob, project.id, sharing.device_id, also=lambda _: None)
        tables = {name: stack.tables[name] for name in ("work", "identity", "devices", "billing")}
        return {"tables": tables, "device_id": sharing.device_id}

    def redeliver(event: dict[str, Any]) -> dict[str, Any]:
        sharing.seen()
        return event

    report = CrashTest(
        entry=REMOVAL,
        aws=stack.aws,
        tables=[stack.tables[name] for name in (*TABLES, "devices")],
        seed=seed,
        redeliver=redeliver,
        normalise=lambda _item: None,
        other_state=lambda: (len(sharing.seen()), sharing.left(), len(sharing.store.of_device(sharing.device_id))),
    ).run()
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
    assert sharing.store.of_device(sharing.device_id) == []


@pytest.mark.fault("F-44b")
def test_whatever_meets_leaves_what_one_after_the_other_leaves(sharing: Sharing, seed: int) -> None:
    for n in range(TRIES):
        sharing.seed(shown=bool((seed + n) % 2))
        at_once(
            lambda: sharing.show(sharing.bob, sharing.device_id),
            lambda: sharing.devices.unshare(sharing.bob, sharing.project_id, sharing.device_id),
            lambda: SharesOfDevices(sharing.store).remove(sharing.device_id, limit=5),
            lambda: sharing.members.remove(sharing.ada, sharing.project_id, sharing.bob, source=NOWHERE),
            lambda: sharing.show(sharing.bob, sharing.device_id),
        )
        assert sharing.device_id not in sharing.seen(), "its owner is no member any more"
        at_once(
            lambda: ProjectService(sharing.projects, sharing.clock).delete(sharing.ada, sharing.project_id),
            lambda: sharing.show(sharing.eve, stored_device(sharing.eve)),
            lambda: sharing.devices.unshare(sharing.ada, sharing.project_id, sharing.device_id),
        )
        while not sharing.projects.finish_delete(sharing.project_id, most=100):
            pass
        assert sharing.seen() == set()
        assert sharing.left() == {}
