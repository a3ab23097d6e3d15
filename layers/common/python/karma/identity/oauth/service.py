"""Logging in through a provider. docs/adr/0015-oauth.md has the reasons for this sequence."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from karma.audit.domain import AuditEntry, AuditEvent, Source
from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, Forbidden, NotFound, StorageThrottled, ValidationFailed
from karma.core.ids import UserId
from karma.identity.accounts import emails
from karma.identity.domain import Credential, SessionOver, Tokens, User
from karma.identity.oauth.domain import (
    FLOW_TTL,
    LOGIN_CODE_TTL,
    MAX_CODE_CHARS,
    AccountEmailUnverified,
    Flow,
    IdentityTaken,
    InvalidCode,
    InvalidState,
    LoginCode,
    Profile,
    ProviderDenied,
    ProviderEmailUnverified,
    ProviderName,
    ProviderNotConfigured,
    checked_redirect,
    digest,
)
from karma.identity.oauth.ports import Accounts, Flows, Provider, Registration, Sessions

_ATTEMPTS = 4


class Begun(NamedTuple):
    """URL to which the browser goes, and the secret that it keeps in a cookie."""

    url: str
    browser_secret: str


class OAuthService:
    """Begins logins at providers, and ends them with a session."""

    def __init__(
        self,
        *,
        providers: Mapping[ProviderName, Provider],
        flows: Flows,
        accounts: Accounts,
        registration: Registration,
        sessions: Sessions,
        api_url: str,
        frontend_origins: Sequence[str],
        clock: Clock,
    ) -> None:
        """Build the service.

        Args:
            providers: by name.
            flows: stores flows, codes and identities.
            accounts: stores accounts.
            registration: makes accounts.
            sessions: begins sessions.
            api_url: address at which browsers and providers reach this API, without a slash at its end; "": there is
            none.
            frontend_origins: origins whose pages a login may end at; by default it ends at the first one's front page.
            clock: tells the time.
        """
        self._providers = providers
        self._flows = flows
        self._accounts = accounts
        self._registration = registration
        self._sessions = sessions
        self._api_url = api_url
        self._frontend_origins = frontend_origins
        self._clock = clock

    def start(self, provider: str, *, redirect: str | None) -> Begun:
        """Begin a login that ends at the page `redirect`.

        Raises:
            NotFound: there is no such provider.
            ProviderNotConfigured: the stage has no client at the provider.
            ValidationFailed: `redirect` is no page of a frontend of ours.
            Upstream: the provider does not answer.
        """
        return self.begin(provider, redirect=redirect)

    def begin(
        self,
        provider: str,
        *,
        redirect: str | None,
        link_to: UserId | None = None,
        begun_by: Credential | None = None,
    ) -> Begun:
        """Begin a flow; with `link_to` it ends with a link of that account, whose owner has proven to be present.

        The link is not made if the session `begun_by` has ended by then.

        Raises:
            NotFound: there is no such provider.
            ProviderNotConfigured: the stage has no client at the provider.
            ValidationFailed: `redirect` is no page of a frontend of ours.
            Upstream: the provider does not answer.
            AccountGone: the account to be linked is deleted.
            SessionOver: the session that asks has ended meanwhile.
        """
        name, chosen = self._provider(provider)
        page = checked_redirect(redirect, self._frontend_origins)
        state, browser_secret = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        now = self._clock.now()
        flow = Flow(
            state_hash=digest(state),
            provider=name,
            browser_hash=digest(browser_secret),
            code_verifier=secrets.token_urlsafe(48),
            nonce=secrets.token_urlsafe(32),
            redirect=page,
            link_to=link_to,
            begun_by=begun_by,
            expires_at=now + FLOW_TTL,
        )
        url = chosen.authorization_url(flow, state=state, redirect_uri=self._redirect_uri(name))
        self._flows.create_flow(flow, now=now)
        return Begun(url, browser_secret)

    def resume(self, provider: str, *, state: str | None, browser_secret: str | None) -> Flow:
        """Use up the flow that a callback belongs to.

        Raises:
            NotFound: there is no such provider.
            ProviderNotConfigured: the stage has no client at the provider.
            InvalidState: the flow is unknown, used, expired, or of another provider or browser; the error does not tell
                which.
        """
        name, _ = self._provider(provider)
        flow = None
        if state and browser_secret:
            flow = self._flows.take_flow(
                digest(state), provider=name, browser_hash=digest(browser_secret), now=self._clock.now()
            )
        if flow is None:
            raise InvalidState("This login was not begun in this browser, is over, or took too long: begin again")
        return flow

    def finish(self, flow: Flow, *, code: str | None, denied: bool, source: Source) -> Mapping[str, str]:
        """Ask the provider who came back, and return the parameters of the frontend's page.

        These are `code`, the secret of a login code for the account, or `linked`, the provider's name.

        Somebody new gets an account. Somebody whose address has an account is linked to it if both sides have
        verified the address.

        Raises:
            ProviderDenied: the person or the provider refused the login.
            InvalidCode: the provider does not take the code.
            Unauthenticated: the provider's id_token does not verify.
            ProviderEmailUnverified: the provider has no verified address of somebody who has no link.
            AccountEmailUnverified: an account has the person's address and did not verify it.
            IdentityTaken: the flow is to link an account, and the identity is linked to another one.
            Forbidden: the account is disabled or was deleted.
            Upstream: the provider or the database does not answer.
        """
        if denied:
            raise ProviderDenied("The login was cancelled or refused at the provider")
        if not code or len(code) > MAX_CODE_CHARS:
            raise InvalidCode("The provider sent no code: begin again")
        _, provider = self._provider(flow.provider)
        profile = provider.profile(flow, code=code, redirect_uri=self._redirect_uri(flow.provider))
        if flow.link_to is not None:
            self._link_to(flow.link_to, flow, profile, source)
            return {"linked": flow.provider.value}
        user = self._account_of(profile, source)
        secret = secrets.token_urlsafe(32)
        now = self._clock.now()
        login_code = LoginCode(
            hash=digest(secret), user_id=user.id, provider=flow.provider, expires_at=now + LOGIN_CODE_TTL
        )
        self._flows.create_login_code(login_code, now=now)
        return {"code": secret}

    def exchange(self, code: str, *, source: Source) -> tuple[User, Tokens]:
        """Trade a login code for a session.

        Raises:
            InvalidCode: the code is unknown, used or expired, or of a login from before all sessions were ended.
            Forbidden: the account was disabled or deleted meanwhile.
        """
        now = self._clock.now()
        found = self._flows.take_login_code(digest(code), now=now)
        invalid = InvalidCode("The code is unknown, was used, or is too old: begin again")
        if found is None:
            raise invalid
        user = _in_use(self._accounts.read_user(found.user_id))
        if user.sessions_from is not None and found.begun_at < user.sessions_from:
            raise invalid
        return user, self._sessions.start(user, method=found.provider.value, source=source, now=now)

    def _provider(self, name: str) -> tuple[ProviderName, Provider]:
        try:
            known = ProviderName(name)
        except ValueError:
            raise NotFound("No such provider") from None
        if not self._api_url or not self._frontend_origins:
            raise ProviderNotConfigured("Logging in through providers is not configured")
        return known, self._providers[known]

    def _redirect_uri(self, provider: ProviderName) -> str:
        return f"{self._api_url}/api/v1/auth/oauth/{provider.value}/callback"

    def _account_of(self, profile: Profile, source: Source) -> User:
        """Find or make the account of a person, also if other callbacks of the same person do so at the same moment."""
        for _ in range(_ATTEMPTS):
            user = self._linked(profile) or self._link(profile, source)
            if user is not None:
                return user
        raise StorageThrottled("The account is being changed by somebody else; try again")

    def _link_to(self, user_id: UserId, flow: Flow, profile: Profile, source: Source) -> None:
        """Link the person to the account of the flow, unless they are linked to another."""
        over = InvalidState("The session in which this was begun is over: begin again")
        for _ in range(_ATTEMPTS):
            user = _in_use(self._accounts.read_user(user_id))
            if user.sessions_from is not None and flow.begun_at < user.sessions_from:
                raise over
            user.require_verified()
            owner = self._flows.find_identity(profile.provider, profile.subject_hash)
            if owner == user.id:
                return
            if owner is not None:
                raise IdentityTaken("This identity opens another account: unlink it there first")
            try:
                if self._make_link(user, profile, source, by=flow.begun_by):
                    return
            except SessionOver:
                raise over from None
        raise StorageThrottled("The account is being changed by somebody else; try again")

    def _linked(self, profile: Profile) -> User | None:
        user_id = self._flows.find_identity(profile.provider, profile.subject_hash)
        return None if user_id is None else _in_use(self._accounts.read_user(user_id))

    def _link(self, profile: Profile, source: Source) -> User | None:
        """Link the account with the verified address, a new one if there is none; None: another request was faster."""
        unverified = ProviderEmailUnverified("The provider has verified none of your addresses: verify it there first")
        if profile.email is None:
            raise unverified
        try:
            email = emails.normalise(profile.email)
        except ValidationFailed:
            raise unverified from None
        user = self._accounts.find_by_email(email)
        if user is None:
            try:
                user = self._registration.register(
                    email=email, password=None, name=profile.name, email_verified=True, source=source
                )
            except AlreadyExists:
                return None
        _in_use(user)
        if not user.email_verified:
            # Whoever registered the address may be somebody else, waiting for its owner to come in by this door.
            raise AccountEmailUnverified(
                "An account has this address, but never confirmed it: follow the link in its mail or reset its "
                "password, then log in here again"
            )
        return user if self._make_link(user, profile, source) else None

    def _make_link(self, user: User, profile: Profile, source: Source, *, by: Credential | None = None) -> bool:
        now = self._clock.now()
        entry = AuditEntry(
            user_id=user.id,
            event=AuditEvent.PROVIDER_LINKED,
            at=now,
            actor_id=user.id,
            source=source,
            details={"provider": profile.provider.value},
        )
        return self._flows.link(user, profile, by=by, now=now, entry=entry)


def _in_use(user: User | None) -> User:
    if user is None or user.disabled_at is not None:
        raise Forbidden("The account is disabled", code="ACCOUNT_DISABLED")
    return user
