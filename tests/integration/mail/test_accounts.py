"""The life of an account with its mails, the tokens taken from the mailbox as a person would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.api.conftest import PASSWORD, Api
from tests.integration.mail.conftest import Post
from tests.support.clients import hooked
from tests.support.stack import Stack

V1 = "/api/v1"
NEW = "a better battery"


def bearer(api: Api, email: str, password: str = PASSWORD) -> Api:
    tokens = api.call("POST", f"{V1}/auth/login", {"email": email, "password": password})
    assert tokens.status == 200, tokens.text
    return api.as_(authorization="Bearer " + tokens.data["access_token"])


def code(api: Api, path: str, body: dict[str, Any]) -> tuple[int, str]:
    answer = api.call("POST", V1 + path, body)
    return answer.status, answer.text and answer.json.get("error", {}).get("code", "")


class TestVerification:
    @pytest.mark.req("R-C-27", "R-C-30")
    def test_follows_the_link_of_the_first_mail(self, api: Api, post: Post) -> None:
        user = api.register("ada@example.com")
        [mail] = post.deliver()
        assert (mail.to, mail.subject, mail.sender) == (
            user["email"],
            "Verify your e-mail address",
            "Karma <no-reply@example.com>",
        )
        assert f"https://app.example.com/verify-email#token={mail.token}" in mail.text
        assert mail.token in mail.html
        assert code(api, "/auth/verify-email", {"token": mail.token}) == (204, "")
        me = bearer(api, "ada@example.com").call("GET", f"{V1}/users/me")
        assert me.data["user"]["email_verified"] is True

    def test_speaks_the_account_s_language(self, api: Api, post: Post) -> None:
        body = {"email": "ada@example.com", "password": PASSWORD, "name": "艾达", "locale": "zh"}
        assert api.call("POST", f"{V1}/auth/register", body).data["user"]["locale"] == "zh"
        [mail] = post.deliver()
        assert mail.subject == "请验证您的电子邮箱"
        assert mail.text.startswith("您好")
        assert "艾达" not in mail.text, "the address is not proven yet"

    def test_may_be_asked_for_again(self, api: Api, post: Post) -> None:
        api.register("ada@example.com")
        ada = bearer(api, "ada@example.com")
        first = post.token_for("ada@example.com")
        assert ada.call("POST", f"{V1}/auth/verify-email/resend").status == 202
        assert post.token_for("ada@example.com") != first
        assert code(api, "/auth/verify-email", {"token": first})[0] == 204
        assert ada.call("POST", f"{V1}/auth/verify-email/resend").status == 202
        assert len(post.deliver()) == 2

    def test_tells_nothing_about_a_token_that_is_none(self, api: Api, post: Post) -> None:
        api.register("ada@example.com")
        used = post.token_for("ada@example.com")
        assert code(api, "/auth/verify-email", {"token": used})[0] == 204
        assert {
            code(api, path, {"token": token, **more})
            for token in (used, "unknown", "x" * 256)
            for path, more in (("/auth/verify-email", {}), ("/auth/reset-password", {"password": NEW}))
        } == {(410, "GONE")}

    def test_keeps_no_secret_at_rest(self, api: Api, post: Post, stack: Stack) -> None:
        api.register("ada@example.com")
        messages = post.waiting()
        assert post.handle(messages) == []
        token = post.mailbox()[0].token
        items = stack.aws("dynamodb").scan(TableName=stack.tables["identity"])["Items"]
        assert token not in repr(items) + repr(messages)
        assert "ada@example.com" not in repr(messages)


class TestAForgottenPassword:
    def test_is_reset_by_the_link_and_ends_the_sessions(self, api: Api, post: Post) -> None:
        api.register("ada@example.com")
        old = api.log_in("ada@example.com")
        assert code(api, "/auth/forgot-password", {"email": "ada@example.com"})[0] == 202
        token = post.token_for("ada@example.com")
        assert code(api, "/auth/reset-password", {"token": token, "password": NEW}) == (204, "")
        assert code(api, "/auth/login", {"email": "ada@example.com", "password": PASSWORD})[0] == 401
        assert code(api, "/auth/refresh", {"refresh_token": old["refresh_token"]})[0] == 401
        assert api.call("GET", f"{V1}/users/me", authorization="Bearer " + old["access_token"]).status == 401
        me = bearer(api, "ada@example.com", NEW).call("GET", f"{V1}/users/me")
        assert me.data["user"]["email_verified"] is True
        assert [mail.subject for mail in post.deliver()][-1] == "Your password was changed"
        assert code(api, "/auth/reset-password", {"token": token, "password": PASSWORD}) == (410, "GONE")

    def test_tells_what_goes_on_for_the_account_in_the_transaction_of_the_reset(self, api: Api, post: Post) -> None:
        api.register("ada@example.com")
        here = bearer(api, "ada@example.com")
        assert here.call("POST", f"{V1}/webhooks", {"url": "https://other.example.com/"}).status == 201
        assert code(api, "/auth/forgot-password", {"email": "ada@example.com"})[0] == 202
        token = post.token_for("ada@example.com")
        assert code(api, "/auth/reset-password", {"token": token, "password": NEW}) == (204, "")
        assert code(api, "/auth/reset-password", {"token": token, "password": NEW}) == (410, "GONE")
        notices = bearer(api, "ada@example.com", NEW).call("GET", f"{V1}/notices").data["notices"]
        [told] = [each for each in notices if each["type"] == "access_stays"]
        assert told["data"] == {"schedules": "0", "webhooks": "1", "mcp_servers": "0"}
        [mail] = [mail for mail in post.deliver() if mail.subject == "Your password was changed"]
        assert "webhooks" in mail.text

    def test_costs_and_answers_the_same_for_an_address_without_account(self, api: Api, post: Post) -> None:
        api.register("ada@example.com")
        post.deliver()
        calls: list[str] = []

        def note(model: Any, **_: Any) -> None:
            if model.name != "UpdateItem":  # of the caller's bucket, which knows nothing of the address
                calls.append(model.name)

        seen = []
        with hooked("dynamodb", "before-call", note), hooked("sqs", "before-call", note):
            for email in ("ada@example.com", "nobody@example.com", "ada@example.com"):
                answer = api.call("POST", f"{V1}/auth/forgot-password", {"email": email})
                seen.append((answer.status, answer.data, tuple(calls)))
                calls.clear()
        assert len({repr(each) for each in seen}) == 1
        assert seen[0] == (202, {"accepted": True}, ("PutItem", "SendMessage"))
        assert [mail.to for mail in post.deliver()][1:] == ["ada@example.com"] * 2

    def test_ends_its_other_links(self, api: Api, post: Post) -> None:
        api.register("ada@example.com")
        tokens = []
        for _ in range(2):
            api.call("POST", f"{V1}/auth/forgot-password", {"email": "ada@example.com"})
            tokens.append(post.token_for("ada@example.com"))
        assert code(api, "/auth/reset-password", {"token": tokens[1], "password": NEW})[0] == 204
        assert code(api, "/auth/reset-password", {"token": tokens[0], "password": NEW})[0] == 410


class TestAChangedPassword:
    def test_ends_every_session_and_begins_one(self, api: Api, post: Post) -> None:
        api.register("ada@example.com")
        other = api.log_in("ada@example.com")["refresh_token"]
        ada = bearer(api, "ada@example.com")
        body = {"current_password": PASSWORD, "password": NEW}
        answer = ada.call("POST", f"{V1}/auth/change-password", body)
        assert answer.status == 200, answer.text
        assert code(api, "/auth/refresh", {"refresh_token": other})[0] == 401
        assert ada.call("GET", f"{V1}/users/me").status == 401
        assert code(api, "/auth/refresh", {"refresh_token": answer.data["refresh_token"]})[0] == 200
        renewed = api.as_(authorization="Bearer " + answer.data["access_token"])
        assert renewed.call("GET", f"{V1}/users/me").status == 200
        assert [mail.subject for mail in post.deliver()][-1] == "Your password was changed"

    def test_needs_the_current_one(self, api: Api, post: Post) -> None:
        api.register("ada@example.com")
        ada = bearer(api, "ada@example.com")
        answer = ada.call("POST", f"{V1}/auth/change-password", {"current_password": "x", "password": NEW})
        assert (answer.status, answer.code) == (403, "WRONG_PASSWORD")
        assert ada.call("GET", f"{V1}/users/me").status == 200


class TestTheProfile:
    def test_is_changed_at_the_version_that_was_read(self, api: Api) -> None:
        api.register("ada@example.com")
        ada = bearer(api, "ada@example.com")
        etag = ada.call("GET", f"{V1}/users/me").headers["etag"]
        changed = ada.call("PATCH", f"{V1}/users/me", {"name": "Ada Lovelace", "locale": "zh"}, if_match=etag)
        assert changed.status == 200, changed.text
        assert (changed.data["user"]["name"], changed.data["user"]["locale"]) == ("Ada Lovelace", "zh")
        stale = ada.call("PATCH", f"{V1}/users/me", {"name": "Eve"}, if_match=etag)
        assert (stale.status, stale.code) == (409, "STALE_VERSION")
        shown = ada.call("GET", f"{V1}/users/me")
        assert shown.data == changed.data
        assert shown.headers["etag"] == changed.headers["etag"] != etag

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "a\r\nBcc: eve@example.com"}, "name"),
            ({"avatar": "javascript:alert(1)"}, "avatar"),
            ({"locale": "fr"}, "locale"),
            ({"email": "ada@", "current_password": PASSWORD}, "email"),
            ({"role": "admin"}, "role"),
            ({"version": 0}, "version"),
        ],
    )
    def test_refuses_what_it_cannot_hold(self, api: Api, body: dict[str, Any], field: str) -> None:
        api.register("ada@example.com")
        ada = bearer(api, "ada@example.com")
        answer = ada.call("PATCH", f"{V1}/users/me", body)
        assert (answer.status, answer.code) == (422, "VALIDATION_ERROR")
        assert [entry["field"] for entry in answer.json["error"]["details"]] == [field]


class TestANewAddress:
    def test_is_confirmed_before_the_account_moves(self, api: Api, post: Post) -> None:
        api.register("ada@example.com")
        ada = bearer(api, "ada@example.com")
        body = {"email": "new@example.com", "current_password": PASSWORD}
        asked = ada.call("PATCH", f"{V1}/users/me", body)
        assert (asked.status, asked.data["user"]["email"]) == (200, "ada@example.com")
        token = post.token_for("new@example.com")
        assert "about to change" in {mail.to: mail.subject for mail in post.mailbox()}["ada@example.com"]
        assert code(api, "/auth/verify-email", {"token": token})[0] == 204
        assert code(api, "/auth/login", {"email": "ada@example.com", "password": PASSWORD})[0] == 401
        bearer(api, "new@example.com")
        assert api.register("ada@example.com")["email"] == "ada@example.com", "the old address is free"
        assert "Your e-mail address was changed" in [mail.subject for mail in post.deliver()]

    @pytest.mark.fault("F-21d")
    def test_is_to_the_one_named_last(self, api: Api, post: Post) -> None:
        api.register("ada@example.com")
        ada = bearer(api, "ada@example.com")
        links = {}
        for address in ("typo@example.com", "right@example.com"):
            body = {"email": address, "current_password": PASSWORD}
            assert ada.call("PATCH", f"{V1}/users/me", body).status == 200
            links[address] = post.token_for(address)
        assert code(api, "/auth/verify-email", {"token": links["typo@example.com"]}) == (410, "GONE")
        assert code(api, "/auth/verify-email", {"token": links["right@example.com"]}) == (204, "")
        assert code(api, "/auth/verify-email", {"token": links["typo@example.com"]}) == (410, "GONE")
        assert ada.call("GET", f"{V1}/users/me").data["user"]["email"] == "right@example.com"
        body = {"email": "typo@example.com", "current_password": PASSWORD}
        assert ada.call("PATCH", f"{V1}/users/me", body).status == 200
        newest = post.token_for("typo@example.com")
        assert newest not in links.values()
        assert ada.call("PATCH", f"{V1}/users/me", {"email": "right@example.com"}).status == 200
        assert code(api, "/auth/verify-email", {"token": newest}) == (410, "GONE")

    def test_that_is_taken_looks_free(self, api: Api, post: Post, stored: Callable[[str], list[Any]]) -> None:
        api.register("ada@example.com")
        api.register("eve@example.com")
        ada = bearer(api, "ada@example.com")
        shown = []
        for email in ("free@example.com", "eve@example.com"):
            answer = ada.call("PATCH", f"{V1}/users/me", {"email": email, "current_password": PASSWORD})
            shown.append((answer.status, {**answer.data["user"], "updated_at": ""}))
        assert shown[0] == shown[1]
        told = [mail for mail in post.deliver() if mail.to == "eve@example.com"][-1]
        assert told.subject == "Somebody named your e-mail address"
        assert "#token=" not in told.text


@pytest.fixture
def stored(stack: Stack) -> Callable[[str], list[dict[str, Any]]]:
    def read(table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = stack.aws("dynamodb").scan(TableName=stack.tables[table])["Items"]
        return found

    return read
