"""The project routes, in process, with tables on the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from karma.billing.plans import PlanName
from karma.core.ids import new_id
from karma.core.ratelimit import Limit
from karma.identity.limits import RULES, Rule
from tests.integration.api.conftest import PASSWORD, Api
from tests.support.plans import subscribe
from tests.support.stack import Context, SqsEvent, Stack

MakePerson = Callable[..., tuple[Api, dict[str, Any]]]

V1 = "/api/v1/projects"


@pytest.fixture
def person(api: Api, stack: Stack) -> MakePerson:
    def make(**more: Any) -> tuple[Api, dict[str, Any]]:
        user = api.register(verified=True, **more)
        subscribe(user["id"])
        return api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"]), user

    return make


def create(api: Api, name: str = "Greenhouse", **fields: Any) -> dict[str, Any]:
    answer = api.call("POST", V1, {"name": name, **fields})
    assert answer.status == 201, answer.text
    project: dict[str, Any] = answer.data["project"]
    return project


def join(owner: Api, path: str, member: Api, user: dict[str, Any], role: str = "member") -> Any:
    """Let an owner ask, and somebody accept; return the answer to who accepts."""
    asked = owner.call("POST", f"{path}/invitations", {"user_id": user["id"], "role": role})
    assert asked.status == 201, asked.text
    return member.call("POST", f"{path}/invitations/accept")


class TestAProject:
    @pytest.mark.req("R-K-16", "R-K-06")
    def test_has_every_column_and_its_defaults(self, person: MakePerson) -> None:
        ada, user = person()
        project = create(ada)
        assert project == {
            "id": project["id"],
            "name": "Greenhouse",
            "description": None,
            "status": "active",
            "progress": 0,
            "owner_id": user["id"],
            "role": "owner",
            "created_at": project["created_at"],
            "updated_at": project["created_at"],
            "version": 1,
        }
        shown = ada.call("GET", f"{V1}/{project['id']}")
        assert (shown.data["project"], shown.headers["etag"]) == (project, '"1"')

    @pytest.mark.req("R-K-16")
    @pytest.mark.parametrize("status", ["active", "paused", "completed", "archived"])
    @pytest.mark.parametrize("progress", [0, 100])
    def test_takes_every_status_and_both_ends_of_progress(self, ada: Api, status: str, progress: int) -> None:
        project = create(ada, status=status, progress=progress)
        assert (project["status"], project["progress"]) == (status, progress)

    @pytest.mark.req("R-K-16")
    def test_refuses_what_lies_outside_and_stores_nothing(
        self, ada: Api, stored: Callable[[str], list[dict[str, Any]]]
    ) -> None:
        project = create(ada)
        before = stored("work")
        cases: tuple[dict[str, Any], ...] = (
            {"progress": -1},
            {"progress": 101},
            {"progress": 10**30},
            {"progress": "50"},
            {"progress": 0.5},
            {"progress": True},
            {"progress": None},
            {"status": "deleted"},
            {"status": None},
            {"name": ""},
            {"name": " \t"},
            {"name": "x" * 256},
            {"name": "a\r\nb"},
            {"name": None},
            {"description": "x" * 5_001},
            {"owner_id": new_id()},
            {"owners": []},
            {"version": 0},
        )
        for wrong in cases:
            for method, path, body in (("POST", V1, {"name": "a", **wrong}), ("PATCH", f"{V1}/{project['id']}", wrong)):
                answer = ada.call(method, path, body)
                assert (answer.status, answer.code) == (422, "VALIDATION_ERROR"), (method, wrong, answer.text)
        assert stored("work") == before

    def test_changes_on_the_version_that_was_read(self, ada: Api) -> None:
        path = f"{V1}/{create(ada, description='old')['id']}"
        changed = ada.call("PATCH", path, {"progress": 40, "description": None}, if_match='"1"')
        assert changed.data["project"]["progress"] == 40
        assert (changed.data["project"]["description"], changed.headers["etag"]) == (None, '"2"')
        for stale in (
            ada.call("PATCH", path, {"progress": 41}, if_match='"1"'),
            ada.call("PATCH", path, {"progress": 41, "version": 1}),
            ada.call("DELETE", path, if_match='"1"'),
        ):
            assert (stale.status, stale.code) == (409, "STALE_VERSION")
        assert ada.call("GET", path).data["project"] == changed.data["project"]

    @pytest.mark.req("R-K-22")
    def test_leaves_nothing_when_it_is_deleted(
        self, person: MakePerson, stored: Callable[[str], list[dict[str, Any]]]
    ) -> None:
        (ada, _), (ida, other) = person(), person()
        kept, gone = create(ada, "kept"), create(ada, "gone")
        for project in (kept, gone):
            join(ada, f"{V1}/{project['id']}", ida, other, "viewer")
        ada.call("POST", f"{V1}/{gone['id']}/invitations", {"email": "nobody@example.com"})
        assert ada.call("DELETE", f"{V1}/{gone['id']}").status == 204
        assert ida.call("GET", f"{V1}/{gone['id']}").status == 404
        assert ada.call("DELETE", f"{V1}/{gone['id']}").status == 404
        assert [each["name"] for each in ida.call("GET", V1).data["projects"]] == ["kept"]
        assert {item["pk"]["S"] for item in stored("work")} == {f"PROJECT#{kept['id']}"}

    def test_is_made_once_for_a_key(self, ada: Api) -> None:
        first, again = (ada.call("POST", V1, {"name": "once"}, idempotency_key="k") for _ in range(2))
        assert again.data == first.data
        assert again.headers["idempotent-replayed"] == "true"
        assert ada.call("POST", V1, {"name": "other"}, idempotency_key="k").code == "IDEMPOTENCY_KEY_REUSED"
        assert ada.call("GET", V1).data["total"] == 1


class TestTheList:
    def test_pages_in_every_style(self, person: MakePerson) -> None:
        (ada, user), (ida, _) = person(), person()
        names = [f"P{number}" for number in range(5)]
        for name in names[:4]:
            create(ada, name)
        shared = create(ida, names[4])
        join(ida, f"{V1}/{shared['id']}", ada, user)

        def listed(query: str) -> dict[str, Any]:
            data: dict[str, Any] = ada.call("GET", V1, query=query).data
            return {**data, "projects": [each["name"] for each in data["projects"]]}

        first = listed("")
        assert (first["projects"], first["page"], first["page_size"]) == (names[::-1], 1, 20)
        assert (first["total"], first["total_capped"], first["next_cursor"]) == (5, False, None)
        assert listed("order=asc&page=2&page_size=2")["projects"] == ["P2", "P3"]
        assert listed("limit=2&offset=3")["projects"] == ["P1", "P0"]
        page, seen = listed("limit=2"), []
        while True:
            seen += page["projects"]
            assert page["total"] == 5
            if page["next_cursor"] is None:
                break
            page = listed(f"limit=2&cursor={page['next_cursor']}")
        assert seen == names[::-1]
        assert [each["role"] for each in ada.call("GET", V1).data["projects"]] == ["member", *["owner"] * 4]

    def test_refuses_another_s_cursor_and_pages_too_deep(self, person: MakePerson) -> None:
        (ada, _), (ida, _) = person(), person()
        for _ in range(2):
            create(ada)
        cursor = ada.call("GET", V1, query="limit=1").data["next_cursor"]
        for answer, code in (
            (ida.call("GET", V1, query=f"cursor={cursor}"), "INVALID_CURSOR"),
            (ada.call("GET", V1, query=f"cursor={cursor}&order=asc"), "INVALID_CURSOR"),
            (ada.call("GET", V1, query=f"cursor={cursor}&page=1"), "INVALID_PAGE"),
            (ada.call("GET", V1, query="limit=100&offset=901"), "INVALID_PAGE"),
        ):
            assert (answer.status, answer.code) == (400, code)
        for query in ("limit=0", "limit=101", "page=0", "offset=-1", "sort=name", "order=up"):
            assert ada.call("GET", V1, query=query).status == 422, query


@pytest.mark.req("R-K-17")
class TestMembers:
    @pytest.fixture
    def project(self, person: MakePerson) -> tuple[Api, str]:
        ada, _ = person()
        return ada, f"{V1}/{create(ada)['id']}"

    def test_join_change_and_leave(self, person: MakePerson, project: tuple[Api, str]) -> None:
        (ada, path), (ida, user) = project, person()
        joined = join(ada, path, ida, user)
        member = joined.data["member"]
        assert (joined.status, member["role"], member["version"]) == (200, "member", 1)
        assert set(member) == {"project_id", "user_id", "role", "joined_at", "version"}
        again = ada.call("POST", f"{path}/members", {"user_id": user["id"], "role": "viewer"})
        assert (again.status, again.code) == (409, "ALREADY_EXISTS")
        mine = f"{path}/members/{user['id']}"
        changed = ada.call("PATCH", mine, {"role": "admin"}, if_match='"1"')
        assert (changed.data["member"]["role"], changed.headers["etag"]) == ("admin", '"2"')
        assert ada.call("PATCH", mine, {"role": "viewer", "version": 1}).code == "STALE_VERSION"
        assert ada.call("DELETE", mine, if_match='"1"').code == "STALE_VERSION"
        listed = ida.call("GET", f"{path}/members").data
        assert [each["role"] for each in listed["members"]] == ["owner", "admin"]
        assert (listed["total"], listed["next_cursor"]) == (2, None)
        assert ida.call("DELETE", mine).status == 204
        assert ida.call("GET", path).status == 404
        assert ada.call("DELETE", mine).status == 404

    def test_an_owner_who_joins_again_is_a_member_already(self, project: tuple[Api, str]) -> None:
        ada, path = project
        me = ada.call("GET", "/api/v1/users/me").data["user"]
        again = ada.call("POST", f"{path}/members", {"user_id": me["id"], "role": "viewer"})
        assert (again.status, again.code) == (409, "ALREADY_EXISTS")
        by_email = ada.call("POST", f"{path}/members", {"email": me["email"]})
        assert (by_email.status, by_email.code) == (409, "ALREADY_EXISTS")
        assert [each["role"] for each in ada.call("GET", f"{path}/members").data["members"]] == ["owner"]

    def test_are_listed_by_page(self, person: MakePerson, project: tuple[Api, str]) -> None:
        ada, path = project
        for _ in range(4):
            join(ada, path, *person())
        first = ada.call("GET", f"{path}/members", query="limit=2").data
        rest = ada.call("GET", f"{path}/members", query=f"limit=9&cursor={first['next_cursor']}").data
        whole = ada.call("GET", f"{path}/members").data
        assert first["members"] + rest["members"] == whole["members"]
        assert (first["total"], rest["total"], whole["page"]) == (5, 5, 1)

    @pytest.mark.fault("F-19a")
    def test_take_seats_of_the_owner_s_plan(
        self, api: Api, person: MakePerson, project: tuple[Api, str], stack: Stack
    ) -> None:
        (ada, path), (ida, user), (eve, late) = project, person(), person()
        owner_id = ada.call("GET", path).data["project"]["owner_id"]
        assert ada.call("POST", f"{path}/invitations", {"user_id": late["id"]}).status == 201
        assert join(ada, path, ida, user).status == 200
        subscribe(owner_id, PlanName.FREE)
        refused = ada.call("POST", f"{path}/invitations", {"email": "nobody@example.com"})
        assert (refused.status, refused.code) == (402, "QUOTA_EXCEEDED")
        wanted = {"limit": "seats", "plan": "free", "allowed": 1, "requested": 1, "resets_at": None}
        assert refused.json["error"]["details"] == wanted
        refused = eve.call("POST", f"{path}/invitations/accept")
        assert (refused.status, refused.code) == (402, "QUOTA_EXCEEDED")
        assert refused.json["error"]["details"] == {**wanted, "plan": None, "allowed": None}
        assert ida.call("POST", f"{path}/leave").status == 204
        assert eve.call("POST", f"{path}/invitations/accept").status == 200

    def test_leave_an_owner(self, person: MakePerson, project: tuple[Api, str]) -> None:
        (ada, path), (ida, user) = project, person()
        owner_id = ada.call("GET", path).data["project"]["owner_id"]
        for answer in (
            ada.call("DELETE", f"{path}/members/{owner_id}"),
            ada.call("PATCH", f"{path}/members/{owner_id}", {"role": "admin"}),
        ):
            assert (answer.status, answer.code) == (409, "LAST_OWNER")
        assert join(ada, path, ida, user, "owner").status == 200
        assert ada.call("DELETE", f"{path}/members/{owner_id}").status == 204
        assert ida.call("GET", path).data["project"]["owner_id"] == user["id"]

    def test_by_address_are_answered_alike_whoever_it_is_of(
        self, api: Api, person: MakePerson, project: tuple[Api, str]
    ) -> None:
        (ada, path), (ida, user) = project, person()
        unproven = api.register()
        answers = [
            ada.call("POST", f"{path}/members", {"email": email, "role": "viewer"})
            for email in (user["email"].upper(), user["email"], unproven["email"], "nobody@example.com")
        ]
        assert [(answer.status, answer.data) for answer in answers] == [(202, {"accepted": True})] * 4
        assert ada.call("GET", f"{path}/members").data["total"] == 1
        [asked] = ida.call("GET", "/api/v1/invitations").data["invitations"]
        assert (asked["role"], asked["project_name"], f"{V1}/{asked['project_id']}") == ("viewer", "Greenhouse", path)
        assert ida.call("POST", f"{path}/invitations/accept").data["member"]["role"] == "viewer"
        assert ida.call("GET", path).data["project"]["role"] == "viewer"
        assert ada.call("GET", f"{path}/members").data["total"] == 2

    def test_are_somebody_who_is_named_once(self, ada: Api) -> None:
        path = f"{V1}/{create(ada)['id']}/members"
        for body in (
            {},
            {"user_id": new_id(), "email": "ida@example.com"},
            {"user_id": None},
            {"user_id": new_id(), "role": "king"},
            {"user_id": ["x"]},
            {"email": "USER#1"},
            {"email": "ida@example.com\x00"},
            {"user_id": new_id(), "project_id": new_id()},
        ):
            answer = ada.call("POST", path, body)
            assert (answer.status, answer.code) == (422, "VALIDATION_ERROR"), (body, answer.text)
        for user_id in (new_id(), "nobody", "PROFILE", "a#b"):
            answer = ada.call("POST", path, {"user_id": user_id})
            assert (answer.status, answer.json["error"]["message"]) == (404, "User not found")

    def test_cannot_be_tried_out_address_by_address(self, ada: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        few = replace(RULES["member"], limits={"": Limit("member", 3, timedelta(minutes=1))})
        monkeypatch.setitem(cast("dict[str, Rule]", RULES), "member", few)
        path = f"{V1}/{create(ada)['id']}/members"
        answers = [ada.call("POST", path, {"email": f"a{number}@example.com"}) for number in range(4)]
        assert [answer.status for answer in answers] == [202] * 3 + [429]
        assert answers[-1].json["error"]["details"]["limit"] == "member"

    def test_are_told_in_both_logs(self, person: MakePerson, project: tuple[Api, str]) -> None:
        (ada, path), (ida, user) = project, person()
        join(ada, path, ida, user)
        ada.call("PATCH", f"{path}/members/{user['id']}", {"role": "viewer"})
        ada.call("DELETE", f"{path}/members/{user['id']}")
        here = "203.0.113.7"
        for who, asked, addresses in (
            (ada, "project.member_invited", [here, here, None, here]),
            (ida, "project.invitation_received", [None, None, here, None]),
        ):
            told = who.call("GET", "/api/v1/audit").data["entries"]
            entries = [entry for entry in told if entry["event"].startswith("project")]
            assert [entry["event"] for entry in entries] == [
                "project.member_removed",
                "project.role_changed",
                "project.member_added",
                asked,
            ]
            assert [entry["address"] for entry in entries] == addresses
            assert {entry["details"]["project_id"] for entry in entries} == {path.rpartition("/")[2]}


HOSTILE_IDS = ("%00", "a%23b", "..", "x" * 2000, "0" * 36, "01994B94-9B20-7E83-B6C4-D2E1F0A98765")


@pytest.mark.parametrize("text", HOSTILE_IDS)
def test_no_text_in_a_path_finds_anything(ada: Api, stored: Callable[[str], list[dict[str, Any]]], text: str) -> None:
    project = create(ada)
    before = stored("work")
    for method, path, body in (
        ("GET", f"{V1}/{text}", None),
        ("PATCH", f"{V1}/{text}", {"name": "x"}),
        ("DELETE", f"{V1}/{text}", None),
        ("GET", f"{V1}/{text}/members", None),
        ("POST", f"{V1}/{text}/members", {"user_id": new_id()}),
        ("GET", f"{V1}/{text}/invitations", None),
        ("POST", f"{V1}/{text}/invitations/accept", None),
        ("POST", f"{V1}/{text}/invitations/decline", None),
        ("POST", f"{V1}/{text}/leave", None),
        ("DELETE", f"{V1}/{project['id']}/invitations/{text}", None),
        ("PATCH", f"{V1}/{project['id']}/members/{text}", {"role": "viewer"}),
        ("DELETE", f"{V1}/{project['id']}/members/{text}", None),
    ):
        answer = ada.call(method, path, body)
        assert (answer.status, answer.code) == (404, "NOT_FOUND"), (method, path, answer.text)
        assert len(answer.json["error"]["message"]) < 200
    assert stored("work") == before


@pytest.mark.req("R-K-22", "R-K-23")
class TestADeletedAccount:
    ME = "/api/v1/users/me"

    def test_is_refused_while_it_owns_a_project(self, person: MakePerson) -> None:
        (ada, _), (ida, user) = person(), person()
        projects = [f"{V1}/{create(ada)['id']}" for _ in range(2)]
        refused = ada.call("DELETE", self.ME, {"current_password": PASSWORD})
        assert (refused.status, refused.code) == (409, "ACCOUNT_HOLDS")
        assert refused.json["error"]["details"] == {"project": 2}
        ada.call("DELETE", projects[0])
        join(ada, projects[1], ida, user, "owner")
        shared = ada.call("GET", projects[1]).data["project"]["owner_id"]
        assert ada.call("DELETE", self.ME, {"current_password": PASSWORD}).json["error"]["details"] == {"project": 1}
        assert ada.call("DELETE", f"{projects[1]}/members/{shared}").status == 204
        assert ada.call("DELETE", self.ME, {"current_password": PASSWORD}).status == 202
        assert ida.call("DELETE", self.ME, {"current_password": PASSWORD}).status == 409

    def test_leaves_no_membership(
        self,
        stack: Stack,
        person: MakePerson,
        stored: Callable[[str], list[dict[str, Any]]],
        sqs_event: SqsEvent,
        lambda_context: Context,
    ) -> None:
        document = json.dumps({"Version": "2012-10-17", "Statement": []})
        stack.aws("iot").create_policy(policyName="karma-device", policyDocument=document)
        (ada, owner), (ida, user) = person(), person()
        path = f"{V1}/{create(ada)['id']}"
        join(ada, path, ida, user, "admin")
        ida.call("POST", f"{path}/invitations", {"email": "bob@example.com"})
        other = f"{V1}/{create(ada)['id']}"
        ada.call("POST", f"{other}/invitations", {"user_id": user["id"]})
        assert ida.call("DELETE", self.ME, {"current_password": PASSWORD}).status == 202
        assert ida.call("POST", V1, {"name": "late"}).status == 404
        again = ada.call("POST", f"{other}/members", {"user_id": user["id"]})
        assert (again.status, again.json["error"]["message"]) == (404, "User not found")
        stack.use("deletion")
        from background.deletion import lambda_handler

        assert lambda_handler(sqs_event([user["id"]]), lambda_context) == {"batchItemFailures": []}
        members = [item["sk"]["S"] for item in stored("work") if item["type"] == {"S": "project_member"}]
        assert members == [f"MEMBER#{owner['id']}"] * 2
        left = {item["type"]["S"] for item in stored("work")}
        assert "project_invitation" not in left, "neither those to the account nor those of it"
