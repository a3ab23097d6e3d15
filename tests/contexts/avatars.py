"""Declarations of avatars for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest

from karma.avatars import domain
from karma.avatars.domain import Avatar, NewAvatar
from karma.avatars.repository import AvatarRepository
from karma.core.errors import AlreadyExists
from karma.core.ids import AvatarId, UserId, new_id
from karma.core.requests import RETENTION
from tests.fakes.avatars import MemoryAvatars
from tests.integration.permissions.world import Bodies, Objects, World
from tests.support.contexts import Checks, Fakes, Scenarios, made
from tests.support.requests import asked
from tests.support.rows import NOW, AccountRows

USER = UserId(new_id())


def avatar(number: int = 1, *, user: UserId = USER, **more: Any) -> Avatar:
    new = NewAvatar(name=f"avatar {number}", role="gardener", **{"abilities": {}, **more})
    return domain.made(new, avatar_id=AvatarId(f"01890000-0000-7000-8000-{number:012d}"), created_by=user, at=NOW)


class AvatarRows(AccountRows):
    def __init__(self) -> None:
        super().__init__()
        self.avatars = AvatarRepository()

    def new_avatar(self) -> Avatar:
        return replace(avatar(user=self.ada.id), id=AvatarId(new_id()))

    @cached_property
    def avatar(self) -> Avatar:
        avatar = self.new_avatar()
        self.avatars.create(avatar, request=asked("t"))
        return avatar


FAKES: Fakes = {MemoryAvatars: (AvatarRepository,)}

SCENARIOS = Scenarios[AvatarRows](
    AvatarRows,
    {
        "AvatarRepository.get": made(lambda r: r.avatar, lambda r, a: r.avatars.get(a.created_by, a.id)),
        "AvatarRepository.made_by": made(lambda r: r.avatar, lambda r, a: r.avatars.made_by(a.created_by, asked("t"))),
        "AvatarRepository.create": made(lambda r: r.new_avatar(), lambda r, a: r.avatars.create(a, request=asked("t"))),
        "AvatarRepository.replace": made(
            lambda r: r.avatar, lambda r, a: r.avatars.replace(a, replace(a, name="x", version=2))
        ),
        "AvatarRepository.delete": made(lambda r: r.avatar, lambda r, a: r.avatars.delete(a)),
        "AvatarRepository.page": made(
            lambda r: r.avatar, lambda r, a: r.avatars.page(a.created_by, newest_first=True, after="", limit=5)
        ),
        "AvatarRepository.count": made(lambda r: r.avatar, lambda r, a: r.avatars.count(a.created_by)),
        "AvatarRepository.purge_account": made(
            lambda r: (r.avatar, r.purge()), lambda r, n: r.avatars.purge_account(n[1])
        ),
    },
)


def _avatar(world: World, owner: str, _: Mapping[str, str]) -> str:
    return str(world.create(owner, "/api/v1/avatars", _new_avatar(world, owner))["avatar"]["id"])


def _new_avatar(_: World, __: str) -> dict[str, Any]:
    return {"name": "Fern", "role": "gardener"}


OBJECTS: Objects = {"avatar_id": _avatar}

BODIES: Bodies = {"POST /api/v1/avatars": _new_avatar, "PATCH /api/v1/avatars/{avatar_id}": lambda *_: {"name": "Moss"}}


def _made_avatar_over(rows: AvatarRows) -> None:
    rows.avatar  # noqa: B018
    again = rows.new_avatar()
    with pytest.raises(AlreadyExists):
        rows.avatars.create(again, request=asked("t"))
    rows.avatars.create(again, request=asked("t", at=NOW + RETENTION))


EXPIRES = Checks[AvatarRows](AvatarRows, {"avatar_request": _made_avatar_over})
