"""Ports of logins through providers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from karma.audit.domain import AuditEntry, Source
from karma.core.ids import UserId
from karma.identity.domain import Credential, Tokens, User
from karma.identity.oauth.domain import Flow, Link, LoginCode, Profile, ProviderName


class Provider(Protocol):
    """An authorization server, see karma/integrations/oauth."""

    def authorization_url(self, flow: Flow, *, state: str, redirect_uri: str) -> str:
        """Return the page at which the person logs in and agrees.

        Raises:
            ProviderNotConfigured: the stage has no client at the provider.
            Upstream: the provider must be asked first, and does not answer.
        """
        ...

    def profile(self, flow: Flow, *, code: str, redirect_uri: str) -> Profile:
        """Trade a code, which can be used once, for the person's profile.

        Raises:
            ProviderNotConfigured: the stage has no client at the provider.
            InvalidCode: the provider does not accept the code, or not with this flow's verifier.
            Unauthenticated: the provider's id_token does not verify.
            Upstream: the provider does not answer, not in time, or not by the protocol.
        """
        ...


class Flows(Protocol):
    """Flows, login codes and links; oauth/repository.py says what each method promises."""

    def create_flow(self, flow: Flow, *, now: datetime) -> None: ...  # noqa: D102
    def take_flow(  # noqa: D102
        self, state_hash: str, *, provider: ProviderName, browser_hash: str, now: datetime
    ) -> Flow | None: ...
    def find_identity(self, provider: ProviderName, subject_hash: str) -> UserId | None: ...  # noqa: D102
    def link(  # noqa: D102
        self, user: User, profile: Profile, *, by: Credential | None, now: datetime, entry: AuditEntry
    ) -> bool: ...
    def links(self, user_id: UserId) -> Sequence[Link]: ...  # noqa: D102
    def unlink(  # noqa: D102
        self, user: User, links: Sequence[Link], *, by: Credential | None, entry: AuditEntry
    ) -> None: ...
    def create_login_code(self, code: LoginCode, *, now: datetime) -> None: ...  # noqa: D102
    def take_login_code(self, code_hash: str, *, now: datetime) -> LoginCode | None: ...  # noqa: D102


class Accounts(Protocol):
    """Accounts; accounts/repository/users.py says what each method promises."""

    def read_user(self, user_id: UserId) -> User | None: ...  # noqa: D102
    def find_by_email(self, email: str) -> User | None: ...  # noqa: D102


class Registration(Protocol):
    """Makes accounts: karma.identity.accounts.service."""

    def register(  # noqa: D102
        self, *, email: str, password: str | None, name: str, email_verified: bool, source: Source
    ) -> User: ...


class Sessions(Protocol):
    """Begins sessions: karma.identity.sessions.service."""

    def start(self, user: User, *, method: str, source: Source, now: datetime) -> Tokens: ...  # noqa: D102
