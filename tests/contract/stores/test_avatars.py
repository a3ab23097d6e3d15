"""Avatars: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.avatars.domain import Avatar, AvatarChanged, AvatarStatus
from karma.avatars.ports import Avatars
from karma.avatars.repository import AvatarRepository
from karma.core.clock import monotonic
from karma.core.errors import AlreadyExists
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.identity.accounts.repository.deletions import DeletionRepository
from karma.identity.ownership import MOST, AccountHolds, OwnedKind, OwnsTooMany
from karma.identity.transactional import AccountGone
from tests.contexts.avatars import USER, avatar
from tests.fakes.avatars import MemoryAvatars
from tests.support.accounts import open_account
from tests.support.requests import asked
from tests.support.rows import NOW
from tests.support.stores import Database, Store

OTHER = UserId(new_id())


@pytest.fixture
def avatar_store(store: Store) -> Avatars:
    return MemoryAvatars() if store.in_memory else stored(store.database)


@pytest.fixture
def dynamo(database: Database) -> AvatarRepository:
    return stored(database)


def stored(database: Database) -> AvatarRepository:
    for user in (USER, OTHER):
        open_account(user)
    return AvatarRepository()


def later(old: Avatar, **fields: Any) -> Avatar:
    return replace(old, updated_at=old.updated_at + timedelta(seconds=1), version=old.version + 1, **fields)


@pytest.mark.req("R-K-18")
def test_an_avatar_reads_back_whole(avatar_store: Avatars) -> None:
    bare = avatar(1)
    full = avatar(
        2,
        description="Line one\nline two",
        avatar_url="https://example.com/a.png",
        skills=("pruning", "watering"),
        status=AvatarStatus.ERROR,
        base_model="m",
        system_prompt="Be brief.",
        tools=("searchDatabase",),
        abilities={"speed": 3.5, "of": [None]},
        price_minor=999,
    )
    used = later(
        full,
        performance={"runs": 3},
        earnings={"usd": 1},
        is_public=True,
        rating=4.25,
        review_count=4,
        download_count=7,
    )
    for each in (bare, full):
        avatar_store.create(each, request=None)
    assert [avatar_store.get(USER, each.id) for each in (bare, full)] == [bare, full]
    avatar_store.replace(full, used)
    assert avatar_store.get(USER, full.id) == used
    assert avatar_store.page(USER, newest_first=True, after="", limit=5) == [used, bare]


def test_an_avatar_that_does_not_exist_or_is_another_s_is_not_found(avatar_store: Avatars) -> None:
    avatar_store.create(avatar(user=OTHER), request=asked("t"))
    assert avatar_store.get(USER, avatar().id) is None
    assert avatar_store.made_by(USER, asked("t")) is None
    assert (avatar_store.page(USER, newest_first=True, after="", limit=5), avatar_store.count(USER)) == ([], 0)


def test_a_request_makes_one_avatar(avatar_store: Avatars) -> None:
    avatar_store.create(avatar(1), request=asked("t"))
    with pytest.raises(AlreadyExists):
        avatar_store.create(avatar(2), request=asked("t"))
    assert avatar_store.made_by(USER, asked("t")) == avatar(1).id
    assert (avatar_store.get(USER, avatar(2).id), avatar_store.count(USER)) == (None, 1)
    with pytest.raises(IdempotencyKeyReused):
        avatar_store.made_by(USER, asked("t", "another avatar"))
    day_after = asked("t", "another avatar", at=NOW + RETENTION)
    assert avatar_store.made_by(USER, day_after) is None
    avatar_store.create(avatar(3), request=day_after)
    assert avatar_store.made_by(USER, day_after) == avatar(3).id


def test_lists_go_by_age_and_behind_an_id(avatar_store: Avatars) -> None:
    avatars = [avatar(n) for n in range(1, 6)]
    for each in avatars:
        avatar_store.create(each, request=None)

    def numbers(*, newest: bool = True, after: str = "", limit: int = 9) -> list[int]:
        return [int(each.id[-2:]) for each in avatar_store.page(USER, newest_first=newest, after=after, limit=limit)]

    assert numbers() == [5, 4, 3, 2, 1]
    assert numbers(after=avatars[3].id, limit=2) == [3, 2]
    assert numbers(newest=False, after=avatars[3].id) == [5]
    assert avatar_store.count(USER) == 5


def test_a_stale_version_changes_and_deletes_nothing(avatar_store: Avatars) -> None:
    old = avatar()
    avatar_store.create(old, request=None)
    new = later(old, name="new")
    avatar_store.replace(old, new)
    with pytest.raises(AvatarChanged):
        avatar_store.replace(old, later(old, name="late"))
    with pytest.raises(AvatarChanged):
        avatar_store.delete(old)
    assert (avatar_store.get(USER, old.id), avatar_store.count(USER)) == (new, 1)
    avatar_store.delete(new)
    assert (avatar_store.get(USER, old.id), avatar_store.count(USER)) == (None, 0)


class TestAnAccount:
    def leave(self) -> None:
        deletions = DeletionRepository()
        leaving = deletions.leaving(USER)
        assert leaving is not None
        entry = AuditEntry(user_id=USER, event=AuditEvent.DELETION_REQUESTED, at=NOW, actor_id=USER)
        deletions.begin(leaving, entry=entry, due_at=NOW)

    @pytest.mark.req("R-K-23")
    def test_stays_as_long_as_it_has_avatars(self, dynamo: AvatarRepository, database: Database) -> None:
        for n in (1, 2):
            dynamo.create(avatar(n), request=asked(f"t{n}"))
        with pytest.raises(AccountHolds) as refused:
            self.leave()
        assert refused.value.details == {"avatar": 2}
        dynamo.delete(avatar(1))
        with pytest.raises(AccountHolds):
            self.leave()
        dynamo.delete(avatar(2))
        self.leave()

        with pytest.raises(AccountGone):
            dynamo.create(avatar(3), request=asked("t3"))
        assert dynamo.purge_account(
            PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() + 60, settled=True)
        )
        assert database.items("agents") == []


@pytest.mark.fault("F-26d")
def test_an_account_has_so_many_avatars_and_deleting_makes_room(
    avatar_store: Avatars, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MOST, OwnedKind.AVATAR, 2)
    first, second, third = avatar(1), avatar(2), avatar(3)
    for each in (first, second):
        avatar_store.create(each, request=asked(each.name))
    with pytest.raises(OwnsTooMany) as refused:
        avatar_store.create(third, request=asked(third.name))
    assert (refused.value.status, refused.value.details) == (409, {"kind": "avatar", "limit": 2})
    with pytest.raises(AlreadyExists):  # a repeat is told so, also when nothing fits any more
        avatar_store.create(avatar(4), request=asked(second.name))
    avatar_store.create(avatar(5, user=OTHER), request=None)
    avatar_store.replace(second, later(second, name="changed"))
    avatar_store.delete(first)
    avatar_store.create(third, request=asked(third.name))
    assert avatar_store.count(USER) == 2
