"""Use cases of nouns: create, list, read, change, delete."""

from __future__ import annotations

from karma.core.records import Record

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from karma.core.clock import Clock
from karma.core.errors import AlreadyExists, NotFound, StaleVersion, StorageThrottled
from karma.core.ids import UserId, is_id, new_id
from karma.core.observability import count, logger
from karma.core.repeat import repeat
from karma.core.requests import IdempotencyKey, no_longer, repeatable
from karma.nouns.domain import Noun, NounChanged, NounId
from karma.nouns.ports import Nouns

_MET = (StorageThrottled, NounChanged)
"""Another write came first: it is made again on what is stored now."""


class NounPage(Record, kw_only=True):
    """A page of nouns, newest first."""

    nouns: tuple[Noun, ...]
    next_below: NounId | None
    """Ids of the next page are below this one; None at the end."""


class NounService:
    """Use cases of nouns. Each raises NotFound for a noun of another account."""

    def __init__(self, store: Nouns, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def get(self, user_id: UserId, noun_id: str) -> Noun:
        """Read one noun.

        Raises:
            NotFound: absent or deleted.
        """
        noun = self._store.get(user_id, NounId(noun_id)) if is_id(noun_id) else None
        if noun is None:
            raise NotFound(f"Noun {noun_id} not found")
        return noun

    def page(self, user_id: UserId, *, below: str, limit: int) -> NounPage:
        """Return a page by age, from below an id on; "" is the newest."""
        # One more than shown tells whether another page follows.
        found = self._store.page(user_id, below=below, limit=limit + 1)
        shown = found[:limit]
        return NounPage(nouns=tuple(shown), next_below=shown[-1].id if len(found) > limit else None)

    def create(
        self, user_id: UserId, *, name: str, note: str = "", idempotency_key: IdempotencyKey | None = None
    ) -> Noun:
        """Store a new noun; a repeat with the same `idempotency_key` returns the one that the first made.

        Raises:
            Gone: that one was deleted meanwhile.
            IdempotencyKeyReused: the first asked for another noun.
            AccountGone: the account is deleted.
        """
        now = self._clock.now()
        noun = Noun(
            id=NounId(new_id()), user_id=user_id, name=name, note=note, created_at=now, updated_at=now, version=1
        )
        request = repeatable(idempotency_key, name, note, at=now)
        try:
            self._store.create(noun, request=request)
        except AlreadyExists:
            earlier = self._store.made_by(user_id, request) if request else None
            stored = self._store.get(user_id, earlier) if earlier else None
            if stored is None:
                raise no_longer(earlier) from None
            return stored
        count("NounCreated")
        logger.info("noun.created", noun_id=noun.id)
        return noun

    def change(self, user_id: UserId, noun_id: str, changes: Mapping[str, Any], *, version: int | None = None) -> Noun:
        """Change a noun; the same again changes nothing.

        Raises:
            NotFound: as `get`.
            StaleVersion: `version` is not the stored one.
        """

        def once() -> Noun:
            old = self._of_version(user_id, noun_id, version)
            new = replace(old, **changes)
            if new == old:
                return old
            new = replace(new, updated_at=self._clock.now(), version=old.version + 1)
            self._store.replace(old, new)
            return new

        return repeat(once, on=_MET)

    def delete(self, user_id: UserId, noun_id: str, *, version: int | None = None) -> None:
        """Delete a noun.

        Raises:
            NotFound, StaleVersion: as `change`.
        """

        def once() -> None:
            noun = self._of_version(user_id, noun_id, version)
            self._store.delete(noun)
            count("NounDeleted")
            logger.info("noun.deleted", noun_id=noun.id)

        repeat(once, on=_MET)

    def _of_version(self, user_id: UserId, noun_id: str, version: int | None) -> Noun:
        noun = self.get(user_id, noun_id)
        if version is not None and noun.version != version:
            raise StaleVersion(f"Noun {noun.id} has version {noun.version}")
        return noun
