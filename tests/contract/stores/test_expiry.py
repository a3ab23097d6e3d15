"""Expired items count as deleted while the database still has them: TTL deletes days late, and is off in the suites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

import pytest

from karma.audit.domain import NOWHERE, RETENTION, AuditQuery
from karma.core.clock import epoch_ms, from_epoch_ms
from karma.core.errors import AlreadyCreated, AlreadyExists, NotFound, Unauthenticated
from karma.core.ids import AgentId, UserId, new_id
from karma.core.requests import KEPT
from karma.devices.commands import CommandService
from karma.devices.domain import COMMAND_RETENTION_S, DEAD_LETTER_RETENTION_S, RAW_RETENTION_S
from karma.devices.lookup import DeviceLookup
from karma.devices.payloads import Refused
from karma.devices.telemetry import TelemetryQuery, TelemetryReader
from karma.files.domain import REJECTED_TIME
from karma.files.ports import ObjectStore
from karma.files.service import FileService
from karma.identity.accounts.one_time import Purpose
from karma.identity.passwords.hashes import Passwords
from karma.identity.sessions.logins import LoginThrottle
from karma.identity.sessions.service import SessionService
from karma.mail.domain import MailState
from karma.notices.service import NoticeService
from karma.realtime.domain import CONNECTION_TTL
from karma.realtime.service import ConnectionService
from tests.contexts.core import TEN
from tests.contract.stores.rows import Rows
from tests.fakes.devices import FakeClock, FakePublisher, FakeWakeUps
from tests.fakes.files import MemoryStore
from tests.fakes.identity import RING
from tests.support.accounts import was_deleted
from tests.support.requests import asked
from tests.support.rows import DAY, LATER, NOW
from tests.support.stores import Database

MOMENT = timedelta(milliseconds=1)


def session_over(rows: Rows) -> None:
    token = rows.session
    service = SessionService(
        accounts=rows.users,
        sessions=rows.sessions,
        throttle=cast("LoginThrottle", None),  # nobody logs in with a password here
        passwords=cast("Passwords", None),
        dummy_hash="",
        key_ring=lambda: RING,
        clock=FakeClock(token.expires_at),
        on_change=lambda _: None,
    )
    with pytest.raises(Unauthenticated):
        service.refresh(token.hash, source=NOWHERE)


def network_over(rows: Rows) -> None:
    rows.session  # noqa: B018
    assert rows.sessions.is_known_network(rows.place, now=NOW + 30 * DAY - MOMENT)
    assert not rows.sessions.is_known_network(rows.place, now=NOW + 30 * DAY)


def request_over(rows: Rows) -> None:
    first, second, third = rows.api_key(), rows.api_key(), rows.api_key()
    rows.keys.create_api_key(first, request=asked("r"), entry=rows.entry)
    with pytest.raises(AlreadyCreated):
        rows.keys.create_api_key(second, request=asked("r"), entry=rows.entry)
    rows.keys.create_api_key(third, request=asked("r", at=NOW + KEPT), entry=rows.entry)


def one_time_over(rows: Rows) -> None:
    token = rows.kept()
    found = rows.tokens.find_token(token.hash)
    assert found is not None
    assert found.usable(Purpose.VERIFY_EMAIL, token.expires_at - MOMENT)
    assert not found.usable(Purpose.VERIFY_EMAIL, token.expires_at)


def flow_over(rows: Rows) -> None:
    flow = rows.begun
    assert not rows.oauth.take_flow(
        flow.state_hash, provider=flow.provider, browser_hash=flow.browser_hash, now=flow.expires_at
    )


def code_over(rows: Rows) -> None:
    assert not rows.oauth.take_login_code(rows.given.hash, now=rows.code.expires_at)


def audit_over(rows: Rows) -> None:
    rows.key  # noqa: B018
    at = NOW + RETENTION
    assert rows.audit.of_user(rows.ada.id, AuditQuery(limit=5), now=at).entries
    assert not rows.audit.of_user(rows.ada.id, AuditQuery(limit=5), now=at + MOMENT).entries
    assert not rows.audit.of_day(NOW.date(), AuditQuery(limit=5), now=at + MOMENT).entries


def tombstone_over(rows: Rows) -> None:
    user_id = rows.gone
    rows.deletions.finish(user_id, at=LATER, forget_at=LATER + DAY)
    assert was_deleted(user_id, at=LATER + DAY - timedelta(seconds=1))
    assert not was_deleted(user_id, at=LATER + DAY)


def bucket_over(rows: Rows) -> None:
    for _ in range(TEN.amount):
        rows.buckets.take(TEN, rows.id, now=NOW)
    assert not rows.buckets.take(TEN, rows.id, now=NOW).allowed
    assert rows.buckets.take(TEN, rows.id, now=NOW + DAY).remaining == TEN.amount - 1


def made_device_over(rows: Rows) -> None:
    rows.active(request=asked())
    assert rows.devices.made_by(rows.ada.id, asked(at=NOW + KEPT - timedelta(seconds=1)))
    assert not rows.devices.made_by(rows.ada.id, asked(at=NOW + KEPT))
    rows.active(request=asked(at=NOW + KEPT))


def sent_command_over(rows: Rows) -> None:
    rows.commands.add(rows.command(), rows.device, now=NOW, request=asked())
    assert rows.commands.made_by(rows.device, asked(at=NOW + KEPT - timedelta(seconds=1)))
    assert not rows.commands.made_by(rows.device, asked(at=NOW + KEPT))
    rows.commands.add(rows.command(), rows.device, now=NOW, request=asked(at=NOW + KEPT))


def made_agent_over(rows: Rows) -> None:
    agent = rows.agent
    assert rows.agents.made_by(asked(agent.id, at=NOW + KEPT - timedelta(seconds=1)))
    assert not rows.agents.made_by(asked(agent.id, at=NOW + KEPT))
    another = replace(rows.new_agent(name="another"), id=AgentId(new_id()))
    rows.agents.create(another, request=asked(agent.id, at=NOW + KEPT))


def made_file_over(rows: Rows) -> None:
    rows.add(rows.new_file(), rows.new_directory(), request=asked())
    assert rows.files.made_by(rows.device.id, asked(at=NOW + KEPT - timedelta(seconds=1)))
    assert not rows.files.made_by(rows.device.id, asked(at=NOW + KEPT))
    rows.add(rows.new_file(name="other.txt"), request=asked(at=NOW + KEPT))


def command_over(rows: Rows) -> None:
    command = rows.sent
    end = from_epoch_ms(command.expires_ms) + timedelta(seconds=COMMAND_RETENTION_S)
    for now, shown in ((end - timedelta(seconds=1), 1), (end, 0)):
        clock = FakeClock(now)
        service = CommandService(rows.devices, rows.commands, FakePublisher(), FakeWakeUps(clock), clock)
        commands, _ = service.list(rows.ada.id, command.device_id)
        assert len(commands) == shown
        if shown:
            service.get(rows.ada.id, command.device_id, command.id)
            continue
        with pytest.raises(NotFound):
            service.get(rows.ada.id, command.device_id, command.id)


def letter_over(rows: Rows) -> None:
    rows.letters.store(rows.device.id, refused=[Refused("", "R")], topic="t", payload=b"", received_ms=epoch_ms(NOW))
    end_s = epoch_ms(NOW) // 1000 + DEAD_LETTER_RETENTION_S
    assert len(rows.letters.page(rows.device.id, limit=5, now_s=end_s - 1)[0]) == 1
    assert rows.letters.page(rows.device.id, limit=5, now_s=end_s)[0] == []


def telemetry_over(rows: Rows) -> None:
    at_ms = epoch_ms(NOW)
    samples = f'[[{at_ms},{{"temp_c":1.5}}]]'.encode()
    rows.telemetry.store(rows.device.id, replace(rows.batch(), samples_json=samples))
    query = TelemetryQuery(from_ms=at_ms, to_ms=at_ms + 1)
    end = NOW + timedelta(seconds=RAW_RETENTION_S) + DAY
    for now, shown in ((end, 1), (end + MOMENT, 0)):
        reader = TelemetryReader(rows.devices, rows.telemetry, FakeClock(now))
        assert len(reader.points(rows.ada.id, rows.device.id, query).points) == shown


def file_over(rows: Rows) -> None:
    rows.files.cleaned(rows.rejected, now=NOW)
    parent = DeviceLookup(rows.devices)

    def service(now: datetime) -> FileService:
        store: ObjectStore = MemoryStore()
        return FileService(rows.files, store, parent, FakeClock(now))

    file = rows.rejected
    assert service(NOW + REJECTED_TIME - timedelta(seconds=1)).get(rows.ada.id, file.device_id, file.id).rejection
    with pytest.raises(NotFound):
        service(NOW + REJECTED_TIME).get(rows.ada.id, file.device_id, file.id)


def connection_over(rows: Rows) -> None:
    channel = rows.listening
    end = NOW + CONNECTION_TTL
    ConnectionService(store=rows.realtime, clock=FakeClock(end - MOMENT)).subscribe(rows.connection.id, channel.name)
    with pytest.raises(NotFound):
        ConnectionService(store=rows.realtime, clock=FakeClock(end)).subscribe(rows.connection.id, channel.name)


def ticket_over(rows: Rows) -> None:
    ticket = rows.realtime.get_ticket(rows.admitted.hash)
    assert ticket is not None
    service = ConnectionService(store=rows.realtime, clock=FakeClock(ticket.expires_at))
    with pytest.raises(Unauthenticated):
        service.connect("c1", rows.admitted.hash)


def made_project_over(rows: Rows) -> None:
    rows.project  # noqa: B018
    again, owner = rows.new_project()
    with pytest.raises(AlreadyExists):
        rows.projects.create(again, owner, request=asked("t"))
    rows.projects.create(again, owner, request=asked("t", at=NOW + KEPT))


def made_task_over(rows: Rows) -> None:
    rows.task  # noqa: B018
    again, subtasks = rows.new_task()
    with pytest.raises(AlreadyExists):
        rows.tasks.create(again, subtasks, request=asked("t"))
    rows.tasks.create(again, subtasks, request=asked("t", at=NOW + KEPT))


def made_avatar_over(rows: Rows) -> None:
    rows.avatar  # noqa: B018
    again = rows.new_avatar()
    with pytest.raises(AlreadyExists):
        rows.avatars.create(again, request=asked("t"))
    rows.avatars.create(again, request=asked("t", at=NOW + KEPT))


def notice_over(rows: Rows) -> None:
    notice = rows.notice
    assert rows.notices.page(rows.ada.id, unread=True, since=notice.created_at, below="", limit=5)
    assert not rows.notices.page(rows.ada.id, unread=True, since=notice.created_at + MOMENT, below="", limit=5)
    with pytest.raises(NotFound):
        NoticeService(rows.notices, FakeClock(notice.expires_at)).read(rows.ada.id, notice.id)
    NoticeService(rows.notices, FakeClock(notice.expires_at - MOMENT)).read(rows.ada.id, notice.id)


COMPARED: Mapping[str, Callable[[Rows], None]] = {
    "session": session_over,
    "refresh_token": session_over,
    "known_network": network_over,
    "request_guard": request_over,
    "one_time_token": one_time_over,
    "oauth_flow": flow_over,
    "login_code": code_over,
    "audit_entry": audit_over,
    "account_tombstone": tombstone_over,
    "bucket": bucket_over,
    "device_request": made_device_over,
    "idempotency": sent_command_over,
    "agent_request": made_agent_over,
    "device_file_request": made_file_over,
    "command": command_over,
    "dead_letter": letter_over,
    "telemetry": telemetry_over,
    "device_file": file_over,
    "ticket": ticket_over,
    "connection": connection_over,
    "channel_subscription": connection_over,
    "project_request": made_project_over,
    "task_request": made_task_over,
    "notice": notice_over,
    "avatar_request": made_avatar_over,
}
"""Checks by type of item: its reader's answers before and after the end."""
STAY = {
    "stripe_event": "a repeat of an event that was handled stays handled",
    "own_event": "a note for the purge of its account, which takes an event that is gone for deleted",
    "customer_link": "events about a deleted account are dropped, as long as it is known that it was one",
    "price_naming": "known far longer than an event is handled, and older than whatever Stripe is asked later",
    "unlinked_payer": "opens an event, which is then read anew",
    "mail": "a mail that was sent is not sent again",
}
"""Types that count for as long as they are stored, with the reason: no reader compares their end."""


