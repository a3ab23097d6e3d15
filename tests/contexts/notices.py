"""Declarations of notices for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property

import pytest

from karma.audit.domain import AuditEntry, AuditEvent
from karma.audit.transactional import note_once_a_minute
from karma.core.dynamo.transaction import Transaction
from karma.core.errors import NotFound
from karma.core.ids import UserId
from karma.notices.domain import Notice, NoticeType
from karma.notices.repository import NoticeRepository
from karma.notices.service import NoticeService
from karma.notices.transactional import add_notice
from tests.fakes.devices import FakeClock
from tests.fakes.notices import MemoryNotices
from tests.integration.permissions.world import Objects, World
from tests.support.contexts import Checks, Fakes, Scenarios, made
from tests.support.rows import DAY, NOW, AccountRows
from tests.unit.notices.test_service import id_at

ADA = UserId("01890000-0000-7000-8000-00000000000a")


def notice(n: int, *, user: UserId = ADA, moment: datetime | None = None) -> Notice:
    at = moment or NOW + timedelta(minutes=n)
    return Notice(
        id=id_at(at, n), user_id=user, type=NoticeType.ROLE_CHANGED, created_at=at, data={"n": str(n), "to": "viewer"}
    )


class NoticeRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.notices = NoticeRepository()

    @cached_property
    def notice(self) -> Notice:
        tx = Transaction()
        add_notice(tx, notice(1, user=self.ada.id))
        tx.commit()
        return notice(1, user=self.ada.id)


FAKES: Fakes = {MemoryNotices: (NoticeRepository,)}

SCENARIOS = Scenarios[NoticeRows](
    NoticeRows,
    {
        "NoticeRepository.page": made(
            lambda r: r.notice, lambda r, n: r.notices.page(n.user_id, unread=True, since=NOW - DAY, below="", limit=5)
        ),
        "NoticeRepository.count_unread": made(
            lambda r: r.notice, lambda r, n: r.notices.count_unread(n.user_id, since=NOW - DAY, most=5)
        ),
        "NoticeRepository.get": made(lambda r: r.notice, lambda r, n: r.notices.get(n.user_id, n.id)),
        "NoticeRepository.mark_read": made(
            lambda r: r.notice, lambda r, n: r.notices.mark_read(n.user_id, n.id, at=NOW)
        ),
    },
)


def _notice(world: World, owner: str, _: Mapping[str, str]) -> str:
    entry = AuditEntry(
        user_id=world.person(owner).id, event=AuditEvent.LOGIN_LOCKED, at=datetime.now(UTC), actor_id=None
    )
    note_once_a_minute(entry)
    return entry.id


OBJECTS: Objects = {"notice_id": _notice}


def _notice_over(rows: NoticeRows) -> None:
    notice = rows.notice
    assert rows.notices.page(rows.ada.id, unread=True, since=notice.created_at, below="", limit=5)
    assert not rows.notices.page(
        rows.ada.id, unread=True, since=notice.created_at + timedelta(milliseconds=1), below="", limit=5
    )
    with pytest.raises(NotFound):
        NoticeService(rows.notices, FakeClock(notice.expires_at)).read(rows.ada.id, notice.id)
    NoticeService(rows.notices, FakeClock(notice.expires_at - timedelta(milliseconds=1))).read(rows.ada.id, notice.id)


EXPIRES = Checks[NoticeRows](NoticeRows, {"notice": _notice_over})
