"""No API key of a thief outlives the reset or logout by which the owner ends it: logins, ends and keys in any order."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from karma.audit.domain import NOWHERE
from karma.core.errors import AppError
from karma.core.ratelimit import LocalBuckets
from karma.identity.api_keys.service import ApiKeyService
from karma.identity.domain import Caller
from karma.identity.sessions.authentication import Authenticator
from karma.identity.sessions.logins import LoginThrottle
from karma.identity.sessions.service import SessionService
from tests.fakes.accounts import PASSWORD, AccountWorld
from tests.fakes.identity import RING

EMAIL = "ada@example.com"
STEPS = ["log in", "make a key", "log out", "log out everywhere", "log out with keys", "reset", "refresh", "wait"]


class World(AccountWorld):
    """An account with its sessions and keys, and who was let in by what."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions = SessionService(
            accounts=self.identities,
            sessions=self.identities,
            throttle=LoginThrottle(buckets=LocalBuckets(), networks=self.identities, clock=self.clock),
            passwords=self.passwords,
            dummy_hash="now:nobody's",
            key_ring=lambda: RING,
            clock=self.clock,
            on_change=self.changed.append,
        )
        self.api_keys = ApiKeyService(
            api_keys=self.identities,
            owners=self.identities,
            passwords=self.passwords,
            buckets=self.buckets,
            outbox_relay=self.outbox_relay,
            clock=self.clock,
            on_change=self.changed.append,
        )
        self.user = self.verified(EMAIL)
        self.password = PASSWORD
        self.callers: list[tuple[Caller, str]] = []
        """Callers as other processes may still cache them, with their refresh tokens."""
        self.keys: list[tuple[datetime, str]] = []
        self.last_end: datetime | None = None
        """Moment at which all sessions and keys were ended last; None: never."""

    def authenticate(self, *, token: str | None = None, key: str | None = None) -> Caller:
        asked = Authenticator(
            users=self.identities,
            api_keys=self.identities,
            key_ring=lambda: RING,
            newer_key_ring=lambda: RING,
            clock=self.clock,
        )
        return asked.authenticate(f"Bearer {token}" if token else None, key)

    def act(self, step: str) -> None:
        self.clock.pass_(seconds=1)
        caller, refresh_token = self.callers[-1] if self.callers else (None, "")
        match step:
            case "log in":
                _, tokens = self.sessions.log_in(email=EMAIL, password=self.password, source=NOWHERE)
                self.callers.append((self.authenticate(token=tokens.access_token), tokens.refresh_token))
            case "refresh" if caller:
                tokens = self.sessions.refresh(refresh_token, source=NOWHERE)
                self.callers.append((self.authenticate(token=tokens.access_token), tokens.refresh_token))
            case "make a key" if caller:
                for each, _ in self.callers[-3:]:
                    with contextlib.suppress(AppError):
                        made = self.api_keys.create_api_key(
                            each, name="k", scopes=frozenset({"*"}), expires_at=None, source=NOWHERE
                        )
                        self.keys.append((self.clock.now(), made.secret))
            case "log out" if caller:
                self.sessions.log_out(caller, refresh_token, source=NOWHERE)
            case "log out everywhere" | "log out with keys" if caller:
                self.sessions.log_out_everywhere(caller, api_keys=step.endswith("keys"), source=NOWHERE)
                if step.endswith("keys"):
                    self.last_end = self.clock.now()
            case "reset":
                self.buckets = LocalBuckets()
                self.password_changes._buckets = self.buckets
                self.password_changes.forgot(email=EMAIL)
                self.clock.pass_(seconds=1)
                self.password_changes.reset(token=self.token_for(EMAIL), password=PASSWORD, source=NOWHERE)
                self.last_end = self.clock.now()
            case "wait":
                self.clock.pass_(minutes=11)

    def check(self) -> None:
        for made_at, secret in self.keys:
            ended = self.last_end is not None and made_at <= self.last_end
            try:
                self.authenticate(key=secret)
            except AppError:
                assert ended, "a key that nobody ended works no more"
            else:
                assert not ended, "a key lives on that was ended"


@pytest.mark.fault("F-21a")
@given(steps=st.lists(st.sampled_from(STEPS), max_size=14))
def test_no_key_outlives_a_reset_or_a_logout_that_asks_for_it(steps: list[str]) -> None:
    world = World()
    for step in steps:
        with contextlib.suppress(AppError):
            world.act(step)
        world.check()
    after = len(world.keys)
    for caller, _ in world.callers:
        if caller.authenticated_at is None or world.clock.now() - caller.authenticated_at > timedelta(minutes=10):
            with contextlib.suppress(AppError):
                world.api_keys.create_api_key(
                    caller, name="k", scopes=frozenset({"*"}), expires_at=None, source=NOWHERE
                )
                raise AssertionError("an old session made a key")
    assert len(world.keys) == after


@pytest.mark.fault("F-21a")
def test_a_session_that_was_ended_makes_no_key_even_where_it_is_still_believed() -> None:
    for end in ("log out", "log out everywhere", "reset"):
        world = World()
        world.act("log in")
        world.act(end)
        world.act("make a key")
        assert world.keys == [], end


@pytest.mark.fault("F-21a")
def test_a_refreshed_session_is_as_old_as_its_login() -> None:
    world = World()
    world.act("log in")
    world.clock.pass_(minutes=9)
    world.act("refresh")
    world.clock.pass_(minutes=2)
    world.act("make a key")
    assert world.keys == []


def test_a_caller_is_known_with_the_session_it_showed() -> None:
    world = World()
    world.act("log in")
    [(caller, _)] = world.callers
    assert caller.credential is not None
    assert caller.authenticated_at == caller.credential.began_at == world.clock.now()
    assert replace(caller, credential=None).authenticated_at is None
