"""Ways in which sessions and API keys end: written beside a process that caches them, as another process would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from karma.audit.domain import AuditEntry, AuditEvent
from karma.core.ids import UserId
from karma.identity.accounts import one_time
from karma.identity.accounts.one_time import Purpose
from karma.identity.accounts.repository.directory import DirectoryRepository
from karma.identity.accounts.repository.one_time import OneTimeRepository
from karma.identity.accounts.repository.users import UserRepository
from karma.identity.sessions.repository import SessionRepository

End = Callable[[UserId, str, datetime], None]
"""Ends a session of an account, named by its id, at a moment."""


def log_out(user_id: UserId, session_id: str, at: datetime) -> None:
    SessionRepository().end_session(session_id, now=at, entry=_entry(user_id, AuditEvent.LOGGED_OUT, at))


def log_out_everywhere(user_id: UserId, _: str, at: datetime) -> None:
    entry = _entry(user_id, AuditEvent.ALL_SESSIONS_ENDED, at)
    SessionRepository().end_all_sessions(now=at, entry=entry, api_keys=False)


def log_out_with_keys(user_id: UserId, _: str, at: datetime) -> None:
    entry = _entry(user_id, AuditEvent.ALL_SESSIONS_ENDED, at)
    SessionRepository().end_all_sessions(now=at, entry=entry, api_keys=True)


def reset(user_id: UserId, _: str, at: datetime) -> None:
    tokens, stored = OneTimeRepository(), UserRepository().read_user(user_id)
    assert stored is not None
    _, token = one_time.issue(Purpose.RESET_PASSWORD, user_id=user_id, email=stored.email, asked_at=at, now=at)
    tokens.create_token(token, now=at)
    entry = _entry(user_id, AuditEvent.PASSWORD_RESET, at)
    assert tokens.reset_password(token, stored.password_hash or "", now=at, entry=entry, mails=[])


def disable(user_id: UserId, _: str, at: datetime) -> None:
    directory = DirectoryRepository()
    stored = directory.read_user(user_id)
    assert stored is not None
    directory.change_account(stored, replace(stored, disabled_at=at), actor_id=None, entries=[])


ENDS: dict[str, End] = {
    "log-out": log_out,
    "log-out everywhere": log_out_everywhere,
    "reset": reset,
    "disabled": disable,
}
"""Each end of a session."""


def _entry(user_id: UserId, event: AuditEvent, at: datetime) -> AuditEntry:
    return AuditEntry(user_id=user_id, event=event, at=at, actor_id=None)
