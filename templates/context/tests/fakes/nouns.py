"""In-memory stand-in for the store of nouns. It passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from dataclasses import dataclass, field

from karma.core.requests import RepeatableRequest
from tests.fakes.requests import MemoryRequests
from karma.core.ids import UserId
from karma.identity.transactional import AccountGone
from karma.nouns.domain import Noun, NounChanged, NounId


@dataclass
class MemoryNouns:
    """Nouns in dictionaries."""

    nouns: dict[NounId, Noun] = field(default_factory=dict)
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    deleted_accounts: set[UserId] = field(default_factory=set)

    def get(self, user_id: UserId, noun_id: NounId) -> Noun | None:
        noun = self.nouns.get(noun_id)
        return noun if noun is not None and noun.user_id == user_id else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> NounId | None:
        made = self.requests.noted(user_id, request)
        return NounId(made) if made else None

    def create(self, noun: Noun, *, request: RepeatableRequest | None) -> None:
        if noun.user_id in self.deleted_accounts:
            raise AccountGone(noun.user_id)
        self.requests.require_new(noun.user_id, request)
        self.requests.note(noun.user_id, request, noun.id)
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
