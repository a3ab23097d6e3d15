"""Declarations of logins at providers for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.ids import new_id
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.oauth.domain import Flow, Link, LoginCode, Profile, ProviderName, digest
from karma.identity.oauth.repository import OAuthRepository
from tests.contexts.sessions import SessionRows
from tests.integration.permissions.world import PASSWORD, Bodies, Objects, Queries, World
from tests.support.contexts import Checks, Scenarios, made
from tests.support.rows import LATER, NOW


class OAuthRows(SessionRows):
    def __init__(self) -> None:
        super().__init__()
        self.oauth = OAuthRepository()

    @cached_property
    def flow(self) -> Flow:
        return Flow(
            state_hash=f"state-{self.id}",
            provider=ProviderName.GITHUB,
            browser_hash="b",
            code_verifier="v",
            nonce="n",
            redirect="https://app.example.com/",
            expires_at=LATER,
        )

    @cached_property
    def begun(self) -> Flow:
        self.oauth.create_flow(self.flow, now=NOW)
        return self.flow

    @cached_property
    def profile(self) -> Profile:
        return Profile(provider=ProviderName.GITHUB, subject=self.id, email=self.ada.email, name="Ada")

    @cached_property
    def linked(self) -> list[Link]:
        assert self.oauth.link(self.ada, self.profile, now=NOW, entry=self.entry)
        return self.oauth.links(self.ada.id)

    @cached_property
    def code(self) -> LoginCode:
        return LoginCode(hash=f"code-{self.id}", user_id=self.ada.id, provider=ProviderName.GITHUB, expires_at=LATER)

    @cached_property
    def given(self) -> LoginCode:
        self.oauth.create_login_code(self.code, now=NOW)
        return self.code


SCENARIOS = Scenarios[OAuthRows](
    OAuthRows,
    {
        "OAuthRepository.create_flow": made(
            lambda r: replace(r.flow, link_to=r.ada.id, begun_by=r.shown),
            lambda r, flow: r.oauth.create_flow(flow, now=NOW),
        ),
        "OAuthRepository.take_flow": made(
            lambda r: r.begun,
            lambda r, flow: r.oauth.take_flow(
                flow.state_hash, provider=flow.provider, browser_hash=flow.browser_hash, now=NOW
            ),
        ),
        "OAuthRepository.find_identity": made(
            lambda r: r.profile, lambda r, profile: r.oauth.find_identity(profile.provider, profile.subject_hash)
        ),
        "OAuthRepository.link": made(
            lambda r: (r.ada, r.profile, r.entry, r.shown),
            lambda r, n: r.oauth.link(n[0], n[1], by=n[3], now=NOW, entry=n[2]),
        ),
        "OAuthRepository.links": made(lambda r: r.linked, lambda r, _: r.oauth.links(r.ada.id)),
        "OAuthRepository.unlink": made(
            lambda r: (r.linked, r.entry, r.shown), lambda r, n: r.oauth.unlink(r.ada, n[0], by=n[2], entry=n[1])
        ),
        "OAuthRepository.create_login_code": made(
            lambda r: r.code, lambda r, code: r.oauth.create_login_code(code, now=NOW)
        ),
        "OAuthRepository.take_login_code": made(
            lambda r: r.given, lambda r, code: r.oauth.take_login_code(code.hash, now=NOW)
        ),
    },
)


def _linked(world: World, owner: str, _: Mapping[str, str]) -> str:
    now, user = datetime.now(UTC), DirectoryRepository().read_user(world.person(owner).id)
    assert user is not None
    profile = Profile(provider=ProviderName.GITHUB, subject=new_id(), email=None, name="Ada")
    entry = AuditEntry(user_id=user.id, event=AuditEvent.PROVIDER_LINKED, at=now, actor_id=user.id)
    assert OAuthRepository().link(user, profile, now=now, entry=entry)
    return profile.provider.value


def _login_code(world: World, owner: str) -> dict[str, Any]:
    now, text = datetime.now(UTC), new_id()
    made = LoginCode(
        hash=digest(text),
        user_id=world.person(owner).id,
        provider=ProviderName.GITHUB,
        expires_at=now + timedelta(minutes=1),
    )
    OAuthRepository().create_login_code(made, now=now)
    return {"code": text}


def _denied_login() -> tuple[str, dict[str, str]]:
    """Return the callback of a browser in which the person refused the login."""
    now, state = datetime.now(UTC), new_id()
    flow = Flow(
        state_hash=digest(state),
        provider=ProviderName.GITHUB,
        browser_hash=digest(state),
        code_verifier="v" * 64,
        nonce="n",
        redirect="https://app.example.com/",
        expires_at=now + timedelta(minutes=1),
    )
    OAuthRepository().create_flow(flow, now=now)
    cookie = f"__Host-karma-oauth={state}"
    return f"state={state}&error=access_denied", {"cookie": cookie, "accept": "text/html"}


OBJECTS: Objects = {"provider": lambda *_: "github", "provider of DELETE /api/v1/users/me/links/{provider}": _linked}

SHARED = {"provider"}

BODIES: Bodies = {
    "POST /api/v1/auth/oauth/exchange": _login_code,
    "POST /api/v1/auth/oauth/{provider}/link": lambda *_: {"current_password": PASSWORD},
}

QUERIES: Queries = {"GET /api/v1/auth/oauth/{provider}/callback": _denied_login}


def _flow_over(rows: OAuthRows) -> None:
    flow = rows.begun
    assert not rows.oauth.take_flow(
        flow.state_hash, provider=flow.provider, browser_hash=flow.browser_hash, now=flow.expires_at
    )


def _code_over(rows: OAuthRows) -> None:
    assert not rows.oauth.take_login_code(rows.given.hash, now=rows.code.expires_at)


EXPIRES = Checks[OAuthRows](OAuthRows, {"oauth_flow": _flow_over, "login_code": _code_over})
