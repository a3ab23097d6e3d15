"""Services of accounts, sessions and keys, and the authentication of callers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from api.services import mail
from api.services.process import clock, key_ring, newer_key_ring, settings
from karma.audit.service import AuditReader
from karma.core import secrets
from karma.core.dynamo.buckets import DynamoBuckets
from karma.core.ratelimit import LocalBuckets
from karma.http.admission import Admission
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.limits import Throttle
from karma.identity.sessions.authentication import Authenticator

if TYPE_CHECKING:
    from karma.core.ids import UserId
    from karma.identity.accounts.administration import AdministrationService
    from karma.identity.accounts.deletion import AccountDeletion
    from karma.identity.accounts.service import AccountService
    from karma.identity.api_keys.service import ApiKeyService
    from karma.identity.domain import Caller
    from karma.identity.oauth.links import LinkService
    from karma.identity.oauth.service import OAuthService
    from karma.identity.passwords.changes import PasswordService
    from karma.identity.sessions.service import SessionService


@cache
def users() -> UserRepository:
    """Return the repository of accounts."""
    return UserRepository()


@cache
def authenticator() -> Authenticator:
    """Return the authenticator of callers."""
    return Authenticator(
        users=users(),
        api_keys=ApiKeyRepository(),
        key_ring=key_ring,
        newer_key_ring=newer_key_ring,
        clock=clock(),
    )


@cache
def throttle() -> Throttle:
    """Count requests; only rows that are stored cost calls, only those by plan read the plan."""
    from api.services import billing

    return Throttle(
        stored=DynamoBuckets(),
        local=LocalBuckets(),
        clock=clock(),
        plan_of=lambda user_id: billing.subscriptions().plan(user_id).name,
    )


@cache
def admission() -> Admission:
    """Let requests in."""
    return Admission(
        authenticator=authenticator,
        throttle=throttle,
        origin_secrets=lambda: secrets.strings(settings().origin_secret_arn, "secrets"),
    )


def _session_ended(user_id: UserId) -> None:
    """Make ended sessions and keys of a user take effect at once: in this process, and on open WebSockets."""
    from api.services import realtime

    authenticator().forget(user_id)
    realtime.close_ended(user_id)


@cache
def accounts() -> AccountService:
    """Return the service of accounts."""
    from api.services import billing
    from karma.identity.accounts.repository.one_time import OneTimeRepository
    from karma.identity.accounts.service import AccountService
    from karma.identity.passwords.hashes import Argon2Passwords

    return AccountService(
        accounts=users(),
        tokens=OneTimeRepository(),
        passwords=Argon2Passwords(),
        outbox_relay=mail.outbox_relay(),
        buckets=DynamoBuckets(),
        usage=billing.usage(),
        clock=clock(),
        on_change=authenticator().forget,
    )


def prove_presence(caller: Caller, current_password: str | None) -> None:
    """Verify that the owner of a session is present: by the password, or by a login of the last ten minutes.

    Raises:
        WrongPassword: the password is wrong.
        ProofMissing: neither is given.
        RateLimited: too many passwords were wrong.
        AccountGone: the account is deleted.
    """
    from karma.identity.confirmation import confirm_presence
    from karma.identity.passwords.hashes import Argon2Passwords
    from karma.identity.transactional import AccountGone

    account = users().read_user(caller.user_id)
    if account is None:
        raise AccountGone
    confirm_presence(
        caller,
        password_hash=account.password_hash,
        given=current_password,
        passwords=Argon2Passwords(),
        buckets=DynamoBuckets(),
        now=clock().now(),
        login_suffices=True,
    )


@cache
def password_changes() -> PasswordService:
    """Return the service that resets and changes passwords."""
    from karma.identity.accounts.repository.one_time import OneTimeRepository
    from karma.identity.passwords.changes import PasswordService
    from karma.identity.passwords.hashes import Argon2Passwords

    return PasswordService(
        accounts=users(),
        tokens=OneTimeRepository(),
        passwords=Argon2Passwords(),
        outbox_relay=mail.outbox_relay(),
        buckets=DynamoBuckets(),
        clock=clock(),
        on_change=_session_ended,
        standing=_standing,
    )


@cache
def sessions() -> SessionService:
    """Return the service of sessions."""
    from karma.identity.passwords.hashes import DUMMY_HASH, Argon2Passwords  # local: only logins hash passwords
    from karma.identity.sessions.logins import LoginThrottle
    from karma.identity.sessions.repository import SessionRepository
    from karma.identity.sessions.service import SessionService

    stored = SessionRepository()
    return SessionService(
        accounts=users(),
        sessions=stored,
        throttle=LoginThrottle(buckets=DynamoBuckets(), networks=stored, clock=clock()),
        passwords=Argon2Passwords(),
        dummy_hash=DUMMY_HASH,
        key_ring=key_ring,
        clock=clock(),
        on_change=_session_ended,
        standing=_standing,
    )


def _standing(user_id: UserId) -> Mapping[str, int]:
    """Count what acts for an account without a session."""
    from karma.mcp.repository import McpServerRepository  # local: these are needed when all sessions end
    from karma.schedules.repository import ScheduleRepository
    from karma.webhooks.repository.webhooks import WebhookRepository

    return {
        "schedules": ScheduleRepository().census(user_id).active,
        "webhooks": sum(webhook.is_enabled for webhook in WebhookRepository().all(user_id)),
        "mcp_servers": len(McpServerRepository().directory(user_id).ids),
    }


@cache
def oauth() -> OAuthService:
    """Return the service of logins through GitHub and Google."""
    from karma.identity.oauth.domain import ProviderName
    from karma.identity.oauth.repository import OAuthRepository
    from karma.identity.oauth.service import OAuthService
    from karma.integrations.oauth.client import credentials_from
    from karma.integrations.oauth.github import GitHub
    from karma.integrations.oauth.google import Google

    given = settings()

    def clients() -> Mapping[str, object]:
        return secrets.get(given.oauth_secret_arn) if given.oauth_secret_arn else {}

    return OAuthService(
        providers={
            ProviderName.GITHUB: GitHub(
                credentials=credentials_from(clients, "github"), url=given.github_url, api_url=given.github_api_url
            ),
            ProviderName.GOOGLE: Google(
                credentials=credentials_from(clients, "google"), issuer=given.google_issuer, clock=clock()
            ),
        },
        flows=OAuthRepository(),
        accounts=users(),
        registration=accounts(),
        sessions=sessions(),
        api_url=given.api_url,
        frontend_origins=[origin for origin in given.frontend_origins.split(",") if origin],
        clock=clock(),
    )


@cache
def links() -> LinkService:
    """Return the service that links GitHub and Google to accounts."""
    from karma.identity.oauth.links import LinkService
    from karma.identity.oauth.repository import OAuthRepository
    from karma.identity.passwords.hashes import Argon2Passwords

    return LinkService(
        oauth=oauth(),
        flows=OAuthRepository(),
        accounts=users(),
        passwords=Argon2Passwords(),
        buckets=DynamoBuckets(),
        clock=clock(),
    )


@cache
def api_keys() -> ApiKeyService:
    """Return the service of API keys."""
    from karma.identity.api_keys.service import ApiKeyService
    from karma.identity.passwords.hashes import Argon2Passwords

    return ApiKeyService(
        api_keys=ApiKeyRepository(),
        owners=users(),
        passwords=Argon2Passwords(),
        buckets=DynamoBuckets(),
        outbox_relay=mail.outbox_relay(),
        clock=clock(),
        on_change=_session_ended,
    )


@cache
def account_deletion() -> AccountDeletion:
    """Return the service with which people delete their accounts."""
    from karma.identity.accounts.deletion import AccountDeletion
    from karma.identity.accounts.repository.deletions import DeletionRepository
    from karma.identity.passwords.hashes import Argon2Passwords
    from karma.integrations.sqs import SqsQueue

    return AccountDeletion(
        deletions=DeletionRepository(),
        passwords=Argon2Passwords(),
        buckets=DynamoBuckets(),
        queue=SqsQueue(settings().deletions_queue_url),
        clock=clock(),
        on_change=_session_ended,
    )


@cache
def administration() -> AdministrationService:
    """Return the service with which administrators manage accounts."""
    from karma.identity.accounts.administration import AdministrationService
    from karma.identity.accounts.repository.directory import DirectoryRepository

    return AdministrationService(
        accounts=DirectoryRepository(), registration=accounts(), clock=clock(), on_change=_session_ended
    )


@cache
def audit() -> AuditReader:
    """Return the reader of the audit log."""
    from karma.audit.repository import AuditRepository

    return AuditReader(log=AuditRepository(), clock=clock())
