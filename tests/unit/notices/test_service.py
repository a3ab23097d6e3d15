"""Notices as an account sees them, and for how long."""

from datetime import UTC, datetime, timedelta

import pytest

from karma.core.clock import epoch_ms
from karma.core.errors import NotFound
from karma.core.ids import UserId, first_id, is_id, new_id
from karma.notices.answers import notice_view
from karma.notices.domain import MAX_COUNTED, RETENTION, Notice, NoticeType
from karma.notices.service import NoticeService
from tests.fakes.notices import MemoryNotices
from tests.fakes.runs import SetClock

ADA, BOB = UserId("ada"), UserId("bob")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def id_at(moment: datetime, number: int = 0) -> str:
    text = f"{epoch_ms(moment):012x}"
    return f"{text[:8]}-{text[8:]}-7000-8000-{number:012x}"


def notice(moment: datetime, number: int = 0, *, user: UserId = ADA) -> Notice:
    return Notice(id=id_at(moment, number), user_id=user, type=NoticeType.PASSWORD_CHANGED, created_at=moment)


class World:
    def __init__(self) -> None:
        self.store = MemoryNotices()
        self.clock = SetClock(NOW)
        self.service = NoticeService(self.store, self.clock)

    def add(self, number: int) -> list[Notice]:
        made = [notice(NOW - timedelta(minutes=n), n) for n in range(number)]
        for each in made:
            self.store.add(each)
        return made


@pytest.fixture
def world() -> World:
    return World()


def test_an_id_of_a_moment_sorts_between_older_and_newer_ids() -> None:
    assert is_id(id_at(NOW))
    assert id_at(NOW - timedelta(milliseconds=1), 2**40) < first_id(NOW) <= id_at(NOW)
    assert first_id(datetime.now(UTC) - timedelta(seconds=5)) < new_id()
    assert first_id(datetime(1960, 1, 1, tzinfo=UTC)) <= "00000000-0000-"


def test_pages_follow_each_other(world: World) -> None:
    made = world.add(5)

    first = world.service.page(ADA, unread=False, below="", limit=2)
    assert first.next_below
    second = world.service.page(ADA, unread=False, below=first.next_below, limit=3)

    assert [*first.notices, *second.notices] == made
    assert second.next_below is None
    assert first.unread == second.unread == 5


def test_unread_ones_are_counted_so_far(world: World) -> None:
    world.add(MAX_COUNTED + 5)
    assert world.service.page(ADA, unread=True, below="", limit=1).unread == MAX_COUNTED


def test_reading_is_noted_once(world: World) -> None:
    (made, _) = world.add(2)

    first = world.service.read(ADA, made.id)
    world.clock.pass_by(timedelta(hours=1))
    again = world.service.read(ADA, made.id)

    assert first == again
    assert first.read_at == NOW
    page = world.service.page(ADA, unread=True, below="", limit=5)
    assert ([each.id for each in page.notices], page.unread) == ([id_at(NOW - timedelta(minutes=1), 1)], 1)
    assert notice_view(first, locale="zh")["read_at"] == "2026-11-21T12:00:00.000Z"


def test_a_notice_is_shown_until_its_time_is_over(world: World) -> None:
    (made,) = world.add(1)
    world.clock.pass_by(RETENTION)
    assert world.service.page(ADA, unread=False, below="", limit=5).notices == [made]

    world.clock.pass_by(timedelta(milliseconds=1))

    page = world.service.page(ADA, unread=True, below="", limit=5)
    assert (page.notices, page.unread) == ([], 0)
    with pytest.raises(NotFound, match="Notice not found"):
        world.service.read(ADA, made.id)


def test_a_notice_of_another_account_is_not_found(world: World) -> None:
    (made,) = world.add(1)
    with pytest.raises(NotFound):
        world.service.read(BOB, made.id)
    assert world.store.get(ADA, made.id) == made


@pytest.mark.parametrize("notice_id", ["", "x", "NOTICE#", "01890000", "../x", "\ud800"])
def test_a_text_that_is_no_id_is_not_found(world: World, notice_id: str) -> None:
    with pytest.raises(NotFound):
        world.service.read(ADA, notice_id)
