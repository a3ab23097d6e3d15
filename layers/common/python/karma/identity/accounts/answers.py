"""Answers of the routes of accounts: each shape, and beside it the function that renders it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from karma.core.clock import iso
from karma.core.schemas import ShownMoment
from karma.identity.domain import Locale, Role, User

if TYPE_CHECKING:
    from karma.identity.accounts.deletion import Deletion


class UserView(TypedDict):
    """A person, without the password."""

    id: str
    email: str
    name: str
    avatar: str | None
    role: Role
    locale: Locale
    email_verified: bool
    created_at: ShownMoment
    updated_at: ShownMoment


def user_view(user: User) -> UserView:
    """Return a person in the shape of the API, without the password."""
    return {
        "id": user.id,
        "email": user.email,
        "name": user.name,
        "avatar": user.avatar,
        "role": user.role,
        "locale": user.locale,
        "email_verified": user.email_verified,
        "created_at": iso(user.created_at),
        "updated_at": iso(user.updated_at),
    }


class UserData(TypedDict):
    """One person."""

    user: UserView


class ManagedUserView(UserView):
    """A person, as administrators see them."""

    disabled: bool
    disabled_at: ShownMoment | None
    version: int


def managed_user_view(user: User) -> ManagedUserView:
    """Return a person in the shape of the API, for an administrator."""
    return {
        **user_view(user),
        "disabled": user.disabled_at is not None,
        "disabled_at": iso(user.disabled_at) if user.disabled_at else None,
        "version": user.version,
    }


class ManagedUserData(TypedDict):
    """One account."""

    user: ManagedUserView


class ManagedUserListData(TypedDict):
    """Some accounts."""

    users: list[ManagedUserView]
    total: int
    """Counted up to 1,000."""
    total_capped: bool
    limit: int
    next_cursor: str | None


class DeletionView(TypedDict):
    """An account that is deleted."""

    user_id: str
    requested_at: ShownMoment


def deletion_view(deletion: Deletion) -> DeletionView:
    """Return an account's deletion in the shape of the API, for its owner."""
    return {"user_id": deletion.user_id, "requested_at": iso(deletion.requested_at)}


class DeletionData(TypedDict):
    """State of the account's deletion."""

    deletion: DeletionView
