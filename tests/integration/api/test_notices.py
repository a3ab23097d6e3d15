"""Notices in the application: written with the event that they tell of, listed, read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from karma.core.ids import new_id
from tests.integration.api.conftest import ENTRY, PASSWORD, Api
from tests.support.crash import CrashReport, CrashTest
from tests.support.stack import HttpEvent, Stack

V1 = "/api/v1/notices"
VIEW = {"id", "type", "severity", "title", "text", "data", "created_at", "read_at", "expires_at"}


@pytest.fixture
def root(api: Api) -> Api:
    from api.services import identity

    identity.administration().make_admin(email="root@example.com", password=PASSWORD, name="Root")
    return api.as_(authorization="Bearer " + api.log_in("root@example.com")["access_token"])


def listed(api: Api, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.call("GET", V1, query=query).data["notices"]
    return found


def make_key(api: Api) -> str:
    answer = api.call("POST", "/api/v1/api-keys", {"name": "ci", "scopes": ["device:read"]})
    assert answer.status == 201, answer.text
    return str(answer.data["api_key"]["id"])


class TestWhatIsTold:
    @pytest.mark.req("R-C-30")
    def test_of_a_key_names_it_and_no_secret(self, ada: Api) -> None:
        key_id = make_key(ada)

        (notice,) = listed(ada)

        assert set(notice) == VIEW
        assert (notice["type"], notice["severity"], notice["data"]) == (
            "api_key_created",
            "warning",
            {"api_key_id": key_id},
        )
        assert notice["title"] == "An API key was created"
        assert notice["read_at"] is None
        assert notice["expires_at"] > notice["created_at"]

    def test_of_one_s_own_account(self, ada: Api, api: Api) -> None:
        email = ada.call("GET", "/api/v1/users/me").data["user"]["email"]
        new = {"current_password": PASSWORD, "password": "a better battery"}
        tokens = ada.call("POST", "/api/v1/auth/change-password", new).data
        later = api.as_(authorization="Bearer " + tokens["access_token"])
        assert later.call("POST", "/api/v1/auth/logout-all").status == 204
        again = api.call("POST", "/api/v1/auth/login", {"email": email, "password": new["password"]}).data

        told = listed(api.as_(authorization="Bearer " + again["access_token"]))

        assert [each["type"] for each in told] == ["sessions_ended", "password_changed"]

    def test_of_too_many_wrong_passwords_comes_once(self, ada: Api, api: Api) -> None:
        email = ada.call("GET", "/api/v1/users/me").data["user"]["email"]
        wrong = {"email": email, "password": "x" * 12}
        statuses = [api.call("POST", "/api/v1/auth/login", wrong).status for _ in range(25)]

        assert statuses[-1] == 429
        assert [each["type"] for each in listed(ada)] == ["login_locked"]

    def test_of_an_administrator_s_changes_in_the_account_s_language(self, root: Api, ada: Api) -> None:
        user = ada.call("PATCH", "/api/v1/users/me", {"locale": "zh"}).data["user"]
        assert root.call("PATCH", f"/api/v1/users/{user['id']}", {"role": "viewer"}).status == 200
        for disabled in (True, False):
            assert root.call("PATCH", f"/api/v1/users/{user['id']}", {"disabled": disabled}).status == 200
        fresh = ada.as_(authorization="Bearer " + ada.log_in(user["email"])["access_token"])

        told = listed(fresh)

        assert [each["type"] for each in told] == ["account_enabled", "account_disabled", "role_changed"]
        assert told[-1]["text"] == "管理员已将您的角色由 user 改为 viewer。"
        assert listed(root) == []

    def test_is_not_told_when_the_fact_did_not_happen(self, ada: Api) -> None:
        wrong = {"current_password": "x" * 12, "password": "a better battery"}
        assert ada.call("POST", "/api/v1/auth/change-password", wrong).status == 403
        assert listed(ada) == []


class TestTheList:
    def test_pages_and_filters_and_counts(self, ada: Api) -> None:
        keys = [make_key(ada) for _ in range(5)][::-1]
        read = listed(ada)[1]
        assert ada.call("POST", f"{V1}/{read['id']}/read").status == 200

        def walk(query: str) -> list[str]:
            found: list[str] = []
            cursor = ""
            while True:
                page = ada.call("GET", V1, query=f"{query}limit=2{cursor}").data
                assert page["unread_count"] == 4
                found += [each["data"]["api_key_id"] for each in page["notices"]]
                if page["next_cursor"] is None:
                    return found
                cursor = f"&cursor={page['next_cursor']}"

        assert walk("") == keys
        assert walk("unread=true&") == [keys[0], *keys[2:]]

    def test_takes_a_cursor_of_its_caller_and_filter_only(self, ada: Api, root: Api) -> None:
        for _ in range(2):
            make_key(ada)
        cursor = ada.call("GET", V1, query="limit=1").data["next_cursor"]
        assert ada.call("GET", V1, query=f"cursor={cursor}&limit=100").status == 200
        assert root.call("GET", V1, query=f"cursor={cursor}").code == "INVALID_CURSOR"
        assert ada.call("GET", V1, query=f"unread=true&cursor={cursor}").code == "INVALID_CURSOR"

    @pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "unread=maybe", "cursor=" + "x" * 2049])
    def test_names_what_it_does_not_understand(self, ada: Api, query: str) -> None:
        assert ada.call("GET", V1, query=query).code == "VALIDATION_ERROR"


class TestReading:
    def test_is_noted_once(self, ada: Api) -> None:
        make_key(ada)
        (notice,) = listed(ada)

        first = ada.call("POST", f"{V1}/{notice['id']}/read")
        again = ada.call("POST", f"{V1}/{notice['id']}/read", {"anything": "goes unread"})

        assert first.data == again.data
        assert first.data["notice"] == {**notice, "read_at": first.data["notice"]["read_at"]}
        assert first.data["notice"]["read_at"] is not None
        page = ada.call("GET", V1, query="unread=true").data
        assert (page["notices"], page["unread_count"]) == ([], 0)

    @pytest.mark.parametrize("notice_id", ["x", "%00", "..", "NOTICE%23", "%ff", "a" * 1000])
    def test_of_nothing_is_404(self, ada: Api, notice_id: str, stored: Callable[[str], list[Any]]) -> None:
        before = len(stored("identity"))
        assert ada.call("POST", f"{V1}/{notice_id}/read").status == 404
        assert ada.call("POST", f"{V1}/{new_id()}/read").code == "NOT_FOUND"
        assert len(stored("identity")) == before

    def test_of_another_s_is_404(self, ada: Api, root: Api) -> None:
        make_key(ada)
        (notice,) = listed(ada)
        assert root.call("POST", f"{V1}/{notice['id']}/read").code == "NOT_FOUND"
        assert listed(ada) == [notice]


class TestACrash:
    @staticmethod
    def told(stack: Stack) -> Callable[[], Counter[tuple[str, bool, bool]]]:
        def count() -> Counter[tuple[str, bool, bool]]:
            items = stack.aws("dynamodb").scan(TableName=stack.tables["identity"], ConsistentRead=True)["Items"]
            notices = [item for item in items if item.get("type") == {"S": "notice"}]
            return Counter((item["kind"]["S"], "read_at" in item, "gsi1pk" in item) for item in notices)

        return count

    def crash(self, stack: Stack, seed: Callable[[], dict[str, Any]]) -> CrashReport:
        return CrashTest(
            entry=ENTRY,
            aws=stack.aws,
            tables=[stack.tables["identity"]],
            seed=seed,
            normalise=lambda _: None,
            other_state=self.told(stack),
            accept=lambda answer: answer["statusCode"] == 200,
        ).run()

    def test_leaves_a_change_told_once(self, stack: Stack, api: Api, http_event: HttpEvent) -> None:
        def seed() -> dict[str, Any]:
            from api.services import identity

            identity.administration().make_admin(email="root@example.com", password=PASSWORD, name="Root")
            token = api.log_in("root@example.com")["access_token"]
            user = api.register("ada@example.com")
            headers = {"authorization": f"Bearer {token}"}
            return http_event("PATCH", f"/api/v1/users/{user['id']}", body={"role": "viewer"}, headers=headers)

        report = self.crash(stack, seed)
        assert "after dynamodb.TransactWriteItems" in " ".join(report.at)
        assert self.told(stack)() == {("role_changed", False, True): 1}

    def test_leaves_a_notice_read(self, stack: Stack, api: Api, http_event: HttpEvent) -> None:
        def seed() -> dict[str, Any]:
            user = api.register(verified=True)
            ada = api.as_(authorization="Bearer " + api.log_in(user["email"])["access_token"])
            make_key(ada)
            (notice,) = listed(ada)
            return http_event("POST", f"{V1}/{notice['id']}/read", headers=ada.headers)

        report = self.crash(stack, seed)
        assert "after dynamodb.UpdateItem" in " ".join(report.at)
        assert self.told(stack)() == {("api_key_created", True, False): 1}
