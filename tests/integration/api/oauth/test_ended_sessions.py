"""Sessions that have ended, in any way, neither make nor remove objects that outlive them, however fresh their login.

Admission asks whether the caller's session goes on (tests/integration/permissions/test_ended_callers.py): here each end
is written just after that, beside the process that is asked, as another one would write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.ids import UserId
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.domain import Role
from karma.identity.oauth.domain import Profile, ProviderName
from karma.identity.oauth.repository import OAuthRepository
from tests.integration.api.conftest import PASSWORD, Api
from tests.integration.api.oauth.conftest import FRONT, Visitor
from tests.integration.api.oauth.test_links import address, begin, logged_in
from tests.support import wire
from tests.support.endings import ENDS

CONTEXT = ("/auth", "/users", "/api-keys")
"""Routes of identity."""
NOT_ASKED = {
    "POST /auth/logout": "ends a session",
    "POST /auth/verify-email/resend": "sends a link to the address that the account has, and takes nothing",
}
"""Routes of callers that make or remove nothing that outlives the session, with the reason."""


@dataclass
class Person:
    """A person with a session, an API key, a linked provider, and requests to make."""

    api: Api
    user_id: UserId
    email: str
    other: str
    """Id of another account."""

    def enter(self) -> None:
        self.api = logged_in(self.api, self.api.log_in(self.email))
        assert self.api.call("GET", "/api/v1/users/me").status == 200, "known to this process for a minute"

    def entry(self, event: AuditEvent) -> AuditEntry:
        return AuditEntry(user_id=self.user_id, event=event, at=datetime.now(UTC), actor_id=None)


def _key_of(person: Person) -> str:
    return ApiKeyRepository().list_api_keys(person.user_id)[0].id


ACTS: dict[str, Callable[[Person], tuple[str, object]]] = {
    "POST /api-keys": lambda _: ("/api-keys", {"name": "k", "scopes": ["*"], "current_password": PASSWORD}),
    "DELETE /api-keys/{key_id}": lambda person: (f"/api-keys/{_key_of(person)}", None),
    "POST /auth/oauth/{provider}/link": lambda _: ("/auth/oauth/google/link", {"current_password": PASSWORD}),
    "DELETE /users/me/links/{provider}": lambda _: ("/users/me/links/github", None),
    "PATCH /users/me": lambda _: ("/users/me", {"email": "new@example.com", "current_password": PASSWORD}),
    "PATCH /users/{user_id}": lambda person: (f"/users/{person.other}", {"role": "viewer"}),
    "POST /auth/logout-all": lambda _: ("/auth/logout-all", {"api_keys": True}),
    "POST /auth/change-password": lambda _: (
        "/auth/change-password",
        {"current_password": PASSWORD, "password": PASSWORD},
    ),
    "DELETE /users/me": lambda _: ("/users/me", {"current_password": PASSWORD}),
}
"""Requests by route, in an order in which all succeed."""


def do(name: str, person: Person) -> int:
    path, body = ACTS[name](person)
    return person.api.call(name.partition(" ")[0], f"/api/v1{path}", body).status


@pytest.fixture
def person(api: Api) -> Callable[[], Person]:
    def make() -> Person:
        user = api.register(verified=True)
        user_id = UserId(user["id"])
        made = Person(api, user_id, user["email"], api.register()["id"])
        made.enter()
        assert do("POST /api-keys", made) == 201
        stored, now = UserRepository().read_user(user_id), datetime.now(UTC)
        assert stored is not None
        profile = Profile(provider=ProviderName.GITHUB, subject=user_id, email=stored.email, name="Ada")
        assert OAuthRepository().link(stored, profile, now=now, entry=made.entry(AuditEvent.PROVIDER_LINKED))
        return made

    return make


def end(how: str, person: Person, stored: Callable[[str], list[Any]]) -> None:
    """End the newest session of a person, as another process would."""
    mine = [
        item
        for item in stored("identity")
        if item.get("type") == {"S": "session"} and item["pk"] == {"S": f"USER#{person.user_id}"}
    ]
    newest = max(mine, key=lambda item: str(item["created_at"]["S"]))
    session_id = newest["sk"]["S"].removeprefix("SESSION#")
    ENDS[how](person.user_id, session_id, datetime.now(UTC) + timedelta(seconds=1))


class Admitted:
    """Admits callers as they were before their sessions ended: the ends come just after each admission."""

    def __init__(self) -> None:
        self._answers: dict[str, dict[str, Any]] = {}
        self._wire = wire.Wire(after=self._after)

    @contextmanager
    def learning(self, *people: Person) -> Iterator[None]:
        """Admit people, then go on with what was answered about them."""
        from api.services import identity

        with wire.on(self._wire):
            for person in people:
                identity.authenticator().authenticate(person.api.headers["authorization"], None)
            assert len(self._answers) == len(people)
            self._wire.after = lambda _number, _answer: None
            yield

    def again(self) -> None:
        """Answer admissions from now on as before."""
        self._wire.answer = self._answer

    def _after(self, number: int, answer: dict[str, Any]) -> None:
        self._answers[repr(self._wire.requests[number])] = {"Responses": answer["Responses"], "UnprocessedKeys": {}}

    def _answer(self, number: int, _operation: str, _params: Mapping[str, Any]) -> dict[str, Any] | None:
        return self._answers.get(repr(self._wire.requests[number]))


def promote(person: Person) -> None:
    from api.services import identity

    directory = DirectoryRepository()
    before = directory.read_user(person.user_id)
    assert before is not None
    directory.change_account(before, replace(before, role=Role.ADMIN), actor_id=None, entries=[])
    identity.authenticator().forget(person.user_id)
    assert person.api.call("GET", "/api/v1/users").status == 200, "known to this process as an administrator"


@pytest.mark.fault("F-21g")
class TestASessionThatHasEnded:
    def test_is_asked_about_by_each_route_of_identity_that_takes_a_caller(self, api: Api) -> None:
        from api.app import build
        from karma.http.openapi import permissions
        from karma.http.routing import Route

        taking = {
            f"{method} {path}"
            for route in build().router.routes
            if isinstance(route, Route) and list(permissions(route.described.dependant))
            for method in set(route.methods or ()) - {"GET", "HEAD"}
            if (path := route.path.removeprefix("/api/v1")).startswith(CONTEXT)
        }
        assert taking == {*ACTS, *NOT_ASKED}

    @pytest.mark.parametrize("how", list(ENDS))
    def test_makes_and_removes_nothing_that_outlives_it(
        self, person: Callable[[], Person], stored: Callable[[str], list[Any]], how: str
    ) -> None:
        ada, root = person(), person()
        promote(root)
        admitted = Admitted()
        with admitted.learning(ada, root):
            end(how, ada, stored)
            end(how, root, stored)
            before = stored("identity")
            admitted.again()
            for name in ACTS:
                status = do(name, root if name == "PATCH /users/{user_id}" else ada)
                # That an administrator's sessions have ended with all is one condition with the role.
                refused = 403 if name == "PATCH /users/{user_id}" and how != "log-out" else 401
                assert status == refused, name
        assert stored("identity") == before

    def test_would_have_done_each_of_it(self, person: Callable[[], Person]) -> None:
        ada, root = person(), person()
        promote(root)
        for name in ACTS:
            who = root if name == "PATCH /users/{user_id}" else ada
            if who is ada:
                ada.enter()
            assert do(name, who) in {200, 201, 202, 204}, name

    @pytest.mark.parametrize("how", list(ENDS))
    def test_leaves_no_link_behind_that_it_began(
        self,
        person: Callable[[], Person],
        visitor: Callable[..., Visitor],
        stored: Callable[[str], list[Any]],
        how: str,
    ) -> None:
        ada, someone = person(), visitor()
        reply = begin(ada.api, someone.provider, {"current_password": PASSWORD, "redirect": f"{FRONT}/"})
        someone.cookie = reply.cookie.partition(";")[0]
        given = someone.browser.visit(address(reply))
        end(how, ada, stored)
        refusal = (403, "ACCOUNT_DISABLED") if how == "disabled" else (400, "INVALID_STATE")
        assert someone.callback(given).error == refusal
        assert len(OAuthRepository().links(ada.user_id)) == 1, "the one from before"
