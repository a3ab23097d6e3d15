"""A request on projects dies before or after each of its AWS calls; its repeat ends in the same tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from karma.audit.domain import NOWHERE
from karma.core.ids import ProjectId, UserId, new_id
from karma.projects.domain import ProjectRole
from karma.projects.ports import MemberChange
from karma.projects.repository.projects import ProjectRepository
from karma.projects.service import NewProject, ProjectService
from karma.projects.sweeps import GRACE
from tests.fakes.devices import FakeClock
from tests.integration.api.conftest import ENTRY, reopen_if_open
from tests.support.accounts import open_account
from tests.support.crash import CrashReport, CrashTest
from tests.support.plans import subscribe
from tests.support.projects import invitations, join
from tests.support.stack import HttpEvent, Stack

V1 = "/api/v1/projects"


_COUNTED = {"holdings", "audit_entry", "notice", "mail", "usage", "seat"}
_COMPARED = ("name", "progress", "owners", "role", "project", "event", "kind", "seat_of", "value", "projects")


class World:
    """A project that three people share, made anew for each crash."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.clock = FakeClock()
        self.ada, self.eve, self.ida, self.bob = (UserId(new_id()) for _ in range(4))
        self.project_id = ProjectId("")

    def seed(self) -> None:
        for user_id in (self.ada, self.eve, self.ida, self.bob):
            open_account(user_id)
            subscribe(user_id)
        store = ProjectRepository()
        service = invitations(store, self.clock)
        self.project_id = ProjectService(store, self.clock).create(self.ada, NewProject(name="Greenhouse")).project.id
        join(service, self.project_id, self.eve, ProjectRole.OWNER, by=self.ada)
        service.invite(self.ada, self.project_id, self.bob, ProjectRole.ADMIN, source=NOWHERE)

    def rows(self) -> Counter[tuple[str, ...]]:
        """Return the stored items of projects and of their owners' counts, without ids and times that each crash makes
        anew."""
        found: Counter[tuple[str, ...]] = Counter()
        people = {self.ada: "ada", self.eve: "eve", self.ida: "ida", self.bob: "bob"}
        for table in ("work", "identity", "billing"):
            items = self.stack.aws("dynamodb").scan(TableName=self.stack.tables[table], ConsistentRead=True)["Items"]
            for item in items:
                kind = item.get("type", {"S": ""})["S"]
                if kind.startswith("project") or kind in _COUNTED:
                    text = str([item.get(name) for name in _COMPARED])
                    by = (
                        "sk"
                        if kind in {"project_member", "project_invitation", "seat"}
                        else "pk"
                        if table != "work"
                        else "type"
                    )
                    where = "" if kind == "mail" else item[by]["S"]
                    for user_id, name in people.items():
                        text, where = text.replace(user_id, name), where.replace(user_id, name)
                    found[kind, where, text] += 1
        return found


@pytest.fixture
def world(stack: Stack) -> World:
    stack.use("api")
    return World(stack)


@pytest.fixture
def die(stack: Stack, world: World, http_event: HttpEvent) -> Callable[..., CrashReport]:
    from api.services import process
    from karma.identity.sessions import tokens

    def token(user_id: UserId) -> str:
        return tokens.issue(user_id, ring=process.key_ring(), now=process.clock().now())

    def run(
        method: str, path: str, body: object = None, *, accept: set[int], by: str = "ada", told_once: bool = True
    ) -> CrashReport:
        def seed() -> dict[str, Any]:
            world.seed()
            sent = {"authorization": f"Bearer {token(getattr(world, by))}"}
            if method == "POST":
                sent["idempotency-key"] = new_id()
            where = path.format(project=world.project_id, eve=world.eve, ida=world.ida)
            sent_body = {"user_id": world.ida} if body == "ida" else body
            return http_event(method, f"{V1}{where}", body=sent_body, headers=sent)

        def redeliver(event: dict[str, Any]) -> dict[str, Any]:
            reopen_if_open(stack)
            return event

        return CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables[name] for name in ("work", "identity", "billing")],
            seed=seed,
            redeliver=redeliver,
            normalise=lambda _item: None,
            other_state=world.rows if told_once else lambda: set(world.rows()),
            accept=lambda answer: answer["statusCode"] in accept,
        ).run()

    return run


def test_while_it_creates_leaves_one_project(die: Callable[..., CrashReport]) -> None:
    report = die("POST", "", {"name": "Kitchen"}, accept={201})
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


