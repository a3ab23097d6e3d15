"""The audit log, which has no fake: one suite for both engines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from karma.audit.domain import RETENTION, AuditEntry, AuditEvent, AuditPage, AuditQuery, Source
from karma.audit.repository import AuditRepository
from karma.audit.transactional import add_audit_entry, note_once_a_minute
from karma.core.dynamo.failures import ConditionFailed
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import UserId, new_id
from tests.support.stores import Database

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
ADA, EVE = UserId(new_id()), UserId(new_id())


@pytest.fixture
def log(database: Database) -> AuditRepository:
    return AuditRepository()


def append_now(entry: AuditEntry) -> None:
    tx = Transaction()
    add_audit_entry(tx, entry)
    tx.commit()


def add(user_id: UserId, at: datetime, event: AuditEvent = AuditEvent.LOGGED_IN) -> AuditEntry:
    source = Source(address="203.0.113.7", user_agent="browser", request_id="r1")
    entry = AuditEntry(user_id=user_id, event=event, at=at, actor_id=user_id, source=source, details={"a": "b"})
    append_now(entry)
    return entry


def walk(log: AuditRepository, day: datetime, asked: AuditQuery) -> list[AuditPage]:
    pages = [log.of_day(day.date(), asked, now=NOON)]
    while pages[-1].below is not None:
        following = AuditQuery(limit=asked.limit, event=asked.event, below=pages[-1].below)
        pages.append(log.of_day(day.date(), following, now=NOON))
    return pages


def entries(pages: Sequence[AuditPage]) -> list[AuditEntry]:
    return [entry for page in pages for entry in page.entries]


class TestAnEntry:
    def test_comes_back_as_it_was_appended_and_once(self, log: AuditRepository) -> None:
        entry = add(ADA, NOON)
        with pytest.raises(ConditionFailed):
            append_now(entry)
        assert log.of_user(ADA, AuditQuery(limit=5), now=NOON).entries == [entry]
        assert log.of_user(EVE, AuditQuery(limit=5), now=NOON).entries == []

    def test_is_over_after_four_hundred_days_though_it_is_stored(self, log: AuditRepository) -> None:
        entry = add(ADA, NOON)
        for after, shown in ((RETENTION, [entry]), (RETENTION + timedelta(milliseconds=1), [])):
            page = log.of_user(ADA, AuditQuery(limit=5), now=NOON + after)
            assert page.entries == shown
            assert log.of_day(NOON.date(), AuditQuery(limit=5), now=NOON + after).entries == shown

    def test_of_what_anybody_can_cause_is_kept_once_a_minute(self, log: AuditRepository) -> None:
        for seconds in (0, 1, 59, 60):
            for user_id in (ADA, EVE):
                at = NOON + timedelta(seconds=seconds)
                note_once_a_minute(AuditEntry(user_id=user_id, event=AuditEvent.LOGIN_FAILED, at=at, actor_id=None))
        later = NOON + timedelta(minutes=2)
        for user_id in (ADA, EVE):
            kept = log.of_user(user_id, AuditQuery(limit=5), now=later).entries
            assert [entry.at for entry in kept] == [NOON + timedelta(minutes=1), NOON]


class TestADay:
    def test_is_newest_first_over_all_accounts_whatever_the_page(self, log: AuditRepository) -> None:
        made = [add(user_id, NOON - timedelta(seconds=n)) for n in range(12) for user_id in (ADA, EVE)]
        for limit in (1, 5, 24, 100):
            found = entries(walk(log, NOON, AuditQuery(limit=limit)))
            assert [entry.at for entry in found] == sorted((entry.at for entry in found), reverse=True)
            assert {entry.id for entry in found} == {entry.id for entry in made}
            assert len(found) == len(made)

    def test_ends_at_midnight_utc(self, log: AuditRepository) -> None:
        midnight = NOON.replace(hour=0)
        first, before = add(ADA, midnight), add(ADA, midnight - timedelta(milliseconds=1))
        assert entries(walk(log, NOON, AuditQuery(limit=5))) == [first]
        assert entries(walk(log, NOON - timedelta(days=1), AuditQuery(limit=5))) == [before]

    def test_finds_rare_events_behind_many_others(self, log: AuditRepository) -> None:
        rare = [add(EVE, NOON - timedelta(hours=n), AuditEvent.DISABLED) for n in (5, 6)]
        for n in range(120):
            add(ADA, NOON - timedelta(seconds=n))
        pages = walk(log, NOON, AuditQuery(limit=1, event=AuditEvent.DISABLED))
        assert entries(pages) == rare
        assert len(pages) <= 4
