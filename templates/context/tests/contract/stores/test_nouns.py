"""Nouns: one suite for the store in memory and for DynamoDB."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from karma.core.requests import RETENTION, IdempotencyKeyReused
from karma.core.clock import monotonic
from karma.core.errors import AlreadyExists
from karma.core.ids import UserId, new_id
from karma.core.purge import PurgeAttempt
from karma.identity.transactional import AccountGone
from karma.nouns.domain import Noun, NounChanged, NounId
from karma.nouns.ports import Nouns
from karma.nouns.repository import NounRepository
from tests.fakes.nouns import MemoryNouns
from tests.support.accounts import open_account
from tests.support.stores import Database, Store
from tests.support.requests import asked

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
USER, OTHER, GONE = UserId(new_id()), UserId(new_id()), UserId(new_id())


@pytest.fixture
def noun_store(store: Store) -> Nouns:
    return MemoryNouns(deleted_accounts={GONE}) if store.in_memory else stored()


@pytest.fixture
def dynamo(database: Database) -> NounRepository:
    return stored()


def stored() -> NounRepository:
    for user in (USER, OTHER):
        open_account(user)
    return NounRepository()


def noun(number: int = 1, *, user: UserId = USER, note: str = "") -> Noun:
    return Noun(
        id=NounId(f"01890000-0000-7000-8000-{number:012d}"),
        user_id=user,
        name=f"noun {number}",
        note=note,
        created_at=NOW,
        updated_at=NOW,
        version=1,
    )


def test_it_reads_back_whole(noun_store: Nouns) -> None:
    bare, full = noun(1), noun(2, note="Line one\nline two")
    for each in (bare, full):
        noun_store.create(each, request=None)
    assert [noun_store.get(USER, each.id) for each in (bare, full)] == [bare, full]


def test_what_does_not_exist_or_is_another_s_is_nothing(noun_store: Nouns) -> None:
    noun_store.create(noun(user=OTHER), request=asked("t"))
    assert noun_store.get(USER, noun().id) is None
    assert noun_store.made_by(USER, asked("t")) is None
    assert noun_store.page(USER, below="", limit=5) == []


def test_a_request_makes_one(noun_store: Nouns) -> None:
    noun_store.create(noun(1), request=asked("t"))
    with pytest.raises(AlreadyExists):
        noun_store.create(noun(2), request=asked("t"))
    assert noun_store.made_by(USER, asked("t")) == noun(1).id
    assert noun_store.get(USER, noun(2).id) is None
    with pytest.raises(IdempotencyKeyReused):
        noun_store.made_by(USER, asked("t", "another noun"))
    day_after = asked("t", "another noun", at=NOW + RETENTION)
    assert noun_store.made_by(USER, day_after) is None
    noun_store.create(noun(3), request=day_after)
    assert noun_store.made_by(USER, day_after) == noun(3).id


def test_lists_go_by_age_and_below_an_id(noun_store: Nouns) -> None:
    made = [noun(n) for n in range(5, 0, -1)]
    for each in made:
        noun_store.create(each, request=asked("t") if each is made[0] else None)
    assert noun_store.page(USER, below="", limit=9) == made
    assert noun_store.page(USER, below=made[1].id, limit=2) == made[2:4]


def test_a_stale_version_changes_and_deletes_nothing(noun_store: Nouns) -> None:
    old = noun()
    noun_store.create(old, request=None)
    new = replace(old, name="new", updated_at=NOW + timedelta(seconds=1), version=2)
    noun_store.replace(old, new)
    with pytest.raises(NounChanged):
        noun_store.replace(old, replace(new, name="late"))
    with pytest.raises(NounChanged):
        noun_store.delete(old)
    assert noun_store.get(USER, old.id) == new
    noun_store.delete(new)
    assert noun_store.get(USER, old.id) is None


def test_nothing_is_made_for_an_account_that_is_gone(noun_store: Nouns) -> None:
    with pytest.raises(AccountGone):
        noun_store.create(noun(user=GONE), request=asked("t"))
    assert noun_store.get(GONE, noun().id) is None


def test_an_account_s_go_with_it(dynamo: NounRepository, database: Database) -> None:
    for each in (noun(1), noun(2), noun(3, user=OTHER)):
        dynamo.create(each, request=asked("t") if each.id == noun(1).id else None)
    assert not dynamo.purge_account(PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() - 1, settled=True))
    assert dynamo.purge_account(PurgeAttempt(user_id=USER, requested_at=NOW, ends_at=monotonic() + 60, settled=True))
    [left] = database.items("work")
    assert left["user_id"] == {"S": OTHER}
