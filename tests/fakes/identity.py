"""Identity's storage and password hashing in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.errors import AlreadyCreated, AlreadyExists, Forbidden, NotFound, StaleVersion
from karma.core.ids import ApiKeyId, UserId
from karma.core.requests import RepeatableRequest
from karma.identity.accounts.directory import AccountFilter, AccountPage
from karma.identity.accounts.repository.names import fold
from karma.identity.domain import KNOWN_NETWORK_TTL, ApiKey, Credential, RefreshToken, Role, SessionOver, User
from karma.identity.items import user_position
from karma.identity.passwords.spelling import spelled
from karma.identity.sessions.logins import LoginPlace
from karma.identity.sessions.signing_keys import KeyRing
from karma.identity.transactional import AccountGone
from karma.mail.domain import Mail
from tests.fakes.requests import MemoryRequests

RING = KeyRing(
    current="k2", keys={"k1": "an-older-key-that-is-still-accepted", "k2": "the-key-that-signs-everything-now"}
)


@dataclass
class MovableClock:
    """A clock that tests move."""

    at: datetime = datetime(2026, 11, 21, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def pass_(self, **span: float) -> None:
        self.at += timedelta(**span)


@dataclass
class CountingPasswords:
    """Readable hashes that count verifications, which make known and unknown addresses take equally long."""

    verified: list[str] = field(default_factory=list)

    def hash(self, password: str) -> str:
        return f"now:{spelled(password)}"

    def verify(self, password_hash: str, password: str) -> bool:
        self.verified.append(password_hash)
        return password_hash.partition(":")[2] in {spelled(password), password}

    def outdated(self, password_hash: str, password: str) -> bool:
        return password_hash != self.hash(password)


@dataclass
class MemoryIdentities:
    """Users, sessions and API keys in dictionaries, as the repositories of karma.identity store them."""

    users: dict[UserId, User] = field(default_factory=dict)
    audit: list[AuditEntry] = field(default_factory=list)
    refusals: set[tuple[UserId | None, AuditEvent, datetime]] = field(default_factory=set)
    """Refusals that were recorded: account, event and minute."""
    sessions: dict[str, bool] = field(default_factory=dict)
    """True: the session has ended; by its id."""
    tokens: dict[str, RefreshToken] = field(default_factory=dict)
    networks: dict[LoginPlace, datetime] = field(default_factory=dict)
    """Moment until which a network counts as known, by account and network."""
    keys: dict[ApiKeyId, ApiKey] = field(default_factory=dict)
    made: dict[UserId, int] = field(default_factory=dict)
    """Number of keys that each account has made."""
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    gone: set[UserId] = field(default_factory=set)
    """Accounts that are deleted."""
    mails: list[Mail] = field(default_factory=list)
    """Mails that were written with API keys."""
    reads: int = 0

    def create_user(self, user: User) -> None:
        if self.find_by_email(user.email):
            raise AlreadyExists("email is already registered")
        self.users[user.id] = replace(user, version=1)

    def get_user(self, user_id: UserId) -> User | None:
        self.reads += 1
        return self.users.get(user_id)

    def find_by_email(self, email: str) -> User | None:
        return next((user for user in self.users.values() if user.email == email), None)

    def rehash(self, user: User, password_hash: str, *, now: datetime) -> None:
        if self.users[user.id].password_hash == user.password_hash:
            self._change(user.id, password_hash=password_hash, updated_at=now)

    def read_user(self, user_id: UserId) -> User | None:
        return self.users.get(user_id)

    def read_with_session(self, user_id: UserId, session_id: str) -> tuple[User | None, bool]:
        self.reads += 1
        return self.users.get(user_id), not self.sessions.get(session_id, True)

    def list_users(self, asked: AccountFilter, *, limit: int, below: str | None) -> AccountPage:
        found = sorted((user for user in self.users.values() if asked.admits(user)), key=_position, reverse=True)
        return _page(found, [user for user in found if below is None or _position(user) < below], limit, _position)

    def search_users(self, text: str, asked: AccountFilter, *, limit: int, after: str | None) -> AccountPage:
        named = [user for user in self.users.values() if fold(user.name).startswith(fold(text)) and asked.admits(user)]
        found = sorted(named, key=_named_position)
        return _page(
            found, [user for user in found if after is None or _named_position(user) > after], limit, _named_position
        )

    def change_account(
        self,
        before: User,
        after: User,
        *,
        actor_id: UserId | None,
        by: Credential | None = None,
        entries: Sequence[AuditEntry],
    ) -> User:
        self.require_session(by)
        actor = self.users.get(actor_id) if actor_id else None
        if actor_id and (actor is None or actor.role is not Role.ADMIN or actor.disabled_at):
            raise Forbidden.lacking("user:admin")
        if by and actor and actor.sessions_from and actor.sessions_from > by.began_at:
            raise Forbidden.lacking("user:admin")
        stored = self.users.get(after.id)
        if stored is None or stored.version != before.version:
            raise StaleVersion("changed meanwhile")
        self.users[after.id] = replace(after, version=before.version + 1)
        self.audit += entries
        return self.users[after.id]

    def _change(self, user_id: UserId, **changes: Any) -> User:
        user = self.users.get(user_id)
        if user is None:
            raise NotFound("User not found")
        self.users[user_id] = replace(user, version=user.version + 1, **changes)
        return self.users[user_id]

    def start_session(self, token: RefreshToken, *, place: LoginPlace, now: datetime, entry: AuditEntry) -> bool:
        user = self.users.get(token.user_id)
        if user is None or user.disabled_at:
            return False
        self.sessions[token.session_id] = False
        self.tokens[token.hash] = token
        self.networks[place] = now + KNOWN_NETWORK_TTL
        self.audit.append(entry)
        return True

    def is_known_network(self, place: LoginPlace, *, now: datetime) -> bool:
        return place in self.networks and now < self.networks[place]

    def record_refusal(self, entry: AuditEntry | None) -> None:
        if entry is None:
            return
        refusal = (entry.user_id, entry.event, _minute(entry.at))
        if refusal not in self.refusals:
            self.refusals.add(refusal)
            self.audit.append(entry)

    def find_refresh_token(self, token_hash: str) -> RefreshToken | None:
        return self.tokens.get(token_hash)

    def trade(self, old: RefreshToken, new: RefreshToken, *, now: datetime) -> bool:
        if not self.is_tradable(old):
            return False
        self.tokens[old.hash] = replace(old, used_at=now)
        self.tokens[new.hash] = new
        return True

    def is_tradable(self, token: RefreshToken) -> bool:
        user = self.users.get(token.user_id)
        if user is None or user.disabled_at or (user.sessions_from and user.sessions_from > token.session_started_at):
            return False
        stored = self.tokens.get(token.hash)
        return stored is not None and stored.used_at is None and not self.sessions.get(token.session_id, True)

    def end_session(self, session_id: str, *, now: datetime, entry: AuditEntry) -> None:
        if self.sessions.get(session_id) is False:
            self.sessions[session_id] = True
            self.audit.append(entry)

    def end_all_sessions(
        self, *, by: Credential | None = None, now: datetime, entry: AuditEntry, api_keys: bool
    ) -> None:
        if by is not None:
            self.require_credential(by, now=now)
        ended = {"api_keys_from": now} if api_keys else {}
        self._change(entry.user_id, sessions_from=now, updated_at=now, **ended)
        self.audit.append(entry)

    def require(self, user_id: UserId) -> None:
        if user_id in self.gone:
            raise AccountGone(user_id)

    def require_session(self, credential: Credential | None) -> None:
        """Check a session as karma.identity.transactional.require_session does."""
        if credential is not None and credential.session_id and self.sessions.get(credential.session_id, True):
            raise SessionOver

    def require_credential(self, credential: Credential, *, now: datetime) -> None:
        """Check a credential as karma.identity.transactional.require_credential does."""
        over = SessionOver()
        user = self.users.get(credential.user_id)
        if user is None or user.disabled_at is not None:
            raise over
        if credential.api_key_id is not None:
            key = self.keys.get(credential.api_key_id)
            if key is None or not key.usable(now, keys_from=user.api_keys_from):
                raise over
        elif user.sessions_from is not None and user.sessions_from > credential.began_at:
            raise over
        if credential.session_id is not None and self.sessions.get(credential.session_id, True):
            raise over

    def create_api_key(
        self,
        key: ApiKey,
        *,
        made_with: Credential | None = None,
        request: RepeatableRequest | None,
        seen: int | None = None,
        going: Sequence[ApiKey] = (),
        entry: AuditEntry,
        mails: Sequence[Mail] = (),
    ) -> None:
        if made_with is None:
            self.require(key.user_id)
        else:
            self.require_credential(made_with, now=key.created_at)
        made = self.requests.noted(key.user_id, request) if request else None
        self.requests.require_new(key.user_id, request, repeated=AlreadyCreated("made before", details={"id": made}))
        if seen is not None and seen != self.made.get(key.user_id, 0):
            raise StaleVersion("Another key was made at the same moment; try again")
        self.requests.note(key.user_id, request, key.id)
        self.made[key.user_id] = self.made.get(key.user_id, 0) + 1
        for old in going:
            self.keys.pop(old.id, None)
        self.keys[key.id] = key
        self.audit.append(entry)
        self.mails += mails

    def find_api_key(self, key_hash: str) -> ApiKey | None:
        self.reads += 1
        return next((key for key in self.keys.values() if key.hash == key_hash and key.revoked_at is None), None)

    def read_with_owner(self, key_hash: str, owner: UserId) -> tuple[ApiKey | None, User | None]:
        return self.find_api_key(key_hash), self.users.get(owner)

    def keys_made(self, user_id: UserId) -> int:
        return self.made.get(user_id, 0)

    def list_api_keys(self, user_id: UserId) -> Sequence[ApiKey]:
        own = [key for key in self.keys.values() if key.user_id == user_id]
        return sorted(own, key=lambda key: key.id, reverse=True)

    def get_api_key(self, user_id: UserId, key_id: ApiKeyId) -> ApiKey | None:
        key = self.keys.get(key_id)
        return key if key and key.user_id == user_id else None

    def revoke_api_key(self, key: ApiKey, *, by: Credential | None = None, now: datetime, entry: AuditEntry) -> bool:
        if by is not None:
            self.require_credential(by, now=now)
        stored = self.keys.get(key.id)
        if stored is None or stored.revoked_at is not None:
            return False
        self.keys[key.id] = replace(stored, revoked_at=now)
        self.audit.append(entry)
        return True

    def note_use(self, key: ApiKey, *, now: datetime, unless_after: datetime) -> None:
        stored = self.keys.get(key.id)
        if stored and (stored.last_used_at is None or stored.last_used_at <= unless_after):
            self.keys[key.id] = replace(stored, last_used_at=now)

    def last_uses(self, keys: Sequence[ApiKey]) -> Mapping[ApiKeyId, datetime]:
        stored = [self.keys[key.id] for key in keys]
        return {key.id: key.last_used_at for key in stored if key.last_used_at is not None and key.revoked_at is None}


def _minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def _position(user: User) -> str:
    return user_position(user.id, user.created_at)


def _named_position(user: User) -> str:
    return f"{fold(user.name)}#{user.id}"


def _page(found: Sequence[User], rest: Sequence[User], limit: int, position: Callable[[User], str]) -> AccountPage:
    after = position(rest[limit - 1]) if len(rest) > limit else None
    return AccountPage(users=rest[:limit], total=len(found), after=after)
