from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.core.errors import AlreadyCreated, Forbidden, NotFound, ValidationFailed
from karma.core.ids import UserId
from karma.identity import emails
from karma.identity.api_keys import MAX_API_KEYS, ApiKeyService
from karma.identity.domain import Caller, Role, User
from tests.fakes.accounts import AccountWorld


class World:
    def __init__(self) -> None:
        known = AccountWorld()
        self.clock = known.clock
        self.identities = known.identities
        self.changed: list[UserId] = []
        self.accounts = known.accounts
        self.api_keys = ApiKeyService(api_keys=self.identities, clock=self.clock, on_change=self.changed.append)

    def ada(self) -> User:
        return self.accounts.register(email="ada@example.com", password="correct horse", name="Ada")


def caller_of(user: User) -> Caller:
    return Caller(
        user_id=user.id,
        role=user.role,
        method="jwt",
        scopes=frozenset(),
        email_verified=False,
        name=user.name,
        avatar=None,
    )


@pytest.fixture
def world() -> World:
    return World()


class TestApiKeys:
    def test_are_shown_once_and_stored_as_hashes(self, world: World) -> None:
        caller = caller_of(world.ada())
        made = world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None)
        assert made.secret.startswith(made.key.prefix)
        assert made.secret not in repr(world.identities)
        assert list(world.api_keys.list_api_keys(caller)) == [made.key]

    def test_of_another_person_are_neither_listed_nor_revoked(self, world: World) -> None:
        made = world.api_keys.create_api_key(
            caller_of(world.ada()), name="ci", scopes=frozenset({"*"}), expires_at=None
        )
        eve = caller_of(world.accounts.register(email="eve@example.com", password="correct horse", name="Eve"))
        assert not world.api_keys.list_api_keys(eve)
        with pytest.raises(NotFound):
            world.api_keys.revoke_api_key(eve, made.key.id)

    def test_that_were_revoked_leave_the_list_for_good(self, world: World) -> None:
        caller = caller_of(world.ada())
        made = world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None)
        world.api_keys.revoke_api_key(caller, made.key.id)
        assert not world.api_keys.list_api_keys(caller)
        assert world.changed == [caller.user_id]
        with pytest.raises(NotFound):
            world.api_keys.revoke_api_key(caller, made.key.id)

    @pytest.mark.parametrize("key_id", ["", "x", "../..", "APIKEY#1"])
    def test_with_an_impossible_id_are_not_found(self, world: World, key_id: str) -> None:
        with pytest.raises(NotFound):
            world.api_keys.revoke_api_key(caller_of(world.ada()), key_id)

    def test_cannot_make_or_revoke_keys(self, world: World) -> None:
        by_key = replace(caller_of(world.ada()), method="api_key", scopes=frozenset({"*"}))
        with pytest.raises(Forbidden):
            world.api_keys.create_api_key(by_key, name="ci", scopes=frozenset({"*"}), expires_at=None)
        with pytest.raises(Forbidden):
            world.api_keys.revoke_api_key(by_key, "x")

    def test_cannot_exceed_their_maker(self, world: World) -> None:
        viewer = replace(caller_of(world.ada()), role=Role.VIEWER)
        with pytest.raises(Forbidden, match="Insufficient permissions"):
            world.api_keys.create_api_key(viewer, name="ci", scopes=frozenset({"device:control"}), expires_at=None)

    @pytest.mark.parametrize(("scope", "hours", "field"), [("device:fly", 1, "scopes"), ("*", 0, "expires_at")])
    def test_that_make_no_sense_are_refused(self, world: World, scope: str, hours: int, field: str) -> None:
        caller = caller_of(world.ada())
        expires_at = world.clock.now() + timedelta(hours=hours)
        with pytest.raises(ValidationFailed) as caught:
            world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({scope}), expires_at=expires_at)
        assert isinstance(caught.value.details, list)
        assert caught.value.details[0]["field"] == field

    def test_are_limited_in_number(self, world: World) -> None:
        caller = caller_of(world.ada())
        for _ in range(MAX_API_KEYS):
            world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None)
        with pytest.raises(ValidationFailed):
            world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None)

    def test_are_made_once_for_a_repeated_request(self, world: World) -> None:
        caller = caller_of(world.ada())
        made = world.api_keys.create_api_key(
            caller, name="ci", scopes=frozenset({"*"}), expires_at=None, request_token="t"
        )
        with pytest.raises(AlreadyCreated) as caught:
            world.api_keys.create_api_key(
                caller, name="ci", scopes=frozenset({"*"}), expires_at=None, request_token="t"
            )
        assert caught.value.details == {"id": made.key.id}


@pytest.mark.parametrize(
    ("written", "stored"),
    [("Ada@Example.com", "ada@example.com"), ("a\u0308@example.com", "\u00e4@example.com")],
)
def test_an_address_has_one_spelling(written: str, stored: str) -> None:
    assert emails.normalise(written) == stored


def test_a_very_long_address_is_refused() -> None:
    with pytest.raises(ValidationFailed):
        emails.normalise("a" * 64 + "@" + ".".join(["b" * 60] * 4) + ".com")
