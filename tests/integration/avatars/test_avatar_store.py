"""One suite for both stores of avatars: the fake is only trusted because it passes here."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from karma.avatars.domain import Avatar, AvatarChanged, AvatarStatus, NewAvatar, made
from karma.avatars.ports import AvatarStore
from karma.avatars.repository import DynamoAvatarStore
from karma.core.clock import monotonic
from karma.core.errors import AlreadyExists
from karma.core.ids import AvatarId, UserId, new_id
from karma.core.purge import Purge
from karma.identity.audit import AuditEntry, AuditEvent
from karma.identity.holdings import AccountHolds
from karma.identity.parent import AccountGone
from karma.identity.repository.deletions import DeletionRepository
from tests.fakes.avatars import MemoryAvatarStore
from tests.support.accounts import open_account

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
USER, OTHER = UserId(new_id()), UserId(new_id())


@pytest.fixture(params=["memory", "dynamodb"])
def store(request: pytest.FixtureRequest) -> AvatarStore:
    if request.param == "memory":
        return MemoryAvatarStore()
    dynamo: AvatarStore = request.getfixturevalue("dynamo")
    return dynamo


@pytest.fixture
def dynamo(stack: Any) -> DynamoAvatarStore:
    stack.use("runs")
    for user in (USER, OTHER):
        open_account(stack.tables["identity"], user)
    return DynamoAvatarStore(stack.tables["agents"])


def avatar(number: int = 1, *, user: UserId = USER, **more: Any) -> Avatar:
    new = NewAvatar(name=f"avatar {number}", role="gardener", **{"abilities": {}, **more})
    return made(new, avatar_id=AvatarId(f"01890000-0000-7000-8000-{number:012d}"), created_by=user, at=NOW)


def later(old: Avatar, **fields: Any) -> Avatar:
    return replace(old, updated_at=old.updated_at + timedelta(seconds=1), version=old.version + 1, **fields)


@pytest.mark.req("R-K-18")
def test_an_avatar_reads_back_whole(store: AvatarStore) -> None:
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
        store.create(each, request_token="")
    assert [store.get(USER, each.id) for each in (bare, full)] == [bare, full]
    store.replace(full, used)
    assert store.get(USER, full.id) == used
    assert store.page(USER, newest_first=True, after="", limit=5) == [used, bare]


def test_what_does_not_exist_or_is_another_s_is_nothing(store: AvatarStore) -> None:
    store.create(avatar(user=OTHER), request_token="t")
    assert store.get(USER, avatar().id) is None
    assert store.made_by(USER, "t") is None
    assert (store.page(USER, newest_first=True, after="", limit=5), store.count(USER)) == ([], 0)


def test_a_request_makes_one_avatar(store: AvatarStore) -> None:
    store.create(avatar(1), request_token="t")
    with pytest.raises(AlreadyExists):
        store.create(avatar(2), request_token="t")
    assert store.made_by(USER, "t") == avatar(1).id
    assert (store.get(USER, avatar(2).id), store.count(USER)) == (None, 1)
    store.create(replace(avatar(3), created_at=NOW + timedelta(days=1)), request_token="t")
    assert store.made_by(USER, "t") == avatar(3).id


def test_lists_go_by_age_and_behind_an_id(store: AvatarStore) -> None:
    avatars = [avatar(n) for n in range(1, 6)]
    for each in avatars:
        store.create(each, request_token="")

    def numbers(*, newest: bool = True, after: str = "", limit: int = 9) -> list[int]:
        return [int(each.id[-2:]) for each in store.page(USER, newest_first=newest, after=after, limit=limit)]

    assert numbers() == [5, 4, 3, 2, 1]
    assert numbers(after=avatars[3].id, limit=2) == [3, 2]
    assert numbers(newest=False, after=avatars[3].id) == [5]
    assert store.count(USER) == 5


def test_a_stale_version_changes_and_deletes_nothing(store: AvatarStore) -> None:
    old = avatar()
    store.create(old, request_token="")
    new = later(old, name="new")
    store.replace(old, new)
    with pytest.raises(AvatarChanged):
        store.replace(old, later(old, name="late"))
    with pytest.raises(AvatarChanged):
        store.delete(old)
    assert (store.get(USER, old.id), store.count(USER)) == (new, 1)
    store.delete(new)
    assert (store.get(USER, old.id), store.count(USER)) == (None, 0)


class TestAnAccount:
    def leave(self, stack: Any) -> None:
        deletions = DeletionRepository()
        leaving = deletions.leaving(USER)
        assert leaving is not None
        entry = AuditEntry(user_id=USER, event=AuditEvent.DELETION_REQUESTED, at=NOW, actor_id=USER)
        deletions.begin(leaving, entry=entry, due_at=NOW)

    @pytest.mark.req("R-K-23")
    def test_stays_as_long_as_it_has_avatars(self, dynamo: DynamoAvatarStore, stack: Any) -> None:
        for n in (1, 2):
            dynamo.create(avatar(n), request_token=f"t{n}")
        with pytest.raises(AccountHolds) as refused:
            self.leave(stack)
        assert refused.value.details == {"avatar": 2}
        dynamo.delete(avatar(1))
        with pytest.raises(AccountHolds):
            self.leave(stack)
        dynamo.delete(avatar(2))
        self.leave(stack)

        with pytest.raises(AccountGone):
            dynamo.create(avatar(3), request_token="t3")
        assert dynamo.purge_account(Purge(user_id=USER, ends_at=monotonic() + 60, settled=True))
        assert stack.aws("dynamodb").scan(TableName=stack.tables["agents"])["Items"] == []
