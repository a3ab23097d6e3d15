"""API keys are made, shown once, listed, limited and revoked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from karma.audit.domain import AuditEvent, Source
from karma.core.errors import AlreadyCreated, Forbidden, Gone, NotFound, Unauthenticated, ValidationFailed
from karma.core.ids import UserId, new_id
from karma.core.ratelimit import LocalBuckets
from karma.identity.api_keys.service import MAX_API_KEYS, ApiKeyService
from karma.identity.confirmation import ProofMissing
from karma.identity.domain import API_KEY_TTL, MAX_API_KEY_TTL, Caller, Role, User, WrongPassword
from karma.identity.permissions import ROLES_OF
from karma.mail.domain import MailKind
from tests.fakes.accounts import caller_of
from tests.fakes.identity import CountingPasswords, MemoryIdentities, MovableClock
from tests.fakes.mail import MemoryOutbox, outbox_relay
from tests.support.requests import key

SOURCE = Source(address="203.0.113.7", request_id="r1")


class World:
    def __init__(self) -> None:
        self.clock = MovableClock()
        self.identities = MemoryIdentities()
        self.changed: list[UserId] = []
        self.outbox = MemoryOutbox()
        self.api_keys = ApiKeyService(
            api_keys=self.identities,
            owners=self.identities,
            passwords=CountingPasswords(),
            buckets=LocalBuckets(),
            outbox_relay=outbox_relay(self.outbox, self.clock),
            clock=self.clock,
            on_change=self.changed.append,
        )
        self.ada = self.add("ada")

    def add(self, name: str) -> User:
        user = User(
            id=UserId(new_id()),
            email=f"{name}@example.com",
            name=name,
            avatar=None,
            password_hash="now:correct horse",
            role=Role.USER,
            email_verified=True,
            created_at=self.clock.now(),
            updated_at=self.clock.now(),
        )
        self.identities.create_user(user)
        return user

    def caller(self, user: User, *, minutes_ago: float = 0) -> Caller:
        """Return a caller who logged in so many minutes ago."""
        session_id = new_id()
        self.identities.sessions[session_id] = False
        return caller_of(user, logged_in_at=self.clock.now() - timedelta(minutes=minutes_ago), session_id=session_id)


@pytest.fixture
def world() -> World:
    return World()


class TestApiKeys:
    def test_are_shown_once_and_stored_as_hashes(self, world: World) -> None:
        caller = world.caller(world.ada)
        made = world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        assert made.secret.startswith(made.key.prefix)
        assert made.secret not in repr(world.identities)
        assert list(world.api_keys.list_api_keys(caller)) == [made.key]

    def test_of_another_person_are_neither_listed_nor_revoked(self, world: World) -> None:
        made = world.api_keys.create_api_key(
            world.caller(world.ada), name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE
        )
        eve = world.caller(world.add("eve"))
        assert not world.api_keys.list_api_keys(eve)
        with pytest.raises(NotFound):
            world.api_keys.revoke_api_key(eve, made.key.id, source=SOURCE)

    def test_that_were_revoked_leave_the_list_for_good(self, world: World) -> None:
        caller = world.caller(world.ada)
        made = world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        world.api_keys.revoke_api_key(caller, made.key.id, source=SOURCE)
        assert not world.api_keys.list_api_keys(caller)
        assert world.changed == [caller.user_id]
        with pytest.raises(NotFound):
            world.api_keys.revoke_api_key(caller, made.key.id, source=SOURCE)

    @pytest.mark.parametrize("key_id", ["", "x", "../..", "APIKEY#1"])
    def test_with_an_impossible_id_are_not_found(self, world: World, key_id: str) -> None:
        with pytest.raises(NotFound):
            world.api_keys.revoke_api_key(world.caller(world.ada), key_id, source=SOURCE)

    def test_cannot_make_or_revoke_keys(self, world: World) -> None:
        by_key = replace(world.caller(world.ada), method="api_key", scopes=frozenset({"*"}))
        with pytest.raises(Forbidden):
            world.api_keys.create_api_key(by_key, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        with pytest.raises(Forbidden):
            world.api_keys.revoke_api_key(by_key, "x", source=SOURCE)

    def test_are_not_for_an_address_that_nobody_has_proven(self, world: World) -> None:
        """Whoever registers another's address must keep no key when its owner takes the account."""
        caller = replace(world.caller(world.ada), email_verified=False)
        world.identities.users[world.ada.id] = replace(world.ada, email_verified=False)
        with pytest.raises(Forbidden) as caught:
            world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        assert caught.value.code == "EMAIL_NOT_VERIFIED"
        assert not world.api_keys.list_api_keys(caller)

    def test_are_made_as_soon_as_the_address_is_proven(self, world: World) -> None:
        """The caller may have been read a minute ago."""
        caller = replace(world.caller(world.ada), email_verified=False)
        world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        assert len(world.api_keys.list_api_keys(caller)) == 1

    @pytest.mark.fault("F-24h")
    def test_cannot_exceed_their_maker(self, world: World) -> None:
        viewer = replace(world.caller(world.ada), role=Role.VIEWER)
        with pytest.raises(Forbidden, match="Insufficient permissions") as refused:
            world.api_keys.create_api_key(
                viewer, name="ci", scopes=frozenset({"device:control"}), expires_at=None, source=SOURCE
            )
        assert isinstance(refused.value.details, Mapping)
        assert refused.value.details["permission"] == "device:control"

    @pytest.mark.fault("F-24h")
    def test_of_unknown_scopes_are_refused_with_all_that_there_are(self, world: World) -> None:
        asked = frozenset({"nonsense", "other", "device:read"})
        with pytest.raises(ValidationFailed) as refused:
            world.api_keys.create_api_key(
                world.caller(world.ada), name="ci", scopes=asked, expires_at=None, source=SOURCE
            )
        assert isinstance(refused.value.details, list)
        [told] = refused.value.details
        assert all(repr(scope) in told["message"] for scope in asked - {"device:read"})
        assert all(permission in told["message"] for permission in ROLES_OF)

    @pytest.mark.parametrize(("scope", "hours", "field"), [("device:fly", 1, "scopes"), ("*", 0, "expires_at")])
    def test_that_make_no_sense_are_refused(self, world: World, scope: str, hours: int, field: str) -> None:
        caller = world.caller(world.ada)
        expires_at = world.clock.now() + timedelta(hours=hours)
        with pytest.raises(ValidationFailed) as caught:
            world.api_keys.create_api_key(
                caller, name="ci", scopes=frozenset({scope}), expires_at=expires_at, source=SOURCE
            )
        assert isinstance(caught.value.details, list)
        assert caught.value.details[0]["field"] == field

    def test_are_limited_in_number(self, world: World) -> None:
        caller = world.caller(world.ada)
        for _ in range(MAX_API_KEYS):
            world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)
        with pytest.raises(ValidationFailed):
            world.api_keys.create_api_key(caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE)

    def test_are_made_once_for_a_repeated_request(self, world: World) -> None:
        caller = world.caller(world.ada)
        made = world.api_keys.create_api_key(
            caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE, idempotency_key=key("t")
        )
        with pytest.raises(AlreadyCreated) as caught:
            world.api_keys.create_api_key(
                caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE, idempotency_key=key("t")
            )
        assert caught.value.details == {"id": made.key.id}

    def test_are_not_made_again_once_revoked(self, world: World) -> None:
        caller = world.caller(world.ada)
        made = world.api_keys.create_api_key(
            caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE, idempotency_key=key("t")
        )
        world.api_keys.require_made(caller, made.key.id)
        world.api_keys.revoke_api_key(caller, made.key.id, source=SOURCE)
        with pytest.raises(NotFound):
            world.api_keys.require_made(caller, made.key.id)
        with pytest.raises(Gone) as caught:
            world.api_keys.create_api_key(
                caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE, idempotency_key=key("t")
            )
        assert caught.value.details == {"id": made.key.id}

    def test_are_audited_when_they_are_made_and_revoked(self, world: World) -> None:
        caller = world.caller(world.ada)
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
        caller = world.caller(world.ada)
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


