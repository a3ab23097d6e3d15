"""In-memory stand-in for the store of nouns. It passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from karma.core.errors import AlreadyExists
from karma.core.ids import UserId
from karma.identity.transactional import AccountGone
from karma.nouns.domain import Noun, NounChanged, NounId


@dataclass
class MemoryNounStore:
    """NounStore in dictionaries."""

    nouns: dict[NounId, Noun] = field(default_factory=dict)
    requests: dict[tuple[UserId, str], tuple[NounId, datetime]] = field(default_factory=dict)
    deleted_accounts: set[UserId] = field(default_factory=set)

    def get(self, user_id: UserId, noun_id: NounId) -> Noun | None:
        noun = self.nouns.get(noun_id)
        return noun if noun is not None and noun.user_id == user_id else None

    def made_by(self, user_id: UserId, request_token: str) -> NounId | None:
        found = self.requests.get((user_id, request_token))
        return found[0] if found else None

    def create(self, noun: Noun, *, request_token: str) -> None:
        if noun.user_id in self.deleted_accounts:
            raise AccountGone(noun.user_id)
        if request_token:
            earlier = self.requests.get((noun.user_id, request_token))
            if earlier is not None and noun.created_at < earlier[1] + timedelta(days=1):
                raise AlreadyExists("This request made a noun before")
            self.requests[noun.user_id, request_token] = (noun.id, noun.created_at)
        self.nouns[noun.id] = noun

    def replace(self, old: Noun, new: Noun) -> None:
        self._require(old)
        self.nouns[new.id] = new

    def delete(self, noun: Noun) -> None:
        self._require(noun)
        del self.nouns[noun.id]

    def page(self, user_id: UserId, *, below: str, limit: int) -> list[Noun]:
        mine = [noun for noun in self.nouns.values() if noun.user_id == user_id and (not below or noun.id < below)]
        return sorted(mine, key=lambda noun: noun.id, reverse=True)[:limit]

    def _require(self, seen: Noun) -> None:
        stored = self.nouns.get(seen.id)
        if stored is None or stored.version != seen.version:
            raise NounChanged(f"Noun {seen.id} was changed by another request; read it again")
