"""Providers that open an account: its owner adds and removes them while logged in. See docs/adr/0015-oauth.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from karma.audit.domain import AuditEntry, AuditEvent, Source
from karma.core.clock import Clock
from karma.core.errors import NotFound
from karma.core.ratelimit import Buckets
from karma.identity.confirmation import confirm_presence, require_going_on
from karma.identity.domain import Caller, User
from karma.identity.oauth.domain import LastLogin, Link, ProviderName
from karma.identity.oauth.ports import Accounts, Flows
from karma.identity.oauth.service import Begun, OAuthService
from karma.identity.passwords.hashes import Passwords


class WaysIn(NamedTuple):
    """Logins of an account: linked providers, and a password if it has one."""

    links: Sequence[Link]
    has_password: bool


class LinkService:
    """Use cases of people with the links of their own accounts."""

    def __init__(
        self,
        *,
        oauth: OAuthService,
        flows: Flows,
        accounts: Accounts,
        passwords: Passwords,
        buckets: Buckets,
        clock: Clock,
    ) -> None:
        self._oauth = oauth
        self._flows = flows
        self._accounts = accounts
        self._passwords = passwords
        self._buckets = buckets
        self._clock = clock

    def begin(self, caller: Caller, provider: str, *, redirect: str | None, current_password: str | None) -> Begun:
        """Begin to link a provider; the flow ends in the caller's browser at the page `redirect`.

        Raises:
            Forbidden: the caller is an API key, has not verified the address, or does not prove to be present
                (confirmation.confirm_presence).
            RateLimited: too many passwords were wrong.
            ValidationFailed: the password is missing, or `redirect` is no page of a frontend of ours.
            NotFound: there is no such provider, or the account is deleted.
            SessionOver: the caller's session has ended meanwhile.
            ProviderNotConfigured: the stage has no client at the provider.
            Upstream: the provider does not answer.
        """
        user = self._owner(caller)
        require_going_on(caller, user)
        # A link outlives a reset of the password: who registered somebody else's address must not leave one behind.
        user.require_verified()
        confirm_presence(
            caller,
            password_hash=user.password_hash,
            given=current_password,
            passwords=self._passwords,
            buckets=self._buckets,
            now=self._clock.now(),
        )
        return self._oauth.begin(provider, redirect=redirect, link_to=user.id, begun_by=caller.credential)

    def ways_in(self, caller: Caller) -> WaysIn:
        """Return the logins of the caller's account.

        Raises:
            Forbidden: the caller is an API key.
            NotFound: the account is deleted.
        """
        user = self._owner(caller)
        return WaysIn(self._flows.links(user.id), user.password_hash is not None)

    def unlink(self, caller: Caller, provider: str, *, source: Source) -> None:
        """Remove a provider's link to the caller's account; sessions that it began go on.

        Raises:
            Forbidden: the caller is an API key.
            NotFound: the provider is not linked, or the account is deleted.
            LastLogin: the account has neither a password nor another provider.
            StaleVersion: the account was changed at the same moment.
            SessionOver: the caller's session has ended meanwhile.
        """
        # The account first: a link that is removed between the two reads has changed its version.
        user = self._owner(caller)
        require_going_on(caller, user)
        links = self._flows.links(user.id)
        going = [link for link in links if link.provider.value == provider]
        if not going:
            raise NotFound("No such link")
        if user.password_hash is None and len(going) == len(links):
            raise LastLogin("This is the only way to log in: set a password or link another provider first")
        entry = AuditEntry(
            user_id=user.id,
            event=AuditEvent.PROVIDER_UNLINKED,
            at=self._clock.now(),
            actor_id=user.id,
            source=source,
            details={"provider": ProviderName(provider).value},
        )
        self._flows.unlink(user, going, by=caller.credential, entry=entry)

    def _owner(self, caller: Caller) -> User:
        caller.require_person()
        user = self._accounts.read_user(caller.user_id)
        if user is None:
            raise NotFound("User not found")
        return user
