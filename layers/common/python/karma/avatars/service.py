"""Use cases of avatars: create, list, read, change, delete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from karma.avatars.domain import Avatar, AvatarChanged, NewAvatar, made
from karma.avatars.ports import Avatars
from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, InvalidRequest, NotFound, StaleVersion, StorageThrottled
from karma.core.ids import AvatarId, UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.records import Record
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, no_longer, repeatable

MAX_OFFSET_ROWS = 1_000
"""Rows that pages by number reach at the most."""

_MET = (StorageThrottled, AvatarChanged)
"""Errors of a write that another one preceded; it is repeated on what is stored then."""


class AvatarPage(Record, kw_only=True):
    """A page of avatars."""

    avatars: tuple[Avatar, ...]
    total: int
    next_after: AvatarId | None
    """Id after which the next page starts; None at the end."""


class AvatarService:
    """Operations of creators on their avatars. Another creator's avatar is NotFound in all of them."""

    def __init__(self, store: Avatars, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def get(self, user_id: UserId, avatar_id: str) -> Avatar:
        """Read one avatar.

        Raises:
            NotFound: the creator has no such avatar.
        """
        avatar = self._store.get(user_id, AvatarId(avatar_id)) if is_id(avatar_id) else None
        if avatar is None:
            raise NotFound(f"Avatar {avatar_id} not found")
        return avatar

    def list(
        self, user_id: UserId, *, limit: int, offset: int = 0, after: str = "", newest_first: bool = True
    ) -> AvatarPage:
        """Return a page by age, by one query and, unless the first page has all avatars, one read of the counter.

        Raises:
            InvalidRequest: INVALID_PAGE: a page by number ends beyond 1,000 rows.
        """
        wanted = offset + limit
        if wanted > MAX_OFFSET_ROWS:
            raise InvalidRequest(
                f"Pages by number end at {MAX_OFFSET_ROWS} rows; go on with `cursor`", code="INVALID_PAGE"
            )
        # One row more than shown tells whether another page follows.
        rows = self._store.page(user_id, newest_first=newest_first, after=after, limit=wanted + 1)
        shown, more = rows[offset:wanted], len(rows) > wanted
        total = max(len(rows), self._store.count(user_id)) if more or after else len(rows)
        return AvatarPage(avatars=tuple(shown), total=total, next_after=shown[-1].id if more and shown else None)

    def create(self, user_id: UserId, new: NewAvatar, *, idempotency_key: IdempotencyKey | None = None) -> Avatar:
        """Store a new avatar; a repeat with the same `idempotency_key` returns the avatar of the first one.

        Raises:
            Gone: the first request's avatar was deleted meanwhile.
            IdempotencyKeyReused: the first request asked for another avatar.
            OwnsTooMany: the creator has as many avatars as an account may have.
            AccountGone: the creator's account is deleted.
        """
        avatar = made(new, avatar_id=AvatarId(new_id()), created_by=user_id, at=self._clock.now())
        request = repeatable(idempotency_key, new, at=avatar.created_at)
        try:
            self._store.create(avatar, request=request)
        except AlreadyExists:
            earlier = self._store.made_by(user_id, request) if request else None
            stored = self._store.get(user_id, earlier) if earlier else None
            if stored is None:
                raise no_longer(earlier) from None
            return stored
        count("AvatarCreated")
        logger.info("avatar.created", avatar_id=avatar.id)
        return avatar

    def change(
        self, user_id: UserId, avatar_id: str, changes: Mapping[str, Any], *, version: int | None = None
    ) -> Avatar:
        """Change fields of an avatar; equal values change nothing.

        Raises:
            NotFound: the creator has no such avatar.
            StaleVersion: `version` is not the stored one.
        """

        def once() -> Avatar:
            old = self._of_version(user_id, avatar_id, version)
            new = replace(old, **changes)
            if new == old:
                return old
            new = replace(new, updated_at=self._clock.now(), version=old.version + 1)
            self._store.replace(old, new)
            return new

        return repeat(once, on=_MET)

    def delete(self, user_id: UserId, avatar_id: str, *, version: int | None = None) -> None:
        """Delete an avatar.

        Raises:
            NotFound, StaleVersion: as in `change`.
        """

        def once() -> None:
            avatar = self._of_version(user_id, avatar_id, version)
            self._store.delete(avatar)
            count("AvatarDeleted")
            logger.info("avatar.deleted", avatar_id=avatar.id)

        repeat(once, on=_MET)

    def _of_version(self, user_id: UserId, avatar_id: str, version: int | None) -> Avatar:
        avatar = self.get(user_id, avatar_id)
        if version is not None and avatar.version != version:
            raise StaleVersion(f"Avatar {avatar.id} has version {avatar.version}")
        return avatar
