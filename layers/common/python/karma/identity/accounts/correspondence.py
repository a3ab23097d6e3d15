"""Recipients of mails, and the secrets of their links: made when a mail is sent, so that no secret waits in a queue."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol

from karma.core.ids import UserId
from karma.identity.accounts import one_time
from karma.identity.accounts.one_time import OneTimeToken, Purpose
from karma.identity.domain import Locale, User
from karma.mail.domain import Addressed, Mail, MailKind

_TO_ANYBODY: Final = frozenset({MailKind.PROJECT_INVITATION, MailKind.DEVICE_OFFERED})
"""Kinds that go to an address whether an account has it or not."""


class People(Protocol):
    """Accounts, as the mail worker finds recipients; accounts/repository/users.py says what each method promises."""

    def read_user(self, user_id: UserId) -> User | None: ...  # noqa: D102
    def find_by_email(self, email: str) -> User | None: ...  # noqa: D102
    def find_by_email_hash(self, email_hash: str) -> User | None: ...  # noqa: D102


class OneTimeTokens(Protocol):
    """One-time tokens of links; accounts/repository/one_time.py."""

    def create_token(self, token: OneTimeToken, *, now: datetime) -> None: ...  # noqa: D102


class Correspondence:
    """Finds recipients of mails and makes the tokens of their links."""

    def __init__(self, *, people: People, tokens: OneTimeTokens) -> None:
        self._people = people
        self._tokens = tokens

    def address(self, mail: Mail, *, now: datetime) -> Addressed | None:
        """Return the recipient as they are now, with the link's token; None when the mail is not needed any more."""
        if mail.kind in _TO_ANYBODY and mail.to is not None:
            return self._to_an_address(mail, mail.to)
        user = self._person(mail)
        if user is None and mail.kind is MailKind.VERIFY_EMAIL and mail.user_id is not None and mail.address_hash:
            return self._to_the_owner(mail, mail.address_hash, now=now)
        if user is None:
            return None
        match mail.kind:
            case MailKind.VERIFY_EMAIL:
                needless = user.email_verified or user.disabled_at is not None
                return None if needless else self._with_link(mail, user, Purpose.VERIFY_EMAIL, now=now)
            case MailKind.RESET_PASSWORD:
                return None if user.disabled_at else self._with_link(mail, user, Purpose.RESET_PASSWORD, now=now)
            case MailKind.CONFIRM_NEW_EMAIL:
                return self._to_new_address(mail, user, now=now)
            case MailKind.ALARM_RAISED | MailKind.ALARM_CLEARED:
                needless = not user.email_verified or user.disabled_at is not None
                return None if needless else _addressed(mail.kind, user, to=user.email)
            case _:
                return _addressed(mail.kind, user, to=mail.to or user.email)

    def _person(self, mail: Mail) -> User | None:
        if mail.user_id is not None:
            return self._people.read_user(mail.user_id)
        return self._people.find_by_email_hash(mail.address_hash) if mail.address_hash else None

    def _to_an_address(self, mail: Mail, to: str) -> Addressed:
        owner = self._people.find_by_email(to)
        if owner is None:
            return Addressed(kind=mail.kind, to=to, proven=False, name=None, locale=Locale.EN.value)
        return _addressed(mail.kind, owner, to=to)

    def _to_the_owner(self, mail: Mail, address_hash: str, *, now: datetime) -> Addressed | None:
        """Address the owner of an address that somebody, perhaps another person, tried to register again."""
        owner = self._people.find_by_email_hash(address_hash)
        if owner is None or owner.disabled_at is not None:
            return None
        return self._with_link(replace(mail, kind=MailKind.ALREADY_REGISTERED), owner, Purpose.RESET_PASSWORD, now=now)

    def _to_new_address(self, mail: Mail, user: User, *, now: datetime) -> Addressed | None:
        if mail.to is None or mail.to == user.email or mail.to != user.moving_to or user.disabled_at is not None:
            return None
        owner = self._people.find_by_email(mail.to)
        if owner is not None:
            return _addressed(MailKind.EMAIL_TAKEN, owner, to=owner.email)
        return self._with_link(mail, user, Purpose.CHANGE_EMAIL, to=mail.to, now=now)

    def _with_link(self, mail: Mail, user: User, purpose: Purpose, *, to: str = "", now: datetime) -> Addressed:
        email = to or user.email
        text, token = one_time.issue(purpose, user_id=user.id, email=email, asked_at=mail.created_at, now=now)
        self._tokens.create_token(token, now=now)
        return _addressed(mail.kind, user, to=email, token=text)


def _addressed(kind: MailKind, user: User, *, to: str, token: str | None = None) -> Addressed:
    proven = user.email_verified and to == user.email
    name = user.name if proven else None
    return Addressed(kind=kind, to=to, proven=proven, name=name, locale=user.locale.value, token=token)
