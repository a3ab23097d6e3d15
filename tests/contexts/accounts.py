"""Declarations of accounts for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from karma.core.ids import UserId, new_id
from karma.identity.accounts import emails, one_time
from karma.identity.accounts.deletion import Leaving
from karma.identity.accounts.directory import AccountFilter
from karma.identity.accounts.one_time import OneTimeToken, Purpose
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.accounts.repository.purge import AccountPurge
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.domain import Role
from karma.identity.sessions.repository import SessionRepository
from tests.contexts.api_keys import ApiKeyRows
from tests.fakes.accounts import MemoryAccounts
from tests.fakes.identity import MemoryIdentities
from tests.integration.permissions.world import PASSWORD, Bodies, Objects, World
from tests.support.accounts import was_deleted
from tests.support.contexts import Call, Checks, Fakes, Scenarios, made
from tests.support.rows import DAY, LATER, NOW


class PersonRows(ApiKeyRows):
    def __init__(self) -> None:
        super().__init__()
        self.directory = DirectoryRepository()
        self.tokens = OneTimeRepository()
        self.deletions = DeletionRepository()
        self.remains = AccountPurge()

    def one_time(self, purpose: Purpose = Purpose.VERIFY_EMAIL, email: str = "") -> OneTimeToken:
        email = email or self.ada.email
        return one_time.issue(purpose, user_id=self.ada.id, email=email, asked_at=NOW, now=NOW)[1]

    def kept(self, purpose: Purpose = Purpose.VERIFY_EMAIL, email: str = "") -> OneTimeToken:
        token = self.one_time(purpose, email)
        self.tokens.create_token(token, now=NOW)
        return token

    @property
    def leaving(self) -> Leaving:
        found = self.deletions.leaving(self.ada.id)
        assert found is not None
        return found

    @cached_property
    def gone(self) -> UserId:
        self.deletions.begin(self.leaving, entry=self.entry, due_at=NOW)
        return self.ada.id


FAKES: Fakes = {
    MemoryIdentities: (UserRepository, SessionRepository, ApiKeyRepository, DirectoryRepository),
    MemoryAccounts: (UserRepository, OneTimeRepository),
}


def _begun(r: PersonRows) -> Call:
    by, leaving, entry = r.shown, r.leaving, r.entry
    return lambda: r.deletions.begin(leaving, by=by, entry=entry, due_at=NOW)


def _saved(r: PersonRows) -> Call:
    before, by, entry, mail = r.ada, r.shown, r.entry, r.mail
    after = replace(before, name="Ada Lovelace", updated_at=LATER)
    return lambda: r.users.save_profile(before, after, by=by, entry=entry, mails=[mail])


def _moved(r: PersonRows) -> Call:
    token, entry, mail = r.kept(Purpose.CHANGE_EMAIL, f"new-{r.id}@example.com"), r.entry, r.mail
    r.users.save_profile(r.ada, replace(r.ada, moving_to=token.email), entry=r.entry, mails=[])
    return lambda: r.tokens.move_email(token, old_email=r.ada.email, now=NOW, entry=entry, mails=[mail])


def _changed_account(r: PersonRows) -> Call:
    before, root, by, entry = r.ada, r.root, r.shown_by_root, r.entry
    after = replace(before, role=Role.VIEWER, updated_at=LATER)
    return lambda: r.directory.change_account(before, after, actor_id=root.id, by=by, entries=[entry])


SCENARIOS = Scenarios[PersonRows](
    PersonRows,
    {
        "UserRepository.create_user": made(
            lambda r: (r.person(), r.entry, r.mail),
            lambda r, n: r.users.create_user(n[0], entries=[n[1]], mails=[n[2]]),
        ),
        "UserRepository.get_user": made(lambda r: r.ada, lambda r, ada: r.users.get_user(ada.id)),
        "UserRepository.read_user": made(lambda r: r.ada, lambda r, ada: r.users.read_user(ada.id)),
        "UserRepository.read_with_session": made(
            lambda r: r.session, lambda r, token: r.users.read_with_session(token.user_id, token.session_id)
        ),
        "UserRepository.find_by_email": made(lambda r: r.ada, lambda r, ada: r.users.find_by_email(ada.email)),
        "UserRepository.find_by_email_hash": made(
            lambda r: emails.digest(r.ada.email), lambda r, digest: r.users.find_by_email_hash(digest)
        ),
        "UserRepository.left_by": made(
            lambda r: (r.ada, r.gone), lambda r, n: r.users.left_by(emails.digest(n[0].email), now=NOW)
        ),
        "UserRepository.rehash": made(lambda r: r.ada, lambda r, ada: r.users.rehash(ada, "second", now=NOW)),
        "UserRepository.save_profile": _saved,
        "UserRepository.change_password": made(
            lambda r: (r.ada, r.entry, r.mail, r.shown),
            lambda r, n: r.users.change_password(n[0], "second", by=n[3], now=LATER, entry=n[1], mails=[n[2]]),
        ),
        "DirectoryRepository.list_users": made(
            lambda r: r.ada, lambda r, _: r.directory.list_users(AccountFilter(role=Role.USER), limit=5, below=None)
        ),
        "DirectoryRepository.search_users": made(
            lambda r: r.ada, lambda r, _: r.directory.search_users("ada", AccountFilter(), limit=5, after=None)
        ),
        "DirectoryRepository.change_account": _changed_account,
        "OneTimeRepository.create_token": made(
            lambda r: r.one_time(), lambda r, token: r.tokens.create_token(token, now=NOW)
        ),
        "OneTimeRepository.find_token": made(lambda r: r.kept(), lambda r, token: r.tokens.find_token(token.hash)),
        "OneTimeRepository.verify_email": made(
            lambda r: (r.kept(), r.entry), lambda r, n: r.tokens.verify_email(n[0], now=LATER, entry=n[1])
        ),
        "OneTimeRepository.reset_password": made(
            lambda r: (r.kept(Purpose.RESET_PASSWORD), r.entry, r.mail),
            lambda r, n: r.tokens.reset_password(n[0], "second", now=LATER, entry=n[1], mails=[n[2]]),
        ),
        "OneTimeRepository.move_email": _moved,
        "DeletionRepository.leaving": made(lambda r: r.ada, lambda r, ada: r.deletions.leaving(ada.id)),
        "DeletionRepository.begin": _begun,
        "DeletionRepository.get": made(lambda r: r.gone, lambda r, user_id: r.deletions.get(user_id)),
        "DeletionRepository.due": made(lambda r: r.gone, lambda r, _: r.deletions.due(LATER, limit=5)),
        "DeletionRepository.postpone": made(
            lambda r: r.gone, lambda r, user_id: r.deletions.postpone(user_id, due_at=LATER, waits_for="files")
        ),
        "DeletionRepository.finish": made(
            lambda r: r.gone, lambda r, user_id: r.deletions.finish(user_id, at=LATER, forget_at=LATER + DAY)
        ),
        "AccountPurge.purge_account": made(
            lambda r: (r.key, r.kept(), r.purge()), lambda r, n: r.remains.purge_account(n[2])
        ),
    },
)


def _one_time(world: World, owner: str, purpose: Purpose) -> str:
    person, now = world.person(owner), datetime.now(UTC)
    text, token = one_time.issue(purpose, user_id=person.id, email=person.email, asked_at=now, now=now)
    OneTimeRepository().create_token(token, now=now)
    return text


def _reset(world: World, owner: str) -> dict[str, Any]:
    return {"token": _one_time(world, owner, Purpose.RESET_PASSWORD), "password": "another " + PASSWORD}


OBJECTS: Objects = {"user_id": lambda world, owner, _: world.person(owner).id}

SHARED = {"user_id"}

BODIES: Bodies = {
    "POST /api/v1/auth/register": lambda *_: {"email": f"{new_id()}@example.com", "password": PASSWORD, "name": "Eve"},
    "POST /api/v1/auth/verify-email": lambda world, owner: {"token": _one_time(world, owner, Purpose.VERIFY_EMAIL)},
    "POST /api/v1/auth/forgot-password": lambda world, owner: {"email": world.person(owner).email},
    "POST /api/v1/auth/reset-password": _reset,
    "POST /api/v1/auth/change-password": lambda *_: {"current_password": PASSWORD, "password": "another " + PASSWORD},
    "PATCH /api/v1/users/me": lambda *_: {"name": "Augusta"},
    "DELETE /api/v1/users/me": lambda *_: {"current_password": PASSWORD},
    "PATCH /api/v1/users/{user_id}": lambda *_: {"disabled": True},
}


def _one_time_over(rows: PersonRows) -> None:
    token = rows.kept()
    found = rows.tokens.find_token(token.hash)
    assert found is not None
    assert found.usable(Purpose.VERIFY_EMAIL, token.expires_at - timedelta(milliseconds=1))
    assert not found.usable(Purpose.VERIFY_EMAIL, token.expires_at)


def _tombstone_over(rows: PersonRows) -> None:
    user_id = rows.gone
    rows.deletions.finish(user_id, at=LATER, forget_at=LATER + DAY)
    assert was_deleted(user_id, at=LATER + DAY - timedelta(seconds=1))
    assert not was_deleted(user_id, at=LATER + DAY)


def _left_over(r: PersonRows) -> None:
    email, user_id = emails.digest(r.ada.email), r.gone
    ends = (NOW + timedelta(days=31)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert r.users.left_by(email, now=ends - timedelta(seconds=1)) == user_id
    assert r.users.left_by(email, now=ends) is None


EXPIRES = Checks[PersonRows](
    PersonRows,
    {"one_time_token": _one_time_over, "account_tombstone": _tombstone_over, "left_address": _left_over},
)
