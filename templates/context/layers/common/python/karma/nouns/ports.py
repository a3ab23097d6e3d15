"""Ports of nouns; the second implementation is in tests/fakes/nouns.py."""

from __future__ import annotations

from typing import Protocol

from karma.core.ids import UserId
from karma.core.requests import RepeatableRequest
from karma.nouns.domain import Noun, NounId


class Nouns(Protocol):
    """A store of nouns. All calls block; each write is one transaction."""

    def get(self, user_id: UserId, noun_id: NounId) -> Noun | None:
        """Read one, consistently; None when it is absent, deleted, or another account's."""

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> NounId | None:
        """Return the id of the noun that a request created, consistently; None: it created none within 25 hours.

        Raises:
            IdempotencyKeyReused: the request that created it asked for something else.
        """

    def create(self, noun: Noun, *, request: RepeatableRequest | None) -> None:
        """Store a new noun, and the record of `request`.

        Raises:
            AlreadyExists: a request with this key created a noun within the last 25 hours; `made_by` names it.
            AccountGone: its account is deleted.
        """

    def replace(self, old: Noun, new: Noun) -> None:
        """Store `new`, which has the next version, in place of `old`.

        Raises:
            NounChanged: `old` is not the stored one any more.
        """

    def delete(self, noun: Noun) -> None:
        """Delete a noun.

        Raises:
            NounChanged: `noun` is not the stored one any more.
        """

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Noun]:
        """List nouns, newest first, whose ids are below `below`; "" is the first page."""