def test_while_it_asks_somebody_leaves_one_invitation(die: Callable[..., CrashReport]) -> None:
    # What tells of it may be told twice: the repeat of a request that died asks again.
    report = die("POST", "/{project}/invitations", "ida", accept={201}, told_once=False)
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


@pytest.mark.fault("F-20c")
def test_while_it_accepts_leaves_one_membership_and_tells_of_it_once(die: Callable[..., CrashReport]) -> None:
    report = die("POST", "/{project}/invitations/accept", accept={200}, by="bob")
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


@pytest.mark.fault("F-20c")
def test_while_it_declines_leaves_the_no(die: Callable[..., CrashReport]) -> None:
    report = die("POST", "/{project}/invitations/decline", accept={204}, by="bob")
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


def test_while_it_makes_a_member_of_an_owner_leaves_the_other_owner(die: Callable[..., CrashReport]) -> None:
    report = die("PATCH", "/{project}/members/{eve}", {"role": "member"}, accept={200})
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


def test_while_it_removes_a_member_leaves_none(die: Callable[..., CrashReport]) -> None:
    # A death after the write: the repeat finds no such member any more.
    report = die("DELETE", "/{project}/members/{eve}", accept={204, 404})
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)


@pytest.mark.req("R-K-22")
def test_while_it_deletes_leaves_nothing_once_it_is_repeated(world: World, die: Callable[..., CrashReport]) -> None:
    report = die("DELETE", "/{project}", accept={204, 404})
    assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
    assert "after dynamodb.DeleteItem" in " ".join(report.at)
    assert {kind for kind, *_ in world.rows()} == {"holdings", "audit_entry", "notice", "mail", "usage"}


@pytest.mark.req("R-K-22")
def test_a_sweep_that_dies_is_finished_by_the_next(stack: Stack, world: World) -> None:
    def seed() -> dict[str, str]:
        world.seed()
        store = ProjectRepository()
        project, members = store.read(world.project_id, world.ada)
        assert project is not None
        store.begin_delete(project, actor=members[world.ada], at=world.clock.now() - 2 * GRACE)
        return {"sweep": "projects"}

    stack.use("sweeps.tables")
    report = CrashTest(
        entry="background.sweeps.tables:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["work"], stack.tables["billing"]],
        seed=seed,
        normalise=lambda item: {"type": item["type"]},
        accept=lambda answer: answer["changed"] in {0, 1},
    ).run()
    assert {"dynamodb.TransactWriteItems", "dynamodb.BatchGetItem", "dynamodb.DeleteItem"} <= set(report.calls)
    assert stack.aws("dynamodb").scan(TableName=stack.tables["work"])["Items"] == []
    assert seats(stack) == {"USER#" + world.ada: 0}


@pytest.mark.fault("F-19a")
def test_a_sweep_that_dies_while_seats_move_is_finished_by_the_next(stack: Stack, world: World) -> None:
    def seed() -> dict[str, str]:
        world.seed()
        store, ida = ProjectRepository(), world.ida
        join(invitations(store, world.clock), world.project_id, ida, by=world.ada)
        project, members = store.read(world.project_id, world.ada, world.eve)
        assert project is not None
        before, eve = members[world.ada], members[world.eve]
        gone = MemberChange(
            project=project,
            actor=before,
            before=before,
            after=None,
            owners=(eve.user_id,),
            at=world.clock.now() - 2 * GRACE,
            entries=[],
        )
        store.change_member(gone)
        assert seats(stack) == {"USER#" + world.ada: 2}
        return {"sweep": "projects"}

    stack.use("sweeps.tables")
    CrashTest(
        entry="background.sweeps.tables:lambda_handler",
        aws=stack.aws,
        tables=[stack.tables["work"], stack.tables["billing"]],
        seed=seed,
        normalise=lambda item: {"type": item["type"], "seat_of": item.get("seat_of"), "value": item.get("value")},
        accept=lambda answer: answer["changed"] in {0, 1},
    ).run()
    assert seats(stack) == {"USER#" + world.ada: 0, "USER#" + world.eve: 1}


def seats(stack: Stack) -> dict[str, int]:
    """Return the number of seats that are taken in each account's plan."""
    items = stack.aws("dynamodb").scan(TableName=stack.tables["billing"], ConsistentRead=True)["Items"]
    return {item["pk"]["S"]: int(item["value"]["N"]) for item in items if item["sk"]["S"] == "USAGE#seats"}
