"""The port of nouns to their store; the second implementation is in tests/fakes."""

from __future__ import annotations

from typing import Protocol

from karma.core.ids import UserId
from karma.nouns.domain import Noun, NounId


class NounStore(Protocol):
    """Nouns at rest. All calls block; each write is one transaction."""

    def get(self, user_id: UserId, noun_id: NounId) -> Noun | None:
        """Read one, consistently; None when it is absent, deleted, or another account's."""

    def made_by(self, user_id: UserId, request_token: str) -> NounId | None:
        """Find what a request made, consistently."""

    def create(self, noun: Noun, *, request_token: str) -> None:
        """Store a new noun; "" is no token.

        Raises:
            AlreadyExists: this token made a noun within 24 hours before.
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
