from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.core.errors import AlreadyCreated, Forbidden, NotFound, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.identity.api_keys import MAX_API_KEYS, ApiKeyService
from karma.identity.audit import AuditEvent, Source
from karma.identity.domain import Role, User
from tests.fakes.accounts import caller_of
from tests.fakes.identity import MemoryIdentities, MovableClock

SOURCE = Source(address="203.0.113.7", request_id="r1")


class World:
    def __init__(self) -> None:
        self.clock = MovableClock()
        self.identities = MemoryIdentities()
        self.changed: list[UserId] = []
        self.api_keys = ApiKeyService(
            api_keys=self.identities, owners=self.identities, clock=self.clock, on_change=self.changed.append
        )
        self.ada = self.add("ada")

    def add(self, name: str) -> User:
        user = User(
            id=UserId(new_id()),
            email=f"{name}@example.com",
            name=name,
            avatar=None,
            password_hash="x",
            role=Role.USER,
            email_verified=True,
            created_at=self.clock.now(),
            updated_at=self.clock.now(),
        )
        self.identities.create_user(user)
        return user


@pytest.fixture
def world() -> World:
    return World()


class TestApiKeys:
    def test_are_shown_once_and_stored_as_hashes(self, world: World) -> None:
        caller = caller_of(world.ada)
        made = world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        assert made.secret.startswith(made.key.prefix)
        assert made.secret not in repr(world.identities)
        assert list(world.api_keys.list_api_keys(caller)) == [made.key]

    def test_of_another_person_are_neither_listed_nor_revoked(self, world: World) -> None:
        made = world.api_keys.create_api_key(
            caller_of(world.ada), name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE
        )
        eve = caller_of(world.add("eve"))
        assert not world.api_keys.list_api_keys(eve)
        with pytest.raises(NotFound):
            world.api_keys.revoke_api_key(eve, made.key.id, source=SOURCE)

    def test_that_were_revoked_leave_the_list_for_good(self, world: World) -> None:
        caller = caller_of(world.ada)
        made = world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        world.api_keys.revoke_api_key(caller, made.key.id, source=SOURCE)
        assert not world.api_keys.list_api_keys(caller)
        assert world.changed == [caller.user_id]
        with pytest.raises(NotFound):
            world.api_keys.revoke_api_key(caller, made.key.id, source=SOURCE)

    @pytest.mark.parametrize("key_id", ["", "x", "../..", "APIKEY#1"])
    def test_with_an_impossible_id_are_not_found(self, world: World, key_id: str) -> None:
        with pytest.raises(NotFound):
            world.api_keys.revoke_api_key(caller_of(world.ada), key_id, source=SOURCE)

    def test_cannot_make_or_revoke_keys(self, world: World) -> None:
        by_key = replace(caller_of(world.ada), method="api_key", scopes=frozenset({"*"}))
        with pytest.raises(Forbidden):
            world.api_keys.create_api_key(by_key, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        with pytest.raises(Forbidden):
            world.api_keys.revoke_api_key(by_key, "x", source=SOURCE)

    def test_are_not_for_an_address_that_nobody_has_proven(self, world: World) -> None:
        """Whoever registers another's address must keep no key when its owner takes the account."""
        caller = replace(caller_of(world.ada), email_verified=False)
        world.identities.users[world.ada.id] = replace(world.ada, email_verified=False)
        with pytest.raises(Forbidden) as caught:
            world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        assert caught.value.code == "EMAIL_NOT_VERIFIED"
        assert not world.api_keys.list_api_keys(caller)

    def test_are_made_as_soon_as_the_address_is_proven(self, world: World) -> None:
        """The caller may have been read a minute ago."""
        caller = replace(caller_of(world.ada), email_verified=False)
        world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        assert len(world.api_keys.list_api_keys(caller)) == 1

    def test_cannot_exceed_their_maker(self, world: World) -> None:
        viewer = replace(caller_of(world.ada), role=Role.VIEWER)
        with pytest.raises(Forbidden, match="Insufficient permissions"):
            world.api_keys.create_api_key(
                viewer, name="ci", scopes=frozenset({"device:control"}), expires_at=None, source=SOURCE
            )

    @pytest.mark.parametrize(("scope", "hours", "field"), [("device:fly", 1, "scopes"), ("*", 0, "expires_at")])
    def test_that_make_no_sense_are_refused(self, world: World, scope: str, hours: int, field: str) -> None:
        caller = caller_of(world.ada)
        expires_at = world.clock.now() + timedelta(hours=hours)
        with pytest.raises(ValidationFailed) as caught:
            world.api_keys.create_api_key(
                caller, name="ci", scopes=frozenset({scope}), expires_at=expires_at, source=SOURCE
            )
        assert isinstance(caught.value.details, list)
        assert caught.value.details[0]["field"] == field

    def test_are_limited_in_number(self, world: World) -> None:
        caller = caller_of(world.ada)
        for _ in range(MAX_API_KEYS):
            world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        with pytest.raises(ValidationFailed):
            world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)

    def test_are_made_once_for_a_repeated_request(self, world: World) -> None:
        caller = caller_of(world.ada)
        made = world.api_keys.create_api_key(
            caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE, request_token="t"
        )
        with pytest.raises(AlreadyCreated) as caught:
            world.api_keys.create_api_key(
                caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE, request_token="t"
            )
        assert caught.value.details == {"id": made.key.id}

    def test_are_audited_when_they_are_made_and_revoked(self, world: World) -> None:
        caller = caller_of(world.ada)
        made = world.api_keys.create_api_key(
            caller, name="ci", scopes=frozenset({"device:read", "run:read"}), expires_at=None, source=SOURCE
        )
        world.api_keys.revoke_api_key(caller, made.key.id, source=SOURCE)
        created, revoked = world.identities.audit
        assert (created.event, revoked.event) == (AuditEvent.API_KEY_CREATED, AuditEvent.API_KEY_REVOKED)
        assert created.details == {
            "api_key_id": made.key.id,
            "prefix": made.key.prefix,
            "scopes": "device:read run:read",
        }
        assert (created.actor_id, created.source) == (world.ada.id, SOURCE)
        assert made.secret not in repr(world.identities.audit)

    def test_are_listed_with_their_last_use(self, world: World) -> None:
        caller = caller_of(world.ada)
        used, unused = (
            world.api_keys.create_api_key(
                caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE
            ).key
            for _ in range(2)
        )
        now = world.clock.now()
        world.identities.note_use(used, now=now, unless_after=now - timedelta(hours=1))
        listed = {key.id: key.last_used_at for key in world.api_keys.list_api_keys(caller)}
        assert listed == {used.id: now, unused.id: None}
