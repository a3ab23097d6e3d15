from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.api.conftest import PASSWORD, Api
from tests.support.crash import CrashTest
from tests.support.stack import HttpEvent, Stack


@pytest.fixture
def root(api: Api) -> Api:
    """Return the API for an administrator, made as an operator makes one."""
    from api.services import identity

    identity.administration().make_admin(email="root@example.com", password=PASSWORD, name="Root")
    return api.as_(authorization="Bearer " + api.log_in("root@example.com")["access_token"])


def user_of(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.call("GET", "/api/v1/users/me").data["user"]
    return found


class TestTheList:
    def test_shows_every_account_newest_first_by_pages_of_its_reader(self, root: Api, api: Api) -> None:
        for number in range(4):
            api.register(f"user{number}@example.com")
        first = root.call("GET", "/api/v1/users", query="limit=3").data
        second = root.call("GET", "/api/v1/users", query=f"limit=3&cursor={first['next_cursor']}").data
        emails = [user["email"] for page in (first, second) for user in page["users"]]
        assert emails == [*(f"user{number}@example.com" for number in (3, 2, 1, 0)), "root@example.com"]
        assert (first["total"], first["total_capped"], second["next_cursor"]) == (5, False, None)
        other = root.call("GET", "/api/v1/users", query=f"role=user&cursor={first['next_cursor']}")
        assert (other.status, other.code) == (400, "INVALID_CURSOR")

    def test_is_searched_and_filtered(self, root: Api, api: Api) -> None:
        api.register("ada@example.com")
        for query in ("q=ada%40example.com", "q=AD", "role=user", "disabled=false&role=user"):
            assert [user["name"] for user in root.call("GET", "/api/v1/users", query=query).data["users"]] == ["Ada"]
        assert root.call("GET", "/api/v1/users", query="disabled=true").data["users"] == []

    @pytest.mark.parametrize("query", ["role=king", "disabled=maybe", "limit=0", "limit=101", "q=" + "x" * 321])
    def test_names_what_it_does_not_understand(self, root: Api, query: str) -> None:
        answer = root.call("GET", "/api/v1/users", query=query)
        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")
        assert answer.json["error"]["details"][0]["field"] == query.partition("=")[0]

    def test_shows_no_password(self, root: Api) -> None:
        assert "password" not in root.call("GET", "/api/v1/users").text


class TestAnAccount:
    def test_is_shown_with_its_version(self, root: Api, api: Api) -> None:
        made = api.register()
        answer = root.call("GET", f"/api/v1/users/{made['id']}")
        assert answer.headers["etag"] == f'"{answer.data["user"]["version"]}"'
        assert answer.data["user"]["disabled"] is False

    @pytest.mark.parametrize("user_id", ["x", "00000000-0000-7000-8000-000000000000"])
    def test_that_is_not_there_is_not_found(self, root: Api, user_id: str) -> None:
        assert root.call("GET", f"/api/v1/users/{user_id}").status == 404
        assert root.call("PATCH", f"/api/v1/users/{user_id}", {"role": "user"}).status == 404

    @pytest.mark.req("R-M-36")
    def test_gets_a_role_that_holds_at_once(self, root: Api, ada: Api) -> None:
        key = ada.call("POST", "/api/v1/api-keys", {"name": "ci"}).data["key"]
        program = ada.as_(x_api_key=key)
        assert ada.call("GET", "/api/v1/users").status == program.call("GET", "/api/v1/users").status == 403
        changed = root.call("PATCH", f"/api/v1/users/{user_of(ada)['id']}", {"role": "admin"})
        assert changed.data["user"]["role"] == "admin"
        assert ada.call("GET", "/api/v1/users").status == program.call("GET", "/api/v1/users").status == 200

    @pytest.mark.req("R-M-36")
    def test_that_is_disabled_is_locked_out_at_once_and_comes_back_without_its_sessions(
        self, root: Api, ada: Api, api: Api
    ) -> None:
        user = user_of(ada)
        tokens = api.log_in(user["email"])
        program = ada.as_(x_api_key=ada.call("POST", "/api/v1/api-keys", {"name": "ci"}).data["key"])
        path = f"/api/v1/users/{user['id']}"
        assert root.call("PATCH", path, {"disabled": True}).data["user"]["disabled"] is True
        credentials = {"email": user["email"], "password": PASSWORD}
        assert api.call("POST", "/api/v1/auth/login", credentials).code == "ACCOUNT_DISABLED"
        for caller in (ada, program):
            assert caller.call("GET", "/api/v1/users/me").code == "ACCOUNT_DISABLED"
        refresh = {"refresh_token": tokens["refresh_token"]}
        assert api.call("POST", "/api/v1/auth/refresh", refresh).status == 401
        assert root.call("PATCH", path, {"disabled": False}).data["user"]["disabled_at"] is None
        assert ada.call("GET", "/api/v1/users/me").status == 401
        assert api.call("POST", "/api/v1/auth/refresh", refresh).status == 401
        assert program.call("GET", "/api/v1/users/me").status == 200

    def test_is_changed_by_whom_has_seen_it(self, root: Api, ada: Api) -> None:
        path = f"/api/v1/users/{user_of(ada)['id']}"
        seen = root.call("GET", path)
        version, tag = seen.data["user"]["version"], seen.headers["etag"]
        assert root.call("PATCH", path, {"role": "viewer", "version": version}).status == 200
        for stale in (
            root.call("PATCH", path, {"role": "admin", "version": version}),
            root.call("PATCH", path, {"role": "admin"}, if_match=tag),
        ):
            assert (stale.status, stale.code) == (409, "STALE_VERSION")
        assert root.call("GET", path).data["user"]["role"] == "viewer"

    @pytest.mark.parametrize("body", [{"role": "user"}, {"disabled": True}])
    def test_of_one_s_own_is_not_changed(self, root: Api, body: dict[str, Any]) -> None:
        answer = root.call("PATCH", f"/api/v1/users/{user_of(root)['id']}", body)
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
        assert user_of(root)["role"] == "admin"

    @pytest.mark.parametrize(
        ("body", "field"),
        [({}, "role"), ({"role": "king"}, "role"), ({"disabled": "no idea"}, "disabled"), ({"name": "Eve"}, "name")],
    )
    def test_is_not_changed_by_what_makes_no_sense(self, root: Api, ada: Api, body: dict[str, Any], field: str) -> None:
        answer = root.call("PATCH", f"/api/v1/users/{user_of(ada)['id']}", body)
        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")
        assert answer.json["error"]["details"][0]["field"] == field


class TestTheAuditLog:
    def test_tells_who_changed_what_to_the_account_and_to_administrators(self, root: Api, ada: Api) -> None:
        user = user_of(ada)
        root.call("PATCH", f"/api/v1/users/{user['id']}", {"role": "viewer"}, user_agent="console/1")
        [entry] = ada.call("GET", "/api/v1/audit", query="event=user.role_changed").data["entries"]
        assert (entry["actor_id"], entry["user_id"]) == (user_of(root)["id"], user["id"])
        assert entry["details"] == {"from": "user", "to": "viewer"}
        assert (entry["address"], entry["user_agent"]) == ("203.0.113.7", "console/1")
        assert entry["request_id"]
        [same] = root.call("GET", "/api/v1/audit", query=f"user_id={user['id']}&event=user.role_changed").data[
            "entries"
        ]
        assert same == entry
        day = root.call("GET", "/api/v1/audit", query=f"day={entry['at'][:10]}&limit=100").data["entries"]
        assert entry in day
        assert {each["user_id"] for each in day} >= {user["id"], user_of(root)["id"]}

    def test_is_read_page_by_page_between_two_moments(self, ada: Api, api: Api) -> None:
        for _ in range(4):
            api.log_in(user_of(ada)["email"])
        first = ada.call("GET", "/api/v1/audit", query="limit=3").data
        second = ada.call("GET", "/api/v1/audit", query=f"limit=100&cursor={first['next_cursor']}")
        assert second.status == 200
        both = [*first["entries"], *second.data["entries"]]
        assert [entry["at"] for entry in both] == sorted((entry["at"] for entry in both), reverse=True)
        assert len({entry["id"] for entry in both}) == len(both) >= 5
        middle = both[2]["at"]
        since = ada.call("GET", "/api/v1/audit", query=f"limit=100&from={middle}").data["entries"]
        until = ada.call("GET", "/api/v1/audit", query=f"limit=100&to={middle}").data["entries"]
        assert since + until == both
        for to in (middle, "2020-01-01T00:00:00Z"):
            assert ada.call("GET", "/api/v1/audit", query=f"from={middle}&to={to}").code == "INVALID_RANGE"

    @pytest.mark.parametrize("query", ["user_id=00000000-0000-7000-8000-000000000000", "day=2026-11-22"])
    def test_of_others_is_for_administrators(self, ada: Api, query: str) -> None:
        answer = ada.call("GET", "/api/v1/audit", query=query)
        assert (answer.status, answer.code) == (403, "FORBIDDEN")
        assert ada.call("GET", "/api/v1/audit", query=f"user_id={user_of(ada)['id']}").status == 200

    def test_of_an_account_is_no_cursor_for_another(self, root: Api, ada: Api, api: Api) -> None:
        api.log_in(user_of(ada)["email"])
        cursor = ada.call("GET", "/api/v1/audit", query="limit=1").data["next_cursor"]
        assert root.call("GET", "/api/v1/audit", query=f"limit=1&cursor={cursor}").code == "INVALID_CURSOR"

    @pytest.mark.parametrize(
        "query",
        [
            "event=unknown", "from=yesterday", "to=2026-11-22", "day=2026-02-30", "limit=101", "user_id=x",
            "day=2026-11-22&user_id=00000000-0000-7000-8000-000000000000",
        ],
    )  # fmt: skip
    def test_names_what_it_does_not_understand(self, root: Api, query: str) -> None:
        answer = root.call("GET", "/api/v1/audit", query=query)
        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")
        assert answer.json["error"]["details"][0]["field"] == query.partition("=")[0]

    def test_is_empty_where_time_ends(self, root: Api) -> None:
        assert root.call("GET", "/api/v1/audit", query="day=9999-12-31").data["entries"] == []

    @pytest.mark.parametrize("query", ["from=9999-12-31T23:59:59-10:00", "to=0001-01-01T00:00:00%2B14:00"])
    def test_names_a_time_that_no_calendar_has(self, root: Api, query: str) -> None:
        answer = root.call("GET", "/api/v1/audit", query=query)
        assert (answer.status, answer.json["error"]["details"][0]["field"]) == (422, query.partition("=")[0])


class TestACrash:
    """The process dies before or after any of its calls; the request comes again."""

    EVENTS = frozenset({"user.role_changed", "user.disabled", "api_key.created", "api_key.revoked"})

    def kept(self, item: dict[str, Any]) -> dict[str, Any] | None:
        """Return the part of an item that a repeat must not change, without ids and moments."""
        match item.get("type"):
            case "user":
                return {"pk": item["email"], "sk": "", "role": item["role"], "disabled": "disabled_at" in item}
            case "user_name":
                return {"pk": item["gsi1pk"], "sk": "", "role": item["role"], "disabled": item["disabled"]}
            case "api_key":
                return {"pk": "KEY", "sk": item["sk"][:3], "revoked": "revoked_at" in item}
            case "audit_entry" if item["event"] in self.EVENTS:
                return {"pk": "LOG", "sk": item["event"]}
            case _:
                return None

    @staticmethod
    def told(stack: Stack) -> Callable[[], int]:
        """Count what was told, once for each event."""

        def count() -> int:
            items = stack.aws("dynamodb").scan(TableName=stack.tables["identity"], ConsistentRead=True)["Items"]
            return sum(item.get("event", {}).get("S") in TestACrash.EVENTS for item in items)

        return count

    def test_leaves_an_account_changed_once(self, stack: Stack, api: Api, http_event: HttpEvent) -> None:
        def seed() -> dict[str, Any]:
            from api.services import identity

            identity.administration().make_admin(email="root@example.com", password=PASSWORD, name="Root")
            ada = api.register("ada@example.com")
            headers = {"authorization": "Bearer " + api.log_in("root@example.com")["access_token"]}
            body = {"role": "viewer", "disabled": True}
            event: dict[str, Any] = http_event("PATCH", f"/api/v1/users/{ada['id']}", body=body, headers=headers)
            return event

        report = CrashTest(
            entry="api.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["identity"]],
            seed=seed,
            normalise=self.kept,
            other_state=self.told(stack),
            accept=lambda answer: answer["statusCode"] == 200,
        ).run()
        assert len(report.calls) >= 2

    def test_leaves_a_key_revoked_once(self, stack: Stack, api: Api, http_event: HttpEvent) -> None:
        def seed() -> dict[str, Any]:
            api.register("ada@example.com", verified=True)
            headers = {"authorization": "Bearer " + api.log_in("ada@example.com")["access_token"]}
            ada = api.as_(**headers)
            made = ada.call("POST", "/api/v1/api-keys", {"name": "ci"}).data["api_key"]
            event: dict[str, Any] = http_event("DELETE", f"/api/v1/api-keys/{made['id']}", headers=headers)
            return event

        report = CrashTest(
            entry="api.handler:lambda_handler",
            aws=stack.aws,
            tables=[stack.tables["identity"]],
            seed=seed,
            normalise=self.kept,
            other_state=self.told(stack),
            accept=lambda answer: answer["statusCode"] in {204, 404},
        ).run()
        assert len(report.calls) >= 2
