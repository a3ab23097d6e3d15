"""In-memory stand-in for the store of avatars. It passes the same contract suite as DynamoDB's."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from karma.avatars.domain import Avatar, AvatarChanged
from karma.core.errors import AlreadyExists
from karma.core.ids import AvatarId, UserId
from karma.identity.ownership import MOST, OwnedKind, OwnsTooMany
from karma.identity.transactional import AccountGone


@dataclass
class MemoryAvatars:
    """Avatars in dictionaries."""

    avatars: dict[AvatarId, Avatar] = field(default_factory=dict)
    requests: dict[tuple[UserId, str], tuple[AvatarId, datetime]] = field(default_factory=dict)
    deleted_accounts: set[UserId] = field(default_factory=set)

    def get(self, user_id: UserId, avatar_id: AvatarId) -> Avatar | None:
        avatar = self.avatars.get(avatar_id)
        return avatar if avatar is not None and avatar.created_by == user_id else None

    def made_by(self, user_id: UserId, request_token: str) -> AvatarId | None:
        found = self.requests.get((user_id, request_token))
        return found[0] if found else None

    def create(self, avatar: Avatar, *, request_token: str) -> None:
        if avatar.created_by in self.deleted_accounts:
            raise AccountGone(avatar.created_by)
        if request_token:
            earlier = self.requests.get((avatar.created_by, request_token))
            if earlier is not None and avatar.created_at < earlier[1] + timedelta(days=1):
                raise AlreadyExists("This request made an avatar before")
        if self.count(avatar.created_by) >= MOST[OwnedKind.AVATAR]:
            raise OwnsTooMany(OwnedKind.AVATAR)
        if request_token:
            self.requests[avatar.created_by, request_token] = (avatar.id, avatar.created_at)
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