PASSWORD = "correct horse"
PROOFS: list[tuple[bool, float | None, str | None, type[Exception] | None]] = [
    # has a password, minutes since the login of the session, password given, refused as
    (True, 0, None, None),
    (True, 9.9, None, None),
    (True, 10.1, None, ProofMissing),
    (True, None, None, ProofMissing),
    (True, 600, PASSWORD, None),
    (True, None, PASSWORD, None),
    (True, 600, "a guess", WrongPassword),
    (True, 1, "a guess", WrongPassword),
    (False, 1, None, None),
    (False, 11, None, ProofMissing),
    (False, 11, "anything", ProofMissing),
    (False, None, None, ProofMissing),
]


@pytest.mark.fault("F-21a")
class TestAKeyThatIsAskedFor:
    @pytest.mark.parametrize(("has_password", "minutes_ago", "given", "refusal"), PROOFS)
    def test_needs_a_fresh_proof_by_whoever_has_this_session(
        self,
        world: World,
        has_password: bool,
        minutes_ago: float | None,
        given: str | None,
        refusal: type[Exception] | None,
    ) -> None:
        if not has_password:
            world.identities.users[world.ada.id] = replace(world.ada, password_hash=None)
        world.caller(world.ada)  # their owner has just logged in elsewhere, which proves nothing of this session
        caller = caller_of(world.ada) if minutes_ago is None else world.caller(world.ada, minutes_ago=minutes_ago)

        def ask() -> None:
            world.api_keys.create_api_key(
                caller,
                name="ci",
                scopes=frozenset({"*"}),
                expires_at=None,
                current_password=given,
                source=SOURCE,
            )

        if refusal is None:
            ask()
            assert [mail.kind for mail in world.identities.mails] == [MailKind.API_KEY_CREATED]
        else:
            with pytest.raises(refusal):
                ask()
            assert (world.identities.keys, world.identities.mails) == ({}, [])

    def test_ends_after_ninety_days_unless_its_maker_says_otherwise(self, world: World) -> None:
        caller, now = world.caller(world.ada), world.clock.now()
        for asked, given in [(None, API_KEY_TTL), (MAX_API_KEY_TTL, MAX_API_KEY_TTL), (timedelta(1), timedelta(1))]:
            made = world.api_keys.create_api_key(
                caller,
                name="ci",
                scopes=frozenset({"*"}),
                expires_at=None if asked is None else now + asked,
                source=SOURCE,
            )
            assert made.key.expires_at == now + given
        with pytest.raises(ValidationFailed) as refused:
            world.api_keys.create_api_key(
                caller,
                name="ci",
                scopes=frozenset({"*"}),
                expires_at=now + MAX_API_KEY_TTL + timedelta(seconds=1),
                source=SOURCE,
            )
        assert refused.value.details == [
            {"field": "expires_at", "message": "is at most 366 days away", "type": "value_error"}
        ]

    def test_is_refused_to_a_session_that_ended_a_moment_ago(self, world: World) -> None:
        """Another process may take the session for alive for up to a minute."""
        for end in ("one", "all", "disabled"):
            caller = world.caller(world.ada)
            assert caller.credential is not None
            user = world.identities.users[world.ada.id]
            if end == "one":
                world.identities.sessions[caller.credential.session_id or ""] = True
            elif end == "all":
                world.identities.users[user.id] = replace(user, sessions_from=world.clock.now() + timedelta(seconds=1))
            else:
                world.identities.users[user.id] = replace(user, disabled_at=world.clock.now())
            with pytest.raises(Unauthenticated):
                world.api_keys.create_api_key(
                    caller, name="ci", scopes=frozenset({"*"}), expires_at=None, source=SOURCE
                )
            world.identities.users[user.id] = user
