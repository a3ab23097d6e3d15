"""Declarations of API keys for the tests of all rings; see tests/support/contexts.py."""

from __future__ import annotations

from functools import cached_property

import pytest

from karma.core.errors import AlreadyCreated
from karma.core.ids import ApiKeyId, new_id
from karma.core.requests import RETENTION
from karma.identity.api_keys.repository import ApiKeyRepository
from karma.identity.domain import ApiKey
from tests.contexts.sessions import SessionRows
from tests.integration.permissions.world import PASSWORD, Bodies, Objects
from tests.support.contexts import Checks, Scenarios, made
from tests.support.requests import asked
from tests.support.rows import LATER, NOW


class ApiKeyRows(SessionRows):
    def __init__(self) -> None:
        super().__init__()
        self.keys = ApiKeyRepository()

    def api_key(self) -> ApiKey:
        key_id = ApiKeyId(new_id())
        return ApiKey(
            id=key_id,
            user_id=self.ada.id,
            name="ci",
            prefix="karma_abc",
            hash=f"hash-{key_id}",
            scopes=frozenset({"*"}),
            created_at=NOW,
            expires_at=None,
            revoked_at=None,
        )

    @cached_property
    def key(self) -> ApiKey:
        key = self.api_key()
        self.keys.create_api_key(key, request=None, entry=self.entry)
        return key


SCENARIOS = Scenarios[ApiKeyRows](
    ApiKeyRows,
    {
        "ApiKeyRepository.create_api_key": made(
            lambda r: (r.api_key(), r.entry, r.shown),
            lambda r, n: r.keys.create_api_key(n[0], made_with=n[2], request=asked("r"), seen=0, entry=n[1]),
        ),
        "ApiKeyRepository.find_api_key": made(lambda r: r.key, lambda r, key: r.keys.find_api_key(key.hash)),
        "ApiKeyRepository.read_with_owner": made(
            lambda r: r.key, lambda r, key: r.keys.read_with_owner(key.hash, r.ada.id)
        ),
        "ApiKeyRepository.list_api_keys": made(lambda r: r.key, lambda r, _: r.keys.list_api_keys(r.ada.id)),
        "ApiKeyRepository.keys_made": made(lambda r: r.key, lambda r, _: r.keys.keys_made(r.ada.id)),
        "ApiKeyRepository.get_api_key": made(lambda r: r.key, lambda r, key: r.keys.get_api_key(r.ada.id, key.id)),
        "ApiKeyRepository.revoke_api_key": made(
            lambda r: (r.key, r.entry, r.shown),
            lambda r, n: r.keys.revoke_api_key(n[0], by=n[2], now=LATER, entry=n[1]),
        ),
        "ApiKeyRepository.note_use": made(
            lambda r: r.key, lambda r, key: r.keys.note_use(key, now=NOW, unless_after=NOW)
        ),
        "ApiKeyRepository.last_uses": made(lambda r: r.key, lambda r, key: r.keys.last_uses([key])),
    },
)

OBJECTS: Objects = {
    "key_id": lambda world, owner, _: str(
        world.create(owner, "/api/v1/api-keys", {"name": "ci", "current_password": PASSWORD})["api_key"]["id"]
    )
}

BODIES: Bodies = {"POST /api/v1/api-keys": lambda *_: {"name": "ci", "scopes": ["*"], "current_password": PASSWORD}}


def _request_over(rows: ApiKeyRows) -> None:
    first, second, third = rows.api_key(), rows.api_key(), rows.api_key()
    rows.keys.create_api_key(first, request=asked("r"), entry=rows.entry)
    with pytest.raises(AlreadyCreated):
        rows.keys.create_api_key(second, request=asked("r"), entry=rows.entry)
    rows.keys.create_api_key(third, request=asked("r", at=NOW + RETENTION), entry=rows.entry)


EXPIRES = Checks[ApiKeyRows](ApiKeyRows, {"request_guard": _request_over})
