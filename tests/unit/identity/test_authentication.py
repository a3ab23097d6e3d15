"""Access tokens and API keys name their caller, or are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.core.errors import Forbidden, NotFound, Unauthenticated
from karma.core.ids import ApiKeyId, UserId, new_id
from karma.identity.domain import ApiKey, Role, User
from karma.identity.sessions import tokens
from karma.identity.sessions.authentication import Authenticator, hash_api_key
from karma.identity.sessions.signing_keys import KeyRing
from tests.fakes.identity import RING, MemoryIdentities, MovableClock

SECRET = "karma_" + "s" * 43


class World:
    def __init__(self) -> None:
        self.clock = MovableClock()
        self.identities = MemoryIdentities()
        self.authenticator = Authenticator(
            users=self.identities,
            api_keys=self.identities,
            key_ring=lambda: RING,
            newer_key_ring=self.newer_key_ring,
            clock=self.clock,
        )
        self.newer = RING
        self.renewals = 0
        now = self.clock.now()
        self.user = User(
            id=UserId(new_id()),
            email="ada@example.com",
            name="Ada",
            avatar=None,
            password_hash="x",
            role=Role.USER,
            email_verified=True,
            created_at=now,
            updated_at=now,
        )
        self.identities.users[self.user.id] = self.user

    def newer_key_ring(self) -> KeyRing:
        self.renewals += 1
        return self.newer

    def bearer(self) -> str:
        return "Bearer " + tokens.issue(self.user.id, ring=RING, now=self.clock.now())

    def add_key(self, *, valid_for: timedelta | None = None) -> ApiKey:
        now = self.clock.now()
        key = ApiKey(
            id=ApiKeyId(new_id()),
            user_id=self.user.id,
            name="ci",
            prefix=SECRET[:12],
            hash=hash_api_key(SECRET),
            scopes=frozenset({"device:read"}),
            created_at=now,
            expires_at=now + valid_for if valid_for else None,
            revoked_at=None,
        )
        self.identities.keys[key.id] = key
        return key


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.req("R-K-31", "R-K-32", "R-A-32")
class TestABearerToken:
    def test_names_the_caller(self, world: World) -> None:
        caller = world.authenticator.authenticate(world.bearer(), None)
        assert (caller.user_id, caller.role, caller.method) == (world.user.id, Role.USER, "jwt")

    def test_is_read_with_any_spelling_of_the_scheme(self, world: World) -> None:
        world.authenticator.authenticate(world.bearer().replace("Bearer", "bEARER"), None)

    def test_of_nobody_is_required(self, world: World) -> None:
        with pytest.raises(Unauthenticated, match="Authentication required"):
            world.authenticator.authenticate(None, None)

    @pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer ", "nonsense"])
    def test_of_another_scheme_is_refused(self, world: World, header: str) -> None:
        with pytest.raises(Unauthenticated, match="Invalid authentication credentials"):
            world.authenticator.authenticate(header, None)

    def test_of_a_user_who_is_gone_is_not_found(self, world: World) -> None:
        del world.identities.users[world.user.id]
        with pytest.raises(NotFound, match="User not found"):
            world.authenticator.authenticate(world.bearer(), None)

    def test_of_a_disabled_account_is_refused(self, world: World) -> None:
        world.identities.users[world.user.id] = replace(world.user, disabled_at=world.clock.now())
        with pytest.raises(Forbidden, match="The account is disabled"):
            world.authenticator.authenticate(world.bearer(), None)

    def test_from_before_all_sessions_were_ended_is_refused(self, world: World) -> None:
        before = world.bearer()
        world.clock.pass_(milliseconds=1)
        world.identities.users[world.user.id] = replace(world.user, sessions_from=world.clock.now())
        with pytest.raises(Unauthenticated, match="Invalid authentication credentials"):
            world.authenticator.authenticate(before, None)
        world.authenticator.authenticate(world.bearer(), None)

    def test_reads_the_user_once_a_minute(self, world: World) -> None:
        for _ in range(3):
            world.authenticator.authenticate(world.bearer(), None, reading=True)
        assert world.identities.reads == 1
        world.authenticator.forget(world.user.id)
        world.authenticator.authenticate(world.bearer(), None, reading=True)
        assert world.identities.reads == 2

    @pytest.mark.fault("F-21j")
    def test_is_asked_about_anew_for_each_change_and_renews_what_is_kept(self, world: World) -> None:
        auth, identities = world.authenticator, world.identities
        auth.authenticate(world.bearer(), None, reading=True)
        identities.users[world.user.id] = replace(world.user, role=Role.VIEWER)
        assert auth.authenticate(world.bearer(), None, reading=True).role is Role.USER
        assert auth.authenticate(world.bearer(), None).role is Role.VIEWER
        assert auth.authenticate(world.bearer(), None, reading=True).role is Role.VIEWER

    @pytest.mark.fault("F-21j")
    def test_of_a_session_that_is_over_only_reads(self, world: World) -> None:
        session_id, now = new_id(), world.clock.now()
        token = "Bearer " + tokens.issue(world.user.id, ring=RING, now=now, session_id=session_id, authenticated_at=now)
        for over in (False, True):
            world.identities.sessions[session_id] = over
            assert world.authenticator.authenticate(token, None, reading=True).user_id == world.user.id
            if not over:
                assert world.authenticator.authenticate(token, None).user_id == world.user.id
        with pytest.raises(Unauthenticated, match="The session is over") as caught:
            world.authenticator.authenticate(token, None)
        assert caught.value.headers == {"WWW-Authenticate": "Bearer"}
        world.identities.sessions[session_id] = False  # whoever asked the store now would find that it goes on
        with pytest.raises(Unauthenticated, match="The session is over"):
            world.authenticator.authenticate(token, None)

    @pytest.mark.fault("F-21j")
    @pytest.mark.parametrize("reading", [False, True])
    def test_that_was_refreshed_while_all_sessions_were_ended_is_as_old_as_its_login(
        self, world: World, *, reading: bool
    ) -> None:
        session_id, began = new_id(), world.clock.now()
        world.identities.sessions[session_id] = False
        world.clock.pass_(seconds=1)
        world.identities.users[world.user.id] = replace(world.user, sessions_from=world.clock.now())
        world.clock.pass_(milliseconds=1)
        now = world.clock.now()
        token = tokens.issue(world.user.id, ring=RING, now=now, session_id=session_id, authenticated_at=began)
        with pytest.raises(Unauthenticated, match="Invalid authentication credentials"):
            world.authenticator.authenticate(f"Bearer {token}", None, reading=reading)


@pytest.mark.req("R-A-33")
class TestAnApiKey:
    def test_names_its_owner_with_its_scopes(self, world: World) -> None:
        world.add_key()
        caller = world.authenticator.authenticate(None, SECRET)
        assert (caller.user_id, caller.method, caller.scopes) == (world.user.id, "api_key", frozenset({"device:read"}))

    @pytest.mark.parametrize("key", ["karma_unknown", "x" * 5000, "karma_\u00fc", "sk_other"])
    def test_that_is_unknown_is_refused(self, world: World, key: str) -> None:
        with pytest.raises(Unauthenticated, match="Invalid API Key"):
            world.authenticator.authenticate(None, key)

    def test_that_expired_is_refused_though_it_is_kept(self, world: World) -> None:
        world.add_key(valid_for=timedelta(seconds=30))
        world.authenticator.authenticate(None, SECRET)
        world.clock.pass_(seconds=30)
        with pytest.raises(Unauthenticated, match="Invalid API Key"):
            world.authenticator.authenticate(None, SECRET)

    def test_that_was_revoked_here_is_refused_at_once(self, world: World) -> None:
        key = world.add_key()
        world.authenticator.authenticate(None, SECRET, reading=True)
        world.identities.keys[key.id] = replace(key, revoked_at=world.clock.now())
        world.authenticator.forget(world.user.id)
        with pytest.raises(Unauthenticated, match="Invalid API Key"):
            world.authenticator.authenticate(None, SECRET, reading=True)

    @pytest.mark.fault("F-21j")
    def test_that_was_revoked_elsewhere_changes_nothing_and_then_reads_nothing(self, world: World) -> None:
        key = world.add_key()
        world.authenticator.authenticate(None, SECRET, reading=True)
        world.identities.keys[key.id] = replace(key, revoked_at=world.clock.now())
        world.authenticator.authenticate(None, SECRET, reading=True)
        for reading in (False, True):
            with pytest.raises(Unauthenticated, match="Invalid API Key"):
                world.authenticator.authenticate(None, SECRET, reading=reading)

    def test_notes_its_first_use_and_then_one_an_hour(self, world: World) -> None:
        key = world.add_key()
        noted = set()
        for _ in range(121):
            world.authenticator.authenticate(None, SECRET)
            noted.add(world.identities.keys[key.id].last_used_at)
            world.clock.pass_(minutes=1)
        start = world.clock.now() - timedelta(minutes=121)
        assert noted == {start, start + timedelta(minutes=60), start + timedelta(minutes=120)}

    def test_of_a_disabled_account_is_not_noted(self, world: World) -> None:
        key = world.add_key()
        world.identities.users[world.user.id] = replace(world.user, disabled_at=world.clock.now())
        with pytest.raises(Forbidden):
            world.authenticator.authenticate(None, SECRET)
        assert world.identities.keys[key.id].last_used_at is None

    def test_is_not_looked_at_beside_a_bad_token(self, world: World) -> None:
        world.add_key()
        with pytest.raises(Unauthenticated, match="Invalid authentication credentials"):
            world.authenticator.authenticate("Bearer x", SECRET)


class TestATokenOfANewerKey:
    RING = KeyRing(current="k3", keys={**RING.keys, "k3": "a-key-that-was-added-a-moment-ago-by-somebody"})

    def test_is_believed_after_a_second_look(self, world: World) -> None:
        world.newer = self.RING
        token = tokens.issue(world.user.id, ring=self.RING, now=world.clock.now())
        assert world.authenticator.authenticate(f"Bearer {token}", None).user_id == world.user.id
        assert world.renewals == 1

    def test_is_refused_like_any_other_when_nobody_knows_the_key(self, world: World) -> None:
        token = tokens.issue(world.user.id, ring=self.RING, now=world.clock.now())
        with pytest.raises(Unauthenticated, match="Invalid authentication credentials") as caught:
            world.authenticator.authenticate(f"Bearer {token}", None)
        assert caught.value.headers == {"WWW-Authenticate": "Bearer"}
        assert type(caught.value) is Unauthenticated

    def test_of_a_known_key_needs_no_second_look(self, world: World) -> None:
        world.authenticator.authenticate(world.bearer(), None)
        with pytest.raises(Unauthenticated):
            world.authenticator.authenticate(world.bearer()[:-4] + "AAAA", None)
        assert world.renewals == 0
