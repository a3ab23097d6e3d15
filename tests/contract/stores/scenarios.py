"""One good call of every repository method that asks DynamoDB for something, over rows that it needs.

Whoever plays one may then let a condition fail, or the database be busy, at each place where that can happen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from karma.audit.domain import AuditQuery
from karma.billing.allowances import Metric
from karma.billing.domain import EventState
from karma.billing.ports import CustomerLink
from karma.core.clock import epoch_ms
from karma.core.dynamo.transaction import Transaction
from karma.core.ids import AgentId
from karma.devices.domain import Command, CommandStatus, LateResult, Latest, PresenceEvent
from karma.devices.payloads import Refused
from karma.devices.repository.hours import Cost
from karma.devices.transactional import require_device
from karma.files.domain import Digests, Rejection
from karma.identity.accounts import emails
from karma.identity.accounts.directory import AccountFilter
from karma.identity.accounts.one_time import Purpose
from karma.identity.domain import Role
from karma.mail.domain import MailState
from karma.runs.domain import RunEnd, RunStatus, Wish
from karma.tasks.domain import TaskStatus
from tests.contract.stores.rows import TEN, TWO_PLACES, Rows
from tests.support import contexts
from tests.support.contexts import Scenarios
from tests.support.plans import allowance, limited
from tests.support.rows import DAY, LATER, NOW

Call = Callable[[], object]


def _active(r: Rows) -> Call:
    device = r.half_made
    return lambda: r.devices.activate(device, attempt="a1", certificate_id="c1", now=LATER)


def _taken_over(r: Rows) -> Call:
    device = replace(r.new_device(name="Other"), serial_number=r.half_made.serial_number)
    return lambda: r.devices.take_over(device, attempt="a2", now=LATER)


def _required(r: Rows) -> Call:
    device = r.device

    def commit() -> None:
        tx = Transaction()
        require_device(tx, r.ada.id, device.id)
        tx.commit()

    return commit


def _renamed(r: Rows) -> Call:
    file = r.ready
    changed = replace(file, name="other.txt", path="/c", revision=file.revision + 1)
    folder = r.new_directory("c")
    return lambda: r.files.change(file, changed, directories=[folder])


def _begun(r: Rows) -> Call:
    by, leaving, entry = r.shown, r.leaving, r.entry
    return lambda: r.deletions.begin(leaving, by=by, entry=entry, due_at=NOW)


def _saved(r: Rows) -> Call:
    before, by, entry, mail = r.ada, r.shown, r.entry, r.mail
    after = replace(before, name="Ada Lovelace", updated_at=LATER)
    return lambda: r.users.save_profile(before, after, by=by, entry=entry, mails=[mail])


def _moved(r: Rows) -> Call:
    token, entry, mail = r.kept(Purpose.CHANGE_EMAIL, f"new-{r.id}@example.com"), r.entry, r.mail
    r.users.save_profile(r.ada, replace(r.ada, moving_to=token.email), entry=r.entry, mails=[])
    return lambda: r.tokens.move_email(token, old_email=r.ada.email, now=NOW, entry=entry, mails=[mail])


def _changed_account(r: Rows) -> Call:
    before, root, by, entry = r.ada, r.root, r.shown_by_root, r.entry
    after = replace(before, role=Role.VIEWER, updated_at=LATER)
    return lambda: r.directory.change_account(before, after, actor_id=root.id, by=by, entries=[entry])


def _saved_row(r: Rows, link: CustomerLink) -> bool:
    return r.subscriptions.save(
        r.ada.id,
        r.subscription,
        seen=r.subscriptions.row(r.ada.id),
        event_id=r.event_id,
        at=NOW,
        shown=[link.customer_id],
    )


def _emptied(r: Rows) -> Call:
    gone, purge = r.left, r.purge()
    return lambda: r.leftovers.empty(gone.device_id, purge, now=NOW)


def _ended_command(r: Rows) -> Command:
    command = r.sent
    assert r.commands.move(command.device_id, command.id, CommandStatus.EXPIRED, at=NOW)
    return command


def _started(r: Rows) -> Call:
    run, thread = r.run(), r.thread
    takes = [limited(run.key.user_id, Metric.RUNS)]
    said, kept = (r.said,), {"a": 1}
    first = r.segment()
    return lambda: r.runs.start(run, thread=thread, segment=first, messages=said, attachments=kept, reservations=takes)


def _finished(r: Rows) -> Call:
    gives_back = limited(r.running.key.user_id, Metric.MODEL_SPEND, 2).adjusted(-1)
    how = RunEnd(status=RunStatus.FINISHED, at=LATER, usage={"inputTokens": 1}, cost_micros=1, correction=gives_back)
    return lambda: r.runs.finish(r.segment(2, terminal=True), how, thread=r.thread_key, history=r.history(1))


def _replaced(r: Rows) -> Call:
    old = r.agent
    spec = replace(old.spec, name=f"renamed {r.id}", tags=("y", "z"))
    return lambda: r.agents.replace(old, replace(old, spec=spec, version=2))


def _made(prepare: Callable[[Rows], Any], call: Callable[[Rows, Any], object]) -> Callable[[Rows], Call]:
    """Make what the call needs first, so that only the call itself is watched."""

    def scenario(r: Rows) -> Call:
        needed = prepare(r)
        return lambda: call(r, needed)

    return scenario


_CENTRAL: Mapping[str, Callable[[Rows], Call]] = {
    "UserRepository.create_user": _made(
        lambda r: (r.person(), r.entry, r.mail),
        lambda r, n: r.users.create_user(n[0], entries=[n[1]], mails=[n[2]]),
    ),
    "UserRepository.get_user": _made(lambda r: r.ada, lambda r, ada: r.users.get_user(ada.id)),
    "UserRepository.read_user": _made(lambda r: r.ada, lambda r, ada: r.users.read_user(ada.id)),
    "UserRepository.read_with_session": _made(
        lambda r: r.session, lambda r, token: r.users.read_with_session(token.user_id, token.session_id)
    ),
    "UserRepository.find_by_email": _made(lambda r: r.ada, lambda r, ada: r.users.find_by_email(ada.email)),
    "UserRepository.find_by_email_hash": _made(
        lambda r: emails.digest(r.ada.email), lambda r, digest: r.users.find_by_email_hash(digest)
    ),
    "UserRepository.rehash": _made(lambda r: r.ada, lambda r, ada: r.users.rehash(ada, "second", now=NOW)),
    "UserRepository.save_profile": _saved,
    "UserRepository.change_password": _made(
        lambda r: (r.ada, r.entry, r.mail, r.shown),
        lambda r, n: r.users.change_password(n[0], "second", by=n[3], now=LATER, entry=n[1], mails=[n[2]]),
    ),
    "DirectoryRepository.list_users": _made(
        lambda r: r.ada, lambda r, _: r.directory.list_users(AccountFilter(role=Role.USER), limit=5, below=None)
    ),
    "DirectoryRepository.search_users": _made(
        lambda r: r.ada, lambda r, _: r.directory.search_users("ada", AccountFilter(), limit=5, after=None)
    ),
    "DirectoryRepository.change_account": _changed_account,
    "SessionRepository.start_session": _made(
        lambda r: (r.refresh(), r.place, r.entry),
        lambda r, n: r.sessions.start_session(n[0], place=n[1], now=NOW, entry=n[2]),
    ),
    "SessionRepository.is_known_network": _made(
        lambda r: (r.session, r.place), lambda r, n: r.sessions.is_known_network(n[1], now=NOW)
    ),
    "SessionRepository.record_refusal": _made(lambda r: r.entry, lambda r, e: r.sessions.record_refusal(e)),
    "SessionRepository.find_refresh_token": _made(
        lambda r: r.session, lambda r, token: r.sessions.find_refresh_token(token.hash)
    ),
    "SessionRepository.trade": _made(
        lambda r: r.session, lambda r, token: r.sessions.trade(token, r.refresh("t2"), now=LATER)
    ),
    "SessionRepository.is_tradable": _made(lambda r: r.session, lambda r, token: r.sessions.is_tradable(token)),
    "SessionRepository.end_session": _made(
        lambda r: (r.session, r.entry), lambda r, n: r.sessions.end_session(n[0].session_id, now=LATER, entry=n[1])
    ),
    "SessionRepository.end_all_sessions": _made(
        lambda r: (r.entry, r.shown),
        lambda r, n: r.sessions.end_all_sessions(by=n[1], now=LATER, entry=n[0], api_keys=True),
    ),
    "ApiKeyRepository.create_api_key": _made(
        lambda r: (r.api_key(), r.entry, r.shown),
        lambda r, n: r.keys.create_api_key(n[0], made_with=n[2], request_token="r", seen=0, entry=n[1]),
    ),
    "ApiKeyRepository.find_api_key": _made(lambda r: r.key, lambda r, key: r.keys.find_api_key(key.hash)),
    "ApiKeyRepository.read_with_owner": _made(
        lambda r: r.key, lambda r, key: r.keys.read_with_owner(key.hash, r.ada.id)
    ),
    "ApiKeyRepository.list_api_keys": _made(lambda r: r.key, lambda r, _: r.keys.list_api_keys(r.ada.id)),
    "ApiKeyRepository.keys_made": _made(lambda r: r.key, lambda r, _: r.keys.keys_made(r.ada.id)),
    "ApiKeyRepository.get_api_key": _made(lambda r: r.key, lambda r, key: r.keys.get_api_key(r.ada.id, key.id)),
    "ApiKeyRepository.revoke_api_key": _made(
        lambda r: (r.key, r.entry, r.shown),
        lambda r, n: r.keys.revoke_api_key(n[0], by=n[2], now=LATER, entry=n[1]),
    ),
    "ApiKeyRepository.note_use": _made(lambda r: r.key, lambda r, key: r.keys.note_use(key, now=NOW, unless_after=NOW)),
    "ApiKeyRepository.last_uses": _made(lambda r: r.key, lambda r, key: r.keys.last_uses([key])),
    "OneTimeRepository.create_token": _made(
        lambda r: r.one_time(), lambda r, token: r.tokens.create_token(token, now=NOW)
    ),
    "OneTimeRepository.find_token": _made(lambda r: r.kept(), lambda r, token: r.tokens.find_token(token.hash)),
    "OneTimeRepository.verify_email": _made(
        lambda r: (r.kept(), r.entry), lambda r, n: r.tokens.verify_email(n[0], now=LATER, entry=n[1])
    ),
    "OneTimeRepository.reset_password": _made(
        lambda r: (r.kept(Purpose.RESET_PASSWORD), r.entry, r.mail),
        lambda r, n: r.tokens.reset_password(n[0], "second", now=LATER, entry=n[1], mails=[n[2]]),
    ),
    "OneTimeRepository.move_email": _moved,
    "OAuthRepository.create_flow": _made(
        lambda r: replace(r.flow, link_to=r.ada.id, begun_by=r.shown),
        lambda r, flow: r.oauth.create_flow(flow, now=NOW),
    ),
    "OAuthRepository.take_flow": _made(
        lambda r: r.begun,
        lambda r, flow: r.oauth.take_flow(
            flow.state_hash, provider=flow.provider, browser_hash=flow.browser_hash, now=NOW
        ),
    ),
    "OAuthRepository.find_identity": _made(
        lambda r: r.profile, lambda r, profile: r.oauth.find_identity(profile.provider, profile.subject_hash)
    ),
    "OAuthRepository.link": _made(
        lambda r: (r.ada, r.profile, r.entry, r.shown),
        lambda r, n: r.oauth.link(n[0], n[1], by=n[3], now=NOW, entry=n[2]),
    ),
    "OAuthRepository.links": _made(lambda r: r.linked, lambda r, _: r.oauth.links(r.ada.id)),
    "OAuthRepository.unlink": _made(
        lambda r: (r.linked, r.entry, r.shown),
        lambda r, n: r.oauth.unlink(r.ada, n[0], by=n[2], entry=n[1]),
    ),
    "OAuthRepository.create_login_code": _made(
        lambda r: r.code, lambda r, code: r.oauth.create_login_code(code, now=NOW)
    ),
    "OAuthRepository.take_login_code": _made(
        lambda r: r.given, lambda r, code: r.oauth.take_login_code(code.hash, now=NOW)
    ),
    "AuditRepository.of_user": _made(
        lambda r: r.ada, lambda r, ada: r.audit.of_user(ada.id, AuditQuery(limit=5), now=NOW)
    ),
    "AuditRepository.of_day": lambda r: lambda: r.audit.of_day(NOW.date(), AuditQuery(limit=5), now=NOW),
    "DeletionRepository.leaving": _made(lambda r: r.ada, lambda r, ada: r.deletions.leaving(ada.id)),
    "DeletionRepository.begin": _begun,
    "DeletionRepository.get": _made(lambda r: r.gone, lambda r, user_id: r.deletions.get(user_id)),
    "DeletionRepository.due": _made(lambda r: r.gone, lambda r, _: r.deletions.due(LATER, limit=5)),
    "DeletionRepository.postpone": _made(
        lambda r: r.gone, lambda r, user_id: r.deletions.postpone(user_id, due_at=LATER, waits_for="files")
    ),
    "DeletionRepository.finish": _made(
        lambda r: r.gone, lambda r, user_id: r.deletions.finish(user_id, at=LATER, forget_at=LATER + DAY)
    ),
    "AccountRemains.purge_account": _made(
        lambda r: (r.key, r.kept(), r.purge()), lambda r, n: r.remains.purge_account(n[2])
    ),
    "OutboxRepository.add": _made(lambda r: r.mail, lambda r, mail: r.outbox.add(mail)),
    "OutboxRepository.get": _made(lambda r: r.pending, lambda r, mail: r.outbox.get(mail.id)),
    "OutboxRepository.close": _made(
        lambda r: r.pending, lambda r, mail: r.outbox.close(mail, MailState.SENT, now=LATER)
    ),
    "OutboxRepository.due": _made(lambda r: r.pending, lambda r, _: r.outbox.due(NOW + DAY, limit=5)),
    "OutboxRepository.postpone": _made(lambda r: r.pending, lambda r, mail: r.outbox.postpone(mail.id, until=LATER)),
    "DynamoBuckets.take": lambda r: lambda: r.buckets.take(TEN, r.id, now=NOW),
    "DynamoBuckets.give_back": _made(
        lambda r: r.buckets.take(TEN, r.id, now=NOW), lambda r, _: r.buckets.give_back(TEN, r.id, now=NOW)
    ),
    "DynamoLeases.take": lambda r: lambda: r.leases.take(TWO_PLACES, r.id, now=NOW, until=LATER),
    "DynamoLeases.give_back": _made(
        lambda r: r.leases.take(TWO_PLACES, r.id, now=NOW, until=LATER), lambda r, lease: r.leases.give_back(lease)
    ),
    "devices.transactional.require_device": _required,
    "DeviceRepository.guard": _made(lambda r: r.device, lambda r, d: r.devices.guard(d.serial_number)),
    "DeviceRepository.row": _made(lambda r: r.device, lambda r, d: r.devices.row(d.user_id, d.id)),
    "DeviceRepository.view": _made(lambda r: r.device, lambda r, d: r.devices.view(d.user_id, d.id)),
    "DeviceRepository.by_age": _made(
        lambda r: r.device, lambda r, d: r.devices.by_age(d.user_id, newest_first=True, limit=5)
    ),
    "DeviceRepository.by_name": _made(
        lambda r: r.device, lambda r, d: r.devices.by_name(d.user_id, descending=False, limit=5)
    ),
    "DeviceRepository.count": _made(lambda r: r.device, lambda r, d: r.devices.count(d.user_id)),
    "DeviceRepository.made_by": _made(
        lambda r: r.device, lambda r, d: r.devices.made_by(d.user_id, "devices", "k", now=NOW)
    ),
    "DeviceRepository.claim": _made(
        lambda r: r.new_device(),
        lambda r, d: r.claim(d, attempt="a1", now=NOW, idempotency=("k", "h")),
    ),
    "DeviceRepository.take_over": _taken_over,
    "DeviceRepository.activate": _active,
    "DeviceRepository.discard": _made(lambda r: r.half_made, lambda r, d: r.devices.discard(d, attempt="a1")),
    "DeviceRepository.change": _made(
        lambda r: r.device,
        lambda r, d: r.devices.change(d.user_id, d.id, {"name": "Shed"}, version=d.version, now=LATER),
    ),
    "DeviceRepository.begin_delete": _made(lambda r: r.device, lambda r, d: r.devices.begin_delete(d, now=LATER)),
    "DeviceRepository.finish_delete": _made(
        lambda r: r.half_deleted, lambda r, d: r.devices.finish_delete(d, now=LATER)
    ),
    "DeviceRepository.unfinished": _made(
        lambda r: r.half_made, lambda r, _: r.devices.unfinished(before=LATER, limit=5)
    ),
    "DeviceRepository.rows": _made(lambda r: r.device, lambda r, d: r.devices.rows(d.user_id, limit=5)),
    "DeviceRepository.merge_latest": _made(
        lambda r: r.guard, lambda r, guard: r.devices.merge_latest(guard, Latest(last_seen_ms=1), now=NOW)
    ),
    "DeviceRepository.merge_presence": _made(
        lambda r: r.guard,
        lambda r, guard: r.devices.merge_presence(guard, [PresenceEvent(1, 0, True, "s")], now=NOW),
    ),
    "CommandRepository.add": _made(
        lambda r: (r.command(), r.device), lambda r, n: r.commands.add(n[0], n[1], now=NOW, idempotency=("k", "h"))
    ),
    "CommandRepository.get": _made(lambda r: r.sent, lambda r, c: r.commands.get(c.device_id, c.id)),
    "CommandRepository.page": _made(lambda r: r.sent, lambda r, c: r.commands.page(c.device_id, limit=5)),
    "CommandRepository.pending": _made(lambda r: r.sent, lambda r, c: r.commands.pending(c.device_id, limit=5)),
    "CommandRepository.overdue": _made(
        lambda r: r.sent,
        lambda r, c: r.commands.overdue(int(c.device_id[-4:], 16), before=LATER + DAY, limit=5),
    ),
    "CommandRepository.move": _made(
        lambda r: r.sent,
        lambda r, c: r.commands.move(c.device_id, c.id, CommandStatus.SUCCEEDED, at=LATER, result={"ok": True}),
    ),
    "CommandRepository.keep_late": _made(
        _ended_command,
        lambda r, c: r.commands.keep_late(
            c.device_id,
            c.id,
            LateResult(status=CommandStatus.SUCCEEDED, result=None, error=None, received_ms=1),
            at=NOW,
        ),
    ),
    "DeadLetterRepository.store": _made(
        lambda r: r.device,
        lambda r, d: r.letters.store(
            d.id, refused=[Refused("", "NOT_JSON")], topic="t", payload=b"x", received_ms=epoch_ms(NOW)
        ),
    ),
    "DeadLetterRepository.sum_up": _made(lambda r: r.device, lambda r, d: r.letters.sum_up(d.id, hour=1, more=2)),
    "HourRepository.take": _made(lambda r: r.device, lambda r, d: r.hours.take(d.id, Cost.UNITS, 1, hour=1, most=2)),
    "DeadLetterRepository.get": _made(
        lambda r: r.device, lambda r, d: r.letters.get(d.id, f"{epoch_ms(NOW)}-{'0' * 16}")
    ),
    "DeadLetterRepository.page": _made(lambda r: r.device, lambda r, d: r.letters.page(d.id, limit=5)),
    "TelemetryRepository.store": _made(lambda r: r.device, lambda r, d: r.telemetry.store(d.id, r.batch())),
    "TelemetryRepository.batches": _made(
        lambda r: r.device,
        lambda r, d: list(r.telemetry.batches(d.id, from_ms=epoch_ms(NOW), to_ms=epoch_ms(LATER))),
    ),
    "LeftoverRepository.remove": _made(lambda r: r.left, lambda r, gone: r.leftovers.remove(gone, now=NOW, limit=50)),
    "LeftoverRepository.empty": _emptied,
    "LeftoverRepository.gone": _made(lambda r: r.left, lambda r, gone: r.leftovers.gone(gone.user_id)),
    "LeftoverRepository.empty_owner": _made(lambda r: (r.left, r.purge()), lambda r, n: r.leftovers.empty_owner(n[1])),
    "LeftoverRepository.forget": _made(lambda r: r.left, lambda r, gone: r.leftovers.forget(gone)),
    "FileRepository.find": _made(lambda r: r.ready, lambda r, f: r.files.find(f.device_id, f.id)),
    "FileRepository.unlisted": _made(lambda r: r.uploading, lambda r, f: r.files.unlisted(f.device_id, f.id)),
    "FileRepository.holder": _made(lambda r: r.ready, lambda r, f: r.files.holder(f.device_id, f.path, f.name)),
    "FileRepository.inside": _made(lambda r: r.ready, lambda r, f: r.files.inside(f.device_id, f.path)),
    "FileRepository.missing": _made(lambda r: r.device, lambda r, d: r.files.missing(d.id, [("/", "a")])),
    "FileRepository.newest": _made(lambda r: r.ready, lambda r, f: r.files.newest(f.device_id, limit=5)),
    "FileRepository.in_directory": _made(
        lambda r: r.ready, lambda r, f: r.files.in_directory(f.device_id, "/a", limit=5)
    ),
    "FileRepository.count": _made(lambda r: r.ready, lambda r, f: r.files.count(f.device_id, "/a", most=5)),
    "FileRepository.due": _made(lambda r: r.uploading, lambda r, _: r.files.due(before=LATER, limit=5)),
    "FileRepository.add": _made(
        lambda r: (r.new_file(path="/b/a"), r.folder, r.new_directory(path="/b")),
        lambda r, n: r.add(n[0], n[2]),
    ),
    "FileRepository.begin_upload": _made(
        lambda r: r.uploading, lambda r, f: r.files.begin_upload(f, "u1", checksums=False)
    ),
    "FileRepository.completed": _made(lambda r: r.uploading, lambda r, f: r.files.completed(f, now=NOW, due=NOW)),
    "FileRepository.publish": _made(
        lambda r: r.verifying, lambda r, f: r.files.publish(f, Digests(5, "s", "m", "text/plain"), now=NOW)
    ),
    "FileRepository.change": _renamed,
    "FileRepository.accessed": _made(lambda r: r.ready, lambda r, f: r.files.accessed(f, now=NOW)),
    "FileRepository.postpone": _made(lambda r: r.verifying, lambda r, f: r.files.postpone(f, due=LATER)),
    "FileRepository.reject": _made(
        lambda r: r.verifying, lambda r, f: r.files.reject(f, Rejection.SIZE, now=NOW, due=NOW)
    ),
    "FileRepository.cleaned": _made(lambda r: r.rejected, lambda r, f: r.files.cleaned(f, now=NOW)),
    "FileRepository.begin_delete": _made(lambda r: r.ready, lambda r, f: r.files.begin_delete(f, now=NOW, due=NOW)),
    "FileRepository.forget": _made(lambda r: r.vanishing, lambda r, f: r.files.forget(f)),
    "FileRepository.remove_directory": _made(lambda r: r.subfolder, lambda r, f: r.files.remove_directory(f)),
    "FileRepository.remove_rows": _made(lambda r: r.ready, lambda r, f: r.files.remove_rows(f.device_id, limit=50)),
    "DynamoRunStore.thread": _made(lambda r: r.running, lambda r, _: r.thread),
    "DynamoRunStore.start": _started,
    "DynamoRunStore.unkept": _made(lambda r: r.running, lambda r, _: r.runs.unkept(r.ada.id, ["a", "b"])),
    "DynamoRunStore.append": _made(lambda r: r.running, lambda r, _: r.runs.append(r.segment(2), history=r.history(1))),
    "DynamoRunStore.finish": _finished,
    "DynamoRunStore.wish": _made(lambda r: r.running, lambda r, run: r.runs.wish(run.key, Wish.NEXT, at=NOW)),
    "DynamoRunStore.wishes": _made(lambda r: r.running, lambda r, run: r.runs.wishes(run.key)),
    "DynamoRunStore.tail": _made(lambda r: r.running, lambda r, run: r.runs.tail(run.key)),
    "DynamoRunStore.segments": _made(lambda r: r.running, lambda r, run: r.runs.segments(run.key, after=0, limit=5)),
    "DynamoRunStore.run": _made(lambda r: r.running, lambda r, run: r.runs.run(run.key)),
    "DynamoRunStore.runs": _made(
        lambda r: r.running, lambda r, _: r.runs.runs(r.ada.id, limit=5, start=None, agent_id=AgentId("karma"))
    ),
    "DynamoRunStore.count": _made(lambda r: r.running, lambda r, _: r.runs.count(r.ada.id)),
    "DynamoRunStore.count_of_agent": _made(
        lambda r: r.running, lambda r, _: r.runs.count_of_agent(r.ada.id, AgentId("karma"), most=5)
    ),
    "DynamoRunStore.owners": _made(lambda r: r.running, lambda r, run: r.runs.owners(run.key.run_id)),
    "DynamoAgentStore.get": _made(lambda r: r.agent, lambda r, agent: r.agents.get(agent.id)),
    "DynamoAgentStore.holder": _made(lambda r: r.agent, lambda r, agent: r.agents.holder(agent.spec.name)),
    "DynamoAgentStore.create": _made(lambda r: r.new_agent(), lambda r, a: r.agents.create(a, request_token="t")),
    "DynamoAgentStore.replace": _replaced,
    "DynamoAgentStore.delete": _made(lambda r: r.agent, lambda r, agent: r.agents.delete(agent)),
    "DynamoAgentStore.page": _made(lambda r: r.agent, lambda r, _: r.agents.page(tag="x", after="", limit=5)),
    "DynamoAgentStore.count": _made(lambda r: r.agent, lambda r, _: r.agents.count(tag="x", most=5)),
    "ProjectRepository.read": _made(lambda r: r.project, lambda r, n: r.projects.read(n[0].id, n[1].user_id)),
    "ProjectRepository.projects": _made(lambda r: r.project, lambda r, n: r.projects.projects([n[0].id])),
    "ProjectRepository.of_user": _made(
        lambda r: r.project, lambda r, n: r.projects.of_user(n[1].user_id, newest_first=True, limit=5, after=None)
    ),
    "ProjectRepository.count_of_user": _made(
        lambda r: r.project, lambda r, n: r.projects.count_of_user(n[1].user_id, most=5)
    ),
    "ProjectRepository.of_project": _made(
        lambda r: r.project, lambda r, n: r.projects.of_project(n[0].id, limit=5, after=None)
    ),
    "ProjectRepository.count_of_project": _made(
        lambda r: r.project, lambda r, n: r.projects.count_of_project(n[0].id, most=5)
    ),
    "ProjectRepository.made_by": _made(lambda r: r.project, lambda r, n: r.projects.made_by(n[1].user_id, "t")),
    "ProjectRepository.invite": _made(
        lambda r: (r.project, r.new_invitation()),
        lambda r, n: r.projects.invite(n[1], actor=n[0][1], known=(n[1].user_id, None), entries=[r.entry], mails=[]),
    ),
    "ProjectRepository.parts": _made(lambda r: r.invitation, lambda r, n: r.projects.parts(r.ada.id, [n.project_id])),
    "ProjectRepository.invitations": _made(
        lambda r: r.invitation, lambda r, n: r.projects.invitations(n.project_id, n.invitee)
    ),
    "ProjectRepository.invitations_of": _made(
        lambda r: r.invitation, lambda r, n: r.projects.invitations_of(n.project_id)
    ),
    "ProjectRepository.invitations_to": _made(
        lambda r: r.invitation, lambda r, n: r.projects.invitations_to(n.user_id or r.ada.id, "ada@example.com")
    ),
    "ProjectRepository.decline": _made(
        lambda r: r.invitation, lambda r, n: r.projects.decline(n, by=r.ada.id, at=NOW, entry=r.entry)
    ),
    "ProjectRepository.withdraw": _made(lambda r: r.invitation, lambda r, n: r.projects.withdraw(n)),
    "ProjectRepository.create": _made(
        lambda r: r.new_project(), lambda r, n: r.projects.create(n[0], n[1], request_token="t")
    ),
    "ProjectRepository.change": _made(
        lambda r: r.project,
        lambda r, n: r.projects.change(n[0], replace(n[0], progress=1, version=2), actor=n[1]),
    ),
    "ProjectRepository.change_member": _made(lambda r: r.joining(), lambda r, n: r.projects.change_member(n)),
    "ProjectRepository.begin_delete": _made(
        lambda r: r.project, lambda r, n: r.projects.begin_delete(n[0], actor=n[1], at=NOW)
    ),
    "ProjectRepository.finish_delete": _made(
        lambda r: r.deleted_project, lambda r, project: r.projects.finish_delete(project.id, most=5)
    ),
    "ProjectRepository.move_seats": _made(lambda r: r.project, lambda r, n: r.projects.move_seats(n[0].id, most=5)),
    "ProjectRepository.unmoved": _made(lambda r: r.project, lambda r, _: r.projects.unmoved(before=LATER, limit=5)),
    "ProjectRepository.unfinished": _made(
        lambda r: r.deleted_project, lambda r, _: r.projects.unfinished(before=LATER, limit=5)
    ),
    "ProjectRepository.purge_account": _made(
        lambda r: (r.project, r.purge()), lambda r, n: r.projects.purge_account(n[1])
    ),
    "DynamoTaskStore.get": _made(lambda r: r.task[0], lambda r, t: r.tasks.get(t.user_id, t.id)),
    "DynamoTaskStore.subtask": _made(lambda r: r.task[1][0], lambda r, s: r.tasks.subtask(s.task_id, s.id)),
    "DynamoTaskStore.subtasks": _made(lambda r: r.task[0], lambda r, t: r.tasks.subtasks(t.id)),
    "DynamoTaskStore.made_by": _made(lambda r: r.task[0], lambda r, t: r.tasks.made_by(t.user_id, "t")),
    "DynamoTaskStore.page": _made(
        lambda r: r.task[0],
        lambda r, t: r.tasks.page(t.user_id, status=t.status, newest_first=True, after="", limit=5),
    ),
    "DynamoTaskStore.count": _made(lambda r: r.task[0], lambda r, t: r.tasks.count(t.user_id, status=t.status, most=5)),
    "DynamoTaskStore.create": _made(lambda r: r.new_task(), lambda r, n: r.tasks.create(n[0], n[1], request_token="t")),
    "DynamoTaskStore.replace": _made(
        lambda r: r.task, lambda r, n: r.tasks.replace(n[0], replace(n[0], title="x", version=2), ended=n[1][:1])
    ),
    "DynamoTaskStore.step": _made(
        lambda r: r.task,
        lambda r, n: r.tasks.step(n[0], n[1][0], replace(n[1][0], status=TaskStatus.IN_PROGRESS)),
    ),
    "DynamoTaskStore.begin_delete": _made(lambda r: r.task[0], lambda r, t: r.tasks.begin_delete(t, at=NOW)),
    "DynamoTaskStore.remove": _made(lambda r: r.gone_task, lambda r, gone: r.tasks.remove(gone)),
    "DynamoTaskStore.is_gone": _made(lambda r: r.gone_task, lambda r, gone: r.tasks.is_gone(gone)),
    "DynamoTaskStore.gone": _made(lambda r: r.gone_task, lambda r, _: r.tasks.gone(before=LATER, limit=5)),
    "DynamoTaskStore.purge_account": _made(lambda r: (r.task, r.purge()), lambda r, n: r.tasks.purge_account(n[1])),
    "ConfigurationRepository.components": _made(lambda r: r.changed, lambda r, _: r.configuration.components()),
    "ConfigurationRepository.last_change": _made(lambda r: r.changed, lambda r, c: r.configuration.last_change(c.name)),
    "ConfigurationRepository.change": _made(lambda r: r.changed, lambda r, c: r.configuration.change(c.name, 1)),
    "ConfigurationRepository.changes": _made(
        lambda r: r.changed, lambda r, c: r.configuration.changes(c.name, below=9, limit=5)
    ),
    "ConfigurationRepository.count": _made(lambda r: r.changed, lambda r, _: r.configuration.count(most=5)),
    "ConfigurationRepository.append": _made(
        lambda r: r.changed, lambda r, c: r.configuration.append(replace(c, version=2))
    ),
    "NoticeRepository.page": _made(
        lambda r: r.notice, lambda r, n: r.notices.page(n.user_id, unread=True, since=NOW - DAY, below="", limit=5)
    ),
    "NoticeRepository.count_unread": _made(
        lambda r: r.notice, lambda r, n: r.notices.count_unread(n.user_id, since=NOW - DAY, most=5)
    ),
    "NoticeRepository.get": _made(lambda r: r.notice, lambda r, n: r.notices.get(n.user_id, n.id)),
    "NoticeRepository.mark_read": _made(lambda r: r.notice, lambda r, n: r.notices.mark_read(n.user_id, n.id, at=NOW)),
    "ArrivalStore.store": lambda r: lambda: r.arrivals.store(r.arrival, received_at=NOW, due_at=NOW),
    "InboxRepository.get": _made(lambda r: r.event, lambda r, event: r.inbox.get(event)),
    "InboxRepository.mark_handled": _made(
        lambda r: (r.event, r.ada),
        lambda r, n: r.inbox.mark_handled(n[0], at=LATER, note="", user_id=n[1].id),
    ),
    "InboxRepository.forget": _made(lambda r: r.event, lambda r, event: r.inbox.forget(event)),
    "InboxRepository.record_failure": _made(
        lambda r: r.event, lambda r, event: r.inbox.record_failure(event, error="E", at=NOW)
    ),
    "InboxRepository.due": _made(lambda r: r.event, lambda r, _: r.inbox.due(LATER, limit=5)),
    "InboxRepository.postpone": _made(lambda r: r.event, lambda r, event: r.inbox.postpone(event, until=LATER)),
    "InboxRepository.reopen": _made(lambda r: r.event, lambda r, event: r.inbox.reopen(event, at=NOW, due_at=NOW)),
    "InboxRepository.page": _made(
        lambda r: r.event, lambda r, _: r.inbox.page(EventState.UNHANDLED, limit=5, start=None)
    ),
    "InboxRepository.mark_unlinked": _made(
        lambda r: r.event, lambda r, event: r.inbox.mark_unlinked(event, f"cus_of_nobody_{r.id}", at=LATER, note="")
    ),
    "InboxRepository.ignore_payer": _made(lambda r: r.event, lambda r, event: r.ignore_payer(event)),
    "InboxRepository.open_payers_of": _made(
        lambda r: r.ignored, lambda r, _: r.inbox.open_payers_of(r.price, at=LATER)
    ),
    "InboxRepository.waiting_of": _made(
        lambda r: r.unlinked, lambda r, _: r.inbox.waiting_of(f"cus_of_nobody_{r.id}", EventState.UNLINKED)
    ),
    "InboxRepository.dismiss": _made(
        lambda r: (r.unlinked, r.entry), lambda r, n: r.inbox.dismiss(n[0], at=LATER, note="", entry=n[1])
    ),
    "SubscriptionRepository.row": _made(lambda r: r.ada, lambda r, ada: r.subscriptions.row(ada.id)),
    "SubscriptionRepository.save": _made(lambda r: (r.customer, r.event), lambda r, n: _saved_row(r, n[0])),
    "SubscriptionRepository.due_looks": _made(
        lambda r: r.customer, lambda r, _: r.subscriptions.due_looks(LATER, limit=5)
    ),
    "SubscriptionRepository.postpone_look": _made(
        lambda r: (r.customer, r.subscriptions.due_looks(LATER, limit=5)[0]),
        lambda r, n: r.subscriptions.postpone_look(n[1], until=LATER),
    ),
    "SubscriptionRepository.payers_of": _made(
        lambda r: r.customer, lambda r, _: r.subscriptions.payers_of("price_1", but_at=NOW, start=None)
    ),
    "SubscriptionRepository.hasten_look": _made(
        lambda r: r.customer, lambda r, _: r.subscriptions.hasten_look(r.ada.id, at=LATER)
    ),
    "CustomerRepository.link_of": _made(lambda r: r.customer, lambda r, link: r.customers.link_of(link.customer_id)),
    "CustomerRepository.links_of": _made(lambda r: r.customer, lambda r, _: r.customers.links_of(r.ada.id)),
    "CustomerRepository.link": _made(
        lambda r: (r.customer, r.subscribe(), r.root, r.entry),
        lambda r, n: r.customers.link(n[0].customer_id, n[2].id, seen=n[0], at=LATER, entries=[n[3]]),
    ),
    "CustomerRepository.begin_ending": _made(
        lambda r: r.customer, lambda r, link: r.customers.begin_ending(link.customer_id, r.ada.id, at=NOW)
    ),
    "CustomerRepository.end": _made(
        lambda r: (r.customer, r.customers.begin_ending(r.customer.customer_id, r.ada.id, at=NOW)),
        lambda r, n: r.customers.end(n[0].customer_id, r.ada.id, at=NOW),
    ),
    "SubscriptionRepository.purge": _made(
        lambda r: (r.subscribe(), r.purge()), lambda r, n: r.subscriptions.purge(n[1])
    ),
    "UsageRepository.extend": _made(lambda r: r.ada, lambda r, ada: r.usage.extend(limited(ada.id))),
    "UsageRepository.has_seat": _made(lambda r: r.ada, lambda r, ada: r.usage.has_seat(ada.id, ada.id)),
    "UsageRepository.read": _made(lambda r: r.ada, lambda r, ada: r.usage.read(allowance(ada.id))),
    "UsageRepository.purge": _made(lambda r: r.taken, lambda r, purge: r.usage.purge(purge)),
    "RealtimeRepository.put_ticket": _made(
        lambda r: r.ticket, lambda r, ticket: r.realtime.put_ticket(ticket, now=NOW)
    ),
    "RealtimeRepository.get_ticket": _made(lambda r: r.admitted, lambda r, ticket: r.realtime.get_ticket(ticket.hash)),
    "RealtimeRepository.connect": _made(
        lambda r: (r.admitted, r.new_connection), lambda r, n: r.realtime.connect(n[0], n[1])
    ),
    "RealtimeRepository.get_connection": _made(lambda r: r.connection, lambda r, c: r.realtime.get_connection(c.id)),
    "RealtimeRepository.connections_of": _made(
        lambda r: r.connection, lambda r, c: r.realtime.connections_of(c.user_id, limit=10)
    ),
    "RealtimeRepository.is_open": _made(lambda r: r.connection, lambda r, c: r.realtime.is_open(c, now=NOW)),
    "RealtimeRepository.channels": _made(lambda r: r.connection, lambda r, c: r.realtime.channels(c.id)),
    "RealtimeRepository.subscribe": _made(
        lambda r: (r.connection, r.channel), lambda r, n: r.realtime.subscribe(n[0], n[1], now=NOW)
    ),
    "RealtimeRepository.unsubscribe": _made(
        lambda r: r.listening, lambda r, channel: r.realtime.unsubscribe(r.connection.id, channel)
    ),
    "RealtimeRepository.disconnect": _made(lambda r: r.listening, lambda r, _: r.realtime.disconnect(r.connection.id)),
    "RealtimeRepository.purge_account": _made(
        lambda r: (r.listening, r.purge()), lambda r, n: r.realtime.purge_account(n[1])
    ),
}
SCENARIOS: Mapping[str, Callable[[], Call]] = {**Scenarios[Rows](Rows, _CENTRAL), **contexts.scenarios()}
"""By class and method."""