@pytest.mark.parametrize("kind", COMPARED)
def test_an_expired_item_counts_as_deleted(rows: Rows, kind: str) -> None:
    COMPARED[kind](rows)


def test_no_other_items_have_an_end(rows: Rows, database: Database) -> None:
    rows.session, rows.given, rows.begun, rows.admitted, rows.listening, rows.sent  # noqa: B018
    rows.keys.create_api_key(rows.api_key(), request=asked("r"), entry=rows.entry)
    rows.kept()
    rows.outbox.close(rows.pending, MailState.SENT, now=NOW)
    rows.buckets.take(TEN, rows.id, now=NOW)
    rows.active(request=asked())
    rows.commands.add(rows.command(), rows.device, now=NOW, request=asked())
    rows.add(rows.new_file(path="/"), request=asked())
    rows.letters.store(rows.device.id, refused=[Refused("", "R")], topic="t", payload=b"", received_ms=epoch_ms(NOW))
    rows.telemetry.store(rows.device.id, rows.batch())
    rows.files.cleaned(rows.rejected, now=NOW)
    rows.customers.begin_ending(rows.customer.customer_id, rows.ada.id, at=NOW)
    rows.customers.end(rows.customer.customer_id, rows.ada.id, at=NOW)
    rows.running, rows.agent, rows.task, rows.changed, rows.notice  # noqa: B018
    project, owner = rows.project
    rows.projects.begin_delete(project, actor=owner, at=NOW)
    rows.avatars.create(rows.new_avatar(), request=asked("t"))
    rows.avatars.delete(rows.avatars.page(rows.ada.id, newest_first=True, after="", limit=1)[0])
    assert rows.ignored
    rows.inbox.open_payers_of("price_of_nobody", at=NOW)
    assert rows.inbox.reopen(rows.event, at=NOW, due_at=NOW)
    assert rows.subscribe()
    rows.deletions.finish(rows.gone, at=NOW, forget_at=LATER)
    found = {
        item["type"]["S"]
        for table in ("identity", "devices", "telemetry", "work", "agents", "billing", "realtime")
        for item in database.items(table)
        if "expires_at" in item
    }
    assert found == {*COMPARED, *STAY}


def test_an_item_whose_time_nobody_compares_means_the_same_after_it(rows: Rows) -> None:
    event = rows.event
    assert rows.inbox.mark_handled(event, at=NOW, note="", user_id=UserId(rows.ada.id))
    assert not rows.inbox.mark_handled(event, at=NOW + 365 * DAY, note="")
    assert rows.arrivals.store(rows.arrival, received_at=NOW + 365 * DAY, due_at=NOW) == "handled"
