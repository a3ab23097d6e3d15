"""In-memory stand-in for the store of avatars. It passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from dataclasses import dataclass, field

from karma.avatars.domain import Avatar, AvatarChanged
from karma.core.ids import AvatarId, UserId
from karma.core.requests import RepeatableRequest
from karma.identity.ownership import MOST, OwnedKind, OwnsTooMany
from karma.identity.transactional import AccountGone
from tests.fakes.requests import MemoryRequests


@dataclass
class MemoryAvatars:
    """Avatars in dictionaries."""

    avatars: dict[AvatarId, Avatar] = field(default_factory=dict)
    requests: MemoryRequests = field(default_factory=MemoryRequests)
    deleted_accounts: set[UserId] = field(default_factory=set)

    def get(self, user_id: UserId, avatar_id: AvatarId) -> Avatar | None:
        avatar = self.avatars.get(avatar_id)
        return avatar if avatar is not None and avatar.created_by == user_id else None

    def made_by(self, user_id: UserId, request: RepeatableRequest) -> AvatarId | None:
        made = self.requests.noted(user_id, request)
        return AvatarId(made) if made else None

    def create(self, avatar: Avatar, *, request: RepeatableRequest | None) -> None:
        if avatar.created_by in self.deleted_accounts:
            raise AccountGone(avatar.created_by)
        self.requests.require_new(avatar.created_by, request)
        if self.count(avatar.created_by) >= MOST[OwnedKind.AVATAR]:
            raise OwnsTooMany(OwnedKind.AVATAR)
        self.requests.note(avatar.created_by, request, avatar.id)
        self.avatars[avatar.id] = avatar

    def replace(self, old: Avatar, new: Avatar) -> None:
        self._require(old)
        self.avatars[new.id] = new

    def delete(self, avatar: Avatar) -> None:
        self._require(avatar)
        del self.avatars[avatar.id]

    def page(self, user_id: UserId, *, newest_first: bool, after: str, limit: int) -> list[Avatar]:
        mine = [avatar for avatar in self.avatars.values() if avatar.created_by == user_id]
        found = sorted(mine, key=lambda avatar: avatar.id, reverse=newest_first)
        behind = [each for each in found if not after or ((each.id < after) == newest_first and each.id != after)]
        return behind[:limit]

    def count(self, user_id: UserId) -> int:
        return sum(avatar.created_by == user_id for avatar in self.avatars.values())

    def _require(self, seen: Avatar) -> None:
        stored = self.avatars.get(seen.id)
        if stored is None or stored.version != seen.version:
            raise AvatarChanged(f"Avatar {seen.id} was changed by another request; read it again")
