"""Logging in, refreshing and logging out, also by somebody who guesses passwords or stole a token."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from karma.audit.domain import AuditEvent, Source
from karma.core.errors import Forbidden, RateLimited, StorageThrottled, Unauthenticated
from karma.core.ids import UserId, new_id
from karma.core.ratelimit import LocalBuckets
from karma.identity.domain import REFRESH_GRACE, Role, User
from karma.identity.sessions.logins import LoginPlace, LoginThrottle
from karma.identity.sessions.service import SessionService
from karma.identity.sessions.signing_keys import KeyRing
from tests.fakes.accounts import caller_of
from tests.fakes.identity import RING, CountingPasswords, MemoryIdentities, MovableClock

DUMMY = "now:nobody's password"
HOME = Source(address="203.0.113.7", user_agent="browser", request_id="r1")


class World:
    def __init__(self) -> None:
        self.clock = MovableClock()
        self.identities = MemoryIdentities()
        self.passwords = CountingPasswords()
        self.changed: list[UserId] = []
        self.ring = RING
        self.sessions = SessionService(
            accounts=self.identities,
            sessions=self.identities,
            throttle=LoginThrottle(buckets=LocalBuckets(), networks=self.identities, clock=self.clock),
            passwords=self.passwords,
            dummy_hash=DUMMY,
            key_ring=lambda: self.ring,
            clock=self.clock,
            on_change=self.changed.append,
        )

    def add(self, name: str = "ada") -> User:
        now = self.clock.now()
        user = User(
            id=UserId(new_id()),
            email=f"{name}@example.com",
            name=name,
            avatar=None,
            password_hash="now:correct horse",
            role=Role.USER,
            email_verified=False,
            created_at=now,
            updated_at=now,
        )
        self.identities.create_user(user)
        return user

    def log_in(self, name: str = "ada") -> str:
        _, tokens = self.sessions.log_in(email=f"{name}@example.com", password="correct horse", source=HOME)
        return tokens.refresh_token

    def refresh(self, token: str) -> str:
        return self.sessions.refresh(token, source=HOME).refresh_token

    def events(self) -> list[AuditEvent]:
        return [entry.event for entry in self.identities.audit]


@pytest.fixture
def world() -> World:
    return World()


class TestLogIn:
    def test_verifies_one_password_for_a_known_address(self, world: World) -> None:
        user = world.add()
        assert world.sessions.log_in(email="Ada@example.com", password="correct horse", source=HOME)[0] == user
        assert world.passwords.verified == [user.password_hash]

    def test_a_wrong_password_and_an_unknown_address_look_and_cost_the_same(self, world: World) -> None:
        world.add()
        for email in ("ada@example.com", "eve@example.com", "not an address"):
            world.passwords.verified.clear()
            with pytest.raises(Unauthenticated, match="Invalid email or password"):
                world.sessions.log_in(email=email, password="wrong", source=HOME)
            assert len(world.passwords.verified) == 1

    def test_the_dummy_lets_nobody_in(self, world: World) -> None:
        with pytest.raises(Unauthenticated):
            world.sessions.log_in(email="eve@example.com", password="nobody's password", source=HOME)

    def test_an_outdated_hash_is_made_again(self, world: World) -> None:
        user = world.add()
        world.identities.users[user.id] = replace(user, password_hash="old:correct horse")
        world.log_in()
        assert world.identities.users[user.id].password_hash == "now:correct horse"

    def test_is_in_the_audit_log_with_its_source(self, world: World) -> None:
        user = world.add()
        world.log_in()
        [entry] = world.identities.audit
        assert (entry.event, entry.user_id, entry.actor_id) == (AuditEvent.LOGGED_IN, user.id, user.id)
        assert entry.source == HOME
        assert entry.details["method"] == "password"


@pytest.mark.req("R-M-37")
class TestGuessing:
    """An attacker who wants into ada@example.com, and Ada, who is at home on HOME."""

    HOURS = 24

    @staticmethod
    def guess(world: World, address: str, email: str = "ada@example.com") -> type[Exception]:
        with pytest.raises((Unauthenticated, RateLimited)) as caught:
            world.sessions.log_in(email=email, password="a guess", source=Source(address=address))
        return caught.type

    def test_from_one_address_ends_after_five(self, world: World) -> None:
        world.add()
        world.passwords.verified.clear()
        for _ in range(1_000):
            self.guess(world, "198.51.100.4")
        assert len(world.passwords.verified) == 5

    def test_from_a_thousand_addresses_is_bounded_for_the_account(self, world: World) -> None:
        world.add()
        for n in range(1_000):
            self.guess(world, f"198.51.{n // 250}.{n % 250}")
        assert len(world.passwords.verified) == 100

    def test_from_many_addresses_for_a_day_is_bounded_by_the_hour(self, world: World) -> None:
        world.add()
        for n in range(3_000):
            self.guess(world, f"198.{n // 2500}.{n % 2500 // 250}.{n % 250}")
            world.clock.pass_(seconds=self.HOURS * 3600 / 3_000)
        assert 100 * self.HOURS <= len(world.passwords.verified) <= 100 * (self.HOURS + 1)

    def test_from_the_addresses_of_one_ipv6_customer_counts_as_one(self, world: World) -> None:
        world.add()
        for n in range(1000):
            self.guess(world, f"2001:db8:1:2:{n:x}::1")
        assert len(world.passwords.verified) == 5

    def test_does_not_keep_the_owner_out_at_home(self, world: World) -> None:
        world.add()
        world.log_in()
        for n in range(2_000):
            self.guess(world, f"198.51.{n // 250}.{n % 250}")
            if n % 100 == 0:
                world.log_in()
        for _ in range(100):
            world.log_in()

    def test_from_a_few_networks_does_not_keep_the_owner_out_elsewhere(self, world: World) -> None:
        world.add()
        for n in range(1_000):
            self.guess(world, f"198.51.100.{n % 10}")
        world.sessions.log_in(email="ada@example.com", password="correct horse", source=Source(address="192.0.2.99"))

    def test_a_network_is_known_for_thirty_days(self, world: World) -> None:
        world.add()
        world.log_in()
        place = LoginPlace.of("ADA@example.com", HOME.address)
        world.clock.pass_(days=29, hours=23)
        assert world.identities.is_known_network(place, now=world.clock.now())
        world.clock.pass_(hours=1)
        assert not world.identities.is_known_network(place, now=world.clock.now())

    def test_from_the_owner_s_own_network_has_a_bucket_too(self, world: World) -> None:
        world.add()
        world.log_in()
        world.passwords.verified.clear()
        for _ in range(100):
            self.guess(world, str(HOME.address))
        assert len(world.passwords.verified) == 20

    def test_is_refused_alike_for_known_and_unknown_addresses(self, world: World) -> None:
        world.add()
        told = []
        for email in ("ada@example.com", "eve@example.com", "not an address"):
            outcomes = [self.guess(world, "198.51.100.4", email) for _ in range(6)]
            assert outcomes == [Unauthenticated] * 5 + [RateLimited]
            with pytest.raises(RateLimited) as caught:
                world.sessions.log_in(email=email, password="x", source=Source(address="198.51.100.4"))
            told.append((caught.value.message, caught.value.headers, caught.value.details))
        assert told[0] == told[1] == told[2]
        assert 0 < int(told[0][1]["Retry-After"]) <= 180

    def test_goes_on_when_the_time_that_was_named_has_passed(self, world: World) -> None:
        world.add()
        for _ in range(5):
            self.guess(world, "198.51.100.4")
        with pytest.raises(RateLimited) as caught:
            world.sessions.log_in(email="ada@example.com", password="x", source=Source(address="198.51.100.4"))
        world.clock.pass_(seconds=int(caught.value.headers["Retry-After"]))
        assert self.guess(world, "198.51.100.4") is Unauthenticated

    def test_is_in_the_audit_log_as_far_as_it_was_verified(self, world: World) -> None:
        user = world.add()
        for _ in range(100):
            self.guess(world, "198.51.100.4")
        assert world.events() == [AuditEvent.LOGIN_FAILED, AuditEvent.LOGIN_LOCKED], "one of each a minute"
        assert {(entry.user_id, entry.actor_id, entry.source.address) for entry in world.identities.audit} == {
            (user.id, None, "198.51.100.4")
        }


class TestRefresh:
    def test_trades_a_token_for_the_next(self, world: World) -> None:
        world.add()
        second = world.sessions.refresh(world.log_in(), source=HOME)
        world.refresh(second.refresh_token)
        assert second.expires_in_s == 1800

    def test_other_sessions_go_on_when_one_is_ended(self, world: World) -> None:
        world.add()
        first, other = world.log_in(), world.log_in()
        world.refresh(first)
        world.clock.pass_(minutes=1)
        with pytest.raises(Unauthenticated):
            world.refresh(first)
        world.refresh(other)

    def test_a_token_ends_after_thirty_days_unless_traded(self, world: World) -> None:
        world.add()
        first = world.log_in()
        world.clock.pass_(days=29)
        second = world.refresh(first)
        world.clock.pass_(days=29)
        third = world.refresh(second)
        world.clock.pass_(days=30)
        with pytest.raises(Unauthenticated):
            world.refresh(third)

    @pytest.mark.parametrize("token", ["unknown", "x" * 300, "\u00fc"])
    def test_an_unknown_token_is_refused(self, world: World, token: str) -> None:
        with pytest.raises(Unauthenticated):
            world.refresh(token)

    def test_tokens_are_stored_as_hashes(self, world: World) -> None:
        world.add()
        first = world.log_in()
        assert first not in repr(world.identities)
        assert world.refresh(first) not in repr(world.identities)

    def test_the_next_token_is_another_one_for_each_token_and_key(self, world: World) -> None:
        world.add()
        first, other = world.log_in(), world.log_in()
        seconds = {world.refresh(first), world.refresh(other)}
        world.ring = KeyRing(current="k1", keys=RING.keys)
        seconds.add(world.refresh(world.log_in()))
        assert len(seconds) == 3


class TestRefreshAgain:
    def test_at_once_gives_the_same_token_and_keeps_the_session(self, world: World) -> None:
        world.add()
        first = world.log_in()
        second = world.refresh(first)
        world.clock.pass_(seconds=REFRESH_GRACE.total_seconds())
        assert world.refresh(first) == second
        world.refresh(second)
        assert AuditEvent.REFRESH_REUSED not in world.events()

    def test_gives_the_same_token_although_another_key_signs_by_now(self, world: World) -> None:
        world.add()
        first = world.log_in()
        world.ring = KeyRing(current="k1", keys=RING.keys)
        second = world.refresh(first)
        world.ring = RING
        assert world.refresh(first) == second

    def test_after_the_grace_ends_the_session_and_is_audited(self, world: World) -> None:
        user = world.add()
        first = world.log_in()
        second = world.refresh(first)
        world.clock.at += REFRESH_GRACE + timedelta(milliseconds=1)
        thief = Source(address="198.51.100.4")
        for token in (first, second, first):
            with pytest.raises(Unauthenticated, match="Invalid authentication credentials"):
                world.sessions.refresh(token, source=thief)
        reuses = [entry for entry in world.identities.audit if entry.event is AuditEvent.REFRESH_REUSED]
        assert [(entry.user_id, entry.actor_id, entry.source) for entry in reuses] == [(user.id, None, thief)]

    def test_once_the_next_token_was_used_ends_the_session(self, world: World) -> None:
        world.add()
        first = world.log_in()
        third = world.refresh(world.refresh(first))
        for token in (first, third):
            with pytest.raises(Unauthenticated):
                world.refresh(token)
        assert AuditEvent.REFRESH_REUSED in world.events()

    @pytest.mark.parametrize("end", ["log_out", "everywhere", "disable"])
    def test_gives_nothing_once_the_session_is_over(self, world: World, end: str) -> None:
        user = world.add()
        first = world.log_in()
        second = world.refresh(first)
        world.clock.pass_(seconds=1)
        match end:
            case "log_out":
                world.sessions.log_out(caller_of(user), second, source=HOME)
            case "everywhere":
                world.sessions.log_out_everywhere(caller_of(user), source=HOME)
            case _:
                world.identities.users[user.id] = replace(user, disabled_at=world.clock.now())
        with pytest.raises(Unauthenticated):
            world.refresh(first)
        assert AuditEvent.REFRESH_REUSED not in world.events()

    def test_while_others_never_let_go_of_the_token_leaves_it_as_it_is(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.add()
        first = world.log_in()

        def busy(*_: object, **__: object) -> bool:
            raise StorageThrottled("busy")

        with monkeypatch.context() as patched:
            patched.setattr(world.identities, "trade", busy)
            with pytest.raises(StorageThrottled):
                world.refresh(first)
        world.refresh(first)


class TestLogOut:
    def test_ends_the_session_and_may_be_repeated(self, world: World) -> None:
        user = world.add()
        token = world.log_in()
        for _ in range(2):
            world.sessions.log_out(caller_of(user), token, source=HOME)
        with pytest.raises(Unauthenticated):
            world.refresh(token)
        assert world.events().count(AuditEvent.LOGGED_OUT) == 1

    def test_does_not_touch_another_person_s_session(self, world: World) -> None:
        world.add()
        token = world.log_in()
        world.sessions.log_out(caller_of(world.add("eve")), token, source=HOME)
        world.refresh(token)

    def test_everywhere_ends_all_sessions_of_one_person(self, world: World) -> None:
        user = world.add()
        world.add("eve")
        tokens, other = [world.log_in(), world.log_in()], world.log_in("eve")
        world.clock.pass_(seconds=1)
        world.sessions.log_out_everywhere(caller_of(user), source=HOME)
        for token in tokens:
            with pytest.raises(Unauthenticated):
                world.refresh(token)
        world.refresh(other)
        world.refresh(world.log_in())
        assert world.changed == [user.id]
        assert world.events().count(AuditEvent.ALL_SESSIONS_ENDED) == 1

    def test_is_not_for_api_keys(self, world: World) -> None:
        user = world.add()
        token = world.log_in()
        key = replace(caller_of(user), method="api_key", scopes=frozenset({"*"}))
        with pytest.raises(Forbidden):
            world.sessions.log_out(key, token, source=HOME)
        with pytest.raises(Forbidden):
            world.sessions.log_out_everywhere(key, source=HOME)
        world.refresh(token)
