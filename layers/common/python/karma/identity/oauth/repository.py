"""Logins through providers in DynamoDB: flows and codes that are used once, identities that are unique."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from karma.audit.domain import AuditEntry
from karma.audit.transactional import add_audit_entry
from karma.core.clock import iso, parse_iso
from karma.core.dynamo.access import get, put, query, update
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import StaleVersion
from karma.core.ids import UserId
from karma.identity.accounts.repository.conditions import account_lets
from karma.identity.domain import Credential, User
from karma.identity.items import (
    LoginCodeItem,
    OAuthFlowItem,
    ProviderIdentityItem,
    UniqueProvider,
    UserItem,
    deletion,
    login_code_key,
    oauth_flow_key,
    owned_pk,
    provider_identity_key,
    unique_provider_key,
    user_key,
)
from karma.identity.oauth.domain import Flow, Link, LoginCode, Profile, ProviderName
from karma.identity.transactional import require_account, require_credential, require_session

_MAX_LINKS = 40
"""Largest number of links of one account that are read; all of one provider's are removed in one transaction."""


class OAuthRepository:
    """Flows, login codes and links over DynamoDB."""

    def create_flow(self, flow: Flow, *, now: datetime) -> None:
        """Store a flow that begins.

        Raises:
            AccountGone: the account to be linked is deleted.
            SessionOver: the session that asks for the link has ended.
        """
        item = OAuthFlowItem(
            *oauth_flow_key(flow.state_hash),
            provider=flow.provider.value,
            browser_hash=flow.browser_hash,
            code_verifier=flow.code_verifier,
            nonce=flow.nonce,
            redirect=flow.redirect,
            valid_until=iso(flow.expires_at),
            created_at=iso(now),
            updated_at=iso(now),
            expires_at=deletion(flow.expires_at),
        )
        if flow.link_to is None:
            put(item)
            return
        item.link_to = flow.link_to
        item.gsi1pk, item.gsi1sk = owned_pk(flow.link_to), f"OAUTH#{flow.state_hash}"
        tx = Transaction()
        if flow.begun_by is None:
            require_account(tx, flow.link_to)
        else:
            item.session_id, item.session_began_at = flow.begun_by.session_id, iso(flow.begun_by.began_at)
            require_credential(tx, flow.begun_by, now=now)
        tx.put(item)
        tx.commit()

    def take_flow(self, state_hash: str, *, provider: ProviderName, browser_hash: str, now: datetime) -> Flow | None:
        """Use up a flow; None when it is unknown, used, expired, or of another provider or browser."""
        try:
            item = update(
                OAuthFlowItem(*oauth_flow_key(state_hash)),
                [OAuthFlowItem.used_at.set(iso(now)), OAuthFlowItem.updated_at.set(iso(now))],
                OAuthFlowItem.used_at.does_not_exist()
                & (OAuthFlowItem.valid_until > iso(now))
                & (OAuthFlowItem.provider == provider.value)
                & (OAuthFlowItem.browser_hash == browser_hash),
            )
        except ConditionFailed:
            return None
        return Flow(
            state_hash=state_hash,
            provider=provider,
            browser_hash=browser_hash,
            code_verifier=item.code_verifier,
            nonce=item.nonce,
            redirect=item.redirect,
            link_to=UserId(item.link_to) if item.link_to else None,
            begun_by=_begun_by(item),
            expires_at=parse_iso(item.valid_until),
        )

    def find_identity(self, provider: ProviderName, subject_hash: str) -> UserId | None:
        """Return the account that an identity is linked to, strongly consistent; None: no account."""
        unique = get(UniqueProvider, unique_provider_key(provider.value, subject_hash), consistent=True)
        return UserId(unique.user_id) if unique else None

    def link(
        self, user: User, profile: Profile, *, by: Credential | None = None, now: datetime, entry: AuditEntry
    ) -> bool:
        """Link an identity to an account.

        Return False when it is linked to one already, or the account was disabled, deleted, has no longer this verified
        address, or ended all sessions since that of `by` began.

        Raises:
            SessionOver: the session `by` was ended.
        """
        tx = Transaction()
        require_session(tx, by, now=now)
        in_use = UserItem.disabled_at.does_not_exist() if by is None else account_lets(by)
        tx.check(
            UserItem,
            user_key(user.id),
            in_use & (UserItem.email == user.email) & (UserItem.email_verified == True),  # noqa: E712  an expression of DynamoDB's
        )
        tx.put(
            UniqueProvider(
                *unique_provider_key(profile.provider.value, profile.subject_hash),
                user_id=user.id,
                created_at=iso(now),
                gsi1pk=owned_pk(user.id),
                gsi1sk=f"IDENTITY#{profile.provider.value}#{profile.subject_hash}",
            )
        )
        tx.put(
            ProviderIdentityItem(
                *provider_identity_key(user.id, profile.provider.value, profile.subject_hash),
                provider=profile.provider.value,
                subject_hash=profile.subject_hash,
                created_at=iso(now),
            )
        )
        add_audit_entry(tx, entry)
        try:
            tx.commit()
        except ConditionFailed:
            return False
        return True

    def links(self, user_id: UserId) -> list[Link]:
        """List the identities that are linked to an account, strongly consistent."""
        prefix = provider_identity_key(user_id, "", "").sk.removesuffix("#")
        page = query(
            ProviderIdentityItem,
            user_key(user_id).pk,
            ProviderIdentityItem.sk.startswith(prefix),
            limit=_MAX_LINKS,
            consistent=True,
        )
        return [
            Link(
                provider=ProviderName(item.provider),
                subject_hash=item.subject_hash,
                linked_at=parse_iso(item.created_at),
            )
            for item in page.items
        ]

    def unlink(self, user: User, links: Sequence[Link], *, by: Credential | None = None, entry: AuditEntry) -> None:
        """Remove links of identities to an account, which must be as it was read.

        Raises:
            StaleVersion: the account was changed or deleted since, or another request removed one of the links.
            SessionOver: the session `by` was ended.
        """
        stale = StaleVersion("The account was changed at the same moment; read it again")
        tx = Transaction()
        require_session(tx, by, now=entry.at)
        tx.update(
            UserItem(*user_key(user.id), version=user.version),
            [UserItem.updated_at.set(iso(entry.at))],
            locked=True,
            on_fail=stale,
        )
        for link in links:
            place = (link.provider.value, link.subject_hash)
            unique = UniqueProvider(*unique_provider_key(*place))
            tx.delete(unique, UniqueProvider.user_id == user.id, on_fail=stale)
            listed = ProviderIdentityItem(*provider_identity_key(user.id, *place))
            tx.delete(listed, ProviderIdentityItem.pk.exists(), on_fail=stale)
        add_audit_entry(tx, entry)
        tx.commit()

    def create_login_code(self, code: LoginCode, *, now: datetime) -> None:
        """Store a code that was just made.

        Raises:
            AccountGone: the account is deleted.
        """
        tx = Transaction()
        require_account(tx, code.user_id)
        tx.put(
            LoginCodeItem(
                *login_code_key(code.hash),
                user_id=code.user_id,
                provider=code.provider.value,
                valid_until=iso(code.expires_at),
                created_at=iso(now),
                updated_at=iso(now),
                expires_at=deletion(code.expires_at),
                gsi1pk=owned_pk(code.user_id),
                gsi1sk=f"LOGINCODE#{code.hash}",
            )
        )
        tx.commit()

    def take_login_code(self, code_hash: str, *, now: datetime) -> LoginCode | None:
        """Use up a code; None when it is unknown, used or expired."""
        try:
            item = update(
                LoginCodeItem(*login_code_key(code_hash)),
                [LoginCodeItem.used_at.set(iso(now)), LoginCodeItem.updated_at.set(iso(now))],
                LoginCodeItem.used_at.does_not_exist() & (LoginCodeItem.valid_until > iso(now)),
            )
        except ConditionFailed:
            return None
        return LoginCode(
            hash=code_hash,
            user_id=UserId(item.user_id),
            provider=ProviderName(item.provider),
            expires_at=parse_iso(item.valid_until),
        )


def _begun_by(item: OAuthFlowItem) -> Credential | None:
    if not item.link_to or not item.session_began_at:
        return None
    return Credential(
        user_id=UserId(item.link_to), session_id=item.session_id, began_at=parse_iso(item.session_began_at)
    )
