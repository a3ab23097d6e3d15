"""Users, sessions and API keys: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.errors import AlreadyCreated, AlreadyExists, NotFound, StaleVersion, Unauthenticated
from karma.core.ids import ApiKeyId, UserId, new_id
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.domain import NOBODY, ApiKey, Credential, RefreshToken, Role, User
from karma.identity.sessions.logins import LoginPlace
from karma.identity.sessions.repository import SessionRepository
from tests.fakes.identity import MemoryIdentities
from tests.support.requests import asked
from tests.support.stores import Store

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
HOME = LoginPlace.of("ada@example.com", "203.0.113.7")


class DynamoIdentities(UserRepository, SessionRepository, ApiKeyRepository):
    """Repositories of identity in one, as the store in memory is."""


Identities = MemoryIdentities | DynamoIdentities


@pytest.fixture
def identities(store: Store) -> Identities:
    if store.in_memory:
        return MemoryIdentities()
    return DynamoIdentities()


def user(**changes: Any) -> User:
    made = User(
        id=UserId(new_id()),
        email="ada@example.com",
        name="Ada",
        avatar=None,
        password_hash="first",
        role=Role.USER,
        email_verified=False,
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(made, **changes)


def token(text: str, owner: User, session_id: str) -> RefreshToken:
    return RefreshToken(
        hash=text,
        user_id=owner.id,
        session_id=session_id,
        session_started_at=NOW,
        expires_at=NOW + timedelta(days=30),
    )


def entry(owner: User, event: AuditEvent) -> AuditEntry:
    return AuditEntry(user_id=owner.id, event=event, at=NOW, actor_id=owner.id)


def api_key(owner: User, **changes: Any) -> ApiKey:
    made = ApiKey(
        id=ApiKeyId(new_id()),
        user_id=owner.id,
        name="ci",
        prefix="karma_abc",
        hash="0" * 64,
        scopes=frozenset({"device:read", "*"}),
        created_at=NOW,
        expires_at=None,
        revoked_at=None,
    )
    return replace(made, **changes)


def entry_of(key: ApiKey) -> AuditEntry:
    return AuditEntry(user_id=key.user_id, event=AuditEvent.API_KEY_CREATED, at=NOW, actor_id=key.user_id)


class TestUsers:
    def test_come_back_as_they_were(self, identities: Identities) -> None:
        ada = user(avatar="https://example.com/a.png", role=Role.VIEWER, email_verified=True)
        identities.create_user(ada)
        assert identities.get_user(ada.id) == ada
        assert identities.find_by_email(ada.email) == ada

    def test_who_are_not_there_are_none(self, identities: Identities) -> None:
        assert identities.get_user(UserId(new_id())) is None
        assert identities.find_by_email("nobody@example.com") is None

    @pytest.mark.req("R-M-26", "R-K-10")
    def test_share_no_address(self, identities: Identities) -> None:
        ada, eve = user(), user()
        identities.create_user(ada)
        with pytest.raises(AlreadyExists):
            identities.create_user(eve)
        assert identities.get_user(eve.id) is None

    def test_get_a_new_hash_unless_somebody_was_faster(self, identities: Identities) -> None:
        ada = user()
        identities.create_user(ada)
        identities.rehash(ada, "second", now=LATER)
        identities.rehash(ada, "third", now=LATER)
        assert identities.get_user(ada.id) == replace(ada, password_hash="second", updated_at=LATER)


class TestSessions:
    def test_trade_each_token_once(self, identities: Identities) -> None:
        ada = user()
        identities.create_user(ada)
        first, second, other = (token(text, ada, "s1") for text in ("t1", "t2", "t3"))
        identities.start_session(first, place=HOME, now=NOW, entry=entry(ada, AuditEvent.LOGGED_IN))
        assert identities.find_refresh_token("t1") == first
        assert identities.is_tradable(first)
        assert identities.trade(first, second, now=LATER)
        assert not identities.trade(first, other, now=LATER)
        assert not identities.is_tradable(first)
        assert identities.is_tradable(second)
        assert not identities.is_tradable(other)
        assert identities.find_refresh_token("t1") == replace(first, used_at=LATER)
        assert identities.find_refresh_token("t2") == second
        assert identities.find_refresh_token("t3") is None

    def test_end_for_all_of_their_tokens_and_only_theirs(self, identities: Identities) -> None:
        ada = user()
        identities.create_user(ada)
        first, apart = token("t1", ada, "s1"), token("t2", ada, "s2")
        for each in (first, apart):
            identities.start_session(each, place=HOME, now=NOW, entry=entry(ada, AuditEvent.LOGGED_IN))
        for _ in range(2):
            identities.end_session("s1", now=LATER, entry=entry(ada, AuditEvent.LOGGED_OUT))
        assert not identities.is_tradable(first)
        assert not identities.trade(first, token("t3", ada, "s1"), now=LATER)
        assert identities.trade(apart, token("t4", ada, "s2"), now=LATER)

    def test_begin_and_go_on_for_accounts_in_use_only(self, identities: Identities) -> None:
        ada = user()
        assert not identities.start_session(
            token("t0", ada, "s0"), place=HOME, now=NOW, entry=entry(ada, AuditEvent.LOGGED_IN)
        )
        identities.create_user(ada)
        first = token("t1", ada, "s1")
        assert identities.start_session(first, place=HOME, now=NOW, entry=entry(ada, AuditEvent.LOGGED_IN))
        identities.end_all_sessions(now=LATER, entry=entry(ada, AuditEvent.ALL_SESSIONS_ENDED), api_keys=False)
        assert not identities.is_tradable(first)
        assert not identities.trade(first, token("t2", ada, "s1"), now=LATER)
        later = replace(token("t3", ada, "s3"), session_started_at=LATER)
        assert identities.start_session(later, place=HOME, now=LATER, entry=entry(ada, AuditEvent.LOGGED_IN))
        assert identities.trade(later, replace(token("t4", ada, "s3"), session_started_at=LATER), now=LATER)

    def test_of_an_account_that_is_gone_cannot_be_ended(self, identities: Identities) -> None:
        with pytest.raises(NotFound):
            identities.end_all_sessions(now=NOW, entry=entry(user(), AuditEvent.ALL_SESSIONS_ENDED), api_keys=False)

    def test_make_their_network_known_for_thirty_days(self, identities: Identities) -> None:
        ada = user()
        identities.start_session(token("t0", ada, "s0"), place=HOME, now=NOW, entry=entry(ada, AuditEvent.LOGGED_IN))
        assert not identities.is_known_network(HOME, now=NOW), "nobody logged in: there is no such account"
        identities.create_user(ada)
        for n, now in enumerate((NOW, LATER)):
            first = token(f"t{n + 1}", ada, f"s{n + 1}")
            identities.start_session(first, place=HOME, now=now, entry=entry(ada, AuditEvent.LOGGED_IN))
        last = LATER + timedelta(days=30) - timedelta(seconds=1)
        assert identities.is_known_network(HOME, now=last)
        assert not identities.is_known_network(HOME, now=last + timedelta(seconds=1))
        for other in (LoginPlace.of("eve@example.com", "203.0.113.7"), LoginPlace.of("ada@example.com", "192.0.2.1")):
            assert not identities.is_known_network(other, now=NOW)

    def test_that_are_refused_are_recorded_for_accounts_only(self, identities: Identities) -> None:
        ada = user()
        identities.create_user(ada)
        identities.record_refusal(entry(ada, AuditEvent.LOGIN_FAILED))
        identities.record_refusal(None)
        assert identities.get_user(NOBODY) is None

    def test_that_never_were_end_in_silence(self, identities: Identities) -> None:
        identities.end_session("s1", now=NOW, entry=entry(user(), AuditEvent.LOGGED_OUT))
        assert identities.find_refresh_token("t1") is None


class TestApiKeys:
    def test_come_back_by_hash_by_id_and_listed(self, identities: Identities) -> None:
        ada = user()
        identities.create_user(ada)
        older = api_key(ada, hash="1" * 64, expires_at=LATER)
        newer = api_key(ada, hash="2" * 64)
        for key in (older, newer):
            identities.create_api_key(key, request=None, entry=entry_of(key))
        assert identities.find_api_key(older.hash) == older
        assert identities.get_api_key(ada.id, newer.id) == newer
        assert list(identities.list_api_keys(ada.id)) == sorted([older, newer], key=lambda key: key.id, reverse=True)

    @pytest.mark.fault("F-21f")
    def test_are_made_by_who_has_seen_all_that_were_made_before(self, identities: Identities) -> None:
        ada, eve = user(), user(email="eve@example.com")
        identities.create_user(ada)
        identities.create_user(eve)
        first, second, third, hers = (api_key(each, hash=new_id()) for each in (ada, ada, ada, eve))
        assert identities.keys_made(ada.id) == 0
        identities.create_api_key(first, seen=0, request=None, entry=entry_of(first))
        with pytest.raises(StaleVersion):
            identities.create_api_key(second, seen=0, request=None, entry=entry_of(second))
        assert identities.keys_made(ada.id) == 1
        identities.create_api_key(hers, seen=0, request=None, entry=entry_of(hers))
        identities.create_api_key(second, seen=1, request=None, entry=entry_of(second))
        identities.create_api_key(third, seen=2, going=[first], request=None, entry=entry_of(third))
        assert {key.id for key in identities.list_api_keys(ada.id)} == {second.id, third.id}
        assert identities.get_api_key(ada.id, first.id) is identities.find_api_key(first.hash) is None

    @pytest.mark.fault("F-21f")
    def test_are_listed_to_the_last(self, identities: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
        from karma.identity.api_keys import repository as api_keys

        monkeypatch.setattr(api_keys, "_PAGE", 2)
        ada = user()
        identities.create_user(ada)
        made = [api_key(ada, hash=new_id()) for _ in range(5)]
        for key in made:
            identities.create_api_key(key, request=None, entry=entry_of(key))
        assert {key.id for key in identities.list_api_keys(ada.id)} == {key.id for key in made}

    def test_belong_to_one_person(self, identities: Identities) -> None:
        ada, eve = user(), user()
        identities.create_user(ada)
        key = api_key(ada)
        identities.create_api_key(key, request=None, entry=entry_of(key))
        assert identities.get_api_key(eve.id, key.id) is None
        assert list(identities.list_api_keys(eve.id)) == []

    def test_are_found_no_more_once_revoked(self, identities: Identities) -> None:
        ada = user()
        identities.create_user(ada)
        key = api_key(ada)
        identities.create_api_key(key, request=None, entry=entry_of(key))
        assert identities.revoke_api_key(key, now=LATER, entry=entry_of(key))
        assert not identities.revoke_api_key(key, now=LATER, entry=entry_of(key))
        assert identities.find_api_key(key.hash) is None
        assert identities.get_api_key(key.user_id, key.id) == replace(key, revoked_at=LATER)

    def test_are_made_once_for_a_request(self, identities: Identities) -> None:
        ada = user()
        identities.create_user(ada)
        first, second = api_key(ada, hash="1" * 64), api_key(ada, hash="2" * 64)
        identities.create_api_key(first, request=asked("r"), entry=entry_of(first))
        with pytest.raises(AlreadyCreated) as caught:
            identities.create_api_key(second, request=asked("r"), entry=entry_of(second))
        assert caught.value.details == {"id": first.id}
        assert identities.find_api_key(second.hash) is None

    def test_remember_one_use_an_hour_until_they_are_revoked(self, identities: Identities) -> None:
        ada = user()
        identities.create_user(ada)
        key = api_key(ada)
        identities.create_api_key(key, request=None, entry=entry_of(key))
        assert identities.last_uses([key]) == {}

        def use(at: datetime) -> None:
            identities.note_use(key, now=at, unless_after=at - timedelta(hours=1))

        use(NOW)
        use(NOW + timedelta(minutes=59))
        found = identities.find_api_key(key.hash)
        assert found is not None
        assert found.last_used_at == NOW
        use(NOW + timedelta(minutes=60))
        assert identities.last_uses([key]) == {key.id: NOW + timedelta(hours=1)}
        identities.revoke_api_key(key, now=LATER, entry=entry_of(key))
        use(NOW + timedelta(hours=3))
        assert identities.find_api_key(key.hash) is None
        assert identities.last_uses([key]) == {}


@pytest.mark.fault("F-21j")
class TestWhoChangesSomething:
    """Is read with what they showed, as both are at this moment."""

    def test_is_known_with_a_session_that_is_open(self, identities: Identities) -> None:
        ada, eve = user(), user(email="eve@example.com")
        for each in (ada, eve):
            identities.create_user(each)
        identities.start_session(token("t1", ada, "s1"), place=HOME, now=NOW, entry=entry(ada, AuditEvent.LOGGED_IN))
        assert identities.read_with_session(ada.id, "s1") == (ada, True)
        assert identities.read_with_session(ada.id, "s2") == (ada, False)
        assert identities.read_with_session(UserId(new_id()), "s2") == (None, False)
        identities.end_session("s1", now=LATER, entry=entry(ada, AuditEvent.LOGGED_OUT))
        assert identities.read_with_session(ada.id, "s1") == (ada, False)

    def test_is_known_with_a_key_that_was_not_revoked(self, identities: Identities) -> None:
        ada = user()
        identities.create_user(ada)
        key = api_key(ada, hash=new_id())
        assert identities.read_with_owner(key.hash, ada.id) == (None, ada)
        identities.create_api_key(key, request=None, entry=entry_of(key))
        assert identities.read_with_owner(key.hash, ada.id) == (key, ada)
        assert identities.read_with_owner(key.hash, UserId(new_id())) == (key, None)
        identities.revoke_api_key(key, now=LATER, entry=entry_of(key))
        assert identities.read_with_owner(key.hash, ada.id) == (None, ada)


@pytest.mark.fault("F-21a")
class TestACredential:
    """Objects that are made with a session, or an API key, are refused once that has ended."""

    def use(self, identities: Identities, credential: Credential, *, at: datetime = LATER) -> bool:
        key = api_key(user(id=credential.user_id), id=ApiKeyId(new_id()), hash=new_id(), created_at=at)
        try:
            identities.create_api_key(key, made_with=credential, request=None, entry=entry_of(key))
        except Unauthenticated:
            assert identities.get_api_key(credential.user_id, key.id) is None
            return False
        assert identities.get_api_key(credential.user_id, key.id) == key
        return True

    @pytest.fixture
    def ada(self, identities: Identities) -> User:
        ada = user()
        identities.create_user(ada)
        for each in ("s1", "s2"):
            begun = token(f"t-{each}", ada, each)
            identities.start_session(begun, place=HOME, now=NOW, entry=entry(ada, AuditEvent.LOGGED_IN))
        return ada

    def test_of_a_session_ends_with_it_and_with_all(self, identities: Identities, ada: User) -> None:
        first, second = (Credential(user_id=ada.id, session_id=each, began_at=NOW) for each in ("s1", "s2"))
        assert self.use(identities, first)
        identities.end_session("s1", now=LATER, entry=entry(ada, AuditEvent.LOGGED_OUT))
        assert not self.use(identities, first)
        assert self.use(identities, second)
        identities.end_all_sessions(now=LATER, entry=entry(ada, AuditEvent.ALL_SESSIONS_ENDED), api_keys=False)
        assert not self.use(identities, second)
        nobody = Credential(user_id=UserId(new_id()), session_id="s1", began_at=NOW)
        unknown = Credential(user_id=ada.id, session_id="s3", began_at=LATER)
        assert not self.use(identities, nobody)
        assert not self.use(identities, unknown)

    @pytest.mark.parametrize("way", ["revoked", "expired", "ended with all", "goes on"])
    def test_of_an_api_key_ends_with_it_and_with_all(self, identities: Identities, ada: User, way: str) -> None:
        key = api_key(ada, expires_at=LATER)
        identities.create_api_key(key, request=None, entry=entry_of(key))
        shown = Credential(user_id=ada.id, api_key_id=key.id, began_at=key.created_at)
        at = LATER - timedelta(seconds=1)
        if way == "revoked":
            assert identities.revoke_api_key(key, now=at, entry=entry_of(key))
        elif way == "expired":
            at = LATER
        else:
            all_ended = entry(ada, AuditEvent.ALL_SESSIONS_ENDED)
            identities.end_all_sessions(now=at, entry=all_ended, api_keys=way == "ended with all")
        assert self.use(identities, shown, at=at) is (way == "goes on")
        found = identities.get_user(ada.id)
        assert found is not None
        assert found.api_keys_from == (at if way == "ended with all" else None)
