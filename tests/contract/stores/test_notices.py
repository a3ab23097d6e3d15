"""Notices: one suite for the store in memory and for DynamoDB."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta

import pytest

from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId
from karma.notices.domain import Notice
from karma.notices.ports import Notices
from karma.notices.repository import NoticeRepository
from karma.notices.transactional import add_notice
from tests.contexts.notices import ADA, notice
from tests.fakes.notices import MemoryNotices
from tests.support.rows import NOW
from tests.support.stores import Database, Store

BOB = UserId("01890000-0000-7000-8000-00000000000b")
SINCE = NOW - timedelta(days=90)


@dataclass
class Stored:
    store: Notices
    add: Callable[[Notice], None]

    def numbers(self, user: UserId = ADA, *, unread: bool = False, below: str = "", limit: int = 9) -> list[int]:
        found = self.store.page(user, unread=unread, since=SINCE, below=below, limit=limit)
        return [int(notice.data["n"]) for notice in found]


@pytest.fixture
def stored(store: Store) -> Stored:
    if store.in_memory:
        memory = MemoryNotices()
        return Stored(memory, memory.add)

    def add(notice: Notice) -> None:
        tx = Transaction()
        add_notice(tx, notice)
        tx.commit()

    return Stored(NoticeRepository(), add)


def test_a_notice_reads_back_whole(stored: Stored) -> None:
    one = notice(1)
    stored.add(one)

    assert stored.store.get(ADA, one.id) == one
    assert list(stored.store.page(ADA, unread=True, since=SINCE, below="", limit=5)) == [one]
    assert stored.store.get(BOB, one.id) is None


def test_lists_go_from_the_newest_on_and_behind_an_id(stored: Stored) -> None:
    made = [notice(n) for n in range(1, 6)]
    for each in [*made, notice(9, user=BOB), notice(0, moment=SINCE - timedelta(milliseconds=1))]:
        stored.add(each)

    for unread in (False, True):
        assert stored.numbers(unread=unread) == [5, 4, 3, 2, 1]
        assert stored.numbers(unread=unread, limit=2) == [5, 4]
        assert stored.numbers(unread=unread, below=made[3].id, limit=2) == [3, 2]
        assert stored.numbers(unread=unread, below=made[0].id) == []
        assert stored.numbers(unread=unread, below="0") == []
    assert stored.numbers(BOB) == [9]
    assert stored.store.count_unread(ADA, since=SINCE, most=100) == 5
    assert stored.store.count_unread(ADA, since=SINCE, most=3) == 3


def test_a_notice_is_read_once_and_leaves_the_unread_ones(stored: Stored) -> None:
    one, two = notice(1), notice(2)
    stored.add(one)
    stored.add(two)

    first = stored.store.mark_read(ADA, one.id, at=NOW)
    again = stored.store.mark_read(ADA, one.id, at=NOW + timedelta(hours=1))

    assert first == again
    assert first
    assert first.read_at == NOW
    assert stored.store.get(ADA, one.id) == first
    assert (stored.numbers(), stored.numbers(unread=True)) == ([2, 1], [2])
    assert stored.store.count_unread(ADA, since=SINCE, most=100) == 1


def test_noting_the_reading_of_an_absent_notice_makes_none(stored: Stored) -> None:
    one = notice(1)
    stored.add(one)
    assert stored.store.mark_read(BOB, one.id, at=NOW) is None
    assert stored.store.mark_read(ADA, notice(2).id, at=NOW) is None
    assert stored.numbers() == [1]
    assert stored.numbers(BOB) == []


def test_a_notice_is_written_once(database: Database) -> None:
    for attempt in range(2):
        tx = Transaction()
        add_notice(tx, notice(1))
        with pytest.raises(ConditionFailed) if attempt else nullcontext():
            tx.commit()
