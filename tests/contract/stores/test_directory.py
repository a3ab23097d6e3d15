"""One suite for the directory in memory and in DynamoDB."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.audit.domain import AuditEntry, AuditEvent, AuditQuery
from karma.audit.repository import AuditRepository
from karma.core.errors import Forbidden, StaleVersion, StorageThrottled
from karma.core.ids import UserId, new_id
from karma.identity.accounts.directory import AccountFilter, AccountPage
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.domain import Role, User
from tests.contract.stores.test_identity import LATER, NOW, user
from tests.fakes.identity import MemoryIdentities
from tests.support.stores import Database, Store

_EVERYTHING = AuditQuery(limit=10)
Directory = MemoryIdentities | DirectoryRepository


@pytest.fixture
def directory(store: Store) -> Directory:
    if store.in_memory:
        return MemoryIdentities()
    return DirectoryRepository()


@pytest.fixture
def stored(database: Database) -> DirectoryRepository:
    return DirectoryRepository()


def add(directory: Directory, name: str, *, minutes: int = 0, **changes: Any) -> User:
    made = user(email=f"{new_id()}@example.com", name=name, created_at=NOW + timedelta(minutes=minutes), **changes)
    directory.create_user(made)
    found = directory.read_user(made.id)
    assert found == made
    return found


def entry(about: User, actor: User | None = None, event: AuditEvent = AuditEvent.ROLE_CHANGED) -> AuditEntry:
    return AuditEntry(user_id=about.id, event=event, at=LATER, actor_id=actor.id if actor else None)


def give(directory: Directory, before: User, role: Role, actor: User | None = None) -> User:
    after = replace(before, role=role, updated_at=LATER)
    return directory.change_account(before, after, actor_id=actor.id if actor else None, entries=[entry(before, actor)])


def disable(directory: Directory, before: User, actor: User) -> User:
    after = replace(before, disabled_at=LATER, sessions_from=LATER, updated_at=LATER)
    return directory.change_account(
        before, after, actor_id=actor.id, entries=[entry(before, actor, AuditEvent.DISABLED)]
    )


def names(page: AccountPage) -> list[str]:
    return [found.name for found in page.users]


class TestTheList:
    def test_is_newest_first_over_roles_and_states_page_by_page(self, directory: Directory) -> None:
        root = add(directory, "0", role=Role.ADMIN)
        for number in range(1, 8):
            one = add(directory, str(number), minutes=number, role=list(Role)[number % 3])
            if number % 4 == 0:
                disable(directory, one, root)
        seen: list[str] = []
        below: str | None = None
        for _ in range(4):
            page = directory.list_users(AccountFilter(), limit=3, below=below)
            assert page.total == 8
            seen += names(page)
            below = page.after
            if below is None:
                break
        assert seen == [str(number) for number in range(7, -1, -1)]

    def test_shows_a_role_or_a_state_as_it_is_now(self, directory: Directory) -> None:
        root, ada = add(directory, "Root", role=Role.ADMIN), add(directory, "Ada", minutes=1)
        give(directory, ada, Role.VIEWER, root)
        assert names(directory.list_users(AccountFilter(role=Role.USER), limit=5, below=None)) == []
        viewers = directory.list_users(AccountFilter(role=Role.VIEWER), limit=5, below=None)
        assert (names(viewers), viewers.total) == (["Ada"], 1)
        [viewer] = viewers.users
        disable(directory, viewer, root)
        assert names(directory.list_users(AccountFilter(disabled=True), limit=5, below=None)) == ["Ada"]
        assert names(directory.list_users(AccountFilter(disabled=False), limit=5, below=None)) == ["Root"]


class TestTheSearch:
    def test_finds_names_by_their_beginning_however_they_are_written(self, directory: Directory) -> None:
        for name in ("Ada  Lovelace", "ADAM", "Bob", "Äda", "\uff21\uff24\uff21"):
            add(directory, name)

        def found(text: str) -> list[str]:
            return names(directory.search_users(text, AccountFilter(), limit=10, after=None))

        assert found("ada") == ["Ada  Lovelace", "\uff21\uff24\uff21", "ADAM"]
        assert found("Ada love") == ["Ada  Lovelace"]
        assert found("A\u0308DA") == ["Äda"]
        assert found("lovelace") == []

    def test_goes_on_where_the_page_ended(self, directory: Directory) -> None:
        for _ in range(5):
            add(directory, "Ada")
        first = directory.search_users("a", AccountFilter(), limit=3, after=None)
        second = directory.search_users("a", AccountFilter(), limit=3, after=first.after)
        assert (first.total, second.total, second.after) == (5, 5, None)
        assert len({found.id for page in (first, second) for found in page.users}) == 5

    def test_filters_by_role_and_state_as_they_are_now(self, directory: Directory) -> None:
        root, ada = add(directory, "Ann", role=Role.ADMIN), add(directory, "Ada")
        assert names(directory.search_users("a", AccountFilter(role=Role.USER), limit=5, after=None)) == ["Ada"]
        disable(directory, give(directory, ada, Role.VIEWER, root), root)
        asked = AccountFilter(role=Role.VIEWER, disabled=True)
        assert names(directory.search_users("a", asked, limit=5, after=None)) == ["Ada"]
        assert names(directory.search_users("a", AccountFilter(disabled=False), limit=5, after=None)) == ["Ann"]

    def test_takes_the_longest_name(self, directory: Directory) -> None:
        long = "\ufdfa" * 255
        add(directory, long)
        assert names(directory.search_users(long, AccountFilter(), limit=5, after=None)) == [long]


class TestAChange:
    def test_comes_back_as_it_was_stored(self, directory: Directory) -> None:
        root, ada = add(directory, "Root", role=Role.ADMIN), add(directory, "Ada")
        changed = disable(directory, ada, root)
        stored = directory.read_user(ada.id)
        assert stored == changed
        assert stored is not None
        assert stored.version == changed.version == ada.version + 1

    def test_of_what_was_changed_meanwhile_is_refused_whole(self, directory: Directory) -> None:
        root, ada = add(directory, "Root", role=Role.ADMIN), add(directory, "Ada")
        give(directory, ada, Role.VIEWER, root)
        with pytest.raises(StaleVersion):
            give(directory, ada, Role.ADMIN, root)
        now = directory.read_user(ada.id)
        assert now is not None
        assert now.role is Role.VIEWER

    @pytest.mark.req("R-M-36")
    def test_needs_an_administrator_in_use(self, directory: Directory) -> None:
        root, other = add(directory, "Root", role=Role.ADMIN), add(directory, "Other", role=Role.ADMIN)
        ada, bob = add(directory, "Ada"), add(directory, "Bob")
        disable(directory, other, root)
        for actor in (other, bob, user(id=UserId(new_id()))):
            with pytest.raises(Forbidden):
                give(directory, ada, Role.ADMIN, actor)
        assert give(directory, ada, Role.ADMIN, None).role is Role.ADMIN


@pytest.mark.req("R-M-36")
def test_administrators_who_demote_each_other_at_the_same_moment_leave_one(stored: DirectoryRepository) -> None:
    for _ in range(5):
        ring = [add(stored, "Admin", role=Role.ADMIN) for _ in range(3)]
        start = threading.Barrier(len(ring))

        def demote(actor: User, other: User, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                give(stored, other, Role.USER, actor)
            except (Forbidden, StaleVersion, StorageThrottled):
                return

        threads = [
            threading.Thread(target=demote, args=(actor, ring[(at + 1) % len(ring)])) for at, actor in enumerate(ring)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = [found for one in ring if (found := stored.read_user(one.id)) and found.role is Role.ADMIN]
        assert left
        for one in ring:
            told = AuditRepository().of_user(one.id, _EVERYTHING, now=LATER).entries
            assert bool(told) == (one.id not in {admin.id for admin in left})
