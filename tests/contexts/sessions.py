"""Declarations of sessions for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from typing import Any, cast

import pytest

from karma.audit.domain import NOWHERE
from karma.core.errors import Unauthenticated
from karma.identity.domain import Credential, RefreshToken
from karma.identity.passwords.hashes import Passwords
from karma.identity.sessions.logins import LoginPlace, LoginThrottle
from karma.identity.sessions.repository import SessionRepository
from karma.identity.sessions.service import SessionService
from tests.contexts.mail import MailRows
from tests.fakes.devices import FakeClock
from tests.fakes.identity import RING
from tests.integration.permissions.world import PASSWORD, Bodies, World
from tests.support.contexts import Checks, Scenarios, made
from tests.support.rows import DAY, LATER, NOW


class SessionRows(MailRows):
    def __init__(self) -> None:
        super().__init__()
        self.sessions = SessionRepository()

    @property
    def place(self) -> LoginPlace:
        return LoginPlace.of(self.ada.email, "203.0.113.7")

    def refresh(self, text: str = "t1") -> RefreshToken:
        return RefreshToken(
            hash=f"{text}-{self.id}",
            user_id=self.ada.id,
            session_id=f"s-{self.id}",
            session_started_at=NOW,
            expires_at=NOW + 30 * DAY,
        )

    @cached_property
    def session(self) -> RefreshToken:
        token = self.refresh()
        assert self.sessions.start_session(token, place=self.place, now=NOW, entry=self.entry)
        return token

    @cached_property
    def shown(self) -> Credential:
        """Return the credential of a session of Ada's that has not ended."""
        return Credential(user_id=self.ada.id, session_id=self.session.session_id, began_at=NOW)

    @cached_property
    def shown_by_root(self) -> Credential:
        token = replace(self.refresh("r1"), user_id=self.root.id, session_id=f"r-{self.id}")
        assert self.sessions.start_session(token, place=self.place, now=NOW, entry=self.entry)
        return Credential(user_id=self.root.id, session_id=token.session_id, began_at=NOW)


SCENARIOS = Scenarios[SessionRows](
    SessionRows,
    {
        "SessionRepository.start_session": made(
            lambda r: (r.refresh(), r.place, r.entry),
            lambda r, n: r.sessions.start_session(n[0], place=n[1], now=NOW, entry=n[2]),
        ),
        "SessionRepository.is_known_network": made(
            lambda r: (r.session, r.place), lambda r, n: r.sessions.is_known_network(n[1], now=NOW)
        ),
        "SessionRepository.record_refusal": made(lambda r: r.entry, lambda r, e: r.sessions.record_refusal(e)),
        "SessionRepository.find_refresh_token": made(
            lambda r: r.session, lambda r, token: r.sessions.find_refresh_token(token.hash)
        ),
        "SessionRepository.trade": made(
            lambda r: r.session, lambda r, token: r.sessions.trade(token, r.refresh("t2"), now=LATER)
        ),
        "SessionRepository.is_tradable": made(lambda r: r.session, lambda r, token: r.sessions.is_tradable(token)),
        "SessionRepository.end_session": made(
            lambda r: (r.session, r.entry), lambda r, n: r.sessions.end_session(n[0].session_id, now=LATER, entry=n[1])
        ),
        "SessionRepository.end_all_sessions": made(
            lambda r: (r.entry, r.shown),
            lambda r, n: r.sessions.end_all_sessions(by=n[1], now=LATER, entry=n[0], api_keys=True),
        ),
    },
)


def _log_in(world: World, owner: str) -> dict[str, Any]:
    return {"email": world.person(owner).email, "password": PASSWORD}


def _refresh(world: World, owner: str) -> dict[str, Any]:
    answer = world.api("POST", "/api/v1/auth/login", _log_in(world, owner), headers={})
    return {"refresh_token": answer.data["refresh_token"]}


BODIES: Bodies = {
    "POST /api/v1/auth/login": _log_in,
    "POST /api/v1/auth/refresh": _refresh,
    "POST /api/v1/auth/logout": _refresh,
    "POST /api/v1/auth/logout-all": lambda *_: {"api_keys": False},
}


def _session_over(rows: SessionRows) -> None:
    token = rows.session
    service = SessionService(
        accounts=rows.users,
        sessions=rows.sessions,
        throttle=cast("LoginThrottle", None),  # nobody logs in with a password here
        passwords=cast("Passwords", None),
        dummy_hash="",
        key_ring=lambda: RING,
        clock=FakeClock(token.expires_at),
        on_change=lambda _: None,
    )
    with pytest.raises(Unauthenticated):
        service.refresh(token.hash, source=NOWHERE)


def _network_over(rows: SessionRows) -> None:
    rows.session  # noqa: B018
    assert rows.sessions.is_known_network(rows.place, now=NOW + 30 * DAY - timedelta(milliseconds=1))
    assert not rows.sessions.is_known_network(rows.place, now=NOW + 30 * DAY)


EXPIRES = Checks[SessionRows](
    SessionRows, {"session": _session_over, "refresh_token": _session_over, "known_network": _network_over}
)
